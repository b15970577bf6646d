"""Lines before a table of text: what they state of it, and whether one of them is its header."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .decimals import is_number
from .rows import DataError

MARK = "#"  # of a comment
STATED = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # as Excel writes and reads it


@dataclass(frozen=True)
class Preamble:
    """The lines before a table.

    Arguments:
        length: How many lines they are.
        separator: What a line ``sep=`` states, if there is one.
        comments: The lines that begin with ``#``, without it.
    """

    length: int
    separator: str | None
    comments: list[str]


def preamble_of(lines: list[str]) -> Preamble:
    """The blank lines, the line ``sep=`` and the comments that come first."""
    separator: str | None = None
    comments: list[str] = []
    length = 0
    for line in lines:
        stated = STATED.fullmatch(line.rstrip("\r\n"))
        if stated and separator is None and not comments:
            separator = stated[1]
        elif line.startswith(MARK):
            comments.append(line.lstrip(MARK).strip())
        elif line.strip():
            break
        length += 1
    return Preamble(length, separator, comments)


def is_header(file: str, commented: list[str], table: list[list[str]]) -> bool:
    """Whether the cells of a commented line are the header, and not the first of the table.

    Raises:
        DataError: They may be either.
    """
    first, *rows = table
    if len(commented) != len(first):
        return False
    numbers = [is_number(cell) for cell in first if cell.strip()]
    is_numbered = first == [str(number) for number in range(len(first))]
    if all(numbers) and not is_numbered:
        return True
    if not any(numbers) and any(is_number(cell) for row in rows for cell in row):
        return False
    raise DataError(
        f"{file} may have its header behind a {MARK}, {', '.join(commented[:3])!r:.60}, or in the "
        f"line after; take the {MARK} away, or that line"
    )
