"""A data frame as text: what the cells of a table say, on a terminal and in a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


def header(frame: pandas.DataFrame, index: str) -> list[str]:
    """The names of the columns, after that of the index."""
    return [index, *map(_spaced, frame.columns)]


def body(frame: pandas.DataFrame, formats: Mapping[str, str] = {}) -> list[list[str]]:
    """A list for each row: its name, then its texts, and its numbers, to 3 significant digits
    unless `formats` has a format for the column.
    """
    known = [formats.get(str(name), "{:.3g}") for name in frame.columns]
    return [
        [_spaced(name), *map(_written, values, known)]
        for name, values in zip(frame.index, frame.values, strict=True)
    ]


def numbers(frame: pandas.DataFrame) -> list[list[float]]:
    """The number in each cell of :func:`body`; NaN where there is none."""
    return [
        [*map(_number, (name, *values))]
        for name, values in zip(frame.index, frame.values, strict=True)
    ]


def _spaced(name: object) -> str:
    return str(name).replace("_", " ")


def _written(value: object, form: str) -> str:
    return value if isinstance(value, str) else form.format(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, Real) else math.nan
