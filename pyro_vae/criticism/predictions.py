"""Does the model make data like these? Posterior predictive checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..density.problem import Problem
from ..guards import evaluating, seeded, whole_number
from ..vae import VAE
from .draws import vae_of

if TYPE_CHECKING:
    import pandas

STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.nanmean,
    "sd": np.nanstd,
    "min": np.nanmin,
    "max": np.nanmax,
    "zeros": lambda x: float(np.mean(x[~np.isnan(x)] == 0)),
}


def check_predictions(
    vae: VAE | Problem,
    x: Any = None,
    c: Any = None,
    *,
    statistics: Mapping[str, Callable[[np.ndarray], float]] | None = None,
    num_samples: int = 200,
    seed: int = 0,
) -> pandas.DataFrame:
    """Posterior predictive check: statistics of the data against those of data that the model makes
    of them.

    Arguments:
        vae: A VAE.
        x: Data of shape ``(N, *X)``, NaN where missing: missing cells are left out on both sides.
        c: What a conditional VAE is conditional on, a row for each datum.
        statistics: By name, functions of an array of the shape of x (default: mean, sd, min, max,
            share of zeros).
        num_samples: How many data sets are drawn: z from the guide, then x from p(x|z).
        seed: The seed of the draws.

    Returns:
        A frame with a row for each statistic: ``observed``, ``mean`` and ``sd`` over the data sets
        drawn, and ``p_value``, two-sided, NaN where a statistic is; small where the model does not
        make data like these. It is not uniform under a true model, but closer to 1/2 (Gelman et
        al., 1996), since the data are used twice.

    Raises:
        DataError: The data do not fit the likelihood.
    """
    import pandas

    whole_number("num_samples", num_samples, at_least=20)
    own = vae_of("check_predictions", vae)
    statistics = STATISTICS if statistics is None else statistics
    by_name = isinstance(statistics, Mapping) and all(map(callable, statistics.values()))
    if not by_name:
        raise TypeError(
            f"check_predictions needs statistics as functions by name; got {statistics!r:.60}"
        )
    problem = Problem.of(vae, x, c)
    first, *given = problem.batch(slice(None))

    drawn = []
    with torch.no_grad(), seeded(seed), evaluating(own):
        encoded = own.encode_condition(len(first), *given)
        guide, missing = own.guide_of(first, encoded), first.isnan()
        for _ in range(num_samples):
            again = own.likelihood_of(guide.sample(), encoded).sample().to(first)
            again = again.masked_fill(missing, math.nan).numpy(force=True)
            drawn.append([function(again) for function in statistics.values()])

    table = pandas.DataFrame(index=list(statistics))
    values, observed = (
        np.array(drawn, dtype=float),
        [float(f(first.numpy(force=True))) for f in statistics.values()],
    )
    above = ((values > observed) + 0.5 * (values == observed)).mean(0)
    table["observed"] = observed
    table["mean"] = values.mean(0)
    table["sd"] = values.std(0)
    known = np.isfinite(observed) & np.isfinite(values).all(0)
    table["p_value"] = np.where(
        known, np.clip(2 * np.minimum(above, 1 - above), 1 / num_samples, 1.0), np.nan
    )
    return table
