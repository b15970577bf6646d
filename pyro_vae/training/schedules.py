"""Weights and rates that change with the epoch."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

Schedule = float | Callable[[float], float]


def linear_warmup(epochs: float, end: float = 1.0) -> Callable[[float], float]:
    """A weight that rises from 0 to `end` over the first `epochs`, for ``fit(...,
    beta=linear_warmup(10))``.

    Arguments:
        epochs: How long it rises; 0 for not at all.
        end: The weight from then on.

    Raises:
        ValueError: `epochs` or `end` is no number from 0.
    """
    _from_zero("linear_warmup", epochs=epochs, end=end)
    return lambda epoch: end * (min(1.0, epoch / epochs) if epochs > 0 else 1.0)


def cyclical_warmup(period: float, ramp: float = 0.5, end: float = 1.0) -> Callable[[float], float]:
    """A weight that rises from 0 to `end` and starts again.

    Arguments:
        period: After how many epochs it starts again.
        ramp: The share of a period in which it rises.
        end: The weight in the rest of the period.

    Raises:
        ValueError: `period` or `ramp` is not above 0, or `end` is no number from 0.

    References:
        | Cyclical annealing schedule: mitigating KL vanishing (Fu et al., 2019)
        | https://arxiv.org/abs/1903.10145
    """
    _from_zero("cyclical_warmup", period=period, ramp=ramp, end=end)
    if not (period > 0 and ramp > 0):
        raise ValueError(
            f"cyclical_warmup needs period and ramp above 0; got {period!r} and {ramp!r}"
        )
    return lambda epoch: end * min(1.0, (epoch % period) / (ramp * period))


def _from_zero(who: str, **arguments: Any) -> None:
    """Raise for an argument that is no finite number from 0."""
    for name, value in arguments.items():
        if not _is_from_zero(value):
            raise ValueError(f"{who} needs {name} as a number from 0; got {value!r}")


def _is_from_zero(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf


def as_schedule(name: str, value: Schedule) -> Callable[[float], float]:
    """A function of the epoch whose every value is checked."""

    def checked(epoch: float) -> float:
        now = value(epoch) if callable(value) else value
        if not _is_from_zero(now):
            raise ValueError(
                f"{name} must be a number from 0, or a function of the epoch that gives one; got "
                f"{now!r}"
            )
        return float(now)

    checked(0.0)
    return checked
