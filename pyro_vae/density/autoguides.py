"""What AutoGuides draw on the real numbers, of which the latents follow."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from torch.distributions import biject_to

from .terms import Values


def auxiliary_draws(guide: Any, names: list[str], values: Values) -> Values:
    """What parts of an AutoGuide draw on the real numbers, of latents ``(K, *Z)``."""
    if not isinstance(guide, torch.nn.Module):  # a function that holds an AutoGuide
        return {}
    joint = iter(name for name in names if name.endswith("_latent"))
    found: Values = {}
    for part in guide.modules():
        if not isinstance(part, (AutoNormal, AutoContinuous)):
            continue
        real = {
            name: biject_to(site["fn"].support).inv(values[name])
            for name, site in part.prototype_trace.iter_stochastic_nodes()
        }
        if isinstance(part, AutoNormal):
            found |= {f"{name}_unconstrained": u for name, u in real.items()}
        else:
            found[next(joint)] = torch.cat([u.reshape(len(u), -1) for u in real.values()], -1)
    return found
