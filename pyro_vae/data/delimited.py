"""Tables of separated text: how they are written is found or refused, never guessed.

What separates the cells and what marks the decimals follow from the text: a mark separates where
the header and every row then have equally many cells. Anything else is refused, with the row where
it goes wrong and what to do. pandas, which reads the numbers, would shift columns in silence.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .rows import DataError

ENDINGS = (".csv", ".tsv", ".txt")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LOOKED_AT = 1000  # rows that tell how the file is written
LONGEST = 10_000_000  # characters of a line

WITH_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
WITH_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
MAY_BE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
WITH_BOTH = re.compile(r"[+-]?\d{1,3}([.,' ]\d{3})+[.,]\d+")
UNNAMED = re.compile(r"|Unnamed: 0")  # the name of a column of row labels, as pandas writes them


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Arguments:
        separator: What stands between cells.
        decimal: The decimal mark.
        names: Of the columns, without an empty one at the end.
        num_cells: How many cells a row has.
    """

    separator: str
    decimal: str
    names: list[str]
    num_cells: int


def read_delimited(path: Path) -> tuple[Any, str]:
    """The table of a file, as a DataFrame, and what was found, in words.

    Raises:
        DataError: The file is irregular: the message names the first row that is, and what to do.
    """
    import pandas

    try:
        form = _form(path)
        _refuse_other_lengths(path, form)
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is no text in UTF-8; save it as such") from None
    frame = pandas.read_csv(
        path,
        sep=form.separator,
        decimal=form.decimal,
        header=0,
        names=[*form.names, *["an empty one"] * (form.num_cells - len(form.names))],
        usecols=range(len(form.names)),
        index_col=False,
        encoding="utf-8-sig",
    )
    _refuse_odd_cells(path, frame, form.decimal)
    found = f"separated by {SEPARATORS[form.separator]}" if form.num_cells > 1 else "one to a line"
    if form.decimal == ",":
        found += ", with decimal commas"
    if UNNAMED.fullmatch(form.names[0]):
        frame = _without_labels(path, frame)
        found += "; the labels of its rows, in a first column without a name, are left out"
    return frame, found


def _form(path: Path) -> Form:
    with _opened(path) as file:
        lines = [line for line, _ in zip(_lines(path, file), range(LOOKED_AT), strict=False)]
    if not any(map(str.strip, lines)):
        raise DataError(f"{path.name} is empty; give a header line, and a row for each datum")

    tables = {mark: _cells(lines, mark) for mark in SEPARATORS}
    regular = [mark for mark, cells in tables.items() if len(cells[0]) > 1 and _is_regular(cells)]
    if len(regular) > 1:
        marks = " or ".join(SEPARATORS[mark] for mark in regular)
        raise DataError(
            f"{path.name} may be separated by {marks}: header and rows have equally many cells by "
            "either; put the names or cells that hold the other mark between double quotes"
        )
    separator = regular[0] if regular else ","
    header, *rows = tables[separator]
    if not regular:
        _refuse_irregular(path, tables)

    is_empty = len(header) > 1 and not header[-1] and not any(row[-1] for row in rows)
    names = header[:-1] if is_empty else header
    _refuse_names(path, names)
    return Form(separator, _decimal(path, rows), names, len(rows[0] if rows else header))


def _cells(lines: list[str], separator: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:  # a wide line that another mark separates is too long for one cell
        return [[line] for line in lines]


def _is_regular(cells: list[list[str]]) -> bool:
    """Whether all rows have as many cells as the header, or one more that is empty."""
    header, *rows = cells
    more = {len(row) - len(header) for row in rows}
    return more <= {0} or (more == {1} and not any(row[-1] for row in rows))


def _refuse_irregular(path: Path, tables: dict[str, list[list[str]]]) -> None:
    """Raise unless a file that no mark separates has one column."""
    num_cells = {mark: [len(row) for row in cells] for mark, cells in tables.items()}
    several = [mark for mark, counts in num_cells.items() if max(counts) > 1]
    if not several:
        words = {len(row[0].split()) for row in tables[","]}
        if len(words) == 1 and words != {1}:
            raise DataError(
                f"{path.name} seems to be separated by blanks; separate its cells by commas or tabs"
            )
        return

    mark = max(several, key=lambda mark: (num_cells[mark][0], sum(num_cells[mark])))
    header, *rows = num_cells[mark]
    row, num = next((row, num) for row, num in enumerate(rows) if num != header)
    remedy = "name every column, and give every row a cell for each"
    if header == 1:
        remedy += "; or, if these are decimal commas, separate the cells by semicolons"
    raise DataError(
        f"{path.name}, separated by {SEPARATORS[mark]}, needs as many cells in a row as names in "
        f"its header, {header}; got {num} in row {row}; {remedy}"
    )


def _refuse_names(path: Path, names: list[str]) -> None:
    of_data = names[1:] if UNNAMED.fullmatch(names[0]) else names
    is_numbered = of_data == [str(number) for number in range(len(of_data))]
    is_named = not all(_is_number(name) for name in names if name)
    if not (is_numbered or is_named):
        raise DataError(
            f"{path.name} has numbers in its first line, {', '.join(names[:3])} ...; give it a "
            "header line"
        )
    seen: set[str] = set()
    for column, name in enumerate(names):
        if not name and column:
            raise DataError(f"{path.name} has no name for column {column}; name every column")
        if name in seen:
            raise DataError(
                f"{path.name} has two columns named {name!r}; give each a name of its own"
            )
        seen.add(name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _decimal(path: Path, rows: list[list[str]]) -> str:
    """The decimal mark."""
    marks: dict[str, tuple[int, str]] = {}
    are_decimals = False
    for number, row in enumerate(rows):
        for cell in row:
            text = cell.strip()
            if WITH_BOTH.fullmatch(text):
                raise DataError(
                    f"{path.name} has {text!r} in row {number}: marks between thousands are not "
                    "read; leave them out"
                )
            for mark, pattern in ((",", WITH_COMMA), (".", WITH_POINT)):
                if pattern.fullmatch(text):
                    marks.setdefault(mark, (number, text))
                    are_decimals |= not MAY_BE_THOUSANDS.fullmatch(text)
    if len(marks) == 2:
        (first, text), (second, other) = marks.values()
        raise DataError(
            f"{path.name} has {text!r} in row {first} and {other!r} in row {second}: decimal "
            "commas and decimal points; use one of them"
        )
    if "," in marks and not are_decimals:
        number, text = marks[","]
        raise DataError(
            f"{path.name} has {text!r} in row {number}: its commas may be decimal or between "
            "thousands; write points, or leave them out"
        )
    return next(iter(marks), ".")


def _refuse_other_lengths(path: Path, form: Form) -> None:
    """Raise where a row has more or fewer cells than the first."""
    with _opened(path) as file:
        rows = (row for row in csv.reader(_lines(path, file), delimiter=form.separator) if row)
        next(rows, None)
        for number, row in enumerate(rows):
            is_beyond = form.num_cells > len(form.names) and row[-1] != ""
            if len(row) != form.num_cells or is_beyond:
                raise DataError(
                    f"{path.name} has {len(row)} cells in row {number}, and {len(form.names)} "
                    "names in its header; give every row a cell for each column"
                )


def _refuse_odd_cells(path: Path, frame: Any, decimal: str) -> None:
    """Raise where a column of numbers has a cell that is none."""
    import pandas

    for name, dtype in frame.dtypes.items():
        if dtype.kind in "biufM":
            continue
        column = frame[name]
        text = column.astype(str)
        if decimal == ",":
            text = text.str.replace(".", "no point", regex=False).str.replace(",", ".")
        numbers = pandas.to_numeric(text, errors="coerce")
        odd = numbers.isna() & column.notna()
        if odd.any() and 2 * int(odd.sum()) < len(column):
            row = int(odd.to_numpy().argmax())
            raise DataError(
                f"{path.name} has {column.iloc[row]!r:.40} among the numbers of column {name!r}, "
                f"in row {row} (and {int(odd.sum()) - 1} more); mend it, or leave the cell empty"
            )


def _without_labels(path: Path, frame: Any) -> Any:
    """Without a first column that has no name, if it labels the rows."""
    labels = frame.iloc[:, 0]
    if labels.dtype.kind == "f" or not labels.is_unique:
        raise DataError(
            f"{path.name} has no name for its first column, and its values do not label the rows: "
            "they are fractions, or some are equal; name it, or leave it out"
        )
    return frame.iloc[:, 1:]


def _opened(path: Path) -> TextIO:
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file, none of which is without end."""
    while line := file.readline(LONGEST):
        if len(line) == LONGEST:
            raise DataError(
                f"{path.name} has a line of more than {LONGEST:,} characters; give each datum a "
                "line, or convert it to .npy"
            )
        yield line
