r"""Bridge sampling: log p(x) from draws of the posterior and of the guide, a second opinion on
importance sampling.

The estimator is in :mod:`.optimal_bridge`; models that are no VAE are in :mod:`.any_model`. A warp
moves the posterior by an affine map onto the mean and covariance of the guide, which leaves p(x) as
it is, so that the two overlap (Meng & Schilling, 2002, https://doi.org/10.1198/106186002457).

The map is found from draws that are not used again: half of those of the posterior, and others of
the guide. A map from the same draws would fit them, and log p(x) would be too high.
"""

from __future__ import annotations

from collections.abc import Callable
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
from ..posterior.trees import dataset, draws_by_site, needs_draws_of
from ..progress import Progress
from ..vae import VAE
from .any_model import bridge_any
from .flags import counted, flags, warn_of_flags
from .optimal_bridge import bridged
from .results import means

if TYPE_CHECKING:
    import xarray

REMEDY = "leave warp=True, and draw longer chains"


def bridge_log_evidence(
    vae: VAE | Pair | Problem | Callable[..., Any],
    x: Any = None,
    posterior: Any = None,
    c: Any = None,
    *,
    warp: bool = True,
    symmetric: bool = False,
    repetitions: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> xarray.Dataset:
    """log p(x) for each datum, by bridge sampling between the posterior and the guide; of any other
    Pyro model the one number log p(data).

    It believes the draws: chains that all sit in one mode of several give the evidence of that
    mode.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate; or any Pyro model, without a guide, whose latents are global or in plates.
        x: Data of shape ``(N, *X)``, NaN where missing; of any other model a tuple of its
            arguments.
        posterior: What :func:`.sample_posterior` gave for these data. Of any other model a
            ``pyro.infer.MCMC`` that has run, a dictionary of arrays ``(chain, draw, ...)`` by site,
            or a tree with a group ``posterior``, as ArviZ has it.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        warp: Whether to move the posterior onto the mean and covariance of the guide; half of the
            draws find them.
        symmetric: Of any other model, whether to reflect a skewed posterior about its mean
            (warp-III), at twice the cost.
        repetitions: Of any other model, how often to draw the normal anew: the median is given, and
            all estimates as ``repetitions``.
        seed: The seed of the draws of the guide, which are as many as those of the posterior that
            are used.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A dataset over ``datum``, in nats: ``log_evidence``, its standard error ``se``, and ``ess``,
        the effective number of the posterior's draws; ``khat``, the Pareto shape of the terms above
        or below the line, whichever is larger: above 0.7 posterior and guide do not overlap. Its
        attributes: ``mean``, ``mean_se`` (over the draw of data and of z), ``mean_mc_se`` (of z
        alone), ``flagged``, the number of data whose k-hat is too large, whose estimate is not
        finite or refuted by the draws of the guide, or whose chains had not mixed; ``measure``,
        ``cells``, ``data_digest``, ``model_digest``. Of any other model ``log_evidence``, ``se``,
        ``ess``, ``khat`` and ``flag`` are single numbers, flagged too where the draws miss Stein's
        identity by 5 standard errors.

    Raises:
        DataError: The data do not fit the likelihood, or the posterior was drawn for others.
        TypeError: `posterior` is no such tree.
        ValueError: It has fewer than 50 draws, or 8 of a chain, or was drawn from another model;
            a prior is improper, or a plate takes a subsample.

    Warns:
        UserWarning: Some data are flagged.
    """
    whole_number("seed", seed, at_least=0)
    whole_number("repetitions", repetitions, at_least=1)
    if callable(vae) and not isinstance(vae, VAE):
        data = x if isinstance(x, tuple) else (x,)
        options: dict[str, Any] = {"symmetric": symmetric, "repetitions": repetitions}
        return bridge_any(vae, data, posterior, seed=seed, **options)
    if isinstance(x, tuple):
        raise TypeError(
            "bridge_log_evidence needs the model alone where the data are a tuple of arguments: "
            "bridge_log_evidence(model, data, posterior); got a pair"
        )
    if symmetric or repetitions > 1:
        raise ValueError(
            "symmetric and repetitions are for a Pyro model without a guide; a VAE and a pair are "
            "warped onto their guide: leave them out"
        )
    problem = Problem.of(vae, x, c)
    posterior = needs_draws_of("bridge_log_evidence", posterior, problem)
    about = problem.about
    problem = precise(problem, USUAL_TOLERANCE)
    draws = _enough_draws(posterior)

    parts = []
    bar = Progress("log p(x)", len(problem), shown=progress)
    with torch.no_grad(), evaluating(problem.model, problem.guide), bar:
        for tile in problem.tiles(tile_data(problem.device), (seed, Stream.BRIDGE)):
            bar.update(tile.rows.start)
            if "measure" not in about:
                about["measure"] = tile.densities.measure
            with tile.seeded():
                target = tile.target()
                position = _positions(target, draws, tile)
                parts.append(bridged(*_ratios(target, position, warp)))

    found = {name: torch.cat([part[name] for part in parts]).numpy(force=True) for name in parts[0]}
    known = "diagnostics" in posterior.children
    good = have_mixed(posterior["diagnostics"]) if known else np.ones(len(problem), bool)
    chains, each = next(iter(draws.values())).shape[:2]
    result = _result(found, good, chains * each, about)
    warn_of_flags(result, REMEDY)
    return result


def _enough_draws(posterior: xarray.DataTree) -> dict[str, np.ndarray]:
    """The draws by site, if they are enough for halves of them to be of use."""
    draws = draws_by_site(posterior["posterior"].to_dataset())
    chains, each = next(iter(draws.values())).shape[:2]
    if chains * each < 50 or each < 8:
        needs = "bridge_log_evidence needs at least 50 draws of the posterior, 8 of each chain"
        raise ValueError(f"{needs}; got {chains * each}, {each} of each")
    return draws


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


def _result(
    found: dict[str, np.ndarray], good: np.ndarray, num: int, about: dict[str, Any]
) -> xarray.Dataset:
    refuted = found["refuted"]
    found = {name: values for name, values in found.items() if name != "refuted"}
    unknown = ~np.isfinite(found["log_evidence"] + found["se"])
    draws = {"num_samples": np.full(len(good), num)}
    flag = flags(found | draws, not_finite=unknown, not_mixed=~good, refuted=refuted)
    attrs = {**means(found), **counted(flag), "unit": "nats per datum"}
    result = dataset(found, ("datum",), "").assign_coords(flag=("datum", flag))
    return result.assign_attrs(attrs | about)
