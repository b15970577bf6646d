"""Does the model make data like these? Posterior predictive checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..density.memory import tile_rows
from ..density.problem import Problem
from ..density.terms import Batch
from ..density.traced import Pair
from ..guards import evaluating, seed_of, seeded, whole_number
from ..progress import Progress
from ..vae import VAE
from .draws import made_by, with_holes_of

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
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    statistics: Mapping[str, Callable[[np.ndarray], float]] | None = None,
    num_samples: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    """Posterior predictive check: statistics of the data against those of data that the model makes
    of them.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate, and whose model observes x at one site.
        x: Data of shape ``(N, *X)``, NaN where missing: missing cells are left out on both sides.
        c: What the model is conditional on, a row for each datum.
        statistics: By name, functions of an array of the shape of x (default: mean, sd, min, max,
            share of zeros).
        num_samples: How many data sets are drawn: z from the guide, then x from p(x|z).
        seed: The seed of the draws.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A frame with a row for each statistic: ``observed``, ``mean`` and ``sd`` over the data sets
        drawn, and ``p_value``, two-sided, NaN where a statistic is; small where the model does not
        make data like these. It is not uniform under a true model, but closer to 1/2 (Gelman et
        al., 1996), since the data are used twice.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: The model observes something else than x.
    """
    whole_number("num_samples", num_samples, at_least=20)
    statistics = STATISTICS if statistics is None else statistics
    by_name = isinstance(statistics, Mapping) and all(map(callable, statistics.values()))
    if not by_name:
        raise TypeError(
            f"check_predictions needs statistics as functions by name; got {statistics!r:.60}"
        )
    problem = Problem.of(vae, x, c)
    batch = problem.batch(slice(None))
    drawn = []
    with Progress("data sets", num_samples, shown=progress) as bar:
        for again in _replicated(problem, batch, num_samples, seed):
            drawn.append([function(again) for function in statistics.values()])
            bar.advance()
    x = batch[0].numpy(force=True)
    observed = [float(function(x)) for function in statistics.values()]
    return _table(list(statistics), np.array(drawn, dtype=float), np.array(observed))


def _replicated(
    problem: Problem, batch: Batch, num_samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Data sets drawn given the data, with the same cells missing."""
    step = max(1, tile_rows(problem.device) // len(problem))
    for number, start in enumerate(range(0, num_samples, step)):
        own_draws = seeded(seed_of(seed, number))
        with torch.no_grad(), own_draws, evaluating(problem.model, problem.guide):
            num = min(step, num_samples - start)
            z = problem.densities(batch).draw(num).values
            _, x = made_by("check_predictions", problem, batch, num, z)
            again = with_holes_of(problem, x.to(batch[0]), batch[0])
        yield from again.numpy(force=True)


def _table(names: list[str], drawn: np.ndarray, observed: np.ndarray) -> pandas.DataFrame:
    """From statistics of data sets drawn, ``(S, F)``, and of the data, ``(F,)``."""
    import pandas

    above = ((drawn > observed) + 0.5 * (drawn == observed)).mean(0)
    known = np.isfinite(observed) & np.isfinite(drawn).all(0)
    p_value = np.clip(2 * np.minimum(above, 1 - above), 1 / len(drawn), 1.0)
    columns = {
        "observed": observed,
        "mean": drawn.mean(0),
        "sd": drawn.std(0),
        "p_value": np.where(known, p_value, np.nan),
    }
    return pandas.DataFrame(columns, index=names)
