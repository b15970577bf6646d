"""The check at the door: do the data lie where the likelihood has a density?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ..data.rows import DataError, Rows, refuse
from ..distributions.supports import base_of, innermost, inside

EDGE = "values at the very edge of the support need a small shift inwards, huge ones rescaling"
ADVICE: list[
    tuple[Any, str, str]
] = [  # kind of support, what it needs, what to do with data outside
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


def check(rows: Rows, likelihood: Any, who: str, like: Tensor) -> None:
    """Check all data against the support of a likelihood, once, before anything is touched.

    Arguments:
        rows: The data.
        likelihood: A distribution over one row: batch shape ``()``, built without validation.
        who: The likelihood's name, for the message.
        like: A tensor with the dtype and device that the likelihood computes in.

    Raises:
        DataError: A value is infinite, missing where that cannot be, outside the support, or where
            the density is zero or infinite; the message names row, column and value and says what
            to do.
    """
    cell, seen = innermost(likelihood), False
    for chunk, x in rows.scan(like):
        refuse(
            x.isinf(),
            x,
            rows,
            chunk,
            f"{who} needs finite numbers",
            "drop these rows, or write NaN for missing",
        )
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
        refuse(
            ~cell.log_prob(x).isfinite(),
            x,
            rows,
            chunk,
            f"{who} needs values of finite, positive density",
            EDGE,
        )
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
