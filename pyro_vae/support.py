"""The check at the door: do the data lie where the likelihood has a density?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .data import CHUNK, Rows, refuse

GREY = "pv.binarize(x) makes 0 and 1 of grey values, 'continuous_bernoulli' takes them as they are"
EDGE = "values at the very edge of the support need a small shift inwards, huge ones rescaling"


def check(rows: Rows, likelihood: Any, who: str, like: Tensor) -> None:
    """Check all data against the support of a likelihood, once, before anything is touched.

    Arguments:
        rows: The data.
        likelihood: A distribution over one row: batch shape ``()``, built without validation.
        who: The likelihood's name, for the message.
        like: A tensor with the dtype and device that the likelihood computes in.

    Raises:
        DataError: A value is not finite, outside the support, or where the density is zero or infinite; the message
            names row, column and value and says what to do.
    """
    cell = likelihood
    while hasattr(cell, "reinterpreted_batch_ndims"):
        cell = cell.base_dist
    for chunk in rows.chunks(max(1, CHUNK // rows.event_shape.numel())):
        x = rows.take(chunk, like=like)
        refuse(~x.isfinite(), x, rows, chunk, f"{who} needs finite numbers", "drop or impute these rows")
        needs, remedy = _advice(cell.support, x)
        refuse(~cell.support.check(x), x, rows, chunk, f"{who} needs {needs}", remedy)
        needs = "values of finite, positive density"
        refuse(~cell.log_prob(x).isfinite(), x, rows, chunk, f"{who} needs {needs}", EDGE)


def _advice(support: Any, x: Tensor) -> tuple[str, str]:
    """What a support needs, and what a user may do whose data are outside: by the kind of the support."""
    lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    kind = type(support).__name__.lstrip("_")
    if kind == "Boolean":
        return "0 or 1", GREY
    if kind == "IntegerGreaterThan":
        return "whole numbers from 0", "round counts, or use 'gamma' for amounts and 'normal' for signed numbers"
    if kind == "IntegerInterval":
        top = int(torch.as_tensor(upper).max())
        return f"whole numbers from 0 to {top}", "round, or build it with a larger total_count or categories"
    if kind == "Interval":
        low, high = float(torch.as_tensor(lower).min()), float(torch.as_tensor(upper).max())
        return f"numbers from {low:g} to {high:g}", "rescale the data"
    if kind.startswith("GreaterThan"):
        return "positive numbers", "shift or exponentiate them, or use 'normal' or 'student_t'"
    if kind == "Simplex":
        return "rows of positive numbers that sum to 1", "divide each row by its sum"
    return f"values in {support}", "transform the data, or choose another likelihood"
