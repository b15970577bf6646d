"""What the commands print: tables for people, or one JSON document.

Of every command ``--json`` writes one object to stdout, whose keys stay what they are; new ones may
come. What is not finite is null. All else goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ..criticism import tables
from ..data.files import write

if TYPE_CHECKING:
    import pandas

PIPED_WIDTH = 200  # of tables that no terminal shows: one line for each entry


def console() -> Console:
    """The console: as wide as the terminal; of a fixed width where the output is piped. Where
    NO_COLOR is set, neither colours nor bold.
    """
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    if os.environ.get("NO_COLOR"):
        return Console(width=width, color_system=None)
    return Console(width=width)


def frame_table(frame: pandas.DataFrame, index: str, formats: Mapping[str, str] = {}) -> Table:
    """A frame of numbers as a table.

    Arguments:
        frame: The numbers, with names for rows and columns.
        index: What the rows are.
        formats: How the numbers of some columns are written.
    """
    table = Table()
    for number, name in enumerate(tables.header(frame, index)):
        table.add_column(name, justify="right" if number else "left")
    for row in tables.body(frame, formats):
        table.add_row(*row)
    return table


def write_json(document: Mapping[str, Any]) -> None:
    """One document on stdout."""
    typer.echo(json.dumps(plain_values(document), indent=2, ensure_ascii=False, allow_nan=False))


def plain_values(value: Any) -> Any:
    """What JSON can say: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(part) for part in value]
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def whoever_reads() -> Iterator[None]:
    """Goes on where the reader of the output, such as ``head``, has gone."""
    with contextlib.suppress(BrokenPipeError, SystemExit):  # rich makes the second of the first
        yield


def write_csv(frame: pandas.DataFrame, out: Path | None, *, index: bool = True) -> None:
    """A frame as CSV, in a file, which appears whole or not at all, or else on stdout."""
    text = frame.to_csv(index=index)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write(out, text.encode())


def frame_rows(frame: pandas.DataFrame, index: str) -> list[dict[str, Any]]:
    """A frame as a list of objects.

    Arguments:
        frame: The numbers.
        index: The key of the rows' names.
    """
    columns = [str(name) for name in frame.columns]
    return [
        {index: name, **dict(zip(columns, row, strict=True))}
        for name, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True)
    ]
