"""The path of annealed importance sampling: from a base to the joint density, with its chains.

The step sizes of each datum follow the acceptance of a few chains of their own, which run beside
the others and are then thrown away: a step size that followed the chains that it moves would bias
their weights. No trajectory is longer, on average, than a quarter of a period of the base: near
half a period it comes back to the energy that it had, however well it is accepted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..density.target import Target
from ..posterior.adaptation import LENGTH, covariance_factor
from ..posterior.hmc import HMCState, evaluate, transition, with_gradient
from ..recorded import Recorded

PILOTS = 4  # chains
SCALE_DRAWS = 256
TARGET_ACCEPTANCE = 0.65  # Wu et al., 2017
JITTER = 0.3  # of the step size, so that no trajectory comes back to where it began
GAIN = 1.0  # of the log step size, per temperature and unit of acceptance
SIGMOID = 4.0

SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoidal": lambda share: 1 / (1 + np.exp(-SIGMOID * (2 * share - 1))),
    "linear": lambda share: share,
}


class Base(Protocol):
    """Where chains begin: a normalised density over positions that can be drawn from."""

    def sample(self, shape: torch.Size) -> Tensor:
        """Positions of shape ``(*shape, N, D)``."""
        ...

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)``."""
        ...


@dataclass(frozen=True)
class Guide:
    """The guide as a base, in unconstrained space."""

    target: Target

    def sample(self, shape: torch.Size) -> Tensor:
        """Positions of shape ``(*shape, N, D)``."""
        return self.target.draw_guide(shape.numel())

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)``."""
        return self.target.log_guide(position)


@dataclass(frozen=True)
class Prior:
    """The prior as a base, in unconstrained space."""

    target: Target

    def sample(self, shape: torch.Size) -> Tensor:
        """Positions of shape ``(*shape, N, D)``."""
        return self.target.draw_prior(shape.numel())

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)``."""
        return self.target.log_model(position)[0]


BASES: dict[str, Callable[[Target], Base]] = {"guide": Guide, "prior": Prior}


def temperatures(num_distributions: int, schedule: str) -> list[float]:
    """Inverse temperatures from 0 to 1, one more than `num_distributions`."""
    raw = SCHEDULES[schedule](np.linspace(0, 1, num_distributions + 1))
    return ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()


class Forward(NamedTuple):
    """Chains that have come from the base: log weights ``(chains, N)``, the mean acceptance of each
    datum ``(N,)``, where they have come to, ``(chains, N, D)``, and the step sizes for each
    temperature and datum, ``(T + 1, N)``.
    """

    log_weight: Tensor
    acceptance: Tensor
    position: Tensor
    step_sizes: Tensor


@dataclass(frozen=True)
class AnnealingPath:
    """The way from a base to the joint density.

    Arguments:
        target: The joint density of a batch of data.
        base: Where chains begin.
        betas: Inverse temperatures from 0 to 1.
        num_steps: The leapfrog steps of each transition.
        scale: The factor of each datum that the momenta are scaled by, of shape ``(N, D, D)``.
        between: The density and its gradient, of a position and an inverse temperature inside.
        tick: Called at each temperature.
    """

    target: Target
    base: Base
    betas: list[float]
    num_steps: int
    scale: Tensor
    between: Recorded
    tick: Callable[[], None]

    @classmethod
    def of(
        cls,
        target: Target,
        base: Base,
        betas: list[float],
        num_steps: int,
        tick: Callable[[], None] = lambda: None,
    ) -> AnnealingPath:
        """A path whose momenta are scaled by draws of the base."""
        draws = base.sample(torch.Size([SCALE_DRAWS])).detach()
        scale = covariance_factor(draws, torch.diag_embed(draws.std(0)))
        between = Recorded(functools.partial(_between, target, base))
        return cls(target, base, betas, num_steps, scale, between, tick)

    def forward(self, chains: int) -> Forward:
        """Chains on the way from the base, and the pilots that find their step sizes."""
        state = self._at(0, self.base.sample(torch.Size([chains + PILOTS])))
        log_weight = torch.zeros_like(state.log_density, dtype=torch.float64)
        longest = LENGTH / self.num_steps
        size = torch.full_like(state.log_density[0], state.position.shape[-1] ** -0.25)
        size = size.clamp(max=longest)
        sizes, accepted = [size], []
        for t in range(1, len(self.betas)):
            log_weight, state = self._reweighted(log_weight, state, t)
            sizes.append(size)
            if t < len(self.betas) - 1:
                state, acceptance = self._moved(state, t, size)
                excess = acceptance[chains:].mean(0) - TARGET_ACCEPTANCE
                size = (size * torch.exp(GAIN * excess)).clamp(max=longest)
                accepted.append(acceptance[:chains].mean(0))
        mean = torch.stack(accepted).mean(0) if accepted else torch.ones_like(size)
        step_sizes = torch.stack(sizes)
        return Forward(log_weight[:chains], mean, state.position[:chains], step_sizes)

    def settle(self, ahead: Forward, steps: int) -> Tensor:
        """Where chains at the joint density have come to after so many transitions."""
        last = len(self.betas) - 1
        state = self._at(last, ahead.position)
        for _ in range(steps):
            state, _ = self._moved(state, last, ahead.step_sizes[last])
        return state.position

    def backward(self, position: Tensor, chains: int, step_sizes: Tensor) -> Tensor:
        """Log weights of the way back from exact draws ``(N, D)`` of the posterior, of shape
        ``(chains, N)``, by the step sizes of the way forth.
        """
        state = self._at(len(self.betas) - 1, position.expand(chains, *position.shape))
        log_weight = torch.zeros_like(state.log_density, dtype=torch.float64)
        for t in range(len(self.betas) - 2, -1, -1):
            log_weight, state = self._reweighted(log_weight, state, t)
            if t > 0:
                state, _ = self._moved(state, t, step_sizes[t])
        return log_weight

    def _at(self, t: int, position: Tensor) -> HMCState:
        beta = self.betas[t]
        if beta in (0.0, 1.0):  # 0 times an infinite density is nothing
            return evaluate(self.target if beta else self.base.log_prob, position)
        as_tensor = torch.full((), beta, dtype=torch.float64, device=position.device)
        return HMCState(position.detach(), *self.between(position, as_tensor))

    def _reweighted(self, log_weight: Tensor, state: HMCState, t: int) -> tuple[Tensor, HMCState]:
        """On to the next density, the chains where they are."""
        there = self._at(t, state.position)
        gained = there.log_density.double() - state.log_density.double()
        return torch.where(
            log_weight == -math.inf, -math.inf, log_weight + gained
        ), there  # a chain may be outside

    def _moved(self, state: HMCState, t: int, step_size: Tensor) -> tuple[HMCState, Tensor]:
        """After one transition, and the acceptance of each chain, ``(chains, N)``."""
        self.tick()
        state, info = transition(
            functools.partial(self._at, t),
            state,
            step_size,
            self.num_steps,
            self.scale,
            jitter=JITTER,
        )
        return state, info.acceptance


def _between(target: Target, base: Base, position: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The log density at an inverse temperature between those of the ends, and its gradient."""

    def log_density(u: Tensor) -> Tensor:
        if isinstance(base, Prior):  # one run of the decoder is enough
            prior, likelihood = target.log_model(u)
            return prior + beta * likelihood
        return (1 - beta) * base.log_prob(u) + beta * target(u)

    return with_gradient(log_density, position)
