"""Have the chains mixed?

Convergence is told by rank-normalised R-hat and by bulk and tail effective sample size
(:mod:`.mixing`). Chains that all start in one mode of several cannot know of the others.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .mixing import mixing_by_datum
from .trees import DRAWS, dataset

if TYPE_CHECKING:
    import xarray

RHAT_LIMIT, ESS_LIMIT = 1.05, 100
DIVERGENT_SHARE = 0.005  # of the transitions of one datum: a rare one is rejected, and does no harm


def diagnose(
    posterior: xarray.Dataset, sample_stats: xarray.Dataset, device: torch.device
) -> xarray.Dataset:
    """Whether the chains of each datum have mixed.

    Arguments:
        posterior: Latents over chain, draw, datum and their own dimensions.
        sample_stats: Those of the sampler, over chain, draw and datum.
        device: Where draws are looked at.

    Returns:
        A dataset over datum: rhat, ess_bulk, ess_tail, divergences, acceptance_rate, step_size and
        bfmi, the energy that a fresh momentum moves, relative to all of it (Betancourt, 2016,
        https://arxiv.org/abs/1604.00695).

    Warns:
        UserWarning: For some data R-hat is above 1.05, the bulk ESS below 100, or 1 transition in
            200 diverged.
    """
    latents = [values.values for values in posterior.values()]
    rhat, ess_bulk, ess_tail = mixing_by_datum(latents, device)
    energy = sample_stats.energy.astype(np.float64)

    found = {
        "rhat": rhat,
        "ess_bulk": ess_bulk,
        "ess_tail": ess_tail,
        "divergences": sample_stats.diverging.sum(["chain", "draw"]).values,
        "acceptance_rate": sample_stats.acceptance_rate.mean(["chain", "draw"]).values,
        "step_size": sample_stats.step_size.mean(["chain", "draw"]).values,
        "bfmi": (energy.diff("draw") ** 2).mean(["chain", "draw"]).values
        / energy.var("draw").mean("chain").values,
    }
    _warn(found, transitions=sample_stats.sizes["chain"] * sample_stats.sizes["draw"])
    return dataset(found, DRAWS[2:], "")


def have_mixed(found: Any) -> np.ndarray:
    """Which data have chains that agree and are long enough; one chain has no R-hat, so its ESS
    alone decides.
    """
    return ~(np.asarray(found["rhat"]) > RHAT_LIMIT) & (np.asarray(found["ess_bulk"]) >= ESS_LIMIT)


def _warn(found: dict[str, np.ndarray], transitions: int) -> None:
    good = have_mixed(found)
    diverged = found["divergences"] > DIVERGENT_SHARE * transitions
    if good.all() and not diverged.any():
        return
    rhat, ess = (
        f"{extreme:.{digits}f}" if np.isfinite(extreme) else "unknown"
        for extreme, digits in ((np.max(found["rhat"]), 2), (np.min(found["ess_bulk"]), 0))
    )
    which = ", ".join(map(str, np.flatnonzero(~good | diverged)[:5]))
    warnings.warn(
        f"chains of {int((~good).sum())} of {len(good)} data have not mixed (R-hat above "
        f"{RHAT_LIMIT} or bulk ESS below {ESS_LIMIT}; look at data {which}): the largest R-hat is "
        f"{rhat}, the smallest bulk ESS {ess}; {int(diverged.sum())} data have many divergences; "
        "raise num_samples and warmup, or fit a guide that finds all modes",
        stacklevel=5,
    )
