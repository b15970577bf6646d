"""Rounding: where single precision loses what is asked for, densities are in double.

A log density of thousands of terms, or of large counts, is a sum of numbers much larger than
itself. What single precision loses of it is measured: some data are scored in both.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from ..guards import evaluating, seeded
from ..vae import VAE
from .problem import Problem

USUAL_TOLERANCE = 0.05  # nats, where nobody gives one
PROBES = 64  # data
DRAWS = 2
SHARE = 0.1  # of the tolerance, that rounding may take


def precise(problem: Problem, tolerance: float) -> Problem:
    """The same problem, in double precision if a tenth of the tolerance would be lost otherwise.

    It is a copy of the VAE with the same parameters that then computes, in about twice the time.
    Of a pair of Pyro functions there is no copy: it stays as it is. So does a VAE that cannot be
    copied, or whose parts compute in single precision only.
    """
    vae = problem.vae
    if vae is None or problem.like is None or problem.like.dtype != torch.float32:
        return problem
    try:
        double = _in_double(problem, vae)
        lost = _lost(problem, double)
    except Exception:
        return problem  # a part of the user's own that cannot be copied, or computes in single only
    return double if lost > SHARE * min(tolerance, USUAL_TOLERANCE) else replace(problem, lost=lost)


def _in_double(problem: Problem, vae: VAE) -> Problem:
    double = copy.deepcopy(vae).double()
    return replace(
        problem, model=double.model, guide=double.guide, like=double.reference, vae=double
    )


def _lost(problem: Problem, double: Problem) -> float:
    """The largest difference of log p(x|z) between the two, in nats."""
    index = np.unique(np.linspace(0, len(problem) - 1, PROBES).astype(int))
    batch = double.batch(index)
    own = tuple(part.to(problem.like) for part in batch)
    with torch.no_grad(), seeded(0), evaluating(problem.model, double.model):
        single = problem.densities(own)
        values = single.draw(DRAWS).values
        rounded = single.log_model(values)[0].double()
        exact = double.densities(batch).log_model({n: z.double() for n, z in values.items()})[0]
    return float((rounded - exact).abs().nan_to_num(0.0, posinf=0.0).max())
