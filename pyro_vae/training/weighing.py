"""Weights of data in a loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor

from ..data.rows import DataError
from ..density.problem import Problem
from .objectives import Objective


def as_weights(given: Any, problem: Problem, elbo: ELBO) -> Tensor:
    """The weights of data, with a mean of 1.

    Raises:
        DataError: There is not one for each datum, or one is no number from 0, or all are 0.
        ValueError: The loss does not know weights.
    """
    takes = isinstance(elbo, Objective) and elbo.is_direct and type(elbo).takes_weights
    takes = takes and type(elbo).evaluate.__module__ == Objective.__module__  # and no other's
    if not takes or problem.vae is None:
        raise ValueError(
            f"weights count in elbo, mean_field, iwae and renyi of continuous latents; got "
            f"{type(elbo).__name__}; use one of these, or repeat data instead of weighing them"
        )
    like = problem.vae.reference
    try:
        values = given if isinstance(given, Tensor) else np.array(given, dtype=float)
        found = torch.as_tensor(values, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"weights must be numbers; got {given!r:.60}") from None
    if found.shape != (len(problem),):
        raise DataError(
            f"weights must have shape ({len(problem)},), one for each datum; got "
            f"{tuple(found.shape)}"
        )
    bad = ~(found.isfinite() & (found >= 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(f"weights must be numbers from 0; got {float(found[row])} at row {row}")
    if not bool(found.any()):
        raise DataError("weights must not all be zero; got nothing to train on")
    found = found / found.max()  # whose sum is a number
    return (found / found.mean()).to(like)
