"""The spec of a VAE: the names and plain values that :func:`.build` makes an equal one from."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from ..conditionals.base import Amortised
from ..conditionals.blocks import ByBlock
from ..conditionals.declared import Declared
from ..vae import VAE
from .classes import described


def describe(vae: nn.Module) -> dict[str, Any]:
    """The spec of a VAE, or of one part: names and plain values. :func:`build` makes an equal VAE
    from it.

    Arguments:
        vae: A VAE, a conditional or a network.

    Returns:
        A dict of strings, numbers, lists and dicts: it can be written as JSON or TOML.

    Raises:
        TypeError: A part is not registered, so no spec can name it.
    """
    if isinstance(vae, VAE):
        parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
        sizes = {"event": list(vae.likelihood.event_shape), "latent": list(vae.prior.event_shape)}
        names: dict[str, Any] = {} if vae.columns is None else {"columns": list(vae.columns)}
        if vae.classes is not None:
            names["classes"] = described(vae.classes)
        spec = sizes | names | {role: describe(part) for role, part in parts.items()}
        if vae.condition is not None:
            spec["condition"] = vae.condition.describe()
        if vae.classifier is not None:
            weight = {"weight": vae.classifier.weight}
            spec["classifier"] = describe(vae.classifier.conditional) | weight
        if vae.missingness is not None:
            spec["missingness"] = describe(vae.missingness)
        modules = _modules(vae)
        return spec | ({"modules": modules} if modules else {})

    if isinstance(vae, Amortised) and not isinstance(vae.head, Amortised):
        head = describe(vae.head)
        if isinstance(vae.network, ByBlock):
            return vae.network.described(head, describe)
        return head | {"network": describe(vae.network)}
    if not isinstance(vae, Declared) or vae.name is None:
        kind = type(vae).__name__
        raise TypeError(
            f"no spec can name {kind}; register it: class {kind}(Conditional or Network, "
            "name='...')"
        )
    given = {key: plain(value) for key, value in vae.options.items() if value is not None}
    return {"name": vae.name} | given


def _modules(vae: VAE) -> list[str]:
    """The modules that define the user's own conditionals and networks."""
    package = __name__.partition(".")[0]
    defined = {
        type(part).__module__ for part in vae.modules() if isinstance(part, Declared) and part.name
    }
    return sorted(
        module for module in defined if module.partition(".")[0] not in (package, "__main__")
    )


def plain(value: Any) -> Any:
    """Tensors, arrays and tuples as numbers and lists."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list, range)):
        return [plain(part) for part in value]
    return value
