"""What a VAE takes from data before it is trained: where the inputs of its networks lie,
pseudo-inputs, rates per exposure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..assembly.condition import Condition
from ..conditionals.base import Amortised, Conditional
from ..conditionals.blocks import ByBlock
from ..conditionals.networks import Network, Standardized
from ..data.rows import Rows
from ..vae import VAE

Moments = tuple[Tensor, Tensor]  # mean and spread


def initialize(vae: VAE, rows: Rows) -> None:
    """Set what starts at the data: pseudo-inputs of a prior, and the mean and spread that networks
    know of their inputs.
    """
    vae.prior.initialize(rows)
    if vae.missingness is not None:
        vae.missingness.initialize(rows)
    if vae.classifier is not None:
        for network, read in _readers(vae.classifier.conditional):
            network.standardize(*map(read, _moments_seen(network, rows)))
    _standardize(vae, "guide", vae.posterior, rows, rows.c)
    if rows.c is None or vae.condition is None:
        return
    _standardize(vae, "likelihood", vae.likelihood, None, rows.c)
    if "prior" in vae.condition.seen_by:
        for network, _ in _readers(vae.prior):
            of_c = _moments_of_c(vae.condition, network, rows.c)
            network.standardize(*(vae.condition.seen("prior", moment) for moment in of_c))


def _standardize(vae: VAE, role: str, part: Conditional, rows: Rows | None, c: Rows | None) -> None:
    """Tell each network of a part the mean and spread of its context: of the rows, or where there
    are none of standard latents, and of c where it sees c.
    """
    found: dict[bool, Moments] = {}  # of the whole context, once for networks that see it alike
    for network, read in _readers(part):
        sees = isinstance(network, Standardized) and network.log1p
        if sees not in found:
            found[sees] = _moments(vae, role, network, rows, c)
        network.standardize(*map(read, found[sees]))


def _readers(part: Conditional) -> list[tuple[Network, Callable[[Tensor], Tensor]]]:
    """The networks of a part, each with a function from the whole context to what it reads."""
    network = part.network if isinstance(part, Amortised) else None
    if isinstance(network, ByBlock):
        return [(one, read) for one, read in network.readers() if isinstance(one, Network)]
    return [(network, lambda whole: whole)] if isinstance(network, Network) else []


def _moments(vae: VAE, role: str, network: Network, rows: Rows | None, c: Rows | None) -> Moments:
    """Mean and spread of the whole context of a part, as one of its networks sees them."""
    zeros = torch.zeros(vae.prior.visible_shape, dtype=torch.float64)
    moments = (zeros, zeros + 1) if rows is None else _moments_seen(network, rows)
    if vae.condition is None or c is None:
        return moments
    both = zip(moments, _moments_of_c(vae.condition, network, c), strict=True)
    mean, sd = (vae.condition.join(role, own, of_c, own.dim()) for own, of_c in both)
    return mean, sd


def _moments_seen(network: Network, rows: Rows) -> Moments:
    """Mean and spread of rows as a network sees them."""
    if isinstance(network, Standardized) and network.log1p:
        rows = rows.mapped(network.seen)
    return rows.moments()


def _moments_of_c(condition: Condition, network: Network, c: Rows) -> Moments:
    """Mean and spread of the numbers of c as a network sees them; classes are left as they are."""
    width = condition.encoded_width
    mean, sd = torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
    numbers = condition.as_numbers(c)
    if numbers is not None:
        places = condition.places_of_numbers
        found = _moments_seen(network, numbers)
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
