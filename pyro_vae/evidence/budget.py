"""What is asked of an estimate, and what it may cost: as many draws as the error needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .defence import FINITE_VARIANCE
from .flags import LEAST_ESS
from .pareto import khat_limit
from .watch import Watch
from .weights import Weights

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

    @property
    def halves(self) -> tuple[int, int]:
        """The draws at first: of the guide, and beside it."""
        return halves(self.num_samples)

    def is_met(self, weights: Weights) -> Tensor:
        """Which data have a small error that can be trusted."""
        trusted = weights.log_evidence.isfinite() & (trust(weights) > 0)
        return trusted & (_error(weights) <= self.tolerance)

    def needs_more(self, weights: Weights) -> Tensor:
        """Data that need the next proposal. NaN and +inf are left as they are, to stay visible."""
        broken = weights.log_evidence.isnan() | (weights.log_evidence == math.inf)
        return ~self.is_met(weights) & ~broken


def halves(num: int) -> tuple[int, int]:
    """So many draws of the guide, and so many beside them."""
    return num - num // 2, num // 2


def lengthened(weights: Weights, draw: Draw, budget: Budget, watch: Watch) -> Weights:
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


def trust(weights: Weights) -> Tensor:
    """0: unreliable (k-hat too large, or too few effective draws); 1: usable; 2: its standard error
    is reliable too.
    """
    usable = (weights.khat <= khat_limit(weights.num)) & (weights.ess >= LEAST_ESS)
    return usable.long() + (usable & (weights.khat <= FINITE_VARIANCE)).long()


def _error(weights: Weights) -> Tensor:
    """The error of log p(x): the standard error, and more where the variance need not exist."""
    excess = (weights.khat - FINITE_VARIANCE).clamp(min=0)
    return weights.se * weights.num**excess
