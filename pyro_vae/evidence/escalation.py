r"""A budget that follows the need: more draws for a large error, better proposals for wild weights.

Each datum climbs until its error is at most the tolerance:

1. ``guide``: draws of the guide, with as many of wide distributions beside them (:mod:`.defence`),
   as many as it takes;
2. ``refined``: a wide Student-t with the mean and covariance of the datum's own posterior, mixed
   with the prior: first from weighted draws, and where that is not enough, from short chains of
   HMC that begin at the guide;
3. ``annealed``: annealed importance sampling from there.

The error is the standard error where k-hat is at most 0.5. Above, the variance need not exist, and
the error of the mean of K weights falls as :math:`K^{\hat k - 1}` only, so it is taken to be
:math:`K^{\hat k - 1/2}` times as large (Vehtari et al., 2024, https://arxiv.org/abs/1507.02646).

All proposals but the guide live in unconstrained space (:mod:`.proposals`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..density.memory import Memory, tile_data, tile_rows
from ..density.problem import Problem, Stream, Tile
from ..density.target import Target
from ..guards import seed_of
from .annealing import temperatures
from .annealing_path import AnnealingPath
from .defence import FINITE_VARIANCE, Defended, defended_weights
from .pareto import khat_limit
from .proposals import CHAINS, StudentTMixture, adapted, of_guide, of_posterior, with_prior
from .watch import OutOfTime, Watch
from .weights import Weights, concatenate, from_blocks, unreached

RUNGS = ("guide", "refined", "annealed")
REFUTED = 4.0  # standard errors
UNLIKELY = math.log(1000)  # Markov: 1 estimate in 1000 is so far above log p(x)
WIDTHS = (1.0, 1.5)  # of the refined proposal, in standard deviations
ANNEALED_CHAINS = 64
ANNEALED_STEPS = 5
DISTRIBUTIONS = (100, 400)  # of annealing: the second where the first is not enough

Draw = Callable[[Tensor, int, int], Weights]  # for some data: so many draws, after so many


@dataclass(frozen=True)
class Budget:
    """What is asked of an estimate, and what it may cost.

    Arguments:
        num_samples: The draws at first.
        tolerance: The standard error that is wanted, in nats.
        max_samples: The most draws of a datum from one proposal.
    """

    num_samples: int
    tolerance: float
    max_samples: int

    @property
    def distributions(self) -> list[int]:
        """How finely annealing goes: by so many distributions, and then by so many."""
        return [num for num in DISTRIBUTIONS if num <= max(DISTRIBUTIONS[0], self.max_samples)]

    def is_met(self, weights: Weights) -> Tensor:
        """Which data have a small error that can be trusted."""
        trusted = weights.log_evidence.isfinite() & (weights.khat <= khat_limit(weights.num))
        return trusted & (_error(weights) <= self.tolerance)

    def needy(self, weights: Weights) -> Tensor:
        """Data that need the next proposal. NaN and +inf are left as they are, to stay visible."""
        broken = weights.log_evidence.isnan() | (weights.log_evidence == math.inf)
        return (~self.is_met(weights) & ~broken).nonzero()[:, 0]


@dataclass(frozen=True)
class Climbed:
    """How far some data have come.

    Arguments:
        weights: The best weights.
        rung: The number of the rung that they are of, of shape ``(N,)``.
        elbo: The ELBO of the guide, of shape ``(N,)``.
        stopped: Which data would have climbed on, had there been time, of shape ``(N,)``.
    """

    weights: Weights
    rung: Tensor
    elbo: Tensor
    stopped: Tensor


def escalate(
    problem: Problem,
    budget: Budget,
    watch: Watch,
    seed: int,
    memory: Memory,
    about: dict[str, Any],
) -> Climbed:
    """Weights that meet the tolerance where some proposal does.

    A datum that no proposal satisfies keeps the best it had; one with a weight that is NaN stays as
    it is.
    """
    found = []
    size = tile_rows(problem.device) // CHAINS  # as many data as fill the decoder with chains
    for tile in problem.tiles(size, (seed, Stream.ESCALATION)):
        ended = watch.has_ended
        watch.begin(len(tile))
        found.append(_missed(tile) if ended else _climbed(tile, budget, watch, seed, memory))
        if "measure" not in about:
            about["measure"] = tile.densities.measure
    rung, elbo, stopped = (
        torch.cat([getattr(part, name) for part in found]) for name in ("rung", "elbo", "stopped")
    )
    return Climbed(concatenate([part.weights for part in found]), rung, elbo, stopped)


def _missed(tile: Tile) -> Climbed:
    """A tile that there was no time for."""
    nothing = unreached(len(tile), tile.precision)
    no_rung, all_of_them = torch.zeros(len(tile), dtype=torch.long), torch.ones(len(tile)).bool()
    return Climbed(nothing, no_rung, nothing.total, all_of_them)


def _climbed(tile: Tile, budget: Budget, watch: Watch, seed: int, memory: Memory) -> Climbed:
    """A tile, from the first rung on."""

    def defended(part: Tile, num: int) -> Defended:
        counts = (num, 0) if part.densities.is_discrete else _halves(num)
        return defended_weights(part, *counts, memory, watch)

    def draw(index: Tensor, num: int, done: int) -> Weights:
        own = seed_of(seed, tile.number, Stream.LENGTHENING, done)
        return defended(tile.select(index, own), num).mixture

    with watch.on(RUNGS[0], len(tile)):
        parts = [
            defended(part, budget.num_samples)
            for part in tile.split(tile_data(tile.problem.device), (seed,))
        ]
        of_guide = concatenate([part.guide for part in parts])
        first = concatenate([part.mixture for part in parts])
        lost = (~first.log_evidence.isfinite() & of_guide.log_evidence.isfinite()).nonzero()[:, 0]
        first = first.replace(lost, of_guide.select(lost))
        weights = _lengthened(first, draw, budget, watch)
        watch.draws[RUNGS[0]] += int(weights.num.sum())

    escalation = _Escalation(tile, weights, budget, watch)
    if not tile.densities.is_discrete:  # there is no unconstrained space for other proposals
        with tile.seeded(), contextlib.suppress(OutOfTime):
            escalation.run()
    stopped = torch.zeros(len(tile), dtype=torch.bool)
    stopped[budget.needy(escalation.weights)] = watch.is_over
    elbo = of_guide.total / of_guide.num
    return Climbed(escalation.weights, escalation.rung, elbo, stopped)


def _halves(num: int) -> tuple[int, int]:
    """So many draws of the guide, and so many beside them."""
    return num - num // 2, num // 2


def _error(weights: Weights) -> Tensor:
    """The error of log p(x): the standard error, and more where the variance need not exist."""
    excess = (weights.khat - FINITE_VARIANCE).clamp(min=0)
    return weights.se * weights.num**excess


def _lengthened(weights: Weights, draw: Draw, budget: Budget, watch: Watch) -> Weights:
    """With draws doubled, again and again, for data whose error will then be small enough."""
    while True:
        done = int(weights.num.max())
        needed = weights.num * (weights.se / budget.tolerance) ** 2
        promising = (needed <= budget.max_samples) & (weights.khat <= FINITE_VARIANCE)
        promising &= ~budget.is_met(weights) & (weights.num == done)
        index = promising.nonzero()[:, 0]
        if len(index) == 0 or done >= budget.max_samples or watch.is_over:
            return weights
        more = draw(index, min(done, budget.max_samples - done), done)
        weights = weights.replace(index, weights.select(index).merge(more))


class _Escalation:
    """A tile of data, the best weights so far, and the rung they are of."""

    def __init__(self, tile: Tile, weights: Weights, budget: Budget, watch: Watch) -> None:
        self.tile, self.budget, self.watch = tile, budget, watch
        self.weights, self.rung = weights, torch.zeros(len(tile), dtype=torch.long)

    def run(self) -> None:
        """Rung by rung, with the data that still need it."""
        left = self.budget.needy(self.weights)
        if len(left) == 0:
            return
        self.watch.tick()
        with self.watch.on(RUNGS[1], len(left)):
            target = self._target(left)
            moments = adapted(target, of_guide(target))
            self.watch.tick()
            self._sampled(left, moments)

            still = torch.isin(left, self.budget.needy(self.weights)).nonzero()[:, 0]
            if len(still) == 0:
                return
            target, moments = target.select(still), moments.select(still)
            found = of_posterior(target, moments, self.watch.tick)
            if found is None:
                return
            alive, moments = found
            left = left[still][alive]
            self._sampled(left, moments)

        for number in self.budget.distributions:
            still = torch.isin(left, self.budget.needy(self.weights)).nonzero()[:, 0]
            left, moments = left[still], moments.select(still)
            if len(left):
                with self.watch.on(RUNGS[2], len(left)):
                    self._annealed(left, moments, number)

    def _target(self, index: Tensor) -> Target:
        return Target(self.tile.densities.select(index))

    def _sampled(self, index: Tensor, moments: StudentTMixture) -> None:
        """Importance sampling, as long as it takes."""
        proposal = replace(moments, widths=WIDTHS)

        def draw(some: Tensor, num: int, done: int) -> Weights:
            blocks = with_prior(self._target(index[some]), proposal.select(some), num)
            return from_blocks(blocks, self.tile.precision)

        first = draw(torch.arange(len(index)), self.budget.num_samples, 0)
        weights = _lengthened(first, draw, self.budget, self.watch)
        self.watch.draws[RUNGS[1]] += int(weights.num.sum())
        self._keep(1, index, weights)

    def _annealed(self, index: Tensor, moments: StudentTMixture, num_distributions: int) -> None:
        parts = []
        size = tile_rows(self.tile.problem.device) // ANNEALED_CHAINS
        for some in torch.arange(len(index)).split(size):
            base = replace(moments.select(some), widths=WIDTHS)
            schedule = temperatures(num_distributions, "sigmoidal")
            target = self._target(index[some])
            path = AnnealingPath.tuned(target, base, schedule, ANNEALED_STEPS, self.watch.tick)
            log_weight, _ = path.forward(ANNEALED_CHAINS)
            parts.append(from_blocks([log_weight], self.tile.precision))
        self.watch.draws[RUNGS[2]] += ANNEALED_CHAINS * len(index)
        self._keep(2, index, concatenate(parts))

    def _keep(self, rung: int, index: Tensor, new: Weights) -> None:
        """Take what is better than before.

        That is a k-hat that holds and, of equals, the smaller error or the higher rung.
        """
        old = self.weights.select(index)
        before, now = _trust(old), _trust(new)
        equal = (now == before) & ((new.se < old.se) | (now == 0))

        error = REFUTED * (old.se.square() + new.se.square()).sqrt()
        sure = torch.where(before > 0, error, error.clamp(min=UNLIKELY))
        refuted = old.log_evidence - new.log_evidence > sure  # a mode once found is not lost again

        better = ((now > before) | equal) & new.log_evidence.isfinite() & ~refuted
        self.weights = self.weights.replace(index[better], new.select(better.nonzero()[:, 0]))
        self.rung[index[better]] = rung


def _trust(weights: Weights) -> Tensor:
    """0: unreliable (k-hat too large); 1: usable; 2: its standard error is reliable too."""
    limit = khat_limit(weights.num)
    return (weights.khat <= limit).long() + (weights.khat <= FINITE_VARIANCE).long()
