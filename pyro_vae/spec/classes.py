"""Columns of labels in the data: their classes in a spec, and a likelihood that holds them."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints

from ..conditionals.declared import nearest
from ..data.labels import class_names, recoded
from ..data.rows import DataError, Rows
from ..distributions.supports import base_of
from ..vae import VAE
from .parts import as_table

MANY = 10  # classes that may be text instead, where each is seen less than twice
Classes = dict[str, list[Any]]


def classes_of(spec: dict[str, Any]) -> Classes | None:
    """The names of the classes by column, as a spec says them.

    Raises:
        ValueError: A column is unknown, or its classes are neither a number nor different strings.
    """
    if "classes" not in spec:
        return None
    columns = spec.get("columns")
    if not isinstance(columns, list):
        raise ValueError("classes: need columns, the names of all columns")
    table = as_table("classes", spec["classes"])
    for column in table.keys() - set(columns):
        raise ValueError(f"classes: no column is named {column!r}{nearest(column, columns)}")
    return {column: class_names("classes", table[column]) for column in columns if column in table}


def described(classes: Classes) -> dict[str, Any]:
    """The classes as a spec writes them: names, or how many."""
    return {
        column: list(labels) if isinstance(labels[0], str) else len(labels)
        for column, labels in classes.items()
    }


def with_classes(spec: dict[str, Any], rows: Rows) -> tuple[dict[str, Any], Rows]:
    """A spec with the classes of data, and the data with their numbers; for labels and no
    likelihood, one of columns.

    Raises:
        DataError: A label is none of the classes that the spec says, or they may be no classes.
    """
    known = classes_of(spec) or {}
    found = dict(zip(rows.columns or (), rows.labels or (), strict=False))
    classes = dict(known)
    for column, labels in found.items():
        if labels is not None and column not in known:
            if not labels:
                raise DataError(f"data need a value in column {column!r}; got none; drop it")
            classes[column] = class_names(f"classes of column {column!r}", labels)
    if not classes:
        return spec, rows
    rows = recoded(rows, [classes.get(column) for column in spec["columns"]])
    spec = {**spec, "classes": described(classes)}
    if "likelihood" not in spec:
        _refuse_text(classes, len(rows))
        spec["likelihood"] = _of_columns(spec["columns"], classes)
    return spec, rows


def _refuse_text(classes: Classes, num_data: int) -> None:
    """Raise for labels that hardly occur twice: names of rows, dates, numbers not read as such."""
    for column, labels in classes.items():
        if len(labels) > MANY and 2 * len(labels) > num_data:
            shown = ", ".join(map(repr, labels[:2]))
            raise DataError(
                f"column {column!r} has {len(labels)} labels in {num_data} rows, {shown}, ...: too "
                "many for classes; drop it, make it numbers, or say the likelihood of each column"
            )


def _of_columns(columns: list[str], classes: Classes) -> dict[str, Any]:
    """A likelihood of a normal for numbers, and a categorical for each column of classes."""
    numbers = [column for column in columns if column not in classes]
    blocks: list[dict[str, Any]] = [{"columns": numbers, "name": "normal"}] if numbers else []
    blocks += [
        {"columns": [column], "name": "categorical", "categories": len(labels)}
        for column, labels in classes.items()
    ]
    return {"name": "columns", "blocks": blocks}


def check_classes(vae: VAE) -> None:
    """Raise unless the likelihood draws a class in each column of classes, and nothing else."""
    if not vae.classes:
        return
    support: Any = base_of(vae.likelihood.support)
    every = range(len(vae.columns or ()))
    blocks = getattr(support, "blocks", [(every, support)])
    cells = {place: (at, part, len(cols)) for cols, part in blocks for at, place in enumerate(cols)}
    for place, (column, labels) in enumerate(zip(vae.columns or (), vae.labels, strict=True)):
        if labels is not None and _num_classes(*cells[place]) != len(labels):
            raise DataError(
                f"likelihood: {vae.likelihood.title} does not draw the {len(labels)} classes of "
                f"column {column!r}, such as {labels[0]!r}; give it a block of its own in "
                f"'columns', {{'columns': [{column!r}], 'name': 'categorical'}}, or leave the "
                "likelihood out"
            )


def _num_classes(at: int, support: Any, size: int) -> int:
    """How many classes one of `size` columns has by their support; 0 for other numbers."""
    if support is constraints.boolean:
        return 2
    if not isinstance(support, constraints.integer_interval):
        return 0
    lowest, highest = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
    return int(highest.expand(size)[at]) + 1 if not bool(lowest.any()) else 0
