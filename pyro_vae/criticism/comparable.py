"""The door of a comparison: whether models are of the same data, and on one scale."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide

from ..data.annotated import named
from ..data.arrays import as_rows
from ..data.rows import DataError
from ..density.identity import data_digest
from ..density.problem import Problem
from ..density.whole import WholeProblem, problem_of
from ..evidence.results import whole
from ..guards import evaluating, owner_of
from ..vae import VAE

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


def check_kinds(models: Any, x: Any) -> None:
    """Raise unless all are models, or results of log p(x)."""
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


def checked_problem(name: Any, model: Any, x: Any, c: Any) -> Problem | None:
    """A model and the data; none for an earlier result."""
    import xarray

    if isinstance(model, xarray.Dataset):
        return None
    try:
        return problem_of(model, x, c)
    except (TypeError, ValueError) as error:
        error.add_note(f"compare_models was about to score {name!r}")
        raise


def warn_of_shared_guides(problems: dict[Any, Problem | None]) -> None:
    """Warn the caller's caller where two AutoGuides have the same parameters: Pyro gave them to
    both, since both have the same names.
    """
    guides = {name: owner_of(p.guide) for name, p in problems.items() if p is not None}
    guides = {name: guide for name, guide in guides.items() if isinstance(guide, AutoGuide)}
    for (one, first), (other, second) in combinations(guides.items(), 2):
        shared = {*map(id, first.parameters())} & {*map(id, second.parameters())}
        if shared and first is not second:
            warnings.warn(
                f"the guides of {one!r} and {other!r} share parameters, so the one fitted first "
                "is no longer what it was; call pyro.clear_param_store() before fitting the other",
                stacklevel=3,
            )


def refuse_other_data(
    models: Mapping[Any, Any], problems: dict[Any, Problem | None], x: Any, c: Any
) -> None:
    """Raise unless x and all earlier results are of the same data and the same c."""
    found = [
        (repr(name), 1, problem.about["data_digest"])
        for name, problem in problems.items()
        if isinstance(problem, WholeProblem)
    ]
    if x is not None and not found:
        some = next((problem.rows for problem in problems.values() if problem is not None), None)
        rows = (
            as_rows(x).given(None if c is None else as_rows(named(x, c))) if some is None else some
        )
        found.append(("x", len(rows), data_digest(rows)))
    for name, result in models.items():
        if problems[name] is not None:
            continue
        if "datum" in result.dims and not whole(result):
            raise DataError(
                f"compare_models needs whole results in their own order; {name!r} is a part of "
                "one, or reordered; score these data by themselves"
            )
        about = result.attrs["num_data"], result.attrs["data_digest"]
        found.append((f"the result {name!r}", *about))

    for (one, num, data), (other, others, other_data) in pairwise(found):
        if num != others:
            said = f"{one} has {num} data and {other} {others}"
        elif data != other_data:
            said = f"{one} and {other} are of different data, or of a different c"
        else:
            continue
        raise DataError(
            f"models are compared on the same data: {said}; score all on the same x and c"
        )


def is_of_all(model: Any, problem: Problem | None) -> bool:
    """Whether there is one number for all data, and none for each datum."""
    return isinstance(problem, WholeProblem) if problem else "datum" not in model.dims


def refuse_both_kinds(models: Mapping[Any, Any], problems: dict[Any, Problem | None]) -> None:
    """Raise unless all models have a number for each datum, or all have one for all data."""
    kinds = {is_of_all(model, problems[name]): name for name, model in models.items()}
    if len(kinds) > 1:
        raise ValueError(
            f"compare_models needs models of one kind: {kinds[False]!r} gives log p(x) of each "
            f"datum, {kinds[True]!r} one number for all data; compare each kind by itself"
        )


def measure_of(name: Any, models: Mapping[Any, Any], problems: dict[Any, Problem | None]) -> str:
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


def refuse_other_measures(measures: dict[Any, str]) -> None:
    """Raise unless all are on one scale."""
    for (one, measure), (other, others) in pairwise(measures.items()):
        if measure != others:
            raise ValueError(
                f"compare_models needs one scale for all models: {one!r} gives a {measure}, "
                f"{other!r} a {others}; densities and probabilities have no common scale, nor have "
                "densities on different spaces; give all models the same kind of likelihood, such "
                "as, for whole numbers, discretized_logistic beside binomial, which both give "
                "probabilities"
            )
