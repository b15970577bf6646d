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
    if not takes_weights(elbo) or problem.vae is None:
        raise ValueError(
            f"weights count in elbo, mean_field, iwae and renyi of continuous latents; got "
            f"{type(elbo).__name__}; use one of these, or repeat data instead of weighing them"
        )
    found = numbers_of(given, len(problem))
    bad = ~(found.isfinite() & (found >= 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(f"weights must be numbers from 0; got {float(found[row])} at row {row}")
    if not bool(found.any()):
        raise DataError("weights must not all be zero; got nothing to train on")
    found = found / found.max()  # whose sum is a number
    return (found / found.mean()).to(problem.vae.reference)


def numbers_of(given: Any, num: int) -> Tensor:
    """One number for each datum, in double precision.

    Raises:
        DataError: They are none, or not as many.
    """
    try:
        values = given if isinstance(given, Tensor) else np.array(given, dtype=float)
        found = torch.as_tensor(values, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"weights must be numbers; got {given!r:.60}") from None
    if found.shape != (num,):
        raise DataError(
            f"weights must have shape ({num},), one for each datum; got {tuple(found.shape)}"
        )
    return found


def takes_weights(elbo: ELBO) -> bool:
    """Whether the class whose formula it is says so; another formula may forget them."""
    if not isinstance(elbo, Objective) or not elbo.is_direct:
        return False
    owner = next(part for part in type(elbo).__mro__ if "evaluate" in vars(part))
    return bool(vars(owner).get("takes_weights", False))
