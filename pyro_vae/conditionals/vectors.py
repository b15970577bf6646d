r"""Families over whole vectors: correlated numbers, compositions, directions.

They are declarations, as in :mod:`.continuous`.

In the formulas :math:`h_1, h_2, ...` are the numbers that the parameters read from the context, in
the order of ``params``. :math:`[h]_+` is the link to positive numbers: softplus plus
:math:`10^{-6}`, moved so that :math:`[0]_+` is the standard value.
"""

from __future__ import annotations

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from .. import distributions as dists
from ..distributions.sphere import sphere
from ..guards import whole_number
from .base import Conditional, Shape, as_shape
from .parametric import Parametric, Value
from .units import Units, mean_and_sd, moved, scaled_rows, squared


class _Vectors(Parametric):
    """A family over the last dimension of an event."""

    def __init__(self, event_shape: Shape, *, learned: bool = False, **values: Value) -> None:
        if not as_shape(event_shape):
            raise ValueError(
                f"{type(self).__name__} needs vectors; got single numbers, of event shape ()"
            )
        super().__init__(event_shape, learned=learned, **values)


class MultivariateNormal(_Vectors, name="multivariate_normal"):
    r"""Real vectors with correlated entries along the last dimension.

    .. math:: p(x \mid h) = \mathcal{N}(x;\, h_1,\, L L^\top)

    :math:`L` is lower triangular and reads :math:`h_2` row by row: :math:`L_{ii} = [h_{ii}]_+` and
    :math:`L_{ij} = L_{ii}\, h_{ij}` for :math:`j < i`. As a guide it follows correlated
    posteriors. It reads n (n + 3) / 2 numbers for n dimensions.

    See also:
        :class:`LowRankNormal` for many dimensions.

    Example:
        >>> MultivariateNormal((3,)).num_params
        9
    """

    family, params = dist.MultivariateNormal, ("loc", "scale_tril")
    standard = {"loc": 0.0, "scale_tril": 1.0}
    units = Units(mean_and_sd, {"loc": moved, "scale_tril": scaled_rows})

    def parameter_shape(self, name: str) -> torch.Size:
        if name == "scale_tril":
            return torch.Size((*self.event_shape, self.event_shape[-1]))
        return self.event_shape


class LowRankNormal(_Vectors, name="low_rank_normal"):
    r"""Real vectors whose correlations have few directions.

    .. math:: p(x \mid h) = \mathcal{N}\big(x;\, h_1,\, F F^\top + \mathrm{diag}([h_3]_+)\big)

    :math:`F` has few columns and reads the matrix :math:`h_2`: :math:`F_{ij} = h_{ij}`, and
    0.1 more on the diagonal.

    Arguments:
        event_shape: The shape of one draw.
        rank: The number of columns of the factor F.
        learned: Whether the parameters that are left out are learned, instead of read from the
            context.
        values: ``loc``, ``cov_factor`` of shape ``(*event_shape, rank)`` and ``cov_diag``, if fixed
            or learned.

    Example:
        >>> LowRankNormal((5,), rank=2).num_params
        20
    """

    family, params = dist.LowRankMultivariateNormal, ("loc", "cov_factor", "cov_diag")
    standard = {"loc": 0.0, "cov_factor": 0.1, "cov_diag": 1.0}
    units = Units(mean_and_sd, {"loc": moved, "cov_factor": scaled_rows, "cov_diag": squared})

    def __init__(
        self, event_shape: Shape, *, rank: int = 2, learned: bool = False, **values: Value
    ) -> None:
        whole_number("rank", rank, at_least=1)
        self.rank = rank
        super().__init__(event_shape, learned=learned, **values)

    def parameter_shape(self, name: str) -> torch.Size:
        if name == "cov_factor":
            return torch.Size((*self.event_shape, self.rank))
        return self.event_shape


class Dirichlet(_Vectors, name="dirichlet"):
    r"""Compositions: positive numbers that sum to 1 along the last dimension.

    .. math:: p(x \mid h) \propto \prod_i x_i^{a_i - 1}, \quad a_i = [h_i]_+

    A prior over topic proportions. Its guide has one dimension less.

    Example:
        >>> Dirichlet((3,), concentration=1.0)().support
        Simplex()
    """

    family, params = dist.Dirichlet, ("concentration",)
    standard = {"concentration": 1.0}


class LogisticNormal(_Vectors, name="logistic_normal"):
    r"""Compositions whose unconstrained form is normal, such as topic proportions.

    .. math::

        x_i = s_i \prod_{j < i} (1 - s_j), \quad s_i = \sigma\big(u_i - \log(d - i)\big), \quad
        u \sim \mathcal{N}(h_1,\, [h_2]_+^2)

    This breaks a stick: the last of the d parts is what is left, :math:`s_d = 1`. The parameters
    have one dimension less than a draw.

    Example:
        >>> LogisticNormal((3,)).num_params
        4
    """

    family, params = dists.LogisticNormal, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}

    def parameter_shape(self, name: str) -> torch.Size:
        return torch.Size((*self.event_shape[:-1], self.event_shape[-1] - 1))


class VonMisesFisher(_Vectors, name="von_mises_fisher"):
    r"""Unit vectors around a mean direction, for latents on a sphere and directional data.

    .. math::

        p(x \mid h) \propto \exp(\kappa\, \mu^\top x), \quad
        \mu = (1 + h_1) / |1 + h_1|,\ \kappa = [h_2]_+

    References:
        | Hyperspherical variational auto-encoders (Davidson et al., 2018)
        | https://arxiv.org/abs/1804.00891

    Example:
        >>> VonMisesFisher((3,), loc=1.0, concentration=2.0)().event_shape
        torch.Size([3])
    """

    family, params = dists.VonMisesFisher, ("loc", "concentration")
    standard = {"loc": 1.0, "concentration": 1.0}

    def parameter_shape(self, name: str) -> torch.Size:
        return self.event_shape[:-1] if name == "concentration" else self.event_shape


class UniformSphere(_Vectors, name="uniform_sphere"):
    r"""Unit vectors in any direction.

    .. math:: p(x) = \Gamma(d / 2) / (2 \pi^{d / 2}), \quad |x| = 1,\ x \in \mathbb{R}^d

    Arguments:
        event_shape: The shape of one draw.

    Example:
        >>> UniformSphere((3,))().event_shape
        torch.Size([3])
    """

    family, params = dists.VonMisesFisher, ()
    standard = {}
    toward: Tensor

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.register_buffer("toward", torch.ones(self.event_shape))

    @property
    def support(self) -> constraints.Constraint:
        several = len(self.event_shape) - 1
        return constraints.independent(sphere, several) if several else sphere

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        uniform = dists.VonMisesFisher(self.toward, 0 * self.toward[..., 0])
        return uniform.to_event(len(self.event_shape) - 1)


__all__ = [
    family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__
]
