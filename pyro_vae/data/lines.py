"""The lines of files of text, packed or not, and where in them the rows of a table begin."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from .preamble import Preamble
from .rows import DataError

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # and the module that opens it
LONGEST = 10_000_000  # characters of a line


def opened(path: Path, after: int = 0) -> TextIO:
    """The file as text, from the line `after` some others on."""
    module = importlib.import_module(COMPRESSED.get(path.suffix, "io"))
    file = module.open(path, "rt", encoding="utf-8-sig", newline="")
    for _ in range(after):
        next(file)
    return file


def lines_in(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file, none of which is without end."""
    while line := file.readline(LONGEST):
        if len(line) == LONGEST:
            raise DataError(
                f"{path.name} has a line of more than {LONGEST:,} characters; give each datum a "
                "line, or convert it to .npy"
            )
        yield line


def numbered(path: Path, before: Preamble, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows after the preamble, and the line of the file, from 1, on which each begins."""
    with opened(path, before.length) as file:
        reader = csv.reader(lines_in(path, file), delimiter=separator)
        line = before.length + 1
        for row in reader:
            yield line, row
            line = before.length + 1 + reader.line_num


def lines_of(
    path: Path, before: Preamble, separator: str, is_commented: bool
) -> Callable[[int], int]:
    """What says on which line of the file a row of data begins; rows are counted from 0."""
    header = 0 if is_commented else 1

    def line_of(number: int) -> int:
        lines = (line for line, row in numbered(path, before, separator) if row)
        return next(islice(lines, header + number, None))

    return line_of
