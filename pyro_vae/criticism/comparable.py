"""The door of a comparison: whether models are of the same data, and on one scale."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide

from ..data.annotated import named
from ..data.arrays import as_rows
from ..data.columns import is_table
from ..data.refusals import listed
from ..data.rows import DataError, Rows
from ..density.identity import OF_COLUMN, WITH_HOLES, data_digest
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

Problems = dict[Any, Problem | None]  # by name; none for an earlier result


def checked_problems(who: str, models: Mapping[Any, Any], x: Any, c: Any) -> Problems:
    """What can be compared: each model and the data, none for an earlier result.

    Arguments:
        who: The function that messages speak of.
        models: By name, models or results of log p(x).
        x: Data of shape ``(N, *X)``, or none where all are results.
        c: What all models are conditional on, a row for each datum.

    Raises:
        DataError: The data do not fit a model, or results are of other data.
        TypeError: `models` is no mapping, or holds something else.
        ValueError: There are no models; x is missing; they are on different scales, or of both
            kinds.
    """
    check_kinds(who, models, x)
    _refuse_other_orders(who, models, x)
    problems = {name: _checked_problem(who, name, m, x, c) for name, m in models.items()}
    _refuse_both_kinds(who, models, problems)
    _warn_of_shared_guides(problems)
    refuse_other_data(who, models, problems, x, c)
    measures = {name: _measure_of(who, name, models, problems) for name in models}
    refuse_other_measures(who, _by_names_of_columns(measures, problems))
    return problems


def check_kinds(who: str, models: Any, x: Any) -> None:
    """Raise unless all are models, or results of log p(x)."""
    import xarray

    if not isinstance(models, Mapping):
        raise TypeError(f"{who} needs a mapping from names to {KINDS}; got {type(models).__name__}")
    if not models:
        raise ValueError(f"{who} needs a mapping from names to {KINDS}; got an empty one")
    for name, model in models.items():
        if isinstance(model, xarray.Dataset):
            if "log_evidence" not in model or not set(model.attrs) >= ATTRIBUTES:
                raise TypeError(
                    f"{who} needs {KINDS}; got as {name!r} a Dataset that is no such result"
                )
        elif not isinstance(model, VAE) and not _is_pair(model):
            raise TypeError(
                f"{who} needs {KINDS}; got as {name!r} a value of type {type(model).__name__}"
            )
        elif x is None:
            raise ValueError(
                f"{who} needs x to score {name!r}; only results of log_evidence need none"
            )


def _refuse_other_orders(who: str, models: Mapping[Any, Any], x: Any) -> None:
    """Raise where models that know their columns in several orders are given an array."""
    orders = {name: m.columns for name, m in models.items() if isinstance(m, VAE) and m.columns}
    if is_table(x) or not orders or isinstance(x, Rows):
        return
    (one, columns), *others = orders.items()
    for other, theirs in others:
        if theirs != columns:
            raise ValueError(
                f"{who} needs a frame for these models: the columns of {one!r} are "
                f"{listed(columns)} and those of {other!r} {listed(theirs)}, and an array is taken "
                "in its own order"
            )


def _is_pair(model: Any) -> bool:
    return isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model)


def _checked_problem(who: str, name: Any, model: Any, x: Any, c: Any) -> Problem | None:
    """A model and the data; none for an earlier result."""
    import xarray

    if isinstance(model, xarray.Dataset):
        return None
    try:
        return problem_of(model, x, c)
    except (TypeError, ValueError) as error:
        error.add_note(f"{who} was about to score {name!r}")
        raise


def _warn_of_shared_guides(problems: Problems) -> None:
    """Warn the caller of the comparison where two AutoGuides have the same parameters: Pyro gave
    them to both, since both have the same names.
    """
    guides = {name: owner_of(p.guide) for name, p in problems.items() if p is not None}
    guides = {name: guide for name, guide in guides.items() if isinstance(guide, AutoGuide)}
    for (one, first), (other, second) in combinations(guides.items(), 2):
        shared = {*map(id, first.parameters())} & {*map(id, second.parameters())}
        if shared and first is not second:
            warnings.warn(
                f"the guides of {one!r} and {other!r} share parameters, so the one fitted first "
                "is no longer what it was; call pyro.clear_param_store() before fitting the other",
                stacklevel=4,
            )


def refuse_other_data(
    who: str, models: Mapping[Any, Any], problems: Problems, x: Any, c: Any
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
                f"{who} needs whole results in their own order; {name!r} is a part of "
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


def _refuse_both_kinds(who: str, models: Mapping[Any, Any], problems: Problems) -> None:
    """Raise unless all models have a number for each datum, or all have one for all data."""
    kinds = {is_of_all(model, problems[name]): name for name, model in models.items()}
    if len(kinds) > 1:
        raise ValueError(
            f"{who} needs models of one kind: {kinds[False]!r} gives log p(x) of each "
            f"datum, {kinds[True]!r} one number for all data; compare each kind by itself"
        )


def _measure_of(who: str, name: Any, models: Mapping[Any, Any], problems: Problems) -> str:
    """What the likelihood is with respect to, found from one draw for the first datum."""
    problem = problems[name]
    if problem is None:
        return models[name].attrs["measure"]
    try:
        with torch.no_grad(), evaluating(problem.model, problem.guide):
            return problem.measure
    except (TypeError, ValueError) as error:
        error.add_note(f"{who} was about to score {name!r}")
        raise


def _by_names_of_columns(measures: dict[Any, str], problems: Problems) -> dict[Any, str]:
    """With names in place of numbers where columns are known, whose orders may differ.

    What knows none, such as an earlier result, is of the same data as the first, thus of columns in
    its order.
    """
    known = {name: _columns_of(problem) for name, problem in problems.items()}
    first = next(filter(None, known.values()), None)
    if first is None:
        return measures
    return {name: _with_names(found, known[name] or first) for name, found in measures.items()}


def _columns_of(problem: Problem | None) -> Sequence[str] | None:
    """The names of the columns in the order in which a model has them."""
    if problem is None or isinstance(problem, WholeProblem):
        return None
    return problem.rows.columns if problem.vae is None else problem.vae.columns


def _with_names(measure: str, columns: Sequence[str]) -> str:
    """A measure of each column, "density of column 0, ...", by its name, in the order of names."""
    kinds = measure.removesuffix(WITH_HOLES)
    parts = [part.rpartition(OF_COLUMN) for part in kinds.split(", ")]
    if not all(number.isdigit() for _, _, number in parts):
        return measure
    named = sorted((str(columns[int(number)]), kind) for kind, _, number in parts)
    each = ", ".join(f"{kind}{OF_COLUMN}{name!r}" for name, kind in named)
    return each + measure[len(kinds) :]


def refuse_other_measures(who: str, measures: dict[Any, str]) -> None:
    """Raise unless all are on one scale."""
    for (one, measure), (other, others) in pairwise(measures.items()):
        if measure == others:
            continue
        if measure.removesuffix(WITH_HOLES) == others.removesuffix(WITH_HOLES):
            raise ValueError(
                f"{who} needs one scale for all models: one of {one!r} and {other!r} says also "
                "which cells are missing, by its missingness; give all models one"
            )
        raise ValueError(
            f"{who} needs one scale for all models: {one!r} gives a {measure}, "
            f"{other!r} a {others}; densities and probabilities have no common scale, nor have "
            "densities on different spaces; give all models the same kind of likelihood, such "
            "as, for whole numbers, discretized_logistic beside binomial, which both give "
            "probabilities"
        )
