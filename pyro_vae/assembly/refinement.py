"""Semi-amortised inference: the guide, improved for given data."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..conditionals.base import Amortised
from ..data.rows import Rows
from ..guards import seeded
from .compatibility import title


def refine(
    vae: Any, rows: Rows, steps: int, learning_rate: float, particles: int
) -> TorchDistribution:
    """The guide for `rows` with what its head reads optimised for each datum, where that raises the
    ELBO.
    """
    posterior = vae.posterior
    if not isinstance(posterior, Amortised) or vae.is_discrete:
        raise TypeError(
            "refine needs a guide Amortised(network, head) over continuous latents; got "
            f"{title(posterior)}"
        )
    x, *given = rows.batch(slice(None), like=vae.reference)
    c = vae.encode_condition(len(x), *given)

    def elbo(read: Tensor) -> Tensor:
        guide = vae.push_forward(posterior.head(read))
        z = guide.rsample(torch.Size([particles]))
        return (vae.log_joint(x, z, c) - guide.log_prob(z)).mean(0)

    with torch.no_grad():
        start = posterior.network(vae.guide_input(x, c))
    with torch.enable_grad():
        read = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([read], lr=learning_rate)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            (read.grad,) = torch.autograd.grad(-elbo(read).sum(), read)
            optimiser.step()
    with torch.no_grad():
        better = _compared(elbo, read) > _compared(elbo, start)
        return vae.push_forward(posterior.head(torch.where(better[:, None], read, start)))


def _compared(elbo: Any, read: Tensor) -> Tensor:
    """The ELBO with draws that are the same for both that are compared, many enough to tell them
    apart.
    """
    with seeded(0):
        return torch.stack([elbo(read) for _ in range(16)]).mean(0)
