"""The progress bar of what may take long: on standard error, where that is a terminal, and in a
notebook.
"""

from __future__ import annotations

import time
from typing import Any

SHOWN_AFTER = 2.0  # seconds


class Progress:
    """How far one call has come.

    Arguments:
        title: What is counted.
        total: Up to where.
        shown: Whether a terminal or a notebook shows it.
        stays: Whether it is shown at once and stays; else after two seconds, until the end.
    """

    def __init__(self, title: str, total: int, *, shown: bool, stays: bool = False) -> None:
        self.shown_from = time.perf_counter() + (-1.0 if stays else SHOWN_AFTER)
        self.done = 0.0
        self.bar = _bar(title, total, stays) if shown else None

    def update(self, done: float | None = None, said: str | None = None) -> None:
        """So much is done; what is being done."""
        self.done = self.done if done is None else done
        if self.bar is not None:
            self.bar.set(int(self.done), said)
            if time.perf_counter() > self.shown_from:
                self.bar.start()

    def advance(self, by: float = 1.0) -> None:
        """So much more is done."""
        self.update(self.done + by)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop(failed=error[0] is not None)


class TerminalBar:
    """A bar of rich on a terminal."""

    def __init__(self, title: str, total: int, stays: bool, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = title, MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
        self.bar = Progress(*columns, Remaining(), console=console, transient=not stays)
        self.task = self.bar.add_task("", total=total)

    def set(self, done: int, said: str | None) -> None:
        """So much is done; what is being done."""
        self.bar.update(self.task, completed=done, description=said)

    def start(self) -> None:
        """Show it."""
        self.bar.start()

    def stop(self, *, failed: bool) -> None:
        """Show how far it came, or nothing more."""
        self.bar.stop()


class NotebookBar:
    """A bar of tqdm in a notebook: a widget where there are ipywidgets, else text."""

    def __init__(self, title: str, total: int, stays: bool) -> None:
        self.options: dict[str, Any] = {"desc": title, "total": total, "leave": stays}
        self.bar: Any = None
        self.done = 0
        self.said = ""

    def set(self, done: int, said: str | None) -> None:
        """So much is done; what is being done."""
        self.done, self.said = done, self.said if said is None else said
        if self.bar is not None:
            self.bar.set_postfix_str(self.said, refresh=False)
            self.bar.update(self.done - self.bar.n)

    def start(self) -> None:
        """Show it."""
        if self.bar is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(**self.options)
            self.set(self.done, None)

    def stop(self, *, failed: bool) -> None:
        """Show how far it came, or nothing more; a widget stays where it failed, in red."""
        if self.bar is None:
            return
        self.bar.close()
        widget = getattr(self.bar, "container", None)
        if widget is not None and self.done < self.options["total"] and not failed:
            # to tqdm this went wrong; but patience may end, or the last steps not be needed
            widget.children[1].bar_style = "success"
            self.bar.disp(close=not self.options["leave"], check_delay=False)


def _bar(title: str, total: int, stays: bool) -> TerminalBar | NotebookBar | None:
    """A bar that is not shown yet; none, where nobody would see it."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        return NotebookBar(title, total, stays)
    return TerminalBar(title, total, stays, console) if console.is_terminal else None
