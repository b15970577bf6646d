"""The progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..progress import Progress


@contextmanager
def progress_bar(epochs: int, progress: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar for a terminal or a notebook: epochs, rate, loss, time left."""
    with Progress("epoch", epochs, shown=progress, stays=True) as bar:
        began = time.perf_counter()
        bar.update()

        def show(num_rows: int, row: dict[str, float]) -> None:
            rate = num_rows * (row["epoch"] + 1) / (time.perf_counter() - began)
            held_out = f", validation {row['validation']:.3f}" if "validation" in row else ""
            said = f"loss {row['loss']:.3f}{held_out} nats, {rate:,.0f} data/s"
            bar.update(row["epoch"] + 1, said)

        yield show
