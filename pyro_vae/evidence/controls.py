r"""Control variates: what is known of a mixture takes off a part of the error of its weights.

Where weights are :math:`w = p(x, u) / m(u)` under a mixture m of known densities, the ratios
:math:`h_j = q_j(u) / m(u) - 1` have the mean 0, and what they explain of the weights is taken off
by least squares (Owen & Zhou, 2000, https://doi.org/10.1080/01621459.2000.10473909). So the error
is about that of the best component by itself, as if the other draws had not been made.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONTROLS = 2
PRODUCTS = ((0, 0), (0, 1), (1, 1))  # of two of them
SUMS = CONTROLS + len(PRODUCTS)
LEAST_DRAWS = 100  # below, few come from the prior, and slopes fit the noise
LEAST = 0.5  # of the estimate that is left: else the fit is no good


def summed(controls: Tensor | None, share: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of control variates ``(K, 2, N)`` and of their products, ``(5, N)``, and their means
    under the shares ``(K, N)`` of the weights, ``(2, N)``; 0 where there are none.
    """
    if controls is None:
        return share.new_zeros(SUMS, share.shape[1]), share.new_zeros(CONTROLS, share.shape[1])
    products = [(controls[:, i] * controls[:, j]).sum(0) for i, j in PRODUCTS]
    explained = (share.nan_to_num()[:, None] * controls).sum(0)
    return torch.cat([controls.sum(0), torch.stack(products)]), explained


def adjusted(
    sums: Tensor, explained: Tensor, num: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """The factor of the mean weight, and the share of the variance that is left.

    Arguments:
        sums: What :func:`summed` gave, over all draws.
        explained: The same.
        num: The number of draws, of shape ``(N,)``.
        variance: The variance of the weights over their squared mean, of shape ``(N,)``.

    Returns:
        Both of shape ``(N,)``, 1 where there are no control variates, or they are of no use.
    """
    num = num.clamp(min=1)
    mean = sums[:CONTROLS] / num
    second = torch.stack([sums[CONTROLS + j] for j in (0, 1, 1, 2)]) / num
    covariance = second.unflatten(0, (CONTROLS, CONTROLS)) - mean[:, None] * mean
    together = (explained - mean).T[..., None]
    inverse = torch.linalg.pinv(covariance.permute(2, 0, 1), rtol=1e-8, hermitian=True)
    slope = inverse @ together

    factor = 1 - (slope[..., 0] * mean.T).sum(-1)
    share = 1 - (slope * together).sum((-2, -1)) / variance
    share = share.clamp(min=0) * (num - 1) / (num - 1 - CONTROLS)  # so many slopes are fitted
    usable = (factor > LEAST) & (factor < 1 / LEAST) & (share < 1) & (num >= LEAST_DRAWS)
    one = torch.ones_like(factor)
    return torch.where(usable, factor, one), torch.where(usable, share, one)
