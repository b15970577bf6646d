"""Columns by name: a table in another order is reordered, one with other columns is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .rows import DataError, Rows

if TYPE_CHECKING:
    import pandas

SHOWN = 5  # names, in a message


def names_of(rows: Rows) -> list[str] | None:
    """The names of the columns, if each has one of its own."""
    columns = rows.columns or []
    named = all(isinstance(name, str) for name in columns)
    return columns if columns and named and len(set(columns)) == len(columns) else None


def in_order(rows: Rows, names: list[str] | None, who: str = "data need") -> Rows:
    """Rows with their columns in the order of `names`; rows without names as they are.

    The message of an error begins with `who`.

    Raises:
        DataError: A column is missing, or there are others.
    """
    own = names_of(rows)
    if names is None or own is None or own == names:
        return rows
    place = {name: number for number, name in enumerate(own)}
    missing = [name for name in names if name not in place]
    known = set(names)
    others = [name for name in own if name not in known]
    if missing or others:
        got = [f"none named {_listed(missing)}"] if missing else []
        got += [f"others named {_listed(others)}"] if others else []
        raise DataError(
            f"{who} the columns {_listed(names)}; got {', and '.join(got)}; rename or select "
            "columns, or give an array, whose order is taken as it is"
        )
    order = [place[name] for name in names]
    labels = None if rows.labels is None else [rows.labels[number] for number in order]
    return Rows(
        lambda index: rows.fetch(index)[:, order],
        len(rows),
        rows.event_shape,
        names,
        rows.c,
        is_fixed=rows.is_fixed,
        labels=labels,
    )


def _listed(names: list[str]) -> str:
    """The first names, and how many others there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def as_given(
    values: Tensor, x: Any, names: list[str] | None, classes: dict[str, list[Any]] | None = None
) -> Any:
    """Values as a frame with the rows and columns of x, if x is a frame; else as they are.

    Arguments:
        values: A tensor of shape ``(N, columns)``.
        x: What the user gave.
        names: The order of the columns of `values`, if they have names.
        classes: The names of the classes, by column, for the columns of numbers of classes.
    """
    if values.dim() != 2 or not hasattr(x, "to_numpy") or not hasattr(x, "columns"):
        return values
    order = list(x.columns)
    if names is None or set(names) != set(order):
        names, classes = order, None
    numbers = values.numpy(force=True)
    if hasattr(x, "iloc"):
        frame = framed(numbers, names, x.index, classes)
        for name in classes or {}:
            if x[name].dtype.kind == "O" and not hasattr(x[name], "cat"):  # strings remain strings
                frame[name] = frame[name].astype(x[name].dtype)
        return frame if names == order else frame[order]
    columns = {name: numbers[:, names.index(name)] for name in order}
    named = {name: list(_named(columns[name], labels)) for name, labels in (classes or {}).items()}
    return type(x)(columns | named)


def framed(
    numbers: np.ndarray,
    names: list[str],
    index: Any = None,
    classes: dict[str, list[Any]] | None = None,
) -> pandas.DataFrame:
    """Numbers of shape ``(N, columns)`` as a frame, with the names of classes as categories."""
    import pandas

    frame = pandas.DataFrame(numbers, columns=names, index=index)
    for name, labels in (classes or {}).items():
        frame[name] = _named(numbers[:, names.index(name)], labels)
    return frame


def _named(numbers: np.ndarray, labels: list[Any]) -> pandas.Categorical:
    """The names of classes; where a family has a mean, of the class that is nearest to it."""
    import pandas

    codes = np.where(np.isnan(numbers), -1, numbers).round().astype(int)
    return pandas.Categorical.from_codes(codes, pandas.Index(labels))


def as_array(values: Tensor | pandas.DataFrame) -> np.ndarray:
    """A tensor or a frame as an array."""
    return values.numpy(force=True) if isinstance(values, Tensor) else values.to_numpy()
