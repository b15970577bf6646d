"""Links: from real numbers to the domain of a parameter, or of a latent."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent, Transform, transform_to
from torch.distributions.transforms import SoftplusTransform


class Positive(SoftplusTransform):
    """Real numbers to positive ones: softplus, and never below ``FLOOR``.

    Like exp for small values, but linear for large ones: exp overflows on the first outlier that a network meets. The
    floor keeps rates from 0, where counts have no density, and scales from 0, where densities have no bound.
    """

    FLOOR = 1e-6

    def _call(self, x: Tensor) -> Tensor:
        return super()._call(x) + self.FLOOR

    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse(y - self.FLOOR)


def link(domain: constraints.Constraint) -> Transform:
    """The map from real numbers to the domain of a parameter: :class:`Positive`, else ``transform_to``.

    Raises:
        NotImplementedError: The domain has none: it is discrete, or depends on other parameters.
    """
    base = domain.base_constraint if isinstance(domain, constraints.independent) else domain
    positive = isinstance(base, (type(constraints.positive), type(constraints.nonnegative)))
    return Positive() if positive and base.lower_bound == 0 else transform_to(domain)


class InDouble(Transform):
    """Single to double precision: the identity, before a map to a constrained support.

    The edge of an interval, a simplex or the positive numbers is soon out of reach of single precision: the map
    saturates while its log-determinant goes on, and log p(x) is wrong by nats without a warning.
    """

    domain = codomain = constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.double()

    def _inverse(self, y: Tensor) -> Tensor:
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero: nothing is stretched."""
        return torch.zeros_like(y)


def innermost(distribution: Any) -> Any:
    """The distribution of one element, where the elements of an event are independent."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def is_real(support: constraints.Constraint) -> bool:
    """Whether a support is all real numbers, so that no map is needed."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector)
