"""The mean or the mode of a distribution, where it has one."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor


def mean_of(distribution: TorchDistribution) -> Tensor:
    """The mean; of a distribution that does not know it a draw, which has that mean."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample()


def mode_of(distribution: TorchDistribution) -> Tensor:
    """The mode; of a distribution that does not know it a draw."""
    try:
        return distribution.mode
    except NotImplementedError:
        return distribution.sample()
