"""What an estimate takes: seconds and draws by rung, a progress bar, and a limit on time."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..progress import Progress

Part = TypeVar("Part")


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
        self.bar = Progress("log p(x)", num_data, shown=progress)
        self.ticks = 0.0  # data that one tick stands for

    def begin(self, num: int, ticks: int = 0) -> None:
        """A tile of so many data begins; it will tick so often."""
        self.bar.update(self.num_data - self.left)
        self.ticks = num / ticks if ticks else 0.0
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
        self.bar.advance(self.ticks)

    def until_over(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The first of some parts of the work, and the others as long as there is time."""
        for number, part in enumerate(parts):
            if number and self.is_over:
                return
            self.bar.advance(0)
            yield part

    @property
    def has_ended(self) -> bool:
        """Whether the time of all data is over."""
        return time.perf_counter() > self.deadline

    @contextmanager
    def on(self, rung: str, num: int) -> Iterator[None]:
        """The work inside is that of a rung, for so many data."""
        begun = time.perf_counter()
        self.bar.update(said=f"rung {rung}, {num} data")
        try:
            yield
        finally:
            self.seconds[rung] += time.perf_counter() - begun

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    @property
    def attrs(self) -> dict[str, float]:
        """Seconds and draws, in all and by rung."""
        found: dict[str, float] = {"seconds": time.perf_counter() - self.begun}
        for rung, seconds in self.seconds.items():
            found[f"seconds_{rung}"] = seconds
            found[f"draws_{rung}"] = self.draws[rung]
        return found
