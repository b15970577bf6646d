"""A data frame as text: what the cells of a table say, on a terminal and in a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def _spaced(name: object) -> str:
    return str(name).replace("_", " ")


def _written(value: object) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
