"""Several models scored on the same data, and which of their numbers are not to be trusted."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..evidence.evidence import log_evidence
from ..evidence.results import by_datum
from .comparable import Problems

if TYPE_CHECKING:
    import xarray


def scored(
    models: Mapping[Any, Any], problems: Problems, seeds: Mapping[Any, int], **options: Any
) -> tuple[dict[Any, xarray.Dataset], dict[Any, float]]:
    """log p(x) of each datum by each model, and the seconds that it took.

    Arguments:
        models: By name, models, or results, which are taken as they are.
        problems: What :func:`.checked_problems` gave.
        seeds: The seed of the draws, by name.
        options: Those of :func:`.log_evidence`.
    """
    results: dict[Any, xarray.Dataset] = {}
    seconds: dict[Any, float] = {}
    for name, model in models.items():
        problem = problems[name]
        if problem is None:
            results[name], seconds[name] = by_datum(cast("xarray.Dataset", model)), math.nan
            continue
        began = time.perf_counter()
        with _unflagged():
            result = log_evidence(problem, seed=seeds[name], **options)
        results[name] = by_datum(result)
        seconds[name] = time.perf_counter() - began
    return results, seconds


@contextmanager
def _unflagged() -> Iterator[None]:
    """No warning of the data that a single model flags: there is one for all models."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"log p\((x|data)\) ", UserWarning)
        yield


def warn_of_untrusted(
    results: Mapping[Any, xarray.Dataset], tolerance: float | None, consequence: str
) -> None:
    """Warn the caller's caller of models whose data are flagged.

    Arguments:
        results: By name, what :func:`scored` gave.
        tolerance: The one they were made with.
        consequence: What may be wrong for it.
    """
    shares = {name: float(untrusted(result).mean()) for name, result in results.items()}
    if not any(shares.values()):
        return
    said = ", ".join(f"{share:.0%} of {name!r}" for name, share in shares.items() if share)
    remedy = (
        "give tolerance=0.05, which escalates"
        if tolerance is None
        else "raise max_samples or max_seconds"
    )
    warnings.warn(
        f"log p(x) cannot be trusted for {said}, and is mostly too low there: {consequence}; "
        f"{remedy}",
        stacklevel=3,
    )


def untrusted(result: xarray.Dataset) -> np.ndarray:
    """Which data are flagged, for more than few draws."""
    if "flag" not in result.coords:
        return np.zeros(result.sizes["datum"], bool)
    return ~np.isin(result.flag.values, ("", "few draws"))
