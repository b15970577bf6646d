r"""Modes that no draw has met, found by chains that come from the prior.

A mode that is narrow and far from the guide is met by none of its draws, nor by those beside them,
and leaves no trace in any weight. So a few chains are annealed from the prior to the posterior:
they end in its modes, about as often as these have mass. Where a chain ends at u, the weight

.. math:: w = \frac{p(x, u)}{m(u)}

under the density m that was drawn from is what a draw there would have weighed. An estimate in
whose sum of weights that would be a tenth does not know of that place. Where several chains end in
such places, a part of the posterior may have been missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..density.memory import tile_rows
from ..density.target import Target
from .annealing_path import PILOTS, AnnealingPath, Prior, temperatures
from .defence import Defence
from .weights import Weights

CHAINS = 16
DISTRIBUTIONS = 20
STEPS = 5
SETTLING = 30  # transitions at the end
SHARE = 0.1  # of the sum of weights
SEVERAL = 2  # chains: one may have ended in a part of the posterior that hardly counts
NEGLIGIBLE = math.log(100)  # nats below a typical draw, where a mode has hardly any mass
TYPICAL_DRAWS = 200


@dataclass(frozen=True)
class Ends:
    """Where chains from the prior have come to, for N data.

    Arguments:
        position: Their positions, of shape ``(C, N, D)``.
        log_joint: The log joint density there, ``(C, N)``; -inf where a mode would have no mass.
    """

    position: Tensor
    log_joint: Tensor

    def select(self, index: Tensor) -> Ends:
        """Those of some of the data."""
        return Ends(self.position[:, index.to(self.position.device)], self.log_joint[:, index])

    def explained(self, log_proposal: Tensor, weights: Weights) -> Tensor:
        """For which data draws from a proposal, whose log density at the ends is given, know of
        what the chains have found, ``(N,)``.
        """
        log_weight = self.log_joint - log_proposal.double().cpu()
        most = weights.log_evidence + weights.num.log() + math.log(SHARE)
        unknown = (log_weight > most) & (log_weight < math.inf)
        return unknown.sum(0) < SEVERAL


def search(
    target: Target, counts: tuple[int, int], tick: Callable[[], None]
) -> tuple[Ends, Tensor]:
    """Where chains from the prior come to, and the log density there, ``(C, N)``, of the guide and
    what is drawn beside it.

    Arguments:
        target: The joint density of N data.
        counts: How many draws there are of the guide, and beside it.
        tick: Called at each temperature.
    """
    num = target.densities.num_data
    size = max(1, tile_rows(target.densities.batch[0].device) // (CHAINS + PILOTS))
    parts = []
    for some in torch.arange(num).split(size):
        parts.append(_search(target if len(some) == num else target.select(some), counts, tick))
    position, log_joint, log_mixture = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return Ends(position, log_joint), log_mixture


def _search(
    target: Target, counts: tuple[int, int], tick: Callable[[], None]
) -> tuple[Tensor, ...]:
    betas = temperatures(DISTRIBUTIONS, "sigmoidal")
    path = AnnealingPath.of(target, Prior(target), betas, STEPS, tick)
    position = path.settle(path.forward(CHAINS), SETTLING)
    defence = Defence.about(target, *counts)
    log_joint = target(position).double()
    log_mixture = log_joint - defence.of_others(position, None).log_weight.double()
    has_mass = log_joint > _typical(target, defence) - NEGLIGIBLE
    log_joint = torch.where(has_mass, log_joint, -math.inf)
    return position, log_joint.cpu(), log_mixture.cpu()


def _typical(target: Target, defence: Defence) -> Tensor:
    """The mean log p(x, u) under the posterior, from weighted draws about the guide."""
    about_it = defence.wide.sample(torch.Size([TYPICAL_DRAWS]))
    draws = torch.cat([target.draw_guide(TYPICAL_DRAWS), about_it])
    log_weight = defence.of_others(draws, None).log_weight.double().nan_to_num(-math.inf)
    share = log_weight.softmax(0)
    return torch.where(share > 0, share * target(draws).double(), 0.0).sum(0)
