"""The progress bar of what may take long: on standard error, where that is a terminal."""

from __future__ import annotations

import time
from typing import Any

SHOWN_AFTER = 2.0  # seconds


class Progress:
    """How far one call has come, shown after two seconds.

    Arguments:
        title: What is counted.
        total: Up to where.
        shown: Whether a terminal shows it.
    """

    def __init__(self, title: str, total: int, *, shown: bool) -> None:
        self.begun = time.perf_counter()
        self.done = 0.0
        self.bar = _bar(title, total) if shown else None

    def update(self, done: float | None = None, said: str | None = None) -> None:
        """So much is done; what is being done."""
        self.done = self.done if done is None else done
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=int(self.done), description=said)
            if time.perf_counter() - self.begun > SHOWN_AFTER:
                self.bar.start()

    def advance(self, by: float = 1.0) -> None:
        """So much more is done."""
        self.update(self.done + by)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _bar(title: str, total: int) -> Any:
    """A bar that is not shown yet; none, if standard error is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = title, MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
    bar = Bar(*columns, Remaining(), console=console, transient=True)
    bar.add_task("", total=total)
    return bar
