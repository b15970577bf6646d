"""What the commands print with: one console, and tables of frames."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..criticism import tables

if TYPE_CHECKING:
    import pandas

PIPED_WIDTH = 200  # of tables that no terminal shows: one line for each entry


def console() -> Console:
    """The console: as wide as the terminal; of a fixed width where the output is piped."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def frame_table(frame: pandas.DataFrame, index: str) -> Table:
    """A frame of numbers as a table.

    Arguments:
        frame: The numbers, with names for rows and columns.
        index: What the rows are.
    """
    table = Table()
    for number, name in enumerate(tables.header(frame, index)):
        table.add_column(name, justify="right" if number else "left")
    for row in tables.body(frame):
        table.add_row(*row)
    return table
