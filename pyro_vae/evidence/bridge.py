r"""Bridge sampling: log p(x) from draws of the posterior and of the guide, a second opinion on
importance sampling.

The estimate r of p(x) solves, with :math:`l = p(x, u) / q(u)` and shares :math:`s_1 + s_2 = 1` of
draws,

.. math::

    r = \frac{\frac1{N_2} \sum_{u \sim q} l(u) / (s_1 l(u) + s_2 r)}
             {\frac1{N_1} \sum_{u \sim p} 1 / (s_1 l(u) + s_2 r)}

(Meng & Wong, 1996, https://www.jstor.org/stable/24306045; the optimal bridge): both averages are of
bounded terms. The standard error is that of Frühwirth-Schnatter (2004,
https://doi.org/10.1111/j.1368-423X.2004.00125.x), with the effective number of posterior draws. A
warp moves the posterior by an affine map onto the mean and covariance of the guide, which leaves
p(x) as it is, so that the two overlap (Meng & Schilling, 2002,
https://doi.org/10.1198/106186002457). The map is found from draws that are not used again: half of
those of the posterior, and others of the guide. A map from the same draws would fit them, and log
p(x) would be too high.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..density.memory import tile_data, tile_rows
from ..density.precision import USUAL_TOLERANCE, precise
from ..density.problem import Problem, Stream, Tile
from ..density.target import Target
from ..density.traced import Pair
from ..guards import evaluating, whole_number
from ..posterior.adaptation import covariance_factor
from ..posterior.diagnostics import have_mixed
from ..posterior.trees import dataset, needs_draws_of
from ..vae import VAE
from .flags import counted, flags, warn_of_flags
from .pareto import khat
from .results import means

if TYPE_CHECKING:
    import xarray

MOST_ROUNDS = 1000
CLOSE = 1e-10  # nats between two rounds
REMEDY = "or their chains have not mixed: leave warp=True, and draw longer chains"


def bridge_log_evidence(
    vae: VAE | Pair | Problem,
    x: Any = None,
    posterior: Any = None,
    c: Any = None,
    *,
    warp: bool = True,
    seed: int = 0,
) -> xarray.Dataset:
    """log p(x) for each datum, by bridge sampling between the posterior and the guide.

    It believes the draws: chains that all sit in one mode of several give the evidence of that
    mode.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate.
        x: Data of shape ``(N, *X)``, NaN where missing.
        posterior: What :func:`.sample_posterior` gave for these data.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        warp: Whether to move the posterior onto the mean and covariance of the guide; half of the
            draws find them.
        seed: The seed of the draws of the guide, which are as many as those of the posterior that
            are used.

    Returns:
        A dataset over ``datum``, in nats: ``log_evidence``, its standard error ``se``, and ``ess``,
        the effective number of the posterior's draws; ``khat``, the Pareto shape of the terms above
        or below the line, whichever is larger: above 0.7 posterior and guide do not overlap. Its
        attributes: ``mean``, ``mean_se`` (over the draw of data and of z), ``mean_mc_se`` (of z
        alone), ``flagged``, the number of data whose k-hat is too large, whose estimate is not
        finite or whose chains had not mixed; ``measure``, ``cells``, ``data_digest``,
        ``model_digest``.

    Raises:
        DataError: The data do not fit the likelihood, or the posterior was drawn for others.
        TypeError: `posterior` is no such tree.
        ValueError: It has fewer than 50 draws, or 8 of a chain, or was drawn from another model.

    Warns:
        UserWarning: Some data are flagged.
    """
    whole_number("seed", seed, at_least=0)
    problem = Problem.of(vae, x, c)
    posterior = needs_draws_of("bridge_log_evidence", posterior, problem)
    about = problem.about
    problem = precise(problem, USUAL_TOLERANCE)
    draws = {str(name): z.values for name, z in posterior["posterior"].to_dataset().items()}
    chains, each = next(iter(draws.values())).shape[:2]
    if chains * each < 50 or each < 8:
        needs = "bridge_log_evidence needs at least 50 draws of the posterior, 8 of each chain"
        raise ValueError(f"{needs}; got {chains * each}, {each} of each")

    parts = []
    with torch.no_grad(), evaluating(problem.model, problem.guide):
        for tile in problem.tiles(tile_data(problem.device), (seed, Stream.BRIDGE)):
            if "measure" not in about:
                about["measure"] = tile.densities.measure
            with tile.seeded():
                target = tile.target()
                position = _positions(target, draws, tile)
                parts.append(_bridged(*_ratios(target, position, warp)))

    found = {name: torch.cat([part[name] for part in parts]).numpy(force=True) for name in parts[0]}
    known = "diagnostics" in posterior.children
    good = have_mixed(posterior["diagnostics"]) if known else np.ones(len(problem), bool)
    result = _result(found, good, chains * each, about)
    warn_of_flags(result, REMEDY)
    return result


def _positions(target: Target, draws: dict[str, np.ndarray], tile: Tile) -> Tensor:
    """The draws for a tile, in unconstrained space, of shape ``(chain, draw, N, D)``."""
    device = tile.batch[0].device
    here = {name: torch.as_tensor(z[:, :, tile.rows]).to(device) for name, z in draws.items()}
    flat = target.unconstrain({name: z.flatten(0, 1) for name, z in here.items()})
    return flat.unflatten(0, next(iter(here.values())).shape[:2])


def _ratios(target: Target, position: Tensor, warp: bool) -> tuple[Tensor, Tensor]:
    """log p(x, u) - log q(u): at draws of the posterior ``(chain, draw, N)``, and of the guide.

    There are as many draws of the guide, ``(K, N)``, as of the posterior are used.
    """
    first = position.shape[1] // 2 if warp else 0
    used = position[:, first:].flatten(0, 1)
    drawn = target.draw_guide(len(used))
    there = used
    back = drawn
    log_abs_det = torch.zeros(())
    if warp:
        ours = _moments(position[:, :first].flatten(0, 1))
        theirs = _moments(target.draw_guide(len(used)))
        there, back = _moved(used, ours, theirs), _moved(drawn, theirs, ours)
        log_abs_det = _log_det(ours[1]) - _log_det(theirs[1])

    log_guide = target.log_guide
    at_posterior = _in_blocks(target, used) - _in_blocks(log_guide, there) + log_abs_det
    at_guide = _in_blocks(target, back) - _in_blocks(log_guide, drawn) + log_abs_det
    return at_posterior.unflatten(0, (len(position), -1)).cpu(), at_guide.cpu()


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    return draws.mean(0), covariance_factor(draws, torch.diag_embed(draws.std(0)))


def _moved(position: Tensor, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
    """By the affine map of one mean and covariance onto another."""
    centred = (position - ours[0]).permute(1, 2, 0)
    return theirs[0] + (
        theirs[1] @ torch.linalg.solve_triangular(ours[1], centred, upper=False)
    ).permute(2, 0, 1)


def _log_det(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _in_blocks(log_density: Any, position: Tensor) -> Tensor:
    blocks = position.split(max(1, tile_rows(position.device) // position.shape[1]))
    return torch.cat([log_density(block) for block in blocks]).double()


def _bridged(posterior: Tensor, guide: Tensor) -> dict[str, Tensor]:
    """The estimate, its error, and the effective number of posterior draws, each ``(N,)``."""
    ess = _ess(posterior, "bulk")
    flat, num = posterior.flatten(0, 1), len(guide)
    log_shares = (ess / (ess + num)).log(), (num / (ess + num)).log()
    log_r = guide.logsumexp(0) - math.log(num)

    for _ in range(MOST_ROUNDS):
        before = log_r
        above, below = _bridge(flat, guide, log_r, log_shares)
        log_r = (above.logsumexp(0) - math.log(num)) - (below.logsumexp(0) - math.log(len(flat)))
        if not bool(((log_r - before).abs() > CLOSE).any()):
            break

    above, below = _bridge(flat, guide, log_r, log_shares)
    shape = torch.maximum(khat(above), khat(below))
    above, below = (above - above.amax(0)).exp(), (below - below.amax(0)).exp()
    independent = _ess(below.reshape(posterior.shape), "mean")
    error = (
        above.var(0) / above.mean(0) ** 2 / num + below.var(0) / below.mean(0) ** 2 / independent
    )
    return {"log_evidence": log_r, "se": error.sqrt(), "ess": ess, "khat": shape}


def _bridge(
    posterior: Tensor, guide: Tensor, log_r: Tensor, log_shares: Any
) -> tuple[Tensor, Tensor]:
    """The logs of the terms above and below the line."""
    ours, theirs = log_shares[0], log_shares[1] + log_r
    return guide - torch.logaddexp(ours + guide, theirs), -torch.logaddexp(ours + posterior, theirs)


def _ess(draws: Tensor, method: str) -> Tensor:
    """The effective sample size of draws ``(chain, draw, N)``, by ArviZ.

    Constant draws count as all independent.
    """
    from arviz_stats.base import array_stats

    values = draws.numpy(force=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(array_stats.ess(values, chain_axis=0, draw_axis=1, method=method))
    return torch.as_tensor(found)


def _result(
    found: dict[str, np.ndarray], good: np.ndarray, num: int, about: dict[str, Any]
) -> xarray.Dataset:
    unknown = ~np.isfinite(found["log_evidence"] + found["se"])
    draws = {"num_samples": np.full(len(good), num)}
    flag = flags(found | draws, not_finite=unknown, not_mixed=~good)
    attrs = {**means(found), **counted(flag), "unit": "nats per datum"}
    result = dataset(found, ("datum",), "").assign_coords(flag=("datum", flag))
    return result.assign_attrs(attrs | about)
