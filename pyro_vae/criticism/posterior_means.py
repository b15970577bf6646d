"""A function of latents, averaged over weighted draws or chains: what :func:`.expect` says of some
data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..density.problem import Problem
from ..density.terms import Batch, Values
from ..evidence.flags import LEAST_ESS, flags
from ..evidence.pareto import khat
from ..evidence.weighted import Weighted
from ..posterior.diagnostics import RHAT_LIMIT, have_mixed
from ..posterior.trees import draws_by_site

if TYPE_CHECKING:
    import xarray

Function = Callable[..., Any]
Figures = dict[str, np.ndarray]

NUMBERS = 2**22  # results of f that are held at once
ROWS = 2**15  # draws that f sees at once, of whatever it makes on the way
RESTS_ON = 50  # draws, or an eighth: an error that fewer are most of is too small (by exp(a z))
FAR = 600.0  # nats below the largest weight: nothing, in double precision


def of_weighted(f: Function, draws: Weighted, problem: Problem) -> Figures:
    """Mean and error for each of some data, a few at a time."""
    log_weight = draws.log_weight.double().cpu()
    normal = log_weight if problem.sums_exactly else _smoothed(log_weight)
    normal = normal - normal.logsumexp(0)
    of_weights = torch.full((log_weight.shape[1],), -math.inf)
    of_weights = of_weights if problem.sums_exactly else khat(log_weight)
    parts = []
    for some, values in _evaluated(f, draws.values, draws.batch):
        part = _moments(values, normal[:, some])
        if problem.sums_exactly:
            exact = {"se": 0.0, "ess": len(normal), "khat": -math.inf}
            part |= {name: np.full_like(part["mean"], number) for name, number in exact.items()}
        else:
            tails = _khat_of_products(values, part["mean"], log_weight[:, some])
            part["khat"] = np.fmax(over_outputs(of_weights[some].numpy(), tails), tails)
            part["products"] = _ess_of_products(values, part["mean"], normal[:, some])
        parts.append(part)
    figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    figures["num_samples"] = np.full(len(draws.rows), len(log_weight))
    estimate = (log_weight.logsumexp(0) - math.log(len(log_weight))).numpy()
    most = min(RESTS_ON, len(log_weight) / 8)
    dominated = figures.pop("products", np.full_like(figures["ess"], math.inf)) < most
    flagged = {**draws.flagged, "dominated": dominated}
    return figures | {"flag": _flag(figures | {"khat": of_weights.numpy()}, estimate, flagged)}


def of_chains(
    f: Function, tree: xarray.DataTree, problem: Problem
) -> Iterator[tuple[np.ndarray, Figures]]:
    """Means over draws of MCMC."""
    from arviz_stats.base import array_stats

    batch = problem.batch(slice(None))
    chains = draws_by_site(tree["posterior"].to_dataset())
    num_chains, num_draws = next(iter(chains.values())).shape[:2]
    latents = {
        name: torch.as_tensor(z.reshape(-1, *z.shape[2:])).to(batch[0].device)
        for name, z in chains.items()
    }
    mixed = have_mixed(tree["diagnostics"].to_dataset())
    for some, values in _evaluated(f, latents, batch):
        by_chain = values.reshape(num_chains, num_draws, *values.shape[1:]).numpy()
        axes = {"chain_axis": 0, "draw_axis": 1, "method": "mean"}
        mean = by_chain.mean((0, 1))
        figures = {
            "mean": mean,
            "sd": by_chain.std((0, 1), ddof=1),
            "se": np.asarray(array_stats.mcse(by_chain, **axes)),
            "ess": np.asarray(array_stats.ess(by_chain, **axes)),
            "khat": np.full(len(mean), -math.inf),
            "num_samples": np.full(len(mean), num_chains * num_draws),
        }
        rhat = np.asarray(array_stats.rhat(by_chain, chain_axis=0, draw_axis=1))
        unmixed = (
            (rhat > RHAT_LIMIT) | (figures["ess"] < LEAST_ESS) | ~over_outputs(mixed[some], mean)
        )
        figures["flag"] = _flag(figures, np.zeros(len(mean)), {"not_mixed": unmixed})
        figures["khat"] = over_outputs(figures["khat"], mean)
        yield np.arange(len(problem))[some], figures


def _evaluated(f: Function, latents: Values, batch: Batch) -> Iterator[tuple[slice, Tensor]]:
    """f of all draws, ``(K, N', ...)`` in double precision, for a few data at a time."""
    first = {name: z[:1, :1].clone() for name, z in latents.items()}
    values = _result(f, first, [part[:1] for part in batch])
    num = len(next(iter(latents.values())))
    size = max(1, min(NUMBERS // (num * values.numel()), ROWS // num))
    for start in range(0, len(batch[0]), size):
        some = slice(start, start + size)
        of_some = {name: z[:, some].clone() for name, z in latents.items()}  # f may write there
        yield some, _result(f, of_some, [part[some] for part in batch])


def _result(f: Function, latents: Values, given: list[Tensor]) -> Tensor:
    """What f gives, checked."""
    z = latents if len(latents) > 1 else next(iter(latents.values()))
    shape = next(iter(latents.values())).shape[:2]
    found = f(z, *given)
    try:
        numbers = torch.as_tensor(found).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"f must give numbers, a tensor; got {type(found).__name__}") from error
    if numbers.is_complex() or numbers.shape[:2] != shape or not numbers.numel():
        raise ValueError(
            f"f must give real numbers of shape {tuple(shape)}, or {(*shape, '...')}, where z has "
            f"{shape[0]} draws of {shape[1]} data; got {numbers.dtype} of shape "
            f"{tuple(numbers.shape)}; keep the first two dimensions of z, and expand what depends "
            "on x alone"
        )
    return numbers.double().cpu()


def _moments(values: Tensor, log_share: Tensor) -> Figures:
    """Mean, spread and error of f over draws of normalised weights ``(K, N)``."""
    share = log_share.exp().reshape(*log_share.shape, *(1,) * (values.dim() - 2))
    mean = torch.where(share > 0, share * values, 0.0).sum(0)
    mean = torch.where(log_share.isnan().any(0).reshape(share.shape[1:]), math.nan, mean)
    away = (values - mean).square()
    variance = torch.where(share > 0, share * away, 0.0).sum(0)
    error = torch.where(share > 0, share.square() * away, 0.0).sum(0)
    kish = 1 / share.square().sum(0)
    ess = torch.where(error > 0, variance / error, kish)
    found = {"mean": mean, "sd": variance.sqrt(), "se": error.sqrt(), "ess": ess}
    return {name: figure.numpy() for name, figure in found.items()}


def _khat_of_products(values: Tensor, mean: np.ndarray, log_weight: Tensor) -> np.ndarray:
    """The Pareto shape of weights times the distance of f from its mean; NaN of a constant."""
    away = (values - torch.as_tensor(mean)).abs().log()
    product = log_weight.reshape(*log_weight.shape, *(1,) * (values.dim() - 2)) + away
    return khat(product.flatten(1)).reshape(mean.shape).numpy()


def _ess_of_products(values: Tensor, mean: np.ndarray, log_share: Tensor) -> np.ndarray:
    """How many draws an error rests on: 1 where one of them, far out, is most of it."""
    share = log_share.exp().reshape(*log_share.shape, *(1,) * (values.dim() - 2))
    away = share * (values - torch.as_tensor(mean)).abs()
    most = away.sum(0).square() / away.square().sum(0)
    return torch.where(most.isnan(), math.inf, most).numpy()


def _smoothed(log_weight: Tensor) -> Tensor:
    """Log weights ``(K, N)``, the largest in place of which stand quantiles of a Pareto tail."""
    from arviz_stats.base import array_stats

    shape = khat(log_weight)
    usable = (shape > -math.inf) & (shape < math.inf) & log_weight.isfinite().any(0)
    floor = log_weight.amax(0) - FAR
    finite = torch.maximum(log_weight, floor)[:, usable]
    smoothed = log_weight.clone()
    if bool(usable.any()):
        found = array_stats.psislw(-finite.numpy(), axis=0)[0]
        smoothed[:, usable] = torch.as_tensor(found.T)
    return smoothed


def _flag(figures: Figures, estimate: np.ndarray, flagged: dict[str, np.ndarray]) -> np.ndarray:
    """The gravest reason not to trust each mean; `estimate` is log p(x) by the same weights."""
    mean = figures["mean"]
    unknown = ~np.isfinite(mean)
    whole = {name: figures[name] for name in ("khat", "num_samples")} | {"log_evidence": estimate}
    figures = figures | {name: over_outputs(each, mean) for name, each in whole.items()}
    found = {reason: over_outputs(mask, mean) for reason, mask in flagged.items()}
    return flags(figures, **found, not_finite=unknown)


def over_outputs(each: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A number of each datum, for each of its means; or those of the means, as they are."""
    if each.shape == like.shape:
        return each
    return np.broadcast_to(each.reshape(-1, *(1,) * (like.ndim - 1)), like.shape).copy()
