"""Tables with labels: columns of strings or categories as classes, whose names are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..guards import whole_number
from .rows import DataError, Rows

if TYPE_CHECKING:
    import pandas

SHOWN = 8  # classes, in a message
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
        return names
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{argument} must be how many, or names that are strings; got {names!r:.60}; give "
            "labels as strings, such as c.astype(str), or number them from 0"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{argument} must be different names; got {names!r:.60}")
    return names


def refuse_numbers_for_names(c: Any, labels: list[Labels]) -> None:
    """Raise where numbers are given for classes whose names are numbers: 1 would be class '2'.

    Rows and tensors have places already.
    """
    if isinstance(c, (Rows, Tensor)):
        return
    for classes in labels:
        if any(isinstance(name, str) and _is_number(name) for name in classes or []):
            names = ", ".join(map(repr, (classes or [])[:SHOWN]))
            raise DataError(
                f"c has classes named {names}: give their names, as strings; numbers would be "
                "taken as their places"
            )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def coded(frame: pandas.DataFrame, labels: list[Labels]) -> np.ndarray:
    """A frame as numbers: each label as the number of its class.

    Arguments:
        frame: A column for each entry of `labels`.
        labels: The classes of each column.

    Raises:
        DataError: A label is missing, or none of the classes; the message names it.
    """
    numbers = np.empty(frame.shape)
    for place, classes in enumerate(labels):
        column = frame.iloc[:, place]
        where = f"column {frame.columns[place]!r}"
        if column.dtype.kind in "mMc":
            raise DataError(
                f"c must be numbers or labels; got {column.dtype} in {where}; convert it"
            )
        if labels_of(column) is None:
            refuse_numbers_for_names(column, [classes])
            numbers[:, place] = column.to_numpy(dtype=float, na_value=np.nan)
        elif classes is None:
            raise DataError(
                f"c needs numbers in {where}; got {column.iloc[0]!r:.40}; give its numbers, or "
                "build the VAE with these classes"
            )
        else:
            numbers[:, place] = _codes(column, classes, where)
    return numbers


def _codes(column: pandas.Series, classes: list[Any], where: str) -> np.ndarray:
    """The number of the class of each label."""
    number = {label: code for code, label in enumerate(classes)}
    codes = np.array([number.get(label, -1) for label in column], dtype=float)
    unknown = np.flatnonzero(codes < 0)
    if len(unknown):
        row = int(unknown[0])
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        shown = ", ".join(map(repr, classes[:SHOWN]))
        others = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
        raise DataError(
            f"c needs one of the classes {shown}{others} in {where}; got {column.iloc[row]!r:.40} "
            f"at row {row}{more}; build the VAE with this class too, or recode"
        )
    return codes
