r"""The optimal bridge between two densities, from draws of both.

The estimate r of a normalising constant solves, with :math:`l = p(u) / q(u)` and shares :math:`s_1
+ s_2 = 1` of draws,

.. math::

    r = \frac{\frac1{N_2} \sum_{u \sim q} l(u) / (s_1 l(u) + s_2 r)}
             {\frac1{N_1} \sum_{u \sim p} 1 / (s_1 l(u) + s_2 r)}

(Meng & Wong, 1996, https://www.jstor.org/stable/24306045): both averages are of bounded terms. The
standard error is that of Frühwirth-Schnatter (2004,
https://doi.org/10.1111/j.1368-423X.2004.00125.x), with the effective number of posterior draws.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pareto import khat, khat_limit
from .weights import from_blocks

MOST_ROUNDS = 1000
CLOSE = 1e-10  # nats between two rounds
EQUAL = 0.9  # the share of effective terms above which they are nearly equal
ALLOWED = 3.0  # standard errors that importance sampling may be above
HARMLESS = 0.5  # a k-hat with which the variance exists


def bridged(posterior: Tensor, guide: Tensor) -> dict[str, Tensor]:
    """Normalising constants from log p - log q at draws of p, ``(chain, draw, N)``, and of q, ``(K,
    N)``: the estimate, its error, the effective number of draws of p, and the Pareto shape of the
    terms above or below the line, whichever is larger, each ``(N,)``; and whether importance
    sampling from q alone refutes it: then the draws of p are of another density, or miss a part.
    """
    ess = effective_size(posterior, "bulk")
    flat, num = posterior.flatten(0, 1), len(guide)
    log_shares = (ess / (ess + num)).log(), (num / (ess + num)).log()
    log_r = guide.logsumexp(0) - math.log(num)

    for _ in range(MOST_ROUNDS):
        before = log_r
        above, below = _bridge(flat, guide, log_r, log_shares)
        log_r = (above.logsumexp(0) - math.log(num)) - (below.logsumexp(0) - math.log(len(flat)))
        if not bool(((log_r - before).abs() > CLOSE).any()):
            break

    above, below = _bridge(flat, guide, log_r, log_shares)
    shape = torch.maximum(_shape(above), _shape(below))
    above, below = (above - above.amax(0)).exp(), (below - below.amax(0)).exp()
    independent = effective_size(below.reshape(posterior.shape), "mean")
    error = (
        above.var(0) / above.mean(0) ** 2 / num + below.var(0) / below.mean(0) ** 2 / independent
    )
    se = error.sqrt()
    refuted = _refuted(guide, log_r, se)
    return {"log_evidence": log_r, "se": se, "ess": ess, "khat": shape, "refuted": refuted}


def _refuted(guide: Tensor, log_r: Tensor, se: Tensor) -> Tensor:
    """Whether importance sampling by draws of q, where its weights can be trusted, says that there
    is more. Where it says less it may have missed a tail, and refutes nothing.

    Both use the same draws of q, so their difference is smaller than the error of the former.
    """
    by_guide = from_blocks([guide], torch.finfo(guide.dtype).eps)
    rounding = 100 * torch.finfo(torch.float32).eps * log_r.abs().clamp(min=1)
    allowed = ALLOWED * torch.maximum(by_guide.se, se) + rounding
    above = by_guide.log_evidence - log_r > allowed
    return above & (by_guide.khat <= khat_limit(by_guide.num))


def _shape(log_terms: Tensor) -> Tensor:
    """The Pareto shape of terms ``(K, N)``; at most 0.5 where they are nearly equal: terms are
    bounded, and a few of them that stand out do no harm then.
    """
    effective = 2 * log_terms.logsumexp(0) - (2 * log_terms).logsumexp(0)
    equal = effective > math.log(EQUAL * len(log_terms))
    shape = khat(log_terms)
    return torch.where(equal, shape.clamp(max=HARMLESS), shape)


def _bridge(
    posterior: Tensor, guide: Tensor, log_r: Tensor, log_shares: Any
) -> tuple[Tensor, Tensor]:
    """The logs of the terms above and below the line."""
    ours, theirs = log_shares[0], log_shares[1] + log_r
    return guide - torch.logaddexp(ours + guide, theirs), -torch.logaddexp(ours + posterior, theirs)


def effective_size(draws: Tensor, method: str) -> Tensor:
    """The effective sample size of draws ``(chain, draw, N)``, by ArviZ.

    Constant draws count as all independent.
    """
    from arviz_stats.base import array_stats

    values = draws.numpy(force=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(array_stats.ess(values, chain_axis=0, draw_axis=1, method=method))
    return torch.as_tensor(found)
