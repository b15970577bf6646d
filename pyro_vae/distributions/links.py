"""Links: from numbers that were read to the domain of a parameter, or of a latent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, transform_to
from torch.distributions.transforms import SoftplusTransform

from .supports import base_of


class Positive(SoftplusTransform):
    """Real numbers to positive ones: softplus, and never below ``FLOOR``.

    It is like exp for small values, but linear for large ones: exp overflows on the first outlier
    that a network meets. The floor keeps rates away from 0, where counts have no density, and
    scales away from 0, where densities have no bound.
    """

    FLOOR = 1e-6

    def _call(self, x: Tensor) -> Tensor:
        return super()._call(x) + self.FLOOR

    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse(y - self.FLOOR)


class Triangular(Transform):
    """Vectors of n (n + 1) / 2 real numbers to lower triangular n x n matrices.

    The diagonal is :class:`Positive`. Each row is in units of its diagonal element, so that a small
    one does not make the matrix ill-conditioned.
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        size = (math.isqrt(8 * x.shape[-1] + 1) - 1) // 2
        lower = x.new_zeros((*x.shape[:-1], size, size))
        row, column = torch.tril_indices(size, size, device=x.device)
        lower[..., row, column] = x
        diagonal = Positive()(lower.diagonal(dim1=-2, dim2=-1))
        return lower.tril(-1) * diagonal[..., None] + torch.diag_embed(diagonal)

    def _inverse(self, y: Tensor) -> Tensor:
        diagonal = y.diagonal(dim1=-2, dim2=-1)
        lower = y.tril(-1) / diagonal[..., None] + torch.diag_embed(Positive().inv(diagonal))
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
        return lower[..., row, column]

    def inverse_shape(self, shape: Any) -> Any:
        """The shape of the vectors for matrices of `shape`."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


class Elementwise(Transform):
    """A function of each number, and its inverse."""

    domain = codomain = constraints.real
    bijective = True

    def __init__(
        self, function: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.functions = function, inverse

    def _call(self, x: Tensor) -> Tensor:
        return self.functions[0](x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.functions[1](y)


def _same(x: Tensor) -> Tensor:
    return x


NAMED: dict[str, Transform] = {
    "identity": Elementwise(_same, _same),
    "exp": Elementwise(torch.exp, torch.log),
    "softplus": Positive(),
    "sigmoid": Elementwise(torch.sigmoid, torch.logit),
    "tanh": Elementwise(torch.tanh, torch.atanh),
    "log": Elementwise(torch.log, torch.exp),
    "log1p": Elementwise(torch.log1p, torch.expm1),
    "logit": Elementwise(torch.logit, torch.sigmoid),
}
PARTIAL = ("identity", "log", "log1p", "logit")  # links that need not take all real numbers
REALS = torch.linspace(-20.0, 20.0, 41, dtype=torch.float64)


def fitting(domain: constraints.Constraint) -> list[str]:
    """The names of the links to the domain of a parameter: all real numbers end inside, or with
    a partial one some.
    """
    if constraints.is_dependent(domain) or domain.event_dim:
        return []
    inside = {}
    for name, transform in NAMED.items():
        good = domain.check(transform(REALS))
        inside[name] = bool(good.any() if name in PARTIAL else good.all())
    return [name for name, is_inside in inside.items() if is_inside]


def link(domain: constraints.Constraint) -> Transform:
    """The map from real numbers to the domain of a parameter.

    It is :class:`Positive` or :class:`Triangular` where one of them fits, else ``transform_to``.

    Raises:
        NotImplementedError: The domain has none: it is discrete, or depends on other parameters.
    """
    if domain is constraints.lower_cholesky:
        return Triangular()
    base = base_of(domain)
    bounded_below = isinstance(base, (type(constraints.positive), type(constraints.nonnegative)))
    if bounded_below and base.lower_bound == 0:
        return Positive()
    return transform_to(domain)
