"""Tables of separated text: how they are written is found or refused, never guessed.

What separates the cells and what marks the decimals follow from the text: a mark separates where
the header and every row then have equally many cells. Anything else is refused, with the row where
it goes wrong and what to do. pandas, which reads the numbers, would shift columns in silence.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .decimals import decimal_of, is_number, refuse_odd_cells
from .lines import lines_in, lines_of, numbered, opened
from .preamble import MARK, Preamble, is_header, preamble_of
from .rows import DataError

ENDINGS = (".csv", ".tsv", ".txt")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LOOKED_AT = 1000  # rows that tell how the file is written
MISSING = ["", "NA", "N/A", "NaN", "nan", "NULL", "null"]  # what a missing cell may hold
UNNAMED = re.compile(r"|Unnamed: 0")  # the name of a column of row labels, as pandas writes them


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Arguments:
        separator: What stands between cells.
        decimal: The decimal mark.
        names: Of the columns, without an empty one at the end.
        num_cells: How many cells a row has.
        preamble: The lines before the table.
        is_commented: Whether the header is the last of these.
    """

    separator: str
    decimal: str
    names: list[str]
    num_cells: int
    preamble: Preamble
    is_commented: bool

    def described(self) -> str:
        """In words."""
        found = (
            f"separated by {SEPARATORS[self.separator]}" if self.num_cells > 1 else "one to a line"
        )
        if self.decimal == ",":
            found += ", with decimal commas"
        num_comments = len(self.preamble.comments) - self.is_commented
        if num_comments:
            found += f"; lines of comment before it, left out: {num_comments}"
        if self.is_commented:
            found += f"; its header is behind a {MARK}"
        return found


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
    # before pandas 3 the last digit is another without this, and from then on with it in vain
    exactly: Any = {"float_precision": "round_trip"} if pandas.__version__ < "3" else {}
    with opened(path, form.preamble.length) as file:
        frame = pandas.read_csv(
            file,
            sep=form.separator,
            decimal=form.decimal,
            header=None if form.is_commented else 0,
            names=[*form.names, *["an empty one"] * (form.num_cells - len(form.names))],
            usecols=range(len(form.names)),
            index_col=False,
            keep_default_na=False,  # None and n/a may be labels
            na_values=MISSING,
            low_memory=False,  # which would guess the type of a column piece by piece
            **exactly,
        )
    for name, dtype in frame.dtypes.items():
        if dtype.kind not in "biuf":  # labels
            label = frame[name].str.strip()
            frame[name] = label.mask(label == "")
    line_of = lines_of(path, form.preamble, form.separator, form.is_commented)
    refuse_odd_cells(path.name, frame, form.decimal, LOOKED_AT, line_of)
    found = form.described()
    if UNNAMED.fullmatch(form.names[0]):
        frame = _without_labels(path, frame)
        found += "; the labels of its rows, in a first column without a name, are left out"
    return frame, found


def _form(path: Path) -> Form:
    with opened(path) as file:
        lines = [line for line, _ in zip(lines_in(path, file), range(LOOKED_AT), strict=False)]
    is_cut = len(lines) == LOOKED_AT
    before = preamble_of(lines)
    lines = lines[before.length :]
    if not any(map(str.strip, lines)):
        raise DataError(f"{path.name} is empty; give a header line, and a row for each datum")

    separator, table = _separated(path, lines, before, is_cut)
    commented = _cells(before.comments[-1:], separator)
    is_commented = bool(commented) and is_header(path.name, commented[0], table)
    header, *rows = [*commented, *table] if is_commented else table
    is_empty = len(header) > 1 and not header[-1] and not any(row[-1] for row in rows)
    names = header[:-1] if is_empty else header
    _refuse_names(path, names)
    line_of = lines_of(path, before, separator, is_commented)
    decimal = decimal_of(path.name, rows, separator, line_of)
    num_cells = len(rows[0] if rows else header)
    return Form(separator, decimal, names, num_cells, before, is_commented)


def _separated(
    path: Path, lines: list[str], before: Preamble, is_cut: bool
) -> tuple[str, list[list[str]]]:
    """What separates the cells, and the cells; of text that was cut, without the last row, which
    may go on.
    """
    stated = before.separator
    if stated is not None and stated not in SEPARATORS:
        marks = ", ".join(SEPARATORS.values())
        raise DataError(f"{path.name} states sep={stated}; separate its cells by one of {marks}")
    last = -1 if is_cut else None
    tables = {mark: _cells(lines, mark)[:last] for mark in SEPARATORS}
    regular = [mark for mark, cells in tables.items() if len(cells[0]) > 1 and _is_regular(cells)]
    if stated is not None:
        if regular and stated not in regular:
            raise DataError(
                f"{path.name} states sep={stated}, and its lines are separated by "
                f"{SEPARATORS[regular[0]]}; take that line away, or mend it"
            )
        tables = {stated: tables[stated]}
        regular = [mark for mark in regular if mark == stated]
    if len(regular) > 1:
        marks = " or ".join(SEPARATORS[mark] for mark in regular)
        raise DataError(
            f"{path.name} may be separated by {marks}: header and rows have equally many cells by "
            "either; put the names or cells that hold the other mark between double quotes"
        )
    if not regular:
        _refuse_irregular(path, before, tables)
    separator = regular[0] if regular else stated or ","
    return separator, tables[separator]


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


def _refuse_irregular(path: Path, before: Preamble, tables: dict[str, list[list[str]]]) -> None:
    """Raise unless a file that no mark separates has one column."""
    num_cells = {mark: [len(row) for row in cells] for mark, cells in tables.items()}
    several = [mark for mark, counts in num_cells.items() if max(counts) > 1]
    if not several:
        return _refuse_blanks(path, next(iter(tables.values())))

    mark = max(several, key=lambda mark: (num_cells[mark][0], sum(num_cells[mark])))
    header, *rows = num_cells[mark]
    row, num = next((row, num) for row, num in enumerate(rows) if num != header)
    remedy = "name every column, and give every row a cell for each"
    if header == 1:
        remedy += "; or, if these are decimal commas, separate the cells by semicolons"
    elif set(rows) == {header + 1}:
        remedy += "; if the first cells are labels of the rows, as by R's write.table, write it "
        remedy += "with col.names=NA"
    line = lines_of(path, before, mark, False)(row)
    raise DataError(
        f"{path.name}, separated by {SEPARATORS[mark]}, needs as many cells in a row as names in "
        f"its header, {header}; got {num} in line {line}; {remedy}"
    )


def _refuse_blanks(path: Path, cells: list[list[str]]) -> None:
    """Raise where lines of one cell are words: of as many as the header, or of numbers and a label
    more, as R's write.table writes them.
    """
    header, *rows = [row[0].split() for row in cells]
    num_words = {len(words) for words in rows or [header]}
    (most,) = num_words if len(num_words) == 1 else (1,)
    has_numbers = any(is_number(word) for words in rows for word in words)
    if most > 1 and (len(header) == most or (len(header) == most - 1 and has_numbers)):
        raise DataError(
            f"{path.name} seems to be separated by blanks; separate its cells by commas or tabs"
        )


def _refuse_names(path: Path, names: list[str]) -> None:
    of_data = names[1:] if UNNAMED.fullmatch(names[0]) else names
    is_numbered = of_data == [str(number) for number in range(len(of_data))]
    is_named = not all(is_number(name) for name in names if name)
    has_fractions = any(is_number(name) and not name.strip().isdigit() for name in names)
    if not is_numbered and (has_fractions or not is_named):
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


def _refuse_other_lengths(path: Path, form: Form) -> None:
    """Raise where a row has more or fewer cells than the first."""
    rows = numbered(path, form.preamble, form.separator)
    found = ((line, row) for line, row in rows if row or form.num_cells == 1)
    if not form.is_commented:
        next(found, None)
    empty = None
    for line, row in found:
        if form.num_cells == 1 and not "".join(row).strip():
            empty = line if empty is None else empty
            continue
        if empty is not None:
            raise DataError(
                f"{path.name} has an empty line {empty}, which may be a missing value of its one "
                "column; write NaN there, or take the line away"
            )
        is_beyond = form.num_cells > len(form.names) and row[-1] != ""
        if len(row) != form.num_cells or is_beyond:
            raise DataError(
                f"{path.name} has {len(row)} cells in line {line}, and {len(form.names)} names in "
                "its header; give every row a cell for each column"
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
