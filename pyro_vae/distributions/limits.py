"""Normals with limits: truncated there, or censored."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.special import erfcx, log_ndtr, ndtr, ndtri

from .elements import Elements
from .intervals import Between, WithAtoms

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
ROOT_HALF = math.sqrt(0.5)
ROOT_HALF_PI = math.sqrt(0.5 * math.pi)
DEEP = -600.0  # log probabilities that are not inverted by way of the probability
NEWTON_STEPS = 5


class Limited(Elements):
    """A normal and two limits, each of which may be infinite."""

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.dependent,
        "high": constraints.dependent,
    }
    loc: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, *, validate_args: bool | None = None, **parameters: Tensor) -> None:
        super().__init__(validate_args=validate_args, **parameters)
        if validate_args and not bool((self.low < self.high).all()):
            raise ValueError("low must be below high")

    def standardized(self) -> tuple[Tensor, Tensor]:
        """Both limits in standard deviations from the location, in double precision. No gradient
        flows to an infinite one.
        """
        loc, scale = self.loc.double(), self.scale.double()
        low, high = (
            torch.where(limit.isinf(), limit, (_finite(limit) - loc) / scale)
            for limit in (self.low.double(), self.high.double())
        )
        return low, high


class TruncatedNormal(Limited):
    """A normal given that it lies between the limits. In double precision inside.

    All is counted from the point nearest to the location, so that nothing large cancels where the
    limits are far out in a tail.
    """

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return Between(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """Between the limits."""
        near, far, flipped = _to_the_left(*self.standardized())
        peak, mass = _from_peak(near, far)
        shift = (_relative(far, peak) - _relative(near, peak)) / mass
        mean = self.loc.double() + self.scale.double() * torch.where(flipped, -shift, shift)
        return self._between(mean)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``, by the inverse of the distribution
        function in the tail where it is small.
        """
        with torch.no_grad():
            near, far, flipped = _to_the_left(*self.standardized())
            uniform = self.uniform(sample_shape, near)
            log_near = log_ndtr(near)
            share = (log_ndtr(far) - log_near).exp()
            drawn = _inverse_log_ndtr(log_near + (uniform + (1 - uniform) * share).log())
            return self._between(self.loc + self.scale * torch.where(flipped, -drawn, drawn))

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element."""
        if self._validate_args:
            self._validate_sample(value)
        near, far, flipped = _to_the_left(*self.standardized())
        peak, mass = _from_peak(near, far)
        center = torch.where(peak < 0, torch.where(flipped, self.low, self.high), self.loc)
        away = (value.double() - center.double()) / self.scale.double()
        away = torch.where(flipped, -away, away)  # from the peak; with it x = away + peak
        found = -0.5 * away * (away + 2 * peak) - self.scale.double().log() - mass.log()
        return found.to(self.loc.dtype)

    def _between(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x.to(self.loc.dtype), self.low), self.high)


class CensoredNormal(Limited):
    """A normal of which a value beyond a limit is seen as that limit."""

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return WithAtoms(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """Of what is seen."""
        low, high = self.standardized()
        within = self.loc.double() * (ndtr(high) - ndtr(low))
        slope = self.scale.double() * (_log_density(low).exp() - _log_density(high).exp())
        ends = _finite(self.low) * ndtr(low) + _finite(self.high) * ndtr(-high)
        return (within + slope + ends).to(self.loc.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            drawn = self.loc + noise * self.scale
            return torch.minimum(torch.maximum(drawn, self.low), self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element: at a limit those of a probability, else of a density."""
        if self._validate_args:
            self._validate_sample(value)
        x = (value - self.loc) / self.scale
        between = _log_density(x) - self.scale.log()
        below, above = WithAtoms(self.low, self.high).at_ends(value)
        beyond = log_ndtr(torch.where(above, -x, x))
        return torch.where(below | above, beyond, between)


def _finite(limit: Tensor) -> Tensor:
    """Zero for a limit that is infinite."""
    return torch.where(limit.isinf(), 0.0, limit)


def _log_density(x: Tensor) -> Tensor:
    """Of a standard normal."""
    return -0.5 * x.square() - HALF_LOG_2PI


def _to_the_left(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The end nearer to 0, the other, and whether both were reflected, so that most of the interval
    lies to the left of 0: there the distribution function has all its digits.
    """
    flipped = low + high > 0
    return torch.where(flipped, -low, high), torch.where(flipped, -high, low), flipped


def _from_peak(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """Where a standard normal from far to near has its peak, and its mass in units of the density
    there.
    """
    peak = near.clamp(max=0)
    in_tail = ROOT_HALF_PI * erfcx(-peak * ROOT_HALF)
    whole = torch.where(near < 0, in_tail, 2 * ROOT_HALF_PI * ndtr(near))
    beyond = ROOT_HALF_PI * erfcx(-_finite(far) * ROOT_HALF) * _relative(far, peak)
    return peak, whole - beyond


def _relative(x: Tensor, peak: Tensor) -> Tensor:
    """The density at x in units of that at the peak."""
    near = torch.where(x.isinf(), peak - 1, x)  # no infinite gradient, not even of what is not used
    density = (0.5 * (peak - near) * (peak + near)).exp()
    return torch.where(x.isinf(), 0.0, density)


def _inverse_log_ndtr(target: Tensor) -> Tensor:
    """The standard normal quantiles of log probabilities.

    Far below, Newton's steps come from the left, where the logarithm is concave, so that none
    overshoots.
    """
    deep = target < DEEP
    x = -(-2 * torch.where(deep, target, DEEP)).sqrt()
    for _ in range(NEWTON_STEPS):
        x = x - (log_ndtr(x) - target) * (log_ndtr(x) - _log_density(x)).exp()
    return torch.where(deep, x, ndtri(target.exp()))
