"""What an estimate takes: seconds and draws by rung, a progress bar, and a limit on time."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Part = TypeVar("Part")
SHOWN_AFTER = 2.0  # seconds


class OutOfTime(Exception):
    """The time of a tile is over: the best so far is the answer."""


class Watch:
    """The clock of one call.

    Every tile may take its share of the time that is left, so that the last data are not left with
    nothing.

    Arguments:
        num_data: How many data there are.
        progress: Whether a terminal shows a progress bar, after two seconds.
        max_seconds: The most seconds; none for no limit.
    """

    def __init__(self, num_data: int, *, progress: bool, max_seconds: float | None) -> None:
        self.num_data, self.left = num_data, num_data
        self.begun = time.perf_counter()
        self.deadline = self.begun + (math.inf if max_seconds is None else max_seconds)
        self.until = self.deadline  # of the tile at hand
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.draws: Counter[str] = Counter()
        self.bar = _bar() if progress else None

    def begin(self, num: int) -> None:
        """A tile of so many data begins."""
        now = time.perf_counter()
        share = num / self.left
        self.left -= num
        if self.deadline < math.inf:
            self.until = now + max(0.0, self.deadline - now) * share

    @property
    def is_over(self) -> bool:
        """Whether the time of this tile is over."""
        return time.perf_counter() > self.until

    def tick(self) -> None:
        """Say that work goes on.

        Raises:
            OutOfTime: It must not.
        """
        if self.is_over:
            raise OutOfTime
        self._show()

    def _show(self) -> None:
        if self.bar is not None and time.perf_counter() - self.begun > SHOWN_AFTER:
            self.bar.start()

    def until_over(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The first of some parts of the work, and the others as long as there is time."""
        for number, part in enumerate(parts):
            if number and self.is_over:
                return
            self._show()
            yield part

    @property
    def has_ended(self) -> bool:
        """Whether the time of all data is over."""
        return time.perf_counter() > self.deadline

    @contextmanager
    def on(self, rung: str, num: int) -> Iterator[None]:
        """The work inside is that of a rung, for so many data."""
        begun = time.perf_counter()
        if self.bar is not None:
            done = self.num_data - self.left - num
            said = f"rung {rung}, {num} data"
            self.bar.update(
                self.bar.task_ids[0], completed=done, total=self.num_data, description=said
            )
        try:
            yield
        finally:
            self.seconds[rung] += time.perf_counter() - begun

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    @property
    def attrs(self) -> dict[str, float]:
        """Seconds and draws, in all and by rung."""
        found: dict[str, float] = {"seconds": time.perf_counter() - self.begun}
        for rung, seconds in self.seconds.items():
            found[f"seconds_{rung}"] = seconds
            found[f"draws_{rung}"] = self.draws[rung]
        return found


def _bar() -> Any:
    """A progress bar on standard error, if that is a terminal; it is not shown yet."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = "log p(x)", MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
    bar = Progress(*columns, Remaining(), console=console, transient=True)
    bar.add_task("")
    return bar
