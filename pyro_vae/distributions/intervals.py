"""Intervals as supports: with ends that may be infinite, of angles, and with probability at the
ends.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions.transforms import identity_transform

ROUNDING = torch.finfo(torch.float32).eps  # of an end, or of a value that was to be that end


class Between(constraints.interval):
    """Numbers between two ends, each of which may be infinite.

    An end and a value there may have been rounded to single precision, the one without the other.
    """

    def check(self, value: Tensor) -> Tensor:
        """Whether a value lies inside, up to this rounding."""
        low, high = self.ends
        below = value < low - ROUNDING * low.abs()
        above = value > high + ROUNDING * high.abs()
        return ~(below | above | value.isnan())

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Both ends as tensors."""
        low, high = map(torch.as_tensor, (self.lower_bound, self.upper_bound))
        return low, high

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lower_bound}, {self.upper_bound})"


class Circle(Between):
    """Angles in radians, of one turn."""

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)


class WithAtoms(Between):
    """Numbers between two ends, of which each finite one has a probability of its own.

    Such a single point is an atom: its probability stands beside a density, and has no common scale
    with it. No latent lives here, so there is no map from real numbers.
    """

    def atoms(self, event_shape: torch.Size) -> list[tuple[float, ...]]:
        """The atoms of each element of an event."""
        ends = torch.stack([_of_event(end, event_shape) for end in self.ends], -1)
        return [tuple(filter(math.isfinite, of_one)) for of_one in ends.tolist()]

    def at_ends(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a value is the lower end, and whether it is the upper one."""
        low, high = self.ends
        return value <= low + ROUNDING * low.abs(), value >= high - ROUNDING * high.abs()


circle = Circle()
amounts = WithAtoms(0.0, math.inf)
shares = WithAtoms(0.0, 1.0)


def _of_event(end: Tensor, event_shape: torch.Size) -> Tensor:
    """What a whole batch of events has in common, one number for each element."""
    shape = torch.broadcast_shapes(end.shape, event_shape)
    return end.double().expand(shape).reshape(-1, event_shape.numel())[0]


@biject_to.register(Between)
def _to_between(support: Any) -> Transform:
    low, high = support.ends
    if bool(low.isinf().all() and high.isinf().all()):
        return identity_transform
    if bool(high.isinf().all() and low.isfinite().all()):
        return biject_to(constraints.greater_than(low))
    if bool(low.isinf().all() and high.isfinite().all()):
        return biject_to(constraints.less_than(high))
    if bool(low.isinf().any() or high.isinf().any()):
        raise NotImplementedError("some elements have infinite ends, and others finite ones")
    return biject_to(constraints.interval(low, high))


@biject_to.register(Circle)
def _to_circle(support: Any) -> Transform:
    return biject_to(constraints.interval(support.lower_bound, support.upper_bound))
