"""The mean or the mode of a distribution, where it has one."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from .pushed import Pushed


def mean_of(distribution: TorchDistribution) -> Tensor:
    """The mean; of a distribution that does not know it a draw, which has that mean.

    Many of them are averaged, over z: a thousand draws for each would be in vain.
    """
    if isinstance(distribution, Pushed):
        return distribution.sample()
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


def mean_or_mode(distribution: TorchDistribution) -> Tensor:
    """The mean; where it is not finite (classes, the heaviest tails), the mode."""
    mean = mean_of(distribution)
    known = mean.isfinite()
    return mean if bool(known.all()) else torch.where(known, mean, mode_of(distribution))


def mean_or_average(distribution: TorchDistribution, num_samples: int) -> Tensor:
    """The mean; where it is not known or not finite, the average of draws."""
    try:
        mean = distribution.mean
    except NotImplementedError:
        mean = math.nan * distribution.sample()
    known = mean.isfinite()
    if bool(known.all()):
        return mean

    average = sum(distribution.sample() for _ in range(num_samples)) / num_samples
    return torch.where(known, mean, average)
