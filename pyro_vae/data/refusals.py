"""Data that are refused, in words: the first of what is wrong, and how many others there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .rows import DataError, Rows

SHOWN = 8  # names, in a message


def listed(names: Sequence[Any]) -> str:
    """The first names, and how many others there are, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more or "none"


def refuse(bad: Tensor, x: Tensor, rows: Rows, chunk: slice, needs: str, remedy: str) -> None:
    """Raise if a cell of `chunk` is bad, and name the first.

    Raises:
        DataError: Who needs what; the value, its row and column; how many others; the remedy.
    """
    if not bool(bad.any()):
        return
    row, *column = bad.nonzero()[0].tolist()
    value = f"{x[(row, *column)].tolist()!s:.60}"
    more = int(bad.sum()) - 1
    others = f" (and {more} more)" if more else ""
    raise DataError(
        f"{needs}; got {value} at {rows.locate(chunk.start + row, tuple(column))}{others}; {remedy}"
    )
