r"""A budget that follows the need: more draws for a large error, better proposals for wild weights.

Each datum climbs until its standard error is at most the tolerance and its k-hat at most 0.5, above
which the variance of the weights, and with it the standard error, need not exist:

1. ``guide``: draws of the guide, as many as it takes;
2. ``mixture``: draws of a wide Student-t with mean and covariance of the guide, mixed with the
   prior;
3. ``refined``: the same with the mean and covariance of the datum's own posterior, from short
   chains of HMC that begin at the guide;
4. ``annealed``: annealed importance sampling from there.

What a narrow guide never draws leaves no trace in its k-hat. So each datum gets a second opinion,
by a few draws of the mixture: where its estimate is higher by 4 standard errors, the guide's is
refuted.

All proposals but the guide live in unconstrained space (:mod:`.proposals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..density.memory import Memory, tile_data, tile_rows
from ..density.problem import Problem, Stream, Tile
from ..density.target import Target
from ..guards import seed_of
from .annealing import temperatures
from .annealing_path import AnnealingPath
from .importance import importance_weights
from .pareto import KHAT_LIMIT
from .proposals import CHAINS, StudentTMixture, defended, of_guide, of_posterior
from .weights import Weights, concatenate, from_blocks

RUNGS = ("guide", "mixture", "refined", "annealed")
FINITE_VARIANCE = 0.5  # the largest k-hat of weights with a finite variance
SECOND_OPINION = 500  # draws
REFUTED = 4.0  # standard errors
UNLIKELY = math.log(1000)  # Markov: 1 estimate in 1000 is so far above log p(x)
WIDTHS = {"mixture": (1.2, 2.5), "refined": (1.0, 1.5)}  # of the proposals, in standard deviations
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

    def is_met(self, weights: Weights) -> Tensor:
        """Which data have a small error, and weights whose variance exists, so that it is one."""
        trusted = weights.log_evidence.isfinite() & (weights.khat <= FINITE_VARIANCE)
        return trusted & (weights.se <= self.tolerance)

    def needy(self, weights: Weights) -> Tensor:
        """Data that need the next proposal. NaN and +inf are left as they are, to stay visible."""
        broken = weights.log_evidence.isnan() | (weights.log_evidence == math.inf)
        return (~self.is_met(weights) & ~broken).nonzero()[:, 0]


def escalate(
    problem: Problem, budget: Budget, seed: int, memory: Memory, about: dict[str, Any]
) -> tuple[Weights, np.ndarray, Tensor]:
    """Weights that meet the tolerance where some proposal does.

    A datum that no proposal satisfies keeps the best it had; one with a weight that is NaN stays as
    it is.

    Returns:
        The weights; the name of the rung that they are of; and the ELBO of the guide.
    """
    weights = []
    rungs = []
    bounds = []
    device = problem.device
    size = tile_rows(device) // CHAINS  # as many data as fill the decoder with chains
    for tile in problem.tiles(size, (seed, Stream.ESCALATION)):
        parts = [
            importance_weights(part, budget.num_samples, memory)
            for part in tile.split(tile_data(device), (seed,))
        ]
        if "measure" not in about:
            about["measure"] = tile.densities.measure
        of_guide = concatenate(parts)
        bounds.append(of_guide.total / of_guide.num)
        best, rung = _escalated(tile, of_guide, budget, seed, memory)
        weights.append(best)
        rungs.append(rung)
    return concatenate(weights), np.array(RUNGS)[torch.cat(rungs).numpy()], torch.cat(bounds)


def _escalated(
    tile: Tile, weights: Weights, budget: Budget, seed: int, memory: Memory
) -> tuple[Weights, Tensor]:
    """The best weights of a tile, and their rungs."""

    def draw(index: Tensor, num: int, done: int) -> Weights:
        own = seed_of(seed, tile.number, Stream.LENGTHENING, done)
        return importance_weights(tile.select(index, own), num, memory)

    weights = _lengthened(weights, draw, budget)
    if tile.densities.is_discrete:  # there is no unconstrained space for other proposals
        return weights, torch.zeros(len(tile), dtype=torch.long)
    with tile.seeded():
        escalation = _Escalation(tile, weights, budget)
        escalation.run()
    return escalation.weights, escalation.rung


def _lengthened(weights: Weights, draw: Draw, budget: Budget) -> Weights:
    """With draws doubled, again and again, for data whose error will then be small enough."""
    while True:
        done = int(weights.num.max())
        needed = weights.num * (weights.se / budget.tolerance) ** 2
        promising = (needed <= budget.max_samples) & (weights.khat <= FINITE_VARIANCE)
        promising &= ~budget.is_met(weights) & (weights.num == done)
        index = promising.nonzero()[:, 0]
        if len(index) == 0 or done >= budget.max_samples:
            return weights
        more = draw(index, min(done, budget.max_samples - done), done)
        weights = weights.replace(index, weights.select(index).merge(more))


class _Escalation:
    """A tile of data, the best weights so far, and the rung they are of."""

    def __init__(self, tile: Tile, weights: Weights, budget: Budget) -> None:
        self.tile, self.budget = tile, budget
        self.weights, self.rung = weights, torch.zeros(len(tile), dtype=torch.long)

    def run(self) -> None:
        """Rung by rung, with the data that still need it."""
        target = Target(self.tile.densities)
        moments = of_guide(target)
        self._second_opinion(target, moments)

        left = self.budget.needy(self.weights)
        if len(left):
            self._sampled(1, left, moments.select(left))
            left = self.budget.needy(self.weights)
        found = of_posterior(target.select(left), moments.select(left)) if len(left) else None
        if found is None:
            return
        alive, moments = found
        left = left[alive]

        self._sampled(2, left, moments)
        for number in DISTRIBUTIONS:
            still = torch.isin(left, self.budget.needy(self.weights)).nonzero()[:, 0]
            left, moments = left[still], moments.select(still)
            if len(left):
                self._annealed(left, moments, number)

    def _target(self, index: Tensor) -> Target:
        return Target(self.tile.densities.select(index))

    def _second_opinion(self, target: Target, moments: StudentTMixture) -> None:
        """Take the mixture's estimate where it refutes the guide's."""
        num = min(self.budget.num_samples, SECOND_OPINION)
        guide, wide = self.weights, self._drawn(1, target, moments, num)
        error = (wide.se.square() + guide.se.square()).sqrt()
        refuted = (wide.log_evidence - guide.log_evidence > REFUTED * error).nonzero()[:, 0]
        self.weights = guide.replace(refuted, wide.select(refuted))
        self.rung[refuted] = 1

    def _drawn(self, rung: int, target: Target, moments: StudentTMixture, num: int) -> Weights:
        """Weights of draws from wide distributions and the prior."""
        proposal = replace(moments, widths=WIDTHS[RUNGS[rung]])
        return from_blocks(defended(target, proposal, num), self.tile.precision)

    def _sampled(self, rung: int, index: Tensor, moments: StudentTMixture) -> None:
        """Importance sampling, as long as it takes."""

        def draw(some: Tensor, num: int, done: int) -> Weights:
            return self._drawn(rung, self._target(index[some]), moments.select(some), num)

        first = draw(torch.arange(len(index)), self.budget.num_samples, 0)
        self._keep(rung, index, _lengthened(first, draw, self.budget))

    def _annealed(self, index: Tensor, moments: StudentTMixture, num_distributions: int) -> None:
        parts = []
        size = tile_rows(self.tile.problem.device) // ANNEALED_CHAINS
        for some in torch.arange(len(index)).split(size):
            base = replace(moments.select(some), widths=WIDTHS["refined"])
            schedule = temperatures(num_distributions, "sigmoidal")
            target = self._target(index[some])
            path = AnnealingPath.tuned(target, base, schedule, ANNEALED_STEPS)
            log_weight, _ = path.forward(ANNEALED_CHAINS)
            parts.append(from_blocks([log_weight], self.tile.precision))
        self._keep(3, index, concatenate(parts))

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
    """0: unreliable (k-hat above 0.7); 1: usable; 2: its standard error is reliable too."""
    return (weights.khat <= KHAT_LIMIT).long() + (weights.khat <= FINITE_VARIANCE).long()
