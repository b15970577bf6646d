"""k-hat: whether importance weights have a tail too heavy to be averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KHAT_LIMIT = 0.7
TIED = 0.01  # in log weight: a tail that spans less is one of ties, and has no shape


def khat(log_weight: Tensor) -> Tensor:
    """The Pareto shape of the largest importance weights (PSIS, Vehtari et al., 2024).

    Arguments:
        log_weight: Log importance weights of shape ``(K, N)``.

    Returns:
        k-hat of shape ``(N,)``: below 0.7 the estimate can be trusted; -inf for weights that are
        equal up to rounding (a perfect guide), inf where the tail is beyond floating point, NaN for
        fewer than 25 weights or a weight that is NaN or inf.

    Raises:
        ValueError: The weights are no matrix of at least one sample.
    """
    if log_weight.dim() != 2 or len(log_weight) == 0:
        raise ValueError(f"khat needs log weights of shape (K, N); got {tuple(log_weight.shape)}")
    length = tail_length(len(log_weight))
    tail = log_weight.double().topk(min(len(log_weight), length + 1), dim=0).values
    return fit_tail(tail, length, torch.finfo(log_weight.dtype).eps)


def khat_limit(num_samples: Tensor) -> Tensor:
    """The largest k-hat with which the mean of so many weights can be trusted.

    That is 1 - 1 / log10 K and at most 0.7 (Vehtari et al., 2024, section 3.2.4), but not below
    0.5, where the variance exists.
    """
    return (1 - 1 / num_samples.double().log10()).clamp(0.5, KHAT_LIMIT)


def tail_length(num_samples: int) -> int:
    """How many of the weights are the tail."""
    return math.floor(3 * math.sqrt(num_samples)) if num_samples > 225 else num_samples // 5


def fit_tail(descending: Tensor, length: int, precision: float) -> Tensor:
    """k-hat, shape ``(N,)``, from the largest log weights ``(length + 1, N)``, known to a relative
    `precision`.
    """
    if length < 5:
        return torch.full_like(descending[0], math.nan)
    rounding = 100 * precision * descending[0].abs().clamp(min=1)
    weights = torch.exp(descending - descending[0])
    excess = (weights[:-1] - weights[-1]).flip(0)
    shape = _generalized_pareto_shape(excess)

    spread = descending[0] - descending[-1]
    shape = torch.where(shape.isnan(), torch.where(spread < TIED, -math.inf, math.inf), shape)
    shape = torch.where(spread <= rounding, -math.inf, shape)
    return torch.where(descending[0].isfinite(), shape, math.nan)


def _generalized_pareto_shape(x: Tensor) -> Tensor:
    """The posterior mean of the shape k, given excesses of shape ``(T, N)`` in ascending order.

    Zhang & Stephens (2009, https://doi.org/10.1198/tech.2009.08017): a grid of values of b = k /
    sigma, weighted by their profile likelihood; then the prior of Vehtari et al. (2024, appendix
    C), ten observations of k = 0.5.
    """
    num = len(x)
    grid = torch.arange(1, 31 + math.isqrt(num), dtype=x.dtype, device=x.device)
    quartile = x[int(num / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - torch.sqrt(len(grid) / (grid - 0.5)))[:, None] / (3 * quartile)

    k = torch.stack([torch.log1p(-b_j * x).mean(0) for b_j in b])
    weight = torch.softmax(num * (torch.log(-b / k) - k - 1), dim=0)
    weight = torch.where(weight >= 10 * torch.finfo(x.dtype).eps, weight, 0.0)
    best = (b * weight).sum(0) / weight.sum(0)
    return (num * torch.log1p(-best * x).mean(0) + 5) / (num + 10)
