"""What data c suggest: which of their columns are classes, and which numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..data.arrays import as_rows
from ..data.columns import names_of
from ..data.labels import labels_of, with_labels
from ..data.rows import DataError, Rows

if TYPE_CHECKING:
    import pandas

UNKNOWN = (  # what to do where a class is missing
    "drop or impute these rows; a VAE built with classifier='one_hot' is fitted with them, and its "
    "vae.classify(x) fills them in"
)


def suggested(c: Any, *, declared: bool = False, unknown: bool = False) -> dict[str, Any]:
    """The arguments of :class:`.Condition` that suit c.

    Arguments:
        c: What the data are to be conditional on.
        declared: Whether it is said elsewhere which columns are classes and which the exposure, so
            that the rest are numbers.
        unknown: Whether some rows may be missing, which suggest nothing.

    Raises:
        DataError: c may be either: several columns of whole numbers, or numbers such as years, of
            which few occur.
    """
    frame = with_labels(c)
    if frame is not None:
        return _of_labels(frame, is_named=hasattr(c, "columns"))
    rows = as_rows(c, pairs=False)
    rows = _known(rows) if unknown else rows
    if not declared:
        return _of_numbers(rows)
    name = getattr(c, "name", None)  # of a series
    names = [name] if isinstance(name, str) else names_of(rows)
    size = {"size": rows.event_shape.numel()}
    return size if names is None else {**size, "columns": names}


def _known(rows: Rows) -> Rows:
    """The rows without a missing cell."""
    each = (rows.take(chunk) for chunk in rows.chunks())
    known = [~x.reshape(len(x), -1).isnan().any(1) for x in each]
    index = torch.cat(known).nonzero().flatten().numpy()
    if not len(index):
        raise DataError("c needs a class in some rows; got none in any; give condition=")
    return rows.only(index)


def _of_labels(frame: pandas.DataFrame, *, is_named: bool) -> dict[str, Any]:
    """Columns of labels are classes; beside them whole numbers are numbers too."""
    labels = {name: labels_of(frame[name]) for name in frame.columns}
    names = [str(name) for name in frame.columns]
    if len(names) == 1:
        columns = {"columns": names} if is_named else {}
        return {"categories": next(iter(labels.values())), **columns}
    classes = {str(name): some for name, some in labels.items() if some is not None}
    return {"size": len(names), "classes": classes, "columns": names}


def _of_numbers(rows: Rows) -> dict[str, Any]:
    """One column of whole numbers is classes, anything else is numbers."""
    size, largest, names = rows.event_shape.numel(), rows.largest(), names_of(rows)
    columns = {} if names is None else {"columns": names}
    if size > 1 or not _is_whole(rows):
        _refuse_whole(rows)
        return {"size": size, **columns}

    categories, seen = int(largest) + 1, _count(rows)
    if categories > seen:  # years, or classes that nothing would be learned of
        raise DataError(
            f"c has whole numbers up to {categories - 1}, of which {seen} occur; number "
            "classes from 0, as np.unique(c, return_inverse=True)[1] does, or give "
            f"condition={{'size': 1}} for numbers, {{'categories': {categories}}} for so many "
            "classes"
        )
    return {"categories": categories, **columns}


def _refuse_whole(rows: Rows) -> None:
    """Raise for columns that may be numbers or classes: whole, and not only 0 and 1."""
    size = rows.event_shape.numel()
    if rows.largest() > 1 and _is_whole(rows):
        raise DataError(
            f"c has {size} columns of whole numbers, which may be numbers or classes; give "
            f"condition={{'size': {size}}} for numbers; classes={{column: how many}} beside it, or "
            "labels as strings, for classes"
        )


def _count(rows: Rows) -> int:
    """How many values occur."""
    values = torch.empty(0)
    for chunk in rows.chunks():
        values = torch.cat([values, rows.take(chunk).flatten()]).unique()
    return len(values)


def _is_whole(rows: Rows) -> bool:
    return all(
        bool(((x := rows.take(chunk)) == x.round()).all() and (x >= 0).all())
        for chunk in rows.chunks()
    )
