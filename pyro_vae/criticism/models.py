r"""Models side by side: log p(x) of the same data, and what each model loses of it to the best.

The data are the same, so differences are taken datum by datum, and most of the spread over data
drops out:

.. math:: \Delta = \frac1N \sum_n \big(\log \hat p_a(x_n) - \log \hat p_b(x_n)\big), \qquad
    \mathrm{se}(\Delta) = \frac{1}{\sqrt N}\, \mathrm{sd}_n \big(\log \hat p_a(x_n) - \log \hat
    p_b(x_n)\big)

which holds the noise of z as well as that of the draw of data, though not the bias of an estimate
with k-hat above 0.7, which is too low. A density is per unit of x and a probability is a pure
number, so the two cannot be compared.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..data.arrays import as_rows
from ..data.rows import DataError
from ..density.identity import data_digest
from ..density.problem import Problem
from ..density.traced import Pair
from ..evidence.evidence import log_evidence
from ..evidence.results import whole
from ..guards import evaluating
from ..vae import VAE

if TYPE_CHECKING:
    import pandas
    import xarray

# Of a result, all read here.
ATTRIBUTES = {
    "num_data",
    "mean",
    "mean_se",
    "mean_mc_se",
    "flagged",
    "cells",
    "data_digest",
    "measure",
}
KINDS = "VAEs, pairs (model, guide) of Pyro functions, or results of log_evidence"


def compare_models(
    models: Mapping[Any, VAE | Pair | xarray.Dataset],
    x: Any = None,
    c: Any = None,
    *,
    num_samples: int = 1000,
    tolerance: float | None = None,
    max_samples: int = 20_000,
    seed: int = 0,
) -> pandas.DataFrame:
    """Models by their log p(x) of the same data, the best first.

    Arguments:
        models: By name, a VAE, a pair ``(model, guide)`` as in :func:`.log_evidence`, or what that,
            or another estimator of log p(x), gave earlier.
        x: Data of shape ``(N, *X)``, NaN where missing; needed unless all are earlier results.
        c: What all models are conditional on, a row for each datum.
        num_samples: The number of samples K for each datum.
        tolerance: The standard error wanted for each datum, in nats, as in :func:`.log_evidence`.
        max_samples: With a tolerance, the most samples for a datum on one rung.
        seed: The seed of the draws.

    Returns:
        A frame with a row for each model: ``log_evidence``, the mean over data in nats per datum,
        and ``se``, its standard error over data and z; ``difference``, the mean of this model less
        the best, so at most 0, and ``difference_se``, its standard error, paired by datum;
        ``flagged``, the share of data with k-hat above 0.7 or an estimate that is not finite;
        ``bits_per_dim``, for each cell that is seen, NaN for densities; ``seconds`` of the
        evaluation, NaN for earlier results. Where a model gives a datum no probability its mean and
        its difference are -inf, their errors not finite; between two such models the difference is
        NaN. For a single datum both errors are those of z alone.

    Raises:
        DataError: The data do not fit a model, or earlier results are of other data, or of another
            c.
        TypeError: `models` is no mapping, or holds something else.
        ValueError: There are no models; x is missing; some give densities, others probabilities; an
            option makes no sense.
    """
    import pandas

    _check_kinds(models, x)
    problems = {name: _problem(name, m, x, c) for name, m in models.items()}
    _refuse_other_data(models, problems, x, c)
    _refuse_other_measures({name: _measure(name, models, problems) for name in models})
    results: dict[Any, xarray.Dataset] = {}
    seconds: dict[Any, float] = {}
    for name, model in models.items():
        problem = problems[name]
        if problem is None:
            results[name], seconds[name] = cast("xarray.Dataset", model), math.nan
            continue
        options: dict[str, Any] = {"num_samples": num_samples, "max_samples": max_samples}
        began = time.perf_counter()
        with _unflagged():
            results[name] = log_evidence(problem, tolerance=tolerance, seed=seed, **options)
        seconds[name] = time.perf_counter() - began
    order = sorted(results, key=lambda name: _worth(results[name]), reverse=True)
    best = results[order[0]]
    rows = [{**_figures(results[name], best), "seconds": seconds[name]} for name in order]
    return pandas.DataFrame(rows, index=pandas.Index(order, name="model", tupleize_cols=False))


def bits_per_dim(result: xarray.Dataset) -> float:
    """Minus log p(x) in bits for each cell that is seen, the mean over cells; NaN where p(x) is a
    density.

    Arguments:
        result: What :func:`.log_evidence` gave.
    """
    cells = result.attrs["cells"]
    if result.attrs["measure"] != "probability" or not cells:
        return math.nan
    return -result.attrs["mean"] * result.sizes["datum"] / (float(cells) * math.log(2))


def _check_kinds(models: Any, x: Any) -> None:
    import xarray

    if not isinstance(models, Mapping):
        raise TypeError(
            f"compare_models needs a mapping from names to {KINDS}; got {type(models).__name__}"
        )
    if not models:
        raise ValueError(f"compare_models needs a mapping from names to {KINDS}; got an empty one")
    for name, model in models.items():
        if isinstance(model, xarray.Dataset):
            if "log_evidence" not in model or not set(model.attrs) >= ATTRIBUTES:
                raise TypeError(
                    f"compare_models needs {KINDS}; got as {name!r} a Dataset that is no such "
                    "result"
                )
        elif not isinstance(model, VAE) and not _is_pair(model):
            raise TypeError(
                f"compare_models needs {KINDS}; got as {name!r} a value of type "
                f"{type(model).__name__}"
            )
        elif x is None:
            raise ValueError(
                f"compare_models needs x to score {name!r}; only results of log_evidence need none"
            )


def _is_pair(model: Any) -> bool:
    return isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model)


def _problem(name: Any, model: Any, x: Any, c: Any) -> Problem | None:
    """A model and the data; none for an earlier result."""
    import xarray

    if isinstance(model, xarray.Dataset):
        return None
    try:
        return Problem.of(model, x, c)
    except (TypeError, ValueError) as error:
        error.add_note(f"compare_models was about to score {name!r}")
        raise


def _refuse_other_data(
    models: Mapping[Any, Any], problems: dict[Any, Problem | None], x: Any, c: Any
) -> None:
    """Raise unless x and all earlier results are of the same data and the same c."""
    found = []
    if x is not None:
        some = next((problem.rows for problem in problems.values() if problem is not None), None)
        rows = as_rows(x).given(None if c is None else as_rows(c)) if some is None else some
        found.append(("x", len(rows), data_digest(rows)))
    for name, result in models.items():
        if problems[name] is not None:
            continue
        if not whole(result):
            raise DataError(
                f"compare_models needs whole results in their own order; {name!r} is a part of "
                "one, or reordered; score these data by themselves"
            )
        about = result.sizes["datum"], result.attrs["data_digest"]
        found.append((f"the result {name!r}", *about))

    for (one, num, data), (other, others, other_data) in pairwise(found):
        if num != others:
            said = f"{one} has {num} data and {other} {others}"
        elif data != other_data:
            said = f"{one} and {other} are of different data, or of a different c"
        else:
            continue
        raise DataError(
            f"compare_models needs the same data for all models: {said}; score all on the same x "
            "and c"
        )


def _measure(name: Any, models: Mapping[Any, Any], problems: dict[Any, Problem | None]) -> str:
    """What the likelihood is with respect to, found from one draw for the first datum."""
    problem = problems[name]
    if problem is None:
        return models[name].attrs["measure"]
    try:
        with torch.no_grad(), evaluating(problem.model, problem.guide):
            return problem.measure
    except (TypeError, ValueError) as error:
        error.add_note(f"compare_models was about to score {name!r}")
        raise


def _refuse_other_measures(measures: dict[Any, str]) -> None:
    for (one, measure), (other, others) in pairwise(measures.items()):
        if measure != others:
            raise ValueError(
                f"compare_models needs one scale for all models: {one!r} gives a {measure}, "
                f"{other!r} a {others}; densities and probabilities have no common scale, nor have "
                "densities on different spaces; give all models the same kind of likelihood, such "
                "as, for whole numbers, discretized_logistic beside binomial, which both give "
                "probabilities"
            )


@contextmanager
def _unflagged() -> Iterator[None]:
    """No warning of data that are flagged: a column says how many."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"log p\(x\) of \d+ of", UserWarning)
        yield


def _worth(result: xarray.Dataset) -> tuple[bool, float]:
    """What models are ordered by; one without a mean comes last."""
    mean = float(result.attrs["mean"])
    return not math.isnan(mean), mean


def _figures(result: xarray.Dataset, best: xarray.Dataset) -> dict[str, float]:
    difference, error = (0.0, 0.0) if result is best else _difference(result, best)
    return {
        "log_evidence": result.attrs["mean"],
        "se": result.attrs["mean_se"],
        "difference": difference,
        "difference_se": error,
        "flagged": result.attrs["flagged"] / result.sizes["datum"],
        "bits_per_dim": bits_per_dim(result),
    }


def _difference(result: xarray.Dataset, best: xarray.Dataset) -> tuple[float, float]:
    """The mean difference to the best, paired by datum, and its standard error."""
    num = result.sizes["datum"]
    with np.errstate(invalid="ignore"):  # -inf less -inf, and its spread
        apart = result.log_evidence.values - best.log_evidence.values
        if num == 1:
            return float(apart[0]), math.hypot(result.attrs["mean_mc_se"], best.attrs["mean_mc_se"])
        return float(apart.mean()), float(apart.std(ddof=1) / math.sqrt(num))
