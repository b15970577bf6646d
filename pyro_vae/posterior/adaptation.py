r"""Warm-up of HMC: a step size and a scale for each datum, found from its own chains.

The step size follows the acceptance by dual averaging (Hoffman & Gelman, 2014,
https://arxiv.org/abs/1111.4246). The scale is the Cholesky factor of the covariance of the chains
so far. In whitened space a normal posterior decorrelates after a quarter of a period,
:math:`\pi / 2`: this is the mean length of a trajectory.
"""

from __future__ import annotations

import math

import torch
from pyro.ops.dual_averaging import DualAveraging
from torch import Tensor

LENGTH = math.pi / 2  # the mean length of a trajectory, in whitened space
MOST_STEPS = 64
RESCALED_AT = (0.1, 0.25, 0.5, 0.8)  # shares of the warm-up after which the chains give the scale


class Adaptation:
    """Step sizes, scales and the number of steps; they follow the chains during warm-up.

    Every datum takes the same number of steps, enough for nine in ten, and half of their chains, to
    go the whole length of a trajectory.

    Arguments:
        spread: The first guess at the standard deviations of each posterior, of shape ``(N, D)``.
        target_acceptance: The mean acceptance that the step sizes are tuned to.
        most_steps: The most steps of a trajectory.
        num_sizes: How many step sizes a datum has: one for each of so many chains, or one for all.
    """

    def __init__(
        self,
        spread: Tensor,
        target_acceptance: float,
        most_steps: int = MOST_STEPS,
        num_sizes: int = 1,
    ) -> None:
        self.target_acceptance, self.most_steps = target_acceptance, most_steps
        self.scale = torch.diag_embed(spread)
        self.step_size = spread.new_full((num_sizes, len(spread)), 0.5)
        self.num_steps = 4

    def start(self, warmup: int) -> None:
        """Begin a warm-up of so many transitions."""
        self._rescaled_at = {math.ceil(share * warmup) for share in RESCALED_AT}
        self._warmup, self._count = warmup, 0
        self._seen: list[Tensor] = []
        self._restart()

    def update(self, position: Tensor, acceptance: Tensor) -> None:
        """Take in one transition: positions ``(K, N, D)`` and acceptances ``(K, N)``.

        After the warm-up it changes nothing.
        """
        if self._count == self._warmup:
            return
        self._count += 1
        self._seen.append(position)
        if len(self.step_size) == 1:
            acceptance = acceptance.mean(0, keepdim=True)
        self._averaging.step(self.target_acceptance - acceptance)
        ahead, averaged = self._averaging.get_state()
        self.step_size = ahead.exp()

        if self._count in self._rescaled_at:
            self.scale = covariance_factor(torch.cat(self._seen), self.scale)
            self._seen = []
            self._settle(averaged.exp())
            self._restart()
        elif self._count == self._warmup:
            self._settle(averaged.exp())

    def _restart(self) -> None:
        """Dual averaging from the step size that is."""
        self._averaging = DualAveraging(prox_center=self.step_size.log())

    def _settle(self, step_size: Tensor) -> None:
        """As many steps as most need for a trajectory; none goes further, and others less far."""
        needed = (LENGTH / step_size).median(0).values.quantile(0.9)
        self.num_steps = int(needed.ceil().clamp(1, self.most_steps))
        self.step_size = step_size.clamp(max=LENGTH / self.num_steps)


def covariance_factor(draws: Tensor, before: Tensor) -> Tensor:
    """The Cholesky factor of the covariance of draws ``(S, N, D)``, shrunk towards its diagonal
    where they are few.
    """
    num, size = len(draws), draws.shape[-1]
    centred = draws - draws.mean(0)
    covariance = torch.einsum("sni,snj->nij", centred, centred) / max(num - 1, 1)
    variance = covariance.diagonal(dim1=-2, dim2=-1)

    share = num / (num + 5.0 * size)
    shrunk = share * covariance + (1 - share) * torch.diag_embed(variance)

    factor, failed = torch.linalg.cholesky_ex(shrunk)
    stuck = (failed != 0) | ~factor.isfinite().all(-1).all(-1) | (variance <= 0).any(-1)
    return torch.where(stuck[:, None, None], before, factor)
