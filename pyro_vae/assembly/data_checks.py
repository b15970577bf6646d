"""The check at the door: do the data lie where the likelihood has a density?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..data.arrays import with_c
from ..data.refusals import refuse
from ..data.rows import DataError, Rows
from ..distributions.intervals import Circle, WithAtoms
from ..distributions.supports import base_of, innermost, inside
from ..guards import mode, seeded
from .base import UNCONDITIONAL, Assembly

PRECISIONS = (torch.float32, torch.float64)
EPS = torch.finfo(torch.float32).eps
MERGED = 1e-3  # of the range of a cell, that rounding may move it by
EDGE = (
    "values at the very edge of the support need a small shift inwards, or a family with "
    "probability there ('zero_inflated_gamma', 'tweedie', 'ordered_beta'), huge ones rescaling"
)
# Kind of support, what it needs, what to do with data outside.
ADVICE: list[tuple[Any, str, str]] = [
    (
        type(constraints.boolean),
        "0 or 1",
        "pv.binarize(x) makes 0 and 1 of grey values, 'continuous_bernoulli' takes them as they "
        "are",
    ),
    (
        type(constraints.nonnegative_integer),
        "whole numbers from 0",
        "round counts, or use 'gamma' for amounts and 'normal' for signed numbers",
    ),
    (
        constraints.integer_interval,
        "whole numbers from {low:g} to {high:g}",
        "round, or build it with a larger total_count or categories",
    ),
    (
        WithAtoms,
        "numbers from {low:g} to {high:g}, ends included",
        "rescale the data, or where the family has limits move low and high",
    ),
    (
        Circle,
        "angles in radians from -pi to pi",
        "numpy.angle(numpy.exp(1j * x)) wraps them, after numpy.deg2rad(x) of degrees",
    ),
    (constraints.interval, "numbers from {low:g} to {high:g}", "rescale the data"),
    (
        (type(constraints.positive), type(constraints.nonnegative)),
        "positive numbers",
        "shift or exponentiate them, or use 'normal' or 'student_t'",
    ),
    (
        type(constraints.simplex),
        "rows of positive numbers that sum to 1",
        "divide each row by its sum",
    ),
    (object, "values in its support", "transform the data, or choose another likelihood"),
]


def check(vae: Assembly, x: Any, c: Any, *, unknown: bool = False) -> Rows:
    """Data that lie where the likelihood has a density, and c that fits the condition, as rows.

    All data are read once, before anything is touched. Classes may be NaN if they may be `unknown`.

    Raises:
        DataError: A value is infinite, missing where that cannot be, outside the support, or where
            the density is zero or infinite; the message names row, column and value and says what
            to do.
        TypeError: A parameter is in half precision.
        ValueError: A parameter of the VAE is not finite, or c is given to a VAE without condition.
    """
    for name, parameter in vae.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in PRECISIONS:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise TypeError(
                f"a VAE needs parameters in single or double precision; got {name} in {kind}; "
                "vae.float() brings them back, and torch.autocast runs networks in bfloat16"
            )
        if not bool(parameter.isfinite().all()):
            raise ValueError(
                f"the parameter {name} of the VAE is not finite; build or load it again"
            )

    x, c = (x, c) if vae.condition is None else with_c(x, c)
    rows = vae.rows_of(x)
    if vae.condition is None and c is not None:
        raise ValueError(UNCONDITIONAL)
    checked = None if vae.condition is None else vae.condition.check(c, len(rows), unknown=unknown)
    rows = rows.given(checked)  # of our own: a caller's are left as they are

    with torch.no_grad(), seeded(0), mode(vae, training=False), pyro.validation_enabled(False):
        zeros = vae.encoded_zeros()
        likelihood = vae.likelihood_of(vae.prior_of(zeros).sample(), zeros)
        _check_values(rows, likelihood, vae.likelihood.title, vae.reference)
    return rows


def _check_values(rows: Rows, likelihood: Any, who: str, like: Tensor) -> None:
    """Raise for the first value without a density, by a likelihood over one row."""
    cell, seen = innermost(likelihood), False
    extremes = _Extremes()
    for chunk, x in rows.scan(like):
        infinite = f"{who} needs finite numbers"
        refuse(x.isinf(), x, rows, chunk, infinite, "drop these rows, or write NaN for missing")
        extremes.add(x)
        missing = x.isnan()
        seen = seen or not bool(missing.all())
        if cell.event_shape == ():
            x = torch.where(missing, inside(cell.support, x), x)
        else:
            needs = f"{who} needs rows without missing cells, as its cells depend on each other"
            refuse(missing, x, rows, chunk, needs, "drop or impute these rows")
        for outside, support in _outside(cell.support, x):
            needs, remedy = _advice(support)
            refuse(outside, x, rows, chunk, f"{who} needs {needs}", remedy)
        without = ~cell.log_prob(x).isfinite()
        refuse(without, x, rows, chunk, f"{who} needs values of finite, positive density", EDGE)
    if not seen:
        raise DataError(f"{who} needs data; every cell is missing (NaN)")
    _refuse_what_rounding_merges(rows, extremes, who, like)


class _Extremes:
    """The smallest and the largest value of each cell, NaN left out."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, x: Tensor) -> None:
        low, high = x.nan_to_num(math.inf).amin(0), x.nan_to_num(-math.inf).amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def spread_and_size(self) -> tuple[Tensor, Tensor]:
        """How far values are apart, and how large they are."""
        assert self.low is not None
        assert self.high is not None
        low, high = self.low.double(), self.high.double()
        return (high - low).clamp(min=0), torch.maximum(low.abs(), high.abs())


def _refuse_what_rounding_merges(rows: Rows, found: _Extremes, who: str, like: Tensor) -> None:
    """Raise for a cell that varies by little beside its size, such as a time in seconds since 1970:
    single precision cannot tell its values apart.
    """
    spread, size = found.spread_and_size()
    suspicious = EPS * size > MERGED * spread
    if like.dtype == torch.float64 or not rows.is_fixed or not bool(suspicious.any()):
        return
    double, exact = torch.empty(0, dtype=torch.float64), _Extremes()
    moved = torch.zeros_like(spread)
    for chunk in rows.chunks():
        x = rows.take(chunk, double)
        exact.add(x)
        rounding = (x.to(like.dtype).double() - x).abs().nan_to_num(0.0)
        moved = torch.maximum(moved, rounding.amax(0).to(moved.device))
    spread = exact.spread_and_size()[0].to(moved.device)
    for cell in ((spread > 0) & (moved > MERGED * spread)).nonzero().tolist():
        at = tuple(cell)
        raise DataError(
            f"{who} needs values that single precision can tell apart; got in {rows.name_of(at)} "
            f"values {float(spread[at]):.3g} apart at most, which rounding moves by up to "
            f"{float(moved[at]):.2g}; subtract their mean, or compute in double precision "
            "(vae.double(), or torch.set_default_dtype(torch.float64) before the VAE is built)"
        )


def _outside(support: Any, x: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """What lies outside a support; where columns have supports of their own, for one after the
    other.
    """
    for columns, part in getattr(support, "blocks", [(..., support)]):
        good = part.check(x[..., columns])
        outside = torch.zeros(x.shape[: good.dim()], dtype=torch.bool, device=x.device)
        outside[..., columns] = ~good
        yield outside, part


def _advice(support: Any) -> tuple[str, str]:
    """What a support needs, and what a user may do whose data are outside."""
    base = base_of(support)
    _, needs, remedy = next(entry for entry in ADVICE if isinstance(base, entry[0]))
    low, high = (
        torch.as_tensor(getattr(base, name, 0.0)) for name in ("lower_bound", "upper_bound")
    )
    return needs.format(low=float(low.min()), high=float(high.max())), remedy
