"""A data frame as text: what the cells of a table say, on a terminal and in a report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


def header(frame: pandas.DataFrame, index: str) -> list[str]:
    """The names of the columns, after that of the index."""
    return [index, *map(_spaced, frame.columns)]


def body(frame: pandas.DataFrame) -> list[list[str]]:
    """A list for each row: its name, then its texts, and its numbers to 3 significant digits."""
    return [
        [_spaced(name), *map(_written, values)]
        for name, values in zip(frame.index, frame.values, strict=True)
    ]


def numbers(frame: pandas.DataFrame) -> list[list[float]]:
    """The number that each cell of :func:`body` shows; NaN where it shows none."""
    return [
        [_number(str(name)), *map(_number, values)]
        for name, values in zip(frame.index, frame.values, strict=True)
    ]


def _spaced(name: object) -> str:
    return str(name).replace("_", " ")


def _written(value: object) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _number(value: Any) -> float:
    """That of a cell: its own, or what its text begins with, as of "1,234", "5%", "1.2 ± 0.3"."""
    if not isinstance(value, str):
        return float(value)
    text = value.split(" ± ")[0].removesuffix("%").replace(",", "")
    try:
        return float(text)
    except ValueError:
        return math.nan
