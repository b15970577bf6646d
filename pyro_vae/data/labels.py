"""Tables with labels: columns of strings or categories as classes, whose names are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..guards import whole_number
from .decimals import is_number
from .refusals import listed
from .rows import DataError, Rows

if TYPE_CHECKING:
    import pandas

Labels = list[Any] | None  # of a column; None for numbers


def with_labels(c: Any) -> pandas.DataFrame | None:
    """What was given as a frame, where a column of it holds labels; else None.

    Raises:
        DataError: It is a name, which means nothing here.
    """
    if isinstance(c, str):
        raise DataError(
            f"c needs a row for each datum; got the name {c!r}; names are of columns of obs, where "
            "x is an AnnData; give that column itself"
        )
    if hasattr(c, "iloc"):
        frame = c if hasattr(c, "columns") else c.to_frame()
        has_labels = any(labels_of(frame.iloc[:, j]) is not None for j in range(frame.shape[1]))
        return frame if has_labels else None
    if not isinstance(c, (list, tuple, np.ndarray)) or len(c) == 0:
        return None
    if isinstance(c, np.ndarray) and c.dtype.kind not in "OUS":
        return None
    values = np.asarray(c, dtype=object)
    if values.ndim not in (1, 2) or not any(isinstance(value, str) for value in values.flat):
        return None

    import pandas

    return pandas.DataFrame(values.reshape(len(c), -1)).infer_objects()


def none_as_nan(c: Any) -> Any:
    """A list, an array or a series of objects, of which none is known, as NaN; else what it was."""
    import pandas

    is_object = isinstance(c, np.ndarray) and c.dtype.kind == "O"
    is_words = hasattr(c, "iloc") and not hasattr(c, "columns") and c.dtype.kind == "O"
    is_list = isinstance(c, (list, tuple)) and len(c) > 0 and c[0] is None
    if not (is_object or is_words or is_list):
        return c
    values = np.asarray(c, dtype=object)
    return np.full(values.shape, np.nan) if bool(pandas.isna(values).all()) else c


def labels_of(column: pandas.Series) -> Labels:
    """The classes of a column: its categories, or the strings in it, sorted; None for numbers."""
    if hasattr(column, "cat"):
        return column.cat.categories.tolist()
    if column.dtype.kind in "biufc":
        return None
    values = [value for value in column.unique() if isinstance(value, str)]
    return sorted(values) if values else None


def class_names(argument: str, classes: Any) -> list[Any]:
    """The names of classes: those given, or their numbers from 0.

    Raises:
        ValueError: They are neither a whole number nor different strings.
    """
    if not isinstance(classes, (list, tuple)):
        whole_number(argument, classes, at_least=1)
        return list(range(classes))
    names = list(classes)
    if names and names == list(range(len(names))):
        return list(range(len(names)))  # True and False are 1 and 0
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{argument} must be how many, or names that are strings; got {names!r:.60}; give "
            "labels as strings, as .astype(str) does, or number them from 0"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{argument} must be different names; got {names!r:.60}")
    return names


def refuse_numbers_for_names(c: Any, labels: list[Labels]) -> None:
    """Raise where numbers are given for classes whose names are numbers: 1 would be class '2'.

    Rows and tensors have places already.
    """
    if not isinstance(c, (Rows, Tensor)):
        for classes in labels:
            _refuse_numbers_for(classes, "c has")


def _refuse_numbers_for(classes: Labels, who: str, *, any_name: bool = False) -> None:
    names = [name for name in classes or [] if isinstance(name, str)]
    if any(any_name or is_number(name) for name in names):
        raise DataError(
            f"{who} classes named {listed(classes or [])}: give their names, as strings; numbers "
            "would be taken as their places"
        )


def own_labels(frame: pandas.DataFrame) -> list[Labels] | None:
    """The classes of each column; None where no column has any.

    Those of a column without any value are none, so an empty list.

    Raises:
        DataError: A column has labels and other values.
    """
    labels: list[Labels] = []
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        classes = labels_of(column)
        if column.dtype.kind == "O" and not hasattr(column, "cat"):
            values = column.dropna().unique()
            others = [value for value in values if not isinstance(value, str)]
            if classes is not None and others:
                raise DataError(
                    f"data must be numbers or labels; got {classes[0]!r:.60} and {others[0]!r:.60} "
                    f"in column {frame.columns[place]!r}; encode it as one of them"
                )
            classes = classes if len(values) else []
        labels.append(classes)
    return None if all(classes is None for classes in labels) else labels


def coded(
    frame: pandas.DataFrame, labels: list[Labels], who: str = "c", *, missing: bool = False
) -> np.ndarray:
    """A frame as numbers: each label as the number of its class.

    Arguments:
        frame: A column for each entry of `labels`.
        labels: The classes of each column.
        who: What the frame is, with which the message of an error begins.
        missing: Whether a label may be missing, and is then NaN.

    Raises:
        DataError: A label is missing, or none of the classes; the message names it.
    """
    numbers = np.empty(frame.shape)
    for place, classes in enumerate(labels):
        column = frame.iloc[:, place]
        where = f"column {frame.columns[place]!r}"
        if column.dtype.kind in "mMc":
            raise DataError(
                f"{who} must be numbers or labels; got {column.dtype} in {where}; convert it"
            )
        if labels_of(column) is None:
            refuse_numbers_for_names(column, [classes])
            numbers[:, place] = _as_numbers(column, who, where)
        elif classes is None:
            raise DataError(
                f"{who} needs numbers in {where}; got {column.iloc[0]!r:.40}; give its numbers, or "
                "build the VAE with these classes"
            )
        else:
            numbers[:, place] = _codes(column, classes, f"{who} needs", where, missing)
    return numbers


def _as_numbers(column: pandas.Series, who: str, where: str) -> np.ndarray:
    try:
        return column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        kinds = sorted({type(value).__name__ for value in column})
        raise DataError(
            f"{who} must be numbers or labels; got {', '.join(kinds)} in {where}; convert it"
        ) from None


def _codes(
    column: pandas.Series, classes: list[Any], who: str, where: str, missing: bool
) -> np.ndarray:
    """The number of the class of each label."""
    number = {label: code for code, label in enumerate(classes)}
    codes = np.array([number.get(label, -1) for label in column], dtype=float)
    if missing:
        codes[column.isna().to_numpy()] = np.nan
    unknown = np.flatnonzero(codes < 0)
    if len(unknown):
        _refuse_unknown(classes, who, where, column.iloc[unknown[0]], unknown)
    return codes


def _refuse_unknown(
    classes: list[Any], who: str, where: str, label: Any, unknown: np.ndarray
) -> NoReturn:
    """Raise for a label that is none of the classes, the first in some rows."""
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    raise DataError(
        f"{who} one of the classes {listed(classes)} in {where}; got {label!r:.40} at row "
        f"{unknown[0]}{more}; build the VAE with this class too, or recode"
    )


def recoded(rows: Rows, labels: list[Labels], *, places: bool = False) -> Rows:
    """Rows with the numbers of these classes, in the place of those of their own.

    Arguments:
        rows: A column for each entry of `labels`.
        labels: The classes of each column; None for numbers.
        places: Whether numbers without names are known to be those of these classes.

    Raises:
        DataError: A label is none of the classes, stands where numbers are needed, or there are
            numbers for classes whose names are numbers.
    """
    own = rows.labels or [None] * len(labels)
    if own == labels:
        return rows
    tables: dict[int, Tensor] = {}
    for place, (theirs, classes) in enumerate(zip(own, labels, strict=True)):
        where = rows.name_of((place,))
        if theirs is None and classes is not None and not places:
            is_named = rows.labels is not None and not np.isnan(_codes_in(rows, place)).all()
            _refuse_numbers_for(classes, f"{where} of the data has", any_name=is_named)
        elif theirs and classes is None:
            codes = _codes_in(rows, place)
            for row in np.flatnonzero(~np.isnan(codes))[:1]:
                label = theirs[int(codes[row])]
                raise DataError(
                    f"data must be numbers; got {label!r:.60} ({type(label).__name__}) at row {row}"
                    f", {where}; encode or drop it, or build the VAE for a frame with it"
                )
        elif theirs and classes is not None and theirs != classes:
            tables[place] = _table(rows, place, theirs, classes)

    def fetch(index: Any) -> Tensor:
        x = rows.take(index, torch.empty(0, dtype=torch.float64)).clone()
        for place, table in tables.items():
            seen = ~x[:, place].isnan()
            x[seen, place] = table[x[seen, place].long()]
        return x

    return Rows(
        fetch if tables else rows.fetch,
        len(rows),
        rows.event_shape,
        rows.columns,
        rows.c,
        is_fixed=rows.is_fixed,
        labels=labels,
    )


def _table(rows: Rows, place: int, theirs: list[Any], classes: list[Any]) -> Tensor:
    """For each of their classes its number among ours."""
    number = {label: code for code, label in enumerate(classes)}
    table = np.array([number.get(label, -1) for label in theirs], dtype=float)
    if (table < 0).any():
        codes = _codes_in(rows, place)
        seen = np.where(np.isnan(codes), 0, codes).astype(int)
        unknown = np.flatnonzero(~np.isnan(codes) & (table[seen] < 0))
        if len(unknown):
            label = theirs[seen[unknown[0]]]
            _refuse_unknown(classes, "data need", rows.name_of((place,)), label, unknown)
    return torch.as_tensor(table)


def _codes_in(rows: Rows, place: int) -> np.ndarray:
    """The numbers in one column of all rows."""
    like = torch.empty(0, dtype=torch.float64)
    taken = [rows.take(chunk, like)[:, place] for chunk in rows.chunks()]
    return torch.cat(taken).numpy()
