r"""Hamiltonian Monte Carlo for many data at once: chains times data in one tensor program.

Pyro's HMC and NUTS see N data in one plate as one target of N D dimensions: one step size, one
acceptance, one divergence for all. Given the model, the posteriors of different data are
independent, so here each datum has its own. A position is a tensor of shape ``(K, N, D)``, K
chains; everything else has its leading dimensions.

With momentum :math:`r \sim \mathcal{N}(0, I)` and the scale :math:`L` of a datum (the inverse mass
matrix is :math:`L L^\top`), a leapfrog step of size :math:`\epsilon` is

.. math:: r \leftarrow r + \tfrac{\epsilon}{2} L^\top \nabla \log p(u), \quad
    u \leftarrow u + \epsilon L r, \quad
    r \leftarrow r + \tfrac{\epsilon}{2} L^\top \nabla \log p(u)

(Neal, 2011, https://arxiv.org/abs/1206.1901). Step sizes and scales are found in the warm-up
(:mod:`.adaptation`). Each step size is jittered, so that no period of the target is met exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from ..guards import whole_number
from ..recorded import Recorded
from .adaptation import MOST_STEPS, Adaptation

LogDensity = Callable[[Tensor], Tensor]

JITTER = 0.5  # by what share of its mean length a trajectory may differ
DIVERGENT = 1000.0  # an energy error, in nats, that no accurate trajectory has


@dataclass(frozen=True)
class HMCState:
    """Where the chains are.

    Arguments:
        position: Of shape ``(K, N, D)``.
        log_density: Of shape ``(K, N)``.
        gradient: That of the log density, of shape ``(K, N, D)``.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor

    @property
    def is_finite(self) -> Tensor:
        """Where density and gradient are finite, of shape ``(K, N)``."""
        return self.log_density.isfinite() & self.gradient.isfinite().all(-1)


StateAt = Callable[[Tensor], HMCState]


@dataclass(frozen=True)
class HMCInfo:
    """What happened in one transition, each of shape ``(K, N)``.

    Arguments:
        acceptance: The probability of acceptance.
        diverging: Whether the energy was lost on the way.
        energy: That of the state at the beginning.
    """

    acceptance: Tensor
    diverging: Tensor
    energy: Tensor


def evaluate(log_density: LogDensity, position: Tensor) -> HMCState:
    """The state at `position`."""
    return HMCState(position.detach(), *with_gradient(log_density, position))


def with_gradient(log_density: LogDensity, position: Tensor) -> tuple[Tensor, Tensor]:
    """The log density at `position`, and its gradient."""
    with torch.enable_grad():
        position = position.detach().requires_grad_()
        value = log_density(position)
        if not value.requires_grad:  # the same everywhere
            return value, torch.zeros_like(position)
        (gradient,) = torch.autograd.grad(value.sum(), position)
    return value.detach(), gradient


def leapfrog(
    state_at: StateAt,
    state: HMCState,
    momentum: Tensor,
    step_size: Tensor,
    num_steps: int,
    scale: Tensor,
) -> tuple[HMCState, Tensor]:
    """Follow the dynamics.

    Arguments:
        state_at: Maps positions ``(K, N, D)`` to states.
        state: Where to begin.
        momentum: Of shape ``(K, N, D)``.
        step_size: Of a shape that broadcasts to ``(K, N)``; negative ones go back in time.
        num_steps: How many steps.
        scale: The factor L for each datum, of shape ``(N, D, D)``.

    Returns:
        The state and the momentum at the end.
    """
    size = step_size[..., None]
    momentum = momentum + size / 2 * _times(scale.mT, state.gradient)
    for step in range(num_steps):
        state = state_at(state.position + size * _times(scale, momentum))
        full = 1.0 if step < num_steps - 1 else 0.5
        momentum = momentum + full * size * _times(scale.mT, state.gradient)
    return state, momentum


def transition(
    state_at: StateAt,
    state: HMCState,
    step_size: Tensor,
    num_steps: int,
    scale: Tensor,
    *,
    jitter: float = 0.0,
) -> tuple[HMCState, HMCInfo]:
    """One Metropolis step of HMC for each chain and datum, which leaves their densities invariant.

    Where the trajectory meets a density that is not finite, or loses the energy, the chain stays
    where it was.

    Arguments:
        state_at: Maps positions ``(K, N, D)`` to states.
        state: Where to begin.
        step_size: Of a shape that broadcasts to ``(K, N)``.
        num_steps: How many leapfrog steps.
        scale: The factor L for each datum, of shape ``(N, D, D)``.
        jitter: By what share of it a step size may differ, at random and of each chain by itself,
            so that no trajectory comes back to where it began.

    Returns:
        The state afterwards, and what happened.
    """
    if jitter:
        uniform = torch.rand_like(state.log_density)
        step_size = step_size * (1 + jitter * (2 * uniform - 1))

    momentum = torch.randn_like(state.position)
    proposal, last = leapfrog(state_at, state, momentum, step_size, num_steps, scale)
    before = state.log_density - momentum.square().sum(-1) / 2
    gain = proposal.log_density - last.square().sum(-1) / 2 - before

    known = gain.isfinite() & proposal.gradient.isfinite().all(-1)
    acceptance = torch.where(known, gain.clamp(max=0.0).exp(), 0.0)
    accepted = torch.rand_like(acceptance) < acceptance

    moved = HMCState(
        torch.where(accepted[..., None], proposal.position, state.position),
        torch.where(accepted, proposal.log_density, state.log_density),
        torch.where(accepted[..., None], proposal.gradient, state.gradient),
    )
    return moved, HMCInfo(acceptance, ~(known & (gain > -DIVERGENT)), -before)


class BatchedHMC(MCMCKernel):
    """HMC with its own step size, scale, acceptance and divergences for each datum: a kernel for
    ``pyro.infer.MCMC``.

    One "chain" of Pyro's holds all chains and data. Every datum takes the same number of steps,
    enough for nine in ten, and half of their chains, to go the whole length of a trajectory.

    Arguments:
        log_density: Maps positions of shape ``(K, N, D)`` to ``(K, N)``: log densities up to a
            constant, each of a chain and a datum by itself.
        position: Where the chains begin, of shape ``(K, N, D)``.
        scale: The first guess at the spread of each datum's posterior: standard deviations, of
            shape ``(N, D)``.
        target_acceptance: The mean acceptance that the step sizes are tuned to.
        most_steps: The most steps of a trajectory.
        one_step_size: Whether all chains of a datum share one step size; otherwise each chain has
            its own.

    Raises:
        ValueError: The density is not finite where a chain begins.
    """

    def __init__(
        self,
        log_density: LogDensity,
        position: Tensor,
        *,
        scale: Tensor,
        target_acceptance: float = 0.8,
        most_steps: int = MOST_STEPS,
        one_step_size: bool = True,
    ) -> None:
        num_sizes = 1 if one_step_size else len(position)
        self.evaluated = Recorded(functools.partial(with_gradient, log_density))
        self.transforms: dict = {}
        self.initial_params = {"position": position}
        self.adaptation = Adaptation(scale, target_acceptance, most_steps, num_sizes)

    @property
    def initial_params(self) -> dict[str, Tensor]:
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params = params

    @property
    def step_size(self) -> Tensor:
        """The step size of each datum, of shape ``(1, N)``, or of each chain, ``(K, N)``."""
        return self.adaptation.step_size

    @property
    def scale(self) -> Tensor:
        """The factor L of each datum, of shape ``(N, D, D)``."""
        return self.adaptation.scale

    @property
    def num_steps(self) -> int:
        """The leapfrog steps of a transition."""
        return self.adaptation.num_steps

    def state_at(self, position: Tensor) -> HMCState:
        """The state of all chains at `position`."""
        return HMCState(position.detach(), *self.evaluated(position))

    def setup(self, warmup_steps: int, *args: object, **kwargs: object) -> None:
        whole_number("warmup", warmup_steps, at_least=0)
        self.state = self.state_at(self.initial_params["position"])
        outside = ~self.state.is_finite
        if outside.any():
            chain, datum = outside.nonzero()[0].tolist()
            needs = "fit the guide that the chains begin at, or give other positions"
            raise ValueError(
                f"HMC needs a finite density where it begins; chain {chain} of datum {datum} has "
                f"none; {needs}"
            )
        self.adaptation.start(warmup_steps)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        if params["position"] is not self.state.position:
            self.state = self.state_at(params["position"])
        self.state, self.last = transition(
            self.state_at,
            self.state,
            self.step_size,
            self.num_steps,
            self.scale,
            jitter=JITTER,
        )
        self.adaptation.update(self.state.position, self.last.acceptance)
        return {"position": self.state.position}

    def diagnostics(self) -> dict[str, Tensor]:
        return {"step size": self.step_size}


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """A matrix for each datum ``(N, D, D)`` times vectors ``(K, N, D)``."""
    return torch.einsum("nij,knj->kni", matrix, vector)


def run_kernel(
    kernel: MCMCKernel,
    start: Tensor,
    warmup: int,
    num_samples: int,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Run a kernel by Pyro's protocol, and give its positions after warm-up; it ticks each step."""
    kernel.initial_params = params = {"position": start}
    kernel.setup(warmup)
    for step in range(warmup + num_samples):
        if step == warmup:
            kernel.end_warmup()
        params = kernel.sample(params)
        tick()
        if step >= warmup:
            yield params["position"]
    kernel.cleanup()
