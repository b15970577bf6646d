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

The path and its chains are in :mod:`.annealing_path`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..density.memory import tile_rows
from ..density.precision import USUAL_TOLERANCE, precise
from ..density.problem import Problem, Stream, Tile
from ..density.target import Target
from ..density.traced import Pair
from ..density.whole import WholeProblem, problem_of
from ..guards import above_zero, evaluating, whole_number
from ..vae import VAE
from .annealing_path import BASES, PILOTS, SCHEDULES, AnnealingPath, Base, temperatures
from .flags import warn_of_flags
from .results import as_dataset, one_number
from .watch import OutOfTime, Watch
from .weights import Weights, concatenate, from_blocks, unreached

if TYPE_CHECKING:
    import xarray

REMEDY = "raise num_distributions or chains"
LATE = "raise max_seconds, or ask for fewer num_distributions or chains"
HARDLY = 0.2  # an acceptance with which chains hardly move


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
    max_seconds: float | None = None,
    progress: bool = True,
) -> xarray.Dataset:
    """log p(x) for each datum, by annealed importance sampling: in the mean a lower bound, whatever
    the guide.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions: see :func:`.log_evidence` for
            those that have one number for all data.
        x: Data of shape ``(N, *X)``, NaN where missing; of a pair also a tuple of arguments.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        z: For data that the model itself has made, the latents of shape ``(N, *Z)`` that they were
            made from: exact draws of the posterior, for an upper bound.
            :func:`.bidirectional_log_evidence` makes both.
        num_distributions: The number T of steps from the base to the joint density.
        chains: The chains of each datum; with fewer than 25 all data are flagged as "few draws",
            since k-hat is then unknown.
        start: ``"guide"`` or ``"prior"``: where the chains begin.
        schedule: ``"sigmoidal"`` (finer at both ends) or ``"linear"``.
        num_steps: The leapfrog steps of each transition.
        seed: The seed of all draws.
        max_seconds: About how long it may take: data that were not reached by then are flagged.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A dataset as of :func:`.log_evidence`, the chains in place of draws; and ``acceptance``, the
        mean over chains and transitions, flagged below 0.2. With z also ``upper``, the upper bound,
        and ``gap``, its difference to ``log_evidence``, the lower one; as attributes ``gap`` and
        ``gap_se``, over data.

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
    if max_seconds is not None:
        above_zero("max_seconds", "a number of seconds", max_seconds, "60")
    _one_of("start", start, BASES)
    _one_of("schedule", schedule, SCHEDULES)
    problem = problem_of(vae, x, c)
    about = problem.about
    problem = precise(problem, USUAL_TOLERANCE)

    path = _Path(BASES[start], temperatures(num_distributions, schedule), num_steps, chains)
    watch = Watch(len(problem), progress=progress, max_seconds=max_seconds)
    ways = 1 if z is None else 2  # forth, and back

    parts = []
    with torch.no_grad(), evaluating(problem.model, problem.guide), watch:
        size = max(1, tile_rows(problem.device) // (chains + PILOTS))
        for tile in problem.tiles(size, (seed, Stream.ANNEALING)):
            if "measure" not in about:
                about["measure"] = tile.densities.measure
            watch.begin(len(tile), ways * num_distributions)
            watch.until = watch.deadline  # half a path is none: the first tiles come to the end
            parts.append(_annealed(tile, path, z, watch))

    result = _result(parts, about | {"seconds": watch.attrs["seconds"]}, bounded=z is not None)
    result = one_number(result) if isinstance(problem, WholeProblem) else result
    remedy = REMEDY if start == "prior" else f"{REMEDY}, or start='prior'"
    warn_of_flags(result, LATE if result.attrs.get("flagged_out_of_time") else remedy)
    return result


def _one_of(name: str, choice: str, known: dict[str, Any]) -> None:
    if choice not in known:
        names = " or ".join(map(repr, known))
        raise ValueError(f"{name} must be {names}; got {choice!r}")


@dataclass(frozen=True)
class _Path:
    """What annealing paths have in common."""

    base: Callable[[Target], Base]
    betas: list[float]
    num_steps: int
    chains: int


class _Annealed(NamedTuple):
    """What is known of a tile: weights, acceptance and, with known latents, an upper bound."""

    weights: Weights
    acceptance: Tensor
    upper: Tensor


def _annealed(tile: Tile, path: _Path, z: Any, watch: Watch) -> _Annealed:
    """The chains of a tile; where there is no time for them, nothing."""
    unknown = torch.full((len(tile),), math.nan, dtype=torch.float64)
    with tile.seeded():
        target = tile.target()
        exact = None if z is None else _positions(target, z, tile.rows, len(tile.problem))
        try:
            way = AnnealingPath.of(
                target, path.base(target), path.betas, path.num_steps, watch.tick
            )
            ahead = way.forward(path.chains)
            back = None if exact is None else way.backward(exact, path.chains, ahead.step_sizes)
        except OutOfTime:
            return _Annealed(unreached(len(tile), tile.precision), unknown, unknown)
    upper = unknown if back is None else -_log_mean(back)
    return _Annealed(
        from_blocks([ahead.log_weight], tile.precision), ahead.acceptance.cpu(), upper.cpu()
    )


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


def _result(parts: list[_Annealed], about: dict[str, Any], *, bounded: bool) -> xarray.Dataset:
    weights = concatenate([part.weights for part in parts])
    extra = {"acceptance": torch.cat([part.acceptance for part in parts]).numpy()}
    if bounded:
        upper = torch.cat([part.upper for part in parts])
        extra |= {"upper": upper.numpy(), "gap": (upper - weights.log_evidence).numpy(force=True)}
    flagged = {
        "hardly_moved": extra["acceptance"] < HARDLY,
        "out_of_time": (weights.num == 0).numpy(),
    }
    result = as_dataset(weights, about, flagged, **extra)
    result = result.rename(num_samples="chains").drop_vars("elbo")
    result.attrs["chains"] = result.attrs.pop("num_samples")
    if bounded:
        gap = extra["gap"]
        result.attrs["gap"] = float(gap.mean())
        result.attrs["gap_se"] = (
            float(gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else math.nan
        )
    return result
