r"""Annealed importance sampling: log p(x) where no guide will do, from below and, on simulated
data, from above.

A path of densities leads from a base q, which can be drawn from, to the joint density:

.. math:: \log f_t(u) = (1 - \beta_t) \log q(u) + \beta_t \log p(x, u), \qquad 0 = \beta_0 < \dots < \beta_T = 1

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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import xarray
from torch import Tensor

from ..density.memory import TILE_ROWS
from ..density.target import Target
from ..density.terms import Pair, entrance, trace_terms
from ..guards import evaluating, seed_of, seeded, whole_number
from ..posterior.hmc import State, covariance_factor, evaluate, transition
from ..vae import VAE
from .results import as_dataset, describe_evidence, flags, observing, warn_of_flags
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
    """Where chains begin: a normalised density over positions ``(K, N, D)`` that can be drawn from."""

    def sample(self, shape: torch.Size) -> Tensor:
        """Positions of shape ``(*shape, N, D)``."""
        ...

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)``."""
        ...


@dataclass(frozen=True)
class Latents:
    """The latents of a Pyro function, in unconstrained space: of the guide, or of the model, which
    is the prior.
    """

    target: Target
    function: Callable

    def sample(self, shape: torch.Size) -> Tensor:
        """Positions of shape ``(*shape, N, D)``."""
        return self.target.draw(self.function, shape.numel())

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)``."""
        return self.target.densities(self.function, position)[0]


def annealed_log_evidence(
    vae: VAE | Pair,
    x: Any,
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
    whole_number("num_distributions", num_distributions, at_least=1)
    whole_number("num_steps", num_steps, at_least=1)
    whole_number("chains", chains, at_least=1)
    whole_number("seed", seed, at_least=0)
    for name, value, known in (
        ("start", start, ("guide", "prior")),
        ("schedule", schedule, tuple(SCHEDULES)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}; got {value!r}")
    model, guide, rows, like = entrance(vae, x, c, chains)
    betas = temperatures(num_distributions, schedule)
    parts, bounds, moved = [], [], []
    with torch.no_grad(), evaluating(model, guide):
        about = describe_evidence(model, guide, rows)
        for number, tile in enumerate(rows.chunks(max(1, TILE_ROWS // chains))):
            with seeded(seed_of(seed, number, 2)):
                batch = rows.batch(tile, like=like)
                with observing(about):
                    trace_terms(model, guide, batch, 1)  # says what is wrong with a pair
                target = Target(model, batch)
                base = Latents(target, guide if start == "guide" else model)
                path = AnnealingPath(target, base, betas, num_steps)
                log_weight, acceptance = path.forward(chains)
                parts.append(from_blocks([log_weight], torch.finfo(batch[0].dtype).eps))
                moved.append(acceptance)
                if z is not None:
                    bounds.append(
                        -_log_mean(path.backward(_positions(target, z, tile, len(rows)), chains))
                    )
    result = _result(
        concatenate(parts), about, torch.cat(moved), torch.cat(bounds).cpu() if bounds else None
    )
    warn_of_flags(result, REMEDY)
    return result


def temperatures(num_distributions: int, schedule: str) -> list[float]:
    """Inverse temperatures from 0 to 1, one more than `num_distributions`."""
    raw = SCHEDULES[schedule](np.linspace(0, 1, num_distributions + 1))
    return ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()


class AnnealingPath:
    """The way from a base to the joint density, with step sizes for each datum that a pilot has
    found.

    Arguments:
        target: The joint density of a batch of data.
        base: Where chains begin.
        betas: Inverse temperatures from 0 to 1.
        num_steps: The leapfrog steps of each transition.
    """

    def __init__(self, target: Target, base: Base, betas: list[float], num_steps: int) -> None:
        self.target, self.base, self.betas, self.num_steps = target, base, betas, num_steps
        draws = base.sample(torch.Size([SCALE_DRAWS])).detach()
        self.scale = covariance_factor(draws, torch.diag_embed(draws.std(0)))
        self.step_sizes = self._pilot()

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
            if (
                isinstance(base, Latents) and base.function is target.model
            ):  # one run of the decoder is enough
                prior, likelihood = target.densities(target.model, u)
                return prior + beta * likelihood if beta else prior
            if beta == 0.0 or beta == 1.0:  # 0 times an infinite density is nothing
                return target(u) if beta else base.log_prob(u)
            return (1 - beta) * base.log_prob(u) + beta * target(u)

        return log_density

    def _at(self, t: int, position: Tensor) -> State:
        return evaluate(self._density(t), position)

    def _reweighted(self, log_weight: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        """On to the next density, the chains where they are."""
        there = self._at(t, state.position)
        gained = there.log_density.double() - state.log_density.double()
        return torch.where(
            log_weight == -math.inf, -math.inf, log_weight + gained
        ), there  # a chain may be outside

    def _moved(self, state: State, t: int) -> tuple[State, Tensor]:
        jitter = 1 + JITTER * (2 * torch.rand_like(state.log_density) - 1)
        step_size = self.step_sizes[t] * jitter
        state, happened = transition(self._density(t), state, step_size, self.num_steps, self.scale)
        return state, happened.acceptance.mean(0)

    def _pilot(self) -> Tensor:
        """Step sizes of shape ``(T + 1, N)``, by chains that are thrown away."""
        state = self._at(0, self.base.sample(torch.Size([PILOT_CHAINS])))
        size = torch.full_like(state.log_density[0], state.position.shape[-1] ** -0.25)
        self.step_sizes, found = size.expand(len(self.betas), -1), [size]
        for t in range(1, len(self.betas) - 1):
            state = self._at(t, state.position)
            self.step_sizes = size.expand(len(self.betas), -1)
            state, acceptance = self._moved(state, t)
            size = size * torch.exp(GAIN * (acceptance - TARGET_ACCEPTANCE))
            found.append(size)
        return torch.stack([*found, size])


def _positions(target: Target, z: Any, tile: slice, num: int) -> Tensor:
    """The true latents of a tile, in unconstrained space."""
    if len(target.latents) != 1:
        raise TypeError(f"z needs a model with one latent site; this one has {len(target.latents)}")
    values = torch.as_tensor(z).to(target.batch[0].device)
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
