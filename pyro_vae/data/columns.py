"""Columns by name: a table in another order is reordered, one with other columns is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .annotated import has_obs, is_annotated
from .refusals import listed
from .rows import DataError, Rows

if TYPE_CHECKING:
    import pandas


def labels_as_names(labels: Any) -> list[Any]:
    """The labels of columns as strings: years, say, are names; 0, 1, 2, ... only count."""
    found = list(labels)
    return found if found == list(range(len(found))) else [str(label) for label in found]


def names_of(rows: Rows) -> list[str] | None:
    """The names of the columns, if each has one of its own."""
    columns = rows.columns or []
    named = all(isinstance(name, str) for name in columns)
    return columns if columns and named and len(set(columns)) == len(columns) else None


def in_order(rows: Rows, names: list[str] | None, who: str = "data need") -> Rows:
    """Rows with their columns in the order of `names`; rows without names as they are.

    Columns that are numbered 0, 1, 2, ... have these names wherever the others have some of them.
    The message of an error begins with `who`.

    Raises:
        DataError: A column is missing, or there are others.
    """
    own = names_of(rows)
    counted = [str(number) for number in range(len(rows.columns or []))]
    if own is None and rows.columns == list(range(len(counted))) and {*counted} & {*(names or [])}:
        own = counted
    if names is None and {*counted} & {*(own or [])}:
        names = counted
    if names is None or own is None or own == names:
        return rows
    place = {name: number for number, name in enumerate(own)}
    missing = [name for name in names if name not in place]
    known = set(names)
    others = [name for name in own if name not in known]
    if missing or others:
        got = [f"none named {listed(missing)}"] if missing else []
        got += [f"others named {listed(others)}"] if others else []
        raise DataError(
            f"{who} the columns {listed(names)}; got {', and '.join(got)}; rename or select "
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


def _numbered(labels: list[Any]) -> list[str] | None:
    """Names that are the numbers of columns, in order."""
    names = [str(number) for number in range(len(labels))]
    return names if set(labels) == set(names) else None


def is_table(x: Any) -> bool:
    """Whether it is a frame or an AnnData, whose rows and columns have names."""
    is_frame = hasattr(x, "to_numpy") and hasattr(x, "columns")
    return is_frame or has_obs(x)


def index_of(x: Any) -> Any:
    """The labels of the rows of a frame or an AnnData; None where they have none."""
    if has_obs(x):
        return x.obs.index
    return x.index if hasattr(x, "iloc") else None


def as_given(
    values: Tensor, x: Any, names: list[str] | None, classes: dict[str, list[Any]] | None = None
) -> Any:
    """Values as a frame with the rows and columns of x, if they have names; else as they are.

    Arguments:
        values: A tensor of shape ``(N, columns)``.
        x: What the user gave.
        names: The order of the columns of `values`, if they have names.
        classes: The names of the classes, by column, for the columns of numbers of classes.
    """
    if values.dim() != 2 or not is_table(x):
        return values
    columns = x.var_names if is_annotated(x) else x.columns
    order = [str(label) for label in columns]
    names = names or _numbered(order)
    if names is None or set(names) != set(order):
        names, classes = order, None
    numbers = values.numpy(force=True)
    if has_obs(x):
        return framed(numbers, names, x.obs.index)[order]
    if hasattr(x, "iloc"):
        frame = framed(numbers, names, x.index, classes)
        for name in classes or {}:
            own = x.iloc[:, order.index(name)]
            if own.dtype.kind == "O" and not hasattr(own, "cat"):  # strings remain strings
                frame[name] = frame[name].astype(own.dtype)
        return (frame if names == order else frame[order]).set_axis(columns, axis=1)
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


def first_row(rows: Rows) -> np.ndarray | pandas.DataFrame:
    """The first row, under the names of its columns if they have some."""
    numbers, names = rows.take(slice(0, 1)).numpy(), names_of(rows)
    return numbers if names is None else framed(numbers, names)


def as_array(values: Tensor | pandas.DataFrame) -> np.ndarray:
    """A tensor or a frame as an array."""
    return values.numpy(force=True) if isinstance(values, Tensor) else values.to_numpy()


def refuse_other_order(x: Any, other: Any, what: str) -> None:
    """Raise where something that goes with x row by row names the same rows in another order.

    Raises:
        DataError: It does; rows are not put right, as they are for one who gives an array.
    """
    first: Any = x.obs.index if has_obs(x) else getattr(x, "index", None)
    second: Any = getattr(other, "index", None)
    if not all(hasattr(index, "is_unique") for index in (first, second)):
        return
    if len(first) == len(second) and not first.equals(second) and set(first) == set(second):
        raise DataError(
            f"{what} has the rows of x in another order: {listed(list(second[:3]))} ... for "
            f"{listed(list(first[:3]))} ...; give {what}.loc[x.index], or an array, whose order is "
            "taken as it is"
        )
