r"""KL(q‖p) of the guide from the posterior, by whichever log p(x) can be trusted.

.. math:: \mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x)) = \log p(x) - \mathrm{ELBO}

From the weights of the guide's own draws both terms come at once, and the error is small where the
guide is good: it is that of the mean of :math:`w_k / \bar w - \log w_k` (the delta method). Where
it is bad, log p(x) is a lower bound, and so is the divergence. Draws of the posterior give log p(x)
by bridge sampling, however bad the guide.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..density.problem import Problem
from ..evidence.bridge import bridge_log_evidence
from ..evidence.pareto import khat

if TYPE_CHECKING:
    import xarray

FINITE_VARIANCE = 0.5  # the largest k-hat with which the error of the guide's own weights is one
AGREE = 4.0  # standard errors
ESTIMATE, AT_LEAST = "estimate", "at least"


def of_weights(log_weight: Tensor) -> dict[str, np.ndarray]:
    """The divergence of each datum, from log weights ``(K, N)`` of the guide's draws alone.

    Returns:
        ``kl`` in nats, its standard error ``kl_se``, and ``khat``.
    """
    shape = khat(log_weight)
    num_samples = len(log_weight)
    log_weight = log_weight.double()
    log_mean = log_weight.logsumexp(0) - math.log(num_samples)
    influence = (log_weight - log_mean).exp() - log_weight
    found = {
        "kl": log_mean - log_weight.mean(0),
        "kl_se": influence.std(0) / math.sqrt(num_samples),
        "khat": shape,
    }
    return {name: values.numpy(force=True) for name, values in found.items()}


def divergence(
    problem: Problem, posterior: xarray.DataTree, log_weight: Tensor, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The divergence of each datum, with draws of the posterior at hand.

    Returns:
        What :func:`of_weights` gives; and for each datum whether ``kl`` is an "estimate", or the
        divergence is "at least" that.
    """
    found = of_weights(log_weight)
    light = found["khat"] <= FINITE_VARIANCE
    bridge = _bridge(problem, posterior, seed)
    if bridge is None:
        return found, np.where(light, ESTIMATE, AT_LEAST)

    weights = log_weight.double()
    elbo_se = (weights.std(0) / math.sqrt(len(weights))).numpy(force=True)
    kl = bridge.log_evidence.values - weights.mean(0).numpy(force=True)
    error = np.hypot(bridge.se.values, elbo_se)
    usable = (bridge.flag == "").values
    agree = np.abs(kl - found["kl"]) <= AGREE * np.hypot(error, found["kl_se"])
    # both look right and disagree: chains, or guide, miss a mode, and log p(x) is the larger one
    torn = usable & light & ~agree
    better = usable & ~(light & agree & (found["kl_se"] <= error)) & ~(torn & (kl < found["kl"]))
    trusted = (better | (light & (agree | ~usable))) & ~torn
    found["kl"] = np.where(better, kl, found["kl"])
    found["kl_se"] = np.where(better, error, found["kl_se"])
    trusted &= found["kl"] >= -AGREE * found["kl_se"]
    return found, np.where(trusted, ESTIMATE, AT_LEAST)


def _bridge(problem: Problem, posterior: xarray.DataTree, seed: int) -> xarray.Dataset | None:
    """log p(x) by bridge sampling; none from too few draws, or with a guide that knows the density
    of its own draws only.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of flags, which are looked at
        try:
            return bridge_log_evidence(problem, posterior=posterior, seed=seed)
        except (TypeError, ValueError, NotImplementedError):
            return None
