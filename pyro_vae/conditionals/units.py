"""The units of data: a family whose parameters are read starts at the data's location and scale.

.. math:: x = \\mathrm{center} + \\mathrm{unit} \\cdot x'

The numbers that a context gives are those of :math:`x'`, and the density is that of x, on the
data's own scale. So training begins where it would on standardised data, whatever the columns are
measured in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.rows import Rows

DIGITS = 6  # of a unit, as a spec writes it

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


def moved(value: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """A location: of x' it becomes that of x."""
    return torch.addcmul(center, unit, value)


def scaled(value: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """A scale."""
    return unit * value


def scaled_rows(value: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """A matrix with a row for each number of x."""
    return unit.unsqueeze(-1) * value


def squared(value: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """A variance."""
    return unit.square() * value


def divided(value: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """A rate."""
    return value / unit


def shifted(value: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """The logarithm of a scale."""
    return value + unit.log()


def mean_and_sd(x: Rows) -> dict[str, Any]:
    """Center and unit of real numbers."""
    return _written(*x.moments())


def mean_and_sd_of_logarithms(x: Rows) -> dict[str, Any]:
    """Center and unit of the logarithms of positive numbers."""
    return _written(*_logarithms(x).moments())


def mean(x: Rows) -> dict[str, Any]:
    """The unit of positive numbers: their mean."""
    return _written(None, x.moments()[0])


def mean_above_zero(x: Rows) -> dict[str, Any]:
    """The unit of numbers with zeros that say nothing of the others: the mean of these."""
    return _written(None, x.mapped(lambda v: torch.where(v == 0, torch.nan, v)).moments()[0])


def root_mean_square(x: Rows) -> dict[str, Any]:
    """The unit of numbers that spread about 0."""
    center, sd = x.moments()
    return _written(None, torch.hypot(center, sd))


def geometric_mean(x: Rows) -> dict[str, Any]:
    """The unit of numbers with very heavy tails, whose mean says little."""
    return _written(None, _logarithms(x).moments()[0].exp())


@dataclass(frozen=True)
class Units:
    """How a family takes center and unit.

    Arguments:
        of: Center and unit of data, as arguments of the family: lists of the event shape.
        rules: How a parameter of x follows from that of x', by name.
    """

    of: Callable[[Rows], dict[str, Any]]
    rules: Mapping[str, Rule]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments that the family takes for them."""
        return ("unit",) if self.have_rates else ("center", "unit")

    @property
    def have_rates(self) -> bool:
        """Whether the family is of counts or amounts, whose rate an exposure can multiply."""
        return not self.locations

    @property
    def locations(self) -> set[str]:
        """The parameters that move with the center."""
        return {name for name, rule in self.rules.items() if rule is moved}

    def multiplied(
        self, values: dict[str, Any], exposure: Tensor, event_shape: torch.Size
    ) -> dict[str, Any]:
        """Parameters at an exposure of shape ``(N,)``: that of each datum is one more unit."""
        unit = exposure.reshape(exposure.shape + (1,) * len(event_shape))
        changed = {
            name: rule(values[name], torch.zeros_like(unit), unit)
            for name, rule in self.rules.items()
        }
        return values | changed


class InUnits(nn.Module):
    """Maps the parameters of x' to those of x.

    Arguments:
        units: How the family takes center and unit.
        event_shape: The shape of one draw.
        unit: The unit of each element; one number for all.
        center: The center of each element; one number for all.

    Raises:
        ValueError: They are not finite, of another shape, or a unit is not above 0.
    """

    unit: Tensor
    center: Tensor

    def __init__(
        self, units: Units, event_shape: torch.Size, unit: Any = 1.0, center: Any = 0.0
    ) -> None:
        super().__init__()
        self.rules = units.rules
        self.register_buffer("unit", in_shape("unit", unit, event_shape))
        self.register_buffer("center", in_shape("center", center, event_shape))
        if not bool((self.unit > 0).all()):
            raise ValueError(f"unit must be above 0; got {unit!r:.60}")

    def forward(self, name: str, value: Tensor) -> Tensor:
        """The parameter of this name, where the context gave `value`."""
        rule = self.rules.get(name)
        return value if rule is None else rule(value, self.center, self.unit)


def in_shape(name: str, value: Any, shape: torch.Size) -> Tensor:
    """A center or a unit as a tensor of the event shape.

    Raises:
        ValueError: It is not finite, or of another shape.
    """
    try:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach()
        tensor = tensor.expand(shape).clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name} must be a number, or numbers of shape {tuple(shape)}; got {value!r:.60}"
        ) from None
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite; got {value!r:.60}")
    return tensor


def location_and_scale(of: Callable[[Rows], dict[str, Any]] = mean_and_sd) -> Units:
    """Those of families with parameters ``loc`` and ``scale``."""
    return Units(of, {"loc": moved, "scale": scaled})


def _logarithms(x: Rows) -> Rows:
    """The logarithms of the absolute values, NaN for zeros."""
    return x.mapped(lambda values: torch.where(values == 0, torch.nan, values.abs().log()))


def _written(center: Tensor | None, unit: Tensor) -> dict[str, Any]:
    """Center and unit with as many digits as they need; 0 and 1 where data have none."""
    unit = torch.where(unit.isfinite() & (unit > 0), unit, 1.0)
    units = [float(f"{one:.{DIGITS}g}") for one in unit.flatten().tolist()]
    written = {"unit": _in_shape(units, unit.shape)}
    if center is None:
        return written
    known = torch.where(center.isfinite(), center, 0.0).flatten().tolist()
    places = [DIGITS - 1 - math.floor(math.log10(one)) for one in units]
    centers = [round(one, place) for one, place in zip(known, places, strict=True)]
    return {"center": _in_shape(centers, unit.shape), **written}


def _in_shape(numbers: list[float], shape: torch.Size) -> Any:
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape).tolist()
