"""The check at the door: do the data lie where the likelihood has a density?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..data.arrays import as_rows
from ..data.rows import DataError, Rows, refuse
from ..distributions.supports import base_of, innermost, inside
from ..guards import mode, seeded
from .base import UNCONDITIONAL, Assembly

EDGE = "values at the very edge of the support need a small shift inwards, huge ones rescaling"
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


def check(vae: Assembly, x: Any, c: Any) -> Rows:
    """Data that lie where the likelihood has a density, and c that fits the condition, as rows.

    All data are read once, before anything is touched.

    Raises:
        DataError: A value is infinite, missing where that cannot be, outside the support, or where
            the density is zero or infinite; the message names row, column and value and says what
            to do.
        ValueError: A parameter of the VAE is not finite, or c is given to a VAE without condition.
    """
    for name, parameter in vae.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(
                f"the parameter {name} of the VAE is not finite; build or load it again"
            )

    rows = as_rows(x, vae.likelihood.event_shape)
    if vae.condition is None and c is not None:
        raise ValueError(UNCONDITIONAL)
    checked = None if vae.condition is None else vae.condition.check(c, len(rows))
    rows = rows.given(checked)  # of our own: a caller's are left as they are

    with torch.no_grad(), seeded(0), mode(vae, training=False), pyro.validation_enabled(False):
        zeros = vae.encoded_zeros()
        likelihood = vae.likelihood_of(vae.prior_of(zeros).sample(), zeros)
        _check_values(rows, likelihood, vae.likelihood.title, vae.reference)
    return rows


def _check_values(rows: Rows, likelihood: Any, who: str, like: Tensor) -> None:
    """Raise for the first value without a density, by a likelihood over one row."""
    cell, seen = innermost(likelihood), False
    for chunk, x in rows.scan(like):
        infinite = f"{who} needs finite numbers"
        refuse(x.isinf(), x, rows, chunk, infinite, "drop these rows, or write NaN for missing")
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
