"""Numbers in tables of text: their decimal mark is found, or refused where it may be another."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .rows import DataError

if TYPE_CHECKING:
    import pandas

WITH_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
WITH_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
MAY_BE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
WITH_BOTH = re.compile(r"[+-]?\d{1,3}([.,' ]\d{3})+[.,]\d+")


def is_number(text: str) -> bool:
    """Whether text is a number, with a decimal point or comma."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def decimal_of(
    file: str, rows: list[list[str]], separator: str, line_of: Callable[[int], int]
) -> str:
    """The decimal mark.

    Points may be between thousands only beside semicolons, where commas may be decimal. `line_of`
    says on which line of the file a row begins.

    Raises:
        DataError: There are two marks, or the one may be between thousands.
    """
    marks: dict[str, tuple[int, str]] = {}
    are_decimals = False
    for number, row in enumerate(rows):
        for cell in row:
            text = cell.strip()
            if WITH_BOTH.fullmatch(text):
                raise DataError(
                    f"{file} has {text!r} in line {line_of(number)}: marks between thousands are "
                    "not read; leave them out"
                )
            for mark, pattern in ((",", WITH_COMMA), (".", WITH_POINT)):
                if pattern.fullmatch(text):
                    marks.setdefault(mark, (number, text))
                    are_decimals |= not MAY_BE_THOUSANDS.fullmatch(text)
    if len(marks) == 2:
        (first, text), (second, other) = marks.values()
        raise DataError(
            f"{file} has {text!r} in line {line_of(first)} and {other!r} in line "
            f"{line_of(second)}: decimal commas and decimal points; use one of them"
        )
    if "," in marks and not are_decimals:
        number, text = marks[","]
        raise DataError(
            f"{file} has {text!r} in line {line_of(number)}: its commas may be decimal or between "
            "thousands; write points, or leave them out"
        )
    if "." in marks and separator == ";" and not are_decimals:
        number, text = marks["."]
        raise DataError(
            f"{file} has {text!r} in line {line_of(number)}: its points may be decimal or between "
            "thousands; separate its cells by commas, or leave them out"
        )
    return next(iter(marks), ".")


def refuse_odd_cells(
    file: str,
    frame: pandas.DataFrame,
    decimal: str,
    looked_at: int,
    line_of: Callable[[int], int],
) -> None:
    """Raise where a column of numbers has a cell that is none.

    A column is one of numbers if most of its cells are that are not empty, or the first
    `looked_at`. `line_of` says on which line of the file a row begins.

    Raises:
        DataError: The message names the first.
    """
    import pandas

    for name, dtype in frame.dtypes.items():
        if dtype.kind in "biufM":
            continue
        column = frame[name]
        text = column.astype(str)
        if decimal == ",":
            text = text.str.replace(".", "no point", regex=False).str.replace(",", ".")
        known = column.notna()
        odd = pandas.to_numeric(text, errors="coerce").isna() & known
        num = int(odd.sum())
        first = slice(0, looked_at)
        begins_with_numbers = known[first].any() and not odd[first].any()
        if num and (2 * num < known.sum() or begins_with_numbers):
            row = int(odd.to_numpy().argmax())
            others = f" (and {num - 1} more)" if num > 1 else ""
            raise DataError(
                f"{file} has {column.iloc[row]!r:.40} among the numbers of column {name!r}, in "
                f"line {line_of(row)}{others}; mend it, or leave the cell empty"
            )
