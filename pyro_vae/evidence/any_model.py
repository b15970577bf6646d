r"""log p(data) of any Pyro model, one number, by bridge sampling from draws of its posterior.

The other density is a normal with the mean and the covariance of one half of the draws; the bridge
takes the other half (Gronau et al., 2017, https://doi.org/10.1016/j.jmp.2017.09.005). Where the
posterior is skewed, it is reflected about its mean with probability one half, which leaves its
constant as it is and makes the two more alike (warp-III: Meng & Schilling, 2002,
https://doi.org/10.1198/106186002457).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer import MCMC
from torch import Tensor

from ..density.joint import Joint
from ..density.whole import about
from ..guards import seed_of, seeded
from ..posterior.adaptation import covariance_factor
from ..posterior.diagnostics import ESS_LIMIT
from ..posterior.trees import draws_by_site
from .defence import EDGE
from .flags import counted, flags, warn_of_flags
from .optimal_bridge import bridged, effective_size
from .results import means, one_number

if TYPE_CHECKING:
    import xarray

LEAST, LEAST_EACH = 50, 8  # draws, and of each chain
MOST_RHAT = 1.05
CHECKED = 1000  # draws that are held against Stein's identity
DOUBTFUL, MOST_OFF = 5.0, 10.0  # standard errors: flagged above the first, refused above the second
REMEDY = "draw longer chains, or give symmetric=True"
REMEDIES = {  # by flag
    "not mixed": "draw longer chains",
    "refuted": "draw from the posterior of this very model and these very data",
    "edge": "compute in double precision, or write the model by the distance from the edge",
}


def bridge_any(
    model: Callable[..., Any],
    data: tuple[Any, ...],
    posterior: Any,
    *,
    symmetric: bool,
    repetitions: int,
    seed: int,
) -> xarray.Dataset:
    """log p(data) of a model; see :func:`.bridge_log_evidence`."""
    import xarray

    joint = Joint(model, data)
    position = _positions(joint, _draws(posterior))
    doubtful = _off_stein(joint, position) > DOUBTFUL
    mixed = _rhat(position) <= MOST_RHAT
    found = [
        _one(joint, position, symmetric=symmetric, seed=seed_of(seed, repetition))
        for repetition in range(repetitions)
    ]
    values = np.array([one["log_evidence"] for one in found])
    middle = found[int(np.argsort(values)[len(values) // 2])]
    figures = {name: np.atleast_1d(value) for name, value in middle.items()}
    number = {"num_samples": np.array([position.shape[:2].numel()])}
    refuted = figures.pop("refuted").astype(bool) | doubtful
    good = mixed and middle["ess"] >= ESS_LIMIT
    draws = position.flatten(0, 1).to(torch.get_default_dtype())
    edge = np.array([float(joint.at_edge(draws).double().mean()) > EDGE])
    flag = flags(figures | number, not_mixed=np.array([not good]), refuted=refuted, edge=edge)
    result = xarray.Dataset(
        {name: ("datum", value) for name, value in figures.items()},
        coords={"flag": ("datum", flag), "datum": [0]},
        attrs=means(figures) | counted(flag) | about(model, data),
    )
    result = one_number(result).assign(repetitions=("repetition", values))
    warn_of_flags(result, REMEDIES.get(result.flag.item(), REMEDY))
    return result


def _positions(joint: Joint, draws: Mapping[str, np.ndarray]) -> Tensor:
    """Draws by site as positions ``(chain, draw, D)``, in double precision.

    Raises:
        ValueError: They are NaN, too few, or outside of the support.
    """
    if of_nan := [name for name, values in draws.items() if np.isnan(values).any()]:
        raise ValueError(
            f"posterior needs draws that are numbers; some of {of_nan} are NaN; draw again, and "
            "look where the model gives NaN"
        )
    position = joint.unconstrain(draws).double()
    chains, each = position.shape[:2]
    if chains * each < LEAST or each < LEAST_EACH:
        needs = f"posterior needs at least {LEAST} draws, {LEAST_EACH} of each chain"
        raise ValueError(f"{needs}; got {chains * each}, {each} of each")
    if not bool(position.isfinite().all()):
        raise ValueError(
            "posterior needs draws inside the support of the model; some lie on or beyond its "
            "edge: they are of another model, or single precision has rounded them"
        )
    return position


def _off_stein(joint: Joint, position: Tensor) -> float:
    """By how many standard errors Stein's identity is missed: of draws u of a density the mean of
    its score s is 0, and that of u s is -1 in each dimension. Infinite, if the score is NaN.

    Raises:
        ValueError: By so many that the draws are of another density.
    """
    chains, each = position.shape[:2]
    kept = torch.linspace(0, each - 1, min(each, max(8, CHECKED // chains))).long()
    draws = position[:, kept].flatten(0, 1)
    score = joint.score(draws.to(torch.get_default_dtype())).double()
    spread = draws.std(0)
    terms = torch.cat([score * spread, (draws - draws.mean(0)) * score + 1], -1)
    if bool((spread == 0).any()):
        raise ValueError(
            "posterior needs draws that differ from each other; those of some latent are all the "
            "same: the chains have not moved"
        )
    independent = effective_size(terms.unflatten(0, (chains, -1)), "mean")
    off = terms.mean(0).abs() / (terms.std(0) / independent.sqrt())
    off = off.where(terms.std(0) > 0, 0.0)
    most = float(off.nan_to_num(0.0).max())
    if most > MOST_OFF:
        raise ValueError(
            "posterior needs draws of the posterior of this very model and these very data: by "
            f"Stein's identity they are of another, by {most:.0f} standard errors; draw again, and "
            "longer if the chains have hardly moved"
        )
    return math.inf if bool(off.isnan().any()) else most


def _one(joint: Joint, position: Tensor, *, symmetric: bool, seed: int) -> dict[str, float]:
    """The estimate with one set of draws of the normal."""
    first = position.shape[1] // 2
    fitted = position[:, :first].flatten(0, 1)
    mean = fitted.mean(0)
    factor = covariance_factor(fitted[:, None], torch.diag_embed(fitted.std(0))[None])[0]
    used = position[:, first:]
    with seeded(seed):
        at_posterior = torch.linalg.solve_triangular(
            factor, (used - mean).flatten(0, 1).T, upper=False
        ).T
        if symmetric:
            sign = torch.randint(2, (len(at_posterior), 1)) * 2.0 - 1.0
            at_posterior = sign * at_posterior
        drawn = torch.randn(at_posterior.shape, dtype=position.dtype)

    def log_ratio(eta: Tensor) -> Tensor:
        ahead = joint((mean + eta @ factor.T).to(torch.get_default_dtype())).double()
        if symmetric:
            behind = joint((mean - eta @ factor.T).to(torch.get_default_dtype())).double()
            ahead = torch.logaddexp(ahead, behind) - math.log(2)
        log_normal = -0.5 * eta.square().sum(-1) - len(mean) / 2 * math.log(2 * math.pi)
        return ahead + factor.diagonal().log().sum() - log_normal

    ours = log_ratio(at_posterior).reshape(*used.shape[:2], 1)
    found = bridged(ours, log_ratio(drawn)[:, None])
    return {name: float(value[0]) for name, value in found.items()}


def _draws(posterior: Any) -> Mapping[str, np.ndarray]:
    """Draws ``(chain, draw, ...)`` by site, of MCMC, of a dictionary, or of a tree.

    Raises:
        TypeError: It is none of these.
    """
    import xarray

    got = type(posterior).__name__
    if isinstance(posterior, MCMC):
        posterior = posterior.get_samples(group_by_chain=True)
        got = "an MCMC that has not run"
    if isinstance(posterior, xarray.DataTree) and "posterior" in posterior.children:
        return draws_by_site(posterior["posterior"].to_dataset())
    if isinstance(posterior, Mapping):
        return {
            str(name): values.numpy(force=True) if isinstance(values, Tensor) else values
            for name, values in posterior.items()
        }
    raise TypeError(
        "posterior must be a pyro.infer.MCMC that has run, a dictionary of arrays (chain, draw, "
        f"...), or a tree with a group posterior; got {got}"
    )


def _rhat(position: Tensor) -> float:
    """The largest R-hat over dimensions, by ArviZ; 1 for one chain that is too short for it."""
    from arviz_stats.base import array_stats

    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(array_stats.rhat(position.numpy(), chain_axis=0, draw_axis=1))
    return float(np.nanmax(np.append(found, 1.0)))
