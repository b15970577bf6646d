"""What a VAE takes from data before it is trained: where the inputs of its networks lie,
pseudo-inputs, rates per exposure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..assembly.condition import Condition
from ..conditionals.base import Amortised, Conditional
from ..conditionals.experts import Blocks
from ..conditionals.networks import Network, Standardized
from ..data.rows import Rows
from ..vae import VAE

Moments = tuple[Tensor, Tensor]  # mean and spread


def initialize(vae: VAE, rows: Rows) -> None:
    """Set what starts at the data: pseudo-inputs of a prior, and the mean and spread that networks
    know of their inputs.
    """
    vae.prior.initialize(rows)
    _standardize(vae, "guide", vae.posterior, _moments_seen(vae.posterior, rows), rows.c)
    if vae.classifier is not None:
        _tell(vae.classifier.conditional, *_moments_seen(vae.classifier.conditional, rows))
    if rows.c is None or vae.condition is None:
        return
    zeros = torch.zeros(vae.prior.visible_shape, dtype=torch.float64)
    _standardize(vae, "likelihood", vae.likelihood, (zeros, zeros + 1), rows.c)
    if "prior" in vae.condition.seen_by:
        of_c = _moments_of_c(vae.condition, vae.prior, rows.c)
        _tell(vae.prior, *(vae.condition.seen("prior", moment) for moment in of_c))


def _standardize(vae: VAE, role: str, part: Conditional, moments: Moments, c: Rows | None) -> None:
    """Tell the network of a part the mean and spread of its context, and of c where it sees c."""
    if vae.condition is not None and c is not None:
        of_c = _moments_of_c(vae.condition, part, c)
        both = zip(moments, of_c, strict=True)
        mean, sd = (vae.condition.join(role, own, other, own.dim()) for own, other in both)
        moments = mean, sd
    _tell(part, *moments)


def _tell(part: Conditional, mean: Tensor, sd: Tensor) -> None:
    if isinstance(part, Amortised) and isinstance(part.network, Network):
        part.network.standardize(mean, sd)


def _moments_seen(part: Conditional, rows: Rows) -> Moments:
    """Mean and spread of rows as the network of a part sees them."""
    network: Any = getattr(part, "network", None)
    if isinstance(network, Blocks):
        network = network.networks[0]  # the others see the same of a number
    is_changed = isinstance(network, Standardized) and network.log1p
    return (rows.mapped(network.seen) if is_changed else rows).moments()


def _moments_of_c(condition: Condition, part: Conditional, c: Rows) -> Moments:
    """Mean and spread of the numbers that a part sees of c; classes are left as they are."""
    width = condition.encoded_width
    mean, sd = torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
    numbers = condition.as_numbers(c)
    if numbers is not None:
        places = condition.places_of_numbers
        found = _moments_seen(part, numbers)
        mean[places], sd[places] = (moment.flatten() for moment in found)
    return mean, sd


def per_exposure(
    condition: Condition | None, likelihood: Any, rows: Rows | None, c: Any
) -> Rows | None:
    """The data as a likelihood should know them: divided by the exposure, if there is one."""
    if rows is None or condition is None or condition.exposure is None:
        return rows
    name = likelihood.get("name") if isinstance(likelihood, dict) else likelihood
    if not getattr(Conditional.lookup(name), "units", None):
        return rows  # which the VAE refuses
    at = condition.exposure
    exposure = condition.check(c, len(rows))
    like = torch.empty(0, dtype=torch.float64)
    ones = (1,) * len(rows.event_shape)

    def fetch(index: Any) -> Tensor:
        taken = exposure.take(index, like)
        each = taken.reshape(len(taken), -1)[:, at]
        return rows.take(index, like) / each.reshape(-1, *ones)

    return Rows(fetch, len(rows), tuple(rows.event_shape))
