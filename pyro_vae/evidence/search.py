r"""Modes that no draw has met, found by chains that come from the prior.

A mode that is narrow and far from the guide is met by none of its draws, nor by those beside them,
and leaves no trace in any weight. So a few chains are annealed from the prior to the posterior:
they end in its modes, about as often as these have mass. If fewer than half of them have come to
where the mass is, they go on by HMC that adapts to the place. Where a chain ends at u, the weight

.. math:: w = \frac{p(x, u)}{m(u)}

under the density m that was drawn from is what a draw there would have weighed. An estimate in
whose sum of weights that would be a tenth does not know of that place; nor does an annealed one
that began at a base with hardly any density there, compared with where its chains have come to, or
whose chains have not been as high. Where several chains end in such places, or one would weigh more
than the whole sum, a part of the posterior may have been missed.

They pass by a narrow mode beside a broad one, which has mass but at the last temperatures. So there
are further draws of the prior and about the guide, of which one that would more than double the sum
of the weights refutes an estimate (:mod:`.heaviest`). A narrow mode that no draw meets is not seen.
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
from .chains import CHAINS, chains_of
from .defence import Defence
from .heaviest import Heaviest
from .weights import Weights

DISTRIBUTIONS = 20
STEPS = 5
SETTLING = 30  # transitions at the end
SHARE = 0.1  # of the sum of weights
SEVERAL = 2  # chains: one may have ended in a part of the posterior that hardly counts
HIGHER = 1.0  # nats that a place may exceed the peak of annealed chains by
WHOLE = math.log(1.1)  # of the sum of weights, and not a rounding more
NEGLIGIBLE = math.log(100)  # nats below a typical draw, where a mode has hardly any mass
OUTLYING = 2.0  # times as far below the 5 % quantile of log densities as that below their median
TYPICAL_DRAWS = 200
PROBES = 2000  # further draws


@dataclass(frozen=True)
class Places:
    """Places that an estimate must explain, for N data: where chains from the prior have come to,
    and where the heaviest draws were.

    Arguments:
        position: Their positions, of shape ``(C, N, D)``.
        log_joint: The log joint density there, ``(C, N)``; -inf where a mode would have no mass.
    """

    position: Tensor
    log_joint: Tensor

    def select(self, index: Tensor) -> Places:
        """Those of some of the data."""
        return Places(self.position[:, index.to(self.position.device)], self.log_joint[:, index])

    def replace(self, index: Tensor, new: Places) -> Places:
        """With others for some of the data."""
        position, log_joint = self.position.clone(), self.log_joint.clone()
        position[:, index.to(position.device)] = new.position
        log_joint[:, index] = new.log_joint
        return Places(position, log_joint)

    def preceded_by(self, others: Places) -> Places:
        """Others for the same data, and then these."""
        return Places(
            torch.cat([others.position, self.position]),
            torch.cat([others.log_joint, self.log_joint]),
        )

    def explained(self, log_proposal: Tensor, weights: Weights) -> Tensor:
        """For which data draws from a proposal, whose log density at the places is given, know of
        what is there, ``(N,)``.
        """
        log_share = self.log_joint - log_proposal.double().cpu()
        log_share = log_share - weights.log_evidence - weights.num.log()
        log_share = log_share.where(log_share < math.inf, -math.inf)
        return self._are_few(log_share > math.log(SHARE)) & ~(log_share > WHOLE).any(0)

    def reached(self, log_base: Tensor, of_annealed: Tensor, log_joint: Tensor) -> Tensor:
        """For which data chains annealed from a base have come to what these have found, ``(N,)``.

        Arguments:
            log_base: The log density of the base at the ends, ``(C, N)``.
            of_annealed: That where the annealed chains have come to, ``(C', N)``, on the CPU.
            log_joint: The log joint density there, ``(C', N)``, in double precision.
        """
        least_joint = log_joint.nanmedian(0).values - NEGLIGIBLE
        arrived = of_annealed.where(log_joint > least_joint, math.nan)
        low, middle = arrived.nanquantile(log_joint.new_tensor([0.05, 0.5]), dim=0)
        least = low - (OUTLYING * (middle - low)).clamp(min=NEGLIGIBLE)
        near = self._are_few((log_base < least) & (self.log_joint > least_joint))
        return near & self.as_high(log_joint)

    def as_high(self, log_joint: Tensor) -> Tensor:
        """For which data other chains, which end in a log joint density of ``(C', N)``, have come
        about as high as these, ``(N,)``: those that have never been in a narrow mode have not.
        """
        highest = log_joint.nan_to_num(-math.inf).max(0).values
        median = log_joint.nanmedian(0).values
        beyond = highest + (highest - median) / 2
        of_normal = median + self.position.shape[-1] / 2
        return ~(self.log_joint > torch.maximum(beyond, of_normal) + HIGHER).any(0)

    def _are_few(self, unknown: Tensor) -> Tensor:
        return (unknown & (self.log_joint > -math.inf)).sum(0) < SEVERAL


def probe(target: Target, counts: tuple[int, int], tick: Callable[[], None]) -> Heaviest:
    """The heaviest of further draws, of the prior and about the guide, in the mixture of the guide
    and what is drawn beside it: they meet a narrow mode in few dimensions.

    Arguments:
        target: The joint density of N data.
        counts: How many draws there are of the guide, and beside it.
        tick: Called for each block of draws.
    """
    defence = Defence.about(target, *counts)
    heaviest = Heaviest.none(defence.wide.centres)
    size = max(10, tile_rows(target.densities.batch[0].device) // target.densities.num_data)
    for done in range(0, PROBES, size):
        num = min(size, PROBES - done)
        about_it = defence.wide.sample(torch.Size([num - num // 2]))
        draws = torch.cat([about_it, target.draw_prior(num // 2)])
        heaviest.add(slice(None), draws, defence.of_others(draws, None).log_weight)
        tick()
    return heaviest


def search(
    target: Target, counts: tuple[int, int], tick: Callable[[], None]
) -> tuple[Places, Tensor]:
    """Where chains from the prior come to, and the log density there, ``(C, N)``, of the guide and
    what is drawn beside it.

    Arguments:
        target: The joint density of N data.
        counts: How many draws there are of the guide, and beside it.
        tick: Called at each temperature and transition.
    """
    num = target.densities.num_data
    size = max(1, tile_rows(target.densities.batch[0].device) // (CHAINS + PILOTS))
    parts = []
    for some in torch.arange(num).split(size):
        parts.append(_search(target if len(some) == num else target.select(some), counts, tick))
    position, log_joint, log_mixture = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return Places(position, log_joint), log_mixture


def _search(
    target: Target, counts: tuple[int, int], tick: Callable[[], None]
) -> tuple[Tensor, ...]:
    betas = temperatures(DISTRIBUTIONS, "sigmoidal")
    path = AnnealingPath.of(target, Prior(target), betas, STEPS, tick)
    position = path.settle(path.forward(CHAINS), SETTLING)
    defence = Defence.about(target, *counts)
    least = _typical(target, defence) - NEGLIGIBLE
    at_rest = (target(position).double() > least).sum(0)
    on_the_way = (at_rest < CHAINS / 2).nonzero()[:, 0]
    if len(on_the_way):
        position[:, on_the_way] = _gone_on(target.select(on_the_way), position[:, on_the_way], tick)

    log_joint = target(position).double()
    log_mixture = log_joint - defence.of_others(position, None).log_weight.double()
    log_joint = torch.where(log_joint > least, log_joint, -math.inf)
    return position, log_joint.cpu(), log_mixture.cpu()


def _gone_on(target: Target, position: Tensor, tick: Callable[[], None]) -> Tensor:
    """Where chains come to that go on from where they are."""
    chains = chains_of(target, position, position.std(0), tick)
    if chains is None:
        return position
    position = position.clone()
    position[:, chains.alive.to(position.device)] = chains.draws[-1]
    return position


def _typical(target: Target, defence: Defence) -> Tensor:
    """The mean log p(x, u) under the posterior, from weighted draws about the guide."""
    about_it = defence.wide.sample(torch.Size([TYPICAL_DRAWS]))
    draws = torch.cat([target.draw_guide(TYPICAL_DRAWS), about_it])
    log_weight = defence.of_others(draws, None).log_weight.double().nan_to_num(-math.inf)
    share = log_weight.softmax(0)
    return torch.where(share > 0, share * target(draws).double(), 0.0).sum(0)
