"""The progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(epochs: int, progress: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar on standard error, where that is a terminal: epochs, rate, loss, time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        "epoch",
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("", total=epochs)
        began = time.perf_counter()

        def show(num_rows: int, row: dict[str, float]) -> None:
            rate = num_rows * (row["epoch"] + 1) / (time.perf_counter() - began)
            held_out = f", validation {row['validation']:.3f}" if "validation" in row else ""
            bar.update(
                task,
                completed=row["epoch"] + 1,
                description=f"loss {row['loss']:.3f}{held_out} nats, {rate:,.0f} data/s",
            )

        yield show
