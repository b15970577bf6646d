r"""Annealed importance sampling: log p(x) where no guide will do, from below.

On simulated data it also holds log p(x) from above.

A path of densities leads from a base q, which can be drawn from, to the joint density:

.. math:: \log f_t(u) = (1 - \beta_t) \log q(u) + \beta_t \log p(x, u), \qquad
    0 = \beta_0 < \dots < \beta_T = 1

A chain is drawn from the base and moved by HMC that leaves :math:`f_t` invariant, for each t in
turn; its weight :math:`\prod_t f_t(u_{t-1}) / f_{t-1}(u_{t-1})` has the mean p(x), however poorly
the chains mix (Neal, 2001, https://arxiv.org/abs/physics/9803008). Run backwards from an exact draw
of the posterior, which there is of data that the model itself has made, the weight has the mean 1 /
p(x), and its inverse gives an upper bound (bidirectional Monte Carlo, Grosse et al., 2015,
https://arxiv.org/abs/1511.02543; of VAEs, Wu et al., 2017, https://arxiv.org/abs/1611.04273).

The step sizes of each datum are found by chains of their own, run before, and then held: a step
size that followed the chains that it moves would bias their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import xarray
from torch import Tensor

from ..density.memory import TILE_ROWS
from ..density.problem import Problem, Stream
from ..density.target import Target
from ..density.traced import Pair
from ..guards import evaluating, whole_number
from ..posterior.adaptation import covariance_factor
from ..posterior.hmc import HMCState, evaluate, transition
from ..vae import VAE
from .results import as_dataset, flags, warn_of_flags
from .weights import Weights, concatenate, from_blocks

PILOT_CHAINS = 4
SCALE_DRAWS = 256
TARGET_ACCEPTANCE = 0.65  # Wu et al., 2017
JITTER = 0.3  # of the step size, so that no trajectory comes back to where it began
GAIN = 0.2  # of the step size, per temperature
SIGMOID = 4.0

SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoidal": lambda share: 1 / (1 + np.exp(-SIGMOID * (2 * share - 1))),
    "linear": lambda share: share,
}
REMEDY = "or their chains hardly moved: raise num_distributions or chains, or start='prior'"
HARDLY = 0.2  # an acceptance with which chains hardly move


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


def annealed_log_evidence(
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    z: Any = None,
    num_distributions: int = 500,
    chains: int = 32,
    start: str = "guide",
    schedule: str = "sigmoidal",
    num_steps: int = 10,
    seed: int = 0,
) -> xarray.Dataset:
    """log p(x) for each datum, by annealed importance sampling: in the mean a lower bound, whatever
    the guide.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        z: For data that the model itself has made, the latents of shape ``(N, *Z)`` that they were
            made from: exact draws of the posterior, for an upper bound.
            :func:`.bidirectional_log_evidence` makes both.
        num_distributions: The number T of steps from the base to the joint density.
        chains: The chains of each datum.
        start: ``"guide"`` or ``"prior"``: where the chains begin.
        schedule: ``"sigmoidal"`` (finer at both ends) or ``"linear"``.
        num_steps: The leapfrog steps of each transition.
        seed: The seed of all draws.

    Returns:
        A dataset as of :func:`.log_evidence`, the chains in place of draws (``khat`` needs 25 of
        them); and ``acceptance``, the mean over chains and transitions, flagged below 0.2. With z
        also ``upper``, the upper bound, and ``gap``, its difference to ``log_evidence``, the lower
        one; as attributes ``gap`` and ``gap_se``, over data.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: An option makes no sense.
        TypeError: The latents are discrete, z belongs to a pair with several latents, or the guide
            has no density at draws of others.

    Warns:
        UserWarning: Some data are flagged.
    """
    counts = {"num_distributions": num_distributions, "num_steps": num_steps, "chains": chains}
    for name, value in counts.items():
        whole_number(name, value, at_least=1)
    whole_number("seed", seed, at_least=0)
    for name, choice, known in (("start", start, BASES), ("schedule", schedule, SCHEDULES)):
        if choice not in known:
            names = " or ".join(map(repr, known))
            raise ValueError(f"{name} must be {names}; got {choice!r}")
    problem = Problem.of(vae, x, c)
    betas = temperatures(num_distributions, schedule)

    parts, bounds, moved = [], [], []
    with torch.no_grad(), evaluating(problem.model, problem.guide):
        about = problem.about
        for tile in problem.tiles(max(1, TILE_ROWS // chains), (seed, Stream.ANNEALING)):
            about["measure"] = tile.densities.measure
            with tile.seeded():
                target = tile.target()
                path = AnnealingPath.tuned(target, BASES[start](target), betas, num_steps)
                log_weight, acceptance = path.forward(chains)
                parts.append(from_blocks([log_weight], tile.precision))
                moved.append(acceptance)
                if z is not None:
                    exact = _positions(target, z, tile.rows, len(problem))
                    bounds.append(-_log_mean(path.backward(exact, chains)))

    upper = torch.cat(bounds).cpu() if bounds else None
    result = _result(concatenate(parts), about, torch.cat(moved), upper)
    warn_of_flags(result, REMEDY)
    return result


def temperatures(num_distributions: int, schedule: str) -> list[float]:
    """Inverse temperatures from 0 to 1, one more than `num_distributions`."""
    raw = SCHEDULES[schedule](np.linspace(0, 1, num_distributions + 1))
    return ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()


@dataclass(frozen=True)
class AnnealingPath:
    """The way from a base to the joint density.

    Arguments:
        target: The joint density of a batch of data.
        base: Where chains begin.
        betas: Inverse temperatures from 0 to 1.
        num_steps: The leapfrog steps of each transition.
        scale: The factor of each datum that the momenta are scaled by, of shape ``(N, D, D)``.
        step_sizes: For each temperature and datum, of shape ``(T + 1, N)``.
    """

    target: Target
    base: Base
    betas: list[float]
    num_steps: int
    scale: Tensor
    step_sizes: Tensor

    @classmethod
    def tuned(cls, target: Target, base: Base, betas: list[float], num_steps: int) -> AnnealingPath:
        """A path whose step sizes are found by a pilot: chains that are thrown away."""
        draws = base.sample(torch.Size([SCALE_DRAWS])).detach()
        scale = covariance_factor(draws, torch.diag_embed(draws.std(0)))
        size = torch.full_like(draws[0, :, 0], draws.shape[-1] ** -0.25)
        path = cls(target, base, betas, num_steps, scale, size.expand(len(betas), -1))
        return replace(path, step_sizes=path._pilot(size))

    def forward(self, chains: int) -> tuple[Tensor, Tensor]:
        """Log weights of the way from the base, ``(chains, N)``, and the mean acceptance of each
        datum, ``(N,)``.
        """
        state = self._at(0, self.base.sample(torch.Size([chains])))
        log_weight = torch.zeros_like(state.log_density, dtype=torch.float64)
        accepted = []
        for t in range(1, len(self.betas)):
            log_weight, state = self._reweighted(log_weight, state, t)
            if t < len(self.betas) - 1:
                state, acceptance = self._moved(state, t)
                accepted.append(acceptance)
        return log_weight, torch.stack(accepted).mean(0) if accepted else torch.ones_like(
            log_weight[0]
        )

    def backward(self, position: Tensor, chains: int) -> Tensor:
        """Log weights of the way back from exact draws ``(N, D)`` of the posterior, of shape
        ``(chains, N)``.
        """
        state = self._at(len(self.betas) - 1, position.expand(chains, *position.shape))
        log_weight = torch.zeros_like(state.log_density, dtype=torch.float64)
        for t in range(len(self.betas) - 2, -1, -1):
            log_weight, state = self._reweighted(log_weight, state, t)
            if t > 0:
                state, _ = self._moved(state, t)
        return log_weight

    def _density(self, t: int) -> Callable[[Tensor], Tensor]:
        beta, base, target = self.betas[t], self.base, self.target

        def log_density(u: Tensor) -> Tensor:
            if isinstance(base, Prior):  # one run of the decoder is enough
                prior, likelihood = target.log_model(u)
                return prior + beta * likelihood if beta else prior
            if beta == 0.0 or beta == 1.0:  # 0 times an infinite density is nothing
                return target(u) if beta else base.log_prob(u)
            return (1 - beta) * base.log_prob(u) + beta * target(u)

        return log_density

    def _at(self, t: int, position: Tensor) -> HMCState:
        return evaluate(self._density(t), position)

    def _reweighted(self, log_weight: Tensor, state: HMCState, t: int) -> tuple[Tensor, HMCState]:
        """On to the next density, the chains where they are."""
        there = self._at(t, state.position)
        gained = there.log_density.double() - state.log_density.double()
        return torch.where(
            log_weight == -math.inf, -math.inf, log_weight + gained
        ), there  # a chain may be outside

    def _moved(self, state: HMCState, t: int) -> tuple[HMCState, Tensor]:
        state, info = transition(
            self._density(t), state, self.step_sizes[t], self.num_steps, self.scale, jitter=JITTER
        )
        return state, info.acceptance.mean(0)

    def _pilot(self, size: Tensor) -> Tensor:
        """Step sizes of shape ``(T + 1, N)``, which follow the acceptance from t to t + 1."""
        state, found = self._at(0, self.base.sample(torch.Size([PILOT_CHAINS]))), [size]
        for t in range(1, len(self.betas) - 1):
            state = self._at(t, state.position)
            path = replace(self, step_sizes=size.expand(len(self.betas), -1))
            state, acceptance = path._moved(state, t)
            size = size * torch.exp(GAIN * (acceptance - TARGET_ACCEPTANCE))
            found.append(size)
        return torch.stack([*found, size])


def _positions(target: Target, z: Any, tile: slice, num: int) -> Tensor:
    """The true latents of a tile, in unconstrained space."""
    if len(target.latents) != 1:
        raise TypeError(f"z needs a model with one latent site; this one has {len(target.latents)}")
    values = torch.as_tensor(z).to(target.densities.batch[0].device)
    if len(values) != num:
        raise ValueError(f"z needs a row for each datum; got {len(values)} rows for {num} data")
    latent = target.latents[0]
    if values.shape[1:] != latent.bijection.forward_shape(latent.shape):
        needs = (num, *latent.bijection.forward_shape(latent.shape))
        raise ValueError(f"z needs to have shape {needs}; got {tuple(values.shape)}")
    position = target.unconstrain({latent.name: values[tile]})
    if not bool(position.isfinite().all()):
        raise ValueError("z needs latents that the prior can draw; some lie outside of its support")
    return position


def _log_mean(log_weight: Tensor) -> Tensor:
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def _result(
    weights: Weights, about: dict[str, Any], acceptance: Tensor, upper: Tensor | None
) -> xarray.Dataset:
    extra = {"acceptance": acceptance.numpy(force=True)}
    if upper is not None:
        extra |= {
            "upper": upper.numpy(force=True),
            "gap": (upper - weights.log_evidence).numpy(force=True),
        }
    result = as_dataset(weights, about, **extra).rename(num_samples="chains").drop_vars("elbo")
    stuck = extra["acceptance"] < HARDLY
    result.attrs["flagged"] += int((stuck & ~flags(result)).sum())
    result.attrs["chains"] = result.attrs.pop("num_samples")
    if upper is not None:
        gap = extra["gap"]
        result.attrs["gap"] = float(gap.mean())
        result.attrs["gap_se"] = (
            float(gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else math.nan
        )
    return result
