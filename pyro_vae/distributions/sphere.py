"""The unit sphere: its map from real vectors, and the von Mises-Fisher distribution, which Pyro
lacks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Transform, biject_to


class Sphere(constraints.Constraint):
    """Unit vectors. A type of its own: its map from real vectors leaves Pyro's registry as it was."""

    event_dim = 1

    def __repr__(self) -> str:
        return "Sphere()"

    def check(self, value: Tensor) -> Tensor:
        """Whether the length is 1, up to rounding."""
        return (value.norm(dim=-1) - 1).abs() < 20 * torch.finfo(value.dtype).eps * value.shape[
            -1
        ] ** 0.5


sphere = Sphere()


class Stereographic(Transform):
    r"""Real vectors of d - 1 numbers to the unit sphere in d dimensions, but for its north pole.

    .. math::

        z = \frac{(2 u,\, |u|^2 - 1)}{|u|^2 + 1}, \qquad \log |J| = (d - 1) \log \frac{2}{1 + |u|^2}

    The log-determinant is with respect to the surface measure, as the densities on the sphere are.
    """

    domain, codomain = constraints.real_vector, sphere
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        return torch.cat([2 * x, square - 1], -1) / (square + 1)

    def _inverse(self, y: Tensor) -> Tensor:
        tangent, height = y[..., :-1], y[..., -1:]
        square = tangent.square().sum(-1, keepdim=True)
        rest = torch.where(
            height > 0, square / (1 + height), 1 - height
        )  # 1 - height, without cancellation
        return tangent / rest

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Of shape ``(*)`` for vectors of shape ``(*, d - 1)``."""
        return x.shape[-1] * (math.log(2) - torch.log1p(x.square().sum(-1)))

    def forward_shape(self, shape: Any) -> Any:
        """One dimension more."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> Any:
        """One dimension less."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


@biject_to.register(Sphere)
def _to_sphere(_: Any) -> Transform:
    return Stereographic()


class VonMisesFisher(TorchDistribution):
    r"""Unit vectors around a mean direction: :math:`p(z) \propto \exp(\kappa\, \mu^\top z)`,
    uniform for kappa = 0.

    The direction is that of `loc`. The density is with respect to the surface measure.
    """

    arg_constraints = {
        "loc": constraints.independent(constraints.real, 1),
        "concentration": constraints.nonnegative,
    }
    support = sphere

    def __init__(
        self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc = torch.as_tensor(loc)
        batch = torch.broadcast_shapes(self.loc.shape[:-1], torch.as_tensor(concentration).shape)
        self.loc = self.loc.expand(*batch, self.loc.shape[-1])
        self.concentration = torch.as_tensor(concentration).to(self.loc).expand(batch)
        super().__init__(batch, self.loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> VonMisesFisher:
        """The same, of a larger batch shape."""
        batch = torch.Size(batch_shape)
        return VonMisesFisher(
            self.loc.expand(batch + self.event_shape), self.concentration.expand(batch), False
        )

    @property
    def direction(self) -> Tensor:
        """The mean direction, a unit vector."""
        return torch.nn.functional.normalize(self.loc, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per unit vector, shape ``(*)``."""
        if self._validate_args:
            self._validate_sample(value)
        return self.concentration * (self.direction * value).sum(-1) - self._log_normaliser()

    def _log_normaliser(self) -> Tensor:
        r"""log of :math:`(2 \pi)^{d/2} \kappa^{-v} I_v(\kappa)`, v = d/2 - 1, by a power series of
        positive terms.
        """
        half = self.event_shape[0] / 2
        kappa = self.concentration.double()
        largest = float(kappa.detach().max())
        k = torch.arange(int(60 + 1.5 * largest), dtype=kappa.dtype, device=kappa.device)
        log_square = torch.log((kappa / 2).square().clamp(min=1e-300))
        series = (
            k * log_square[..., None] - torch.lgamma(k + 1) - torch.lgamma(k + half)
        ).logsumexp(-1)
        return (half * math.log(2 * math.pi) - (half - 1) * math.log(2) + series).to(
            self.concentration
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Wood's rejection sampler (1994, algorithm VM*): first the height along the direction,
        then the rest.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            height = self._heights(shape[:-1])[..., None]
            around = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            around = around - (around * self.direction).sum(-1, keepdim=True) * self.direction
            around = (1 - height.square()).sqrt() * torch.nn.functional.normalize(around, dim=-1)
            return torch.nn.functional.normalize(height * self.direction + around, dim=-1)

    def _heights(self, shape: torch.Size) -> Tensor:
        rest = self.event_shape[0] - 1
        kappa = self.concentration.expand(shape).double()
        b = rest / (2 * kappa + (4 * kappa.square() + rest**2).sqrt())
        x = (1 - b) / (1 + b)
        c = kappa * x + rest * torch.log1p(-x.square())
        heights, todo = (
            torch.zeros_like(kappa),
            torch.ones(shape, dtype=torch.bool, device=kappa.device),
        )
        beta = torch.distributions.Beta(
            torch.full_like(kappa, rest / 2), torch.full_like(kappa, rest / 2)
        )
        while bool(todo.any()):
            z = beta.sample()
            height = (1 - (1 + b) * z) / (1 - (1 - b) * z)
            accept = (
                kappa * height + rest * torch.log1p(-x * height) - c >= torch.rand_like(kappa).log()
            )
            heights = torch.where(todo & accept, height, heights)
            todo = todo & ~accept
        return heights.to(self.loc).clamp(-1, 1)
