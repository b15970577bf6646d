r"""Hamiltonian Monte Carlo for many data at once: chains times data in one tensor program.

Pyro's HMC and NUTS see N data in one plate as one target of N D dimensions: one step size, one
acceptance, one divergence for all. Given the model, the posteriors of different data are
independent, so here each datum has its own. A position is a tensor of shape ``(K, N, D)``, K
chains; everything else has its leading dimensions.

With momentum :math:`r \sim \mathcal{N}(0, I)` and the scale :math:`L` of a datum (the inverse mass
matrix is :math:`L L^\top`), a leapfrog step of size :math:`\epsilon` is

.. math:: r \leftarrow r + \tfrac{\epsilon}{2} L^\top \nabla \log p(u), \quad u \leftarrow u + \epsilon L r, \quad
    r \leftarrow r + \tfrac{\epsilon}{2} L^\top \nabla \log p(u)

(Neal, 2011, https://arxiv.org/abs/1206.1901). Warm-up finds the step size by dual averaging
(Hoffman & Gelman, 2014, https://arxiv.org/abs/1111.4246) and L as the Cholesky factor of the
covariance of the chains so far. In whitened space a normal posterior decorrelates after a quarter
of a period, :math:`\pi / 2`: this is the mean length of a trajectory, and it is jittered, so that
no period of the target is met exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.ops.dual_averaging import DualAveraging
from torch import Tensor

from ..guards import whole_number

LogDensity = Callable[[Tensor], Tensor]

LENGTH, JITTER = (
    math.pi / 2,
    0.5,
)  # the mean length of a trajectory, and by how much of it each one may differ
MOST_STEPS = 64
DIVERGENT = 1000.0  # an energy error, in nats, that no accurate trajectory has
RESCALED_AT = (
    0.1,
    0.25,
    0.5,
    0.8,
)  # shares of the warm-up after which the scale is taken from the chains


@dataclass(frozen=True)
class State:
    """Where the chains are: positions ``(K, N, D)``, log densities ``(K, N)`` and their gradients
    ``(K, N, D)``.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Transition:
    """What happened in one transition, each of shape ``(K, N)``; the energy is that of the state it
    began with.
    """

    acceptance: Tensor
    diverging: Tensor
    energy: Tensor


def evaluate(log_density: LogDensity, position: Tensor) -> State:
    """The state at `position`."""
    with torch.enable_grad():
        position = position.detach().requires_grad_()
        value = log_density(position)
        (gradient,) = torch.autograd.grad(value.sum(), position)
    return State(position.detach(), value.detach(), gradient)


def leapfrog(
    log_density: LogDensity,
    state: State,
    momentum: Tensor,
    step_size: Tensor,
    num_steps: int,
    scale: Tensor,
) -> tuple[State, Tensor]:
    """Follow the dynamics.

    Arguments:
        log_density: Maps positions ``(K, N, D)`` to ``(K, N)``.
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
        state = evaluate(log_density, state.position + size * _times(scale, momentum))
        full = 1.0 if step < num_steps - 1 else 0.5
        momentum = momentum + full * size * _times(scale.mT, state.gradient)
    return state, momentum


def transition(
    log_density: LogDensity, state: State, step_size: Tensor, num_steps: int, scale: Tensor
) -> tuple[State, Transition]:
    """One Metropolis step of HMC for each chain and datum, which leaves exp(log_density) invariant.

    Where the trajectory meets a density that is not finite, or loses the energy, the chain stays
    where it was.
    """
    momentum = torch.randn_like(state.position)
    proposal, last = leapfrog(log_density, state, momentum, step_size, num_steps, scale)
    before = state.log_density - momentum.square().sum(-1) / 2
    gain = proposal.log_density - last.square().sum(-1) / 2 - before
    known = gain.isfinite() & proposal.gradient.isfinite().all(-1)
    acceptance = torch.where(known, gain.clamp(max=0.0).exp(), 0.0)
    accepted = torch.rand_like(acceptance) < acceptance
    moved = State(
        torch.where(accepted[..., None], proposal.position, state.position),
        torch.where(accepted, proposal.log_density, state.log_density),
        torch.where(accepted[..., None], proposal.gradient, state.gradient),
    )
    return moved, Transition(acceptance, ~(known & (gain > -DIVERGENT)), -before)


class BatchedHMC(MCMCKernel):
    """HMC with its own step size, scale, acceptance and divergences for each datum: a kernel for
    ``pyro.infer.MCMC``.

    One "chain" of Pyro's holds all chains and data. Every datum takes the same number of steps,
    enough for nine in ten to go the whole length of a trajectory.

    Arguments:
        log_density: Maps positions of shape ``(K, N, D)`` to ``(K, N)``: log densities up to a
            constant, each of a chain and a datum by itself.
        position: Where the chains begin, of shape ``(K, N, D)``.
        scale: The first guess at the spread of each datum's posterior: standard deviations, of
            shape ``(N, D)``.
        target_acceptance: The mean acceptance that the step sizes are tuned to.

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
    ) -> None:
        self.log_density, self.target_acceptance = log_density, target_acceptance
        self.transforms: dict = {}
        self.initial_params = {"position": position}
        self.scale = torch.diag_embed(scale)
        self.step_size = torch.full_like(scale[:, 0], 0.5)
        self.num_steps = 4

    @property
    def initial_params(self) -> dict[str, Tensor]:
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params = params

    def setup(self, warmup_steps: int, *args: object, **kwargs: object) -> None:
        whole_number("warmup", warmup_steps, at_least=0)
        self.state = evaluate(self.log_density, self.initial_params["position"])
        outside = ~(self.state.log_density.isfinite() & self.state.gradient.isfinite().all(-1))
        if outside.any():
            chain, datum = outside.nonzero()[0].tolist()
            needs = "fit the guide that the chains begin at, or give other positions"
            raise ValueError(
                f"HMC needs a finite density where it begins; chain {chain} of datum {datum} has "
                f"none; {needs}"
            )
        self._rescaled_at = {math.ceil(share * warmup_steps) for share in RESCALED_AT}
        self._warmup, self._count = warmup_steps, 0
        self._seen: list[Tensor] = []
        self._restart()

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        if params["position"] is not self.state.position:
            self.state = evaluate(self.log_density, params["position"])
        jitter = 1 + JITTER * (2 * torch.rand_like(self.state.log_density) - 1)
        step_size = self.step_size * jitter
        self.state, self.last = transition(
            self.log_density, self.state, step_size, self.num_steps, self.scale
        )
        if self._count < self._warmup:
            self._adapt()
        return {"position": self.state.position}

    def diagnostics(self) -> dict[str, Tensor]:
        return {"step size": self.step_size}

    def _adapt(self) -> None:
        self._count += 1
        self._seen.append(self.state.position)
        self._averaging.step(self.target_acceptance - self.last.acceptance.mean(0))
        ahead, averaged = self._averaging.get_state()
        self.step_size = ahead.exp()
        if self._count in self._rescaled_at:
            self.scale, self._seen = covariance_factor(torch.cat(self._seen), self.scale), []
            self._settle(averaged.exp())
            self._restart()
        elif self._count == self._warmup:
            self._settle(averaged.exp())

    def _restart(self) -> None:
        """Dual averaging from the step size that is."""
        self._averaging = DualAveraging(prox_center=self.step_size.log())

    def _settle(self, step_size: Tensor) -> None:
        """As many steps as most data need for a whole trajectory; the others go as far by smaller
        steps.
        """
        needed = (LENGTH / step_size).quantile(0.9)
        self.num_steps = int(needed.ceil().clamp(1, MOST_STEPS))
        self.step_size = step_size.clamp(max=LENGTH / self.num_steps)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """A matrix for each datum ``(N, D, D)`` times vectors ``(K, N, D)``."""
    return torch.einsum("nij,knj->kni", matrix, vector)


def covariance_factor(draws: Tensor, before: Tensor) -> Tensor:
    """The Cholesky factor of the covariance of draws ``(S, N, D)``, shrunk towards its diagonal
    where they are few.
    """
    num, size = len(draws), draws.shape[-1]
    centred = draws - draws.mean(0)
    covariance = torch.einsum("sni,snj->nij", centred, centred) / max(num - 1, 1)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    share = num / (num + 5.0 * size)
    shrunk = share * covariance + (1 - share) * torch.diag_embed(variance)
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    stuck = (failed != 0) | ~factor.isfinite().all(-1).all(-1) | (variance <= 0).any(-1)
    return torch.where(stuck[:, None, None], before, factor)
