"""The unit sphere: its map from real vectors, and the von Mises-Fisher distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Transform, biject_to

NODES = 80  # of the series in the density
LEFT = 30  # as many of them are left of its largest term, or all there are


class Sphere(constraints.Constraint):
    """Unit vectors.

    A type of its own, so that the registration of its map changes none that Pyro has.
    """

    event_dim = 1

    def __repr__(self) -> str:
        return "Sphere()"

    def check(self, value: Tensor) -> Tensor:
        """Whether the length is 1, up to rounding."""
        rounding = 20 * torch.finfo(value.dtype).eps * value.shape[-1] ** 0.5
        return (value.norm(dim=-1) - 1).abs() < rounding


sphere = Sphere()


class Stereographic(Transform):
    r"""Real vectors of d - 1 numbers to the unit sphere in d dimensions, but for its north pole.

    .. math::

        z = \frac{(2 u,\, |u|^2 - 1)}{|u|^2 + 1}, \qquad \log |J| = (d - 1) \log \frac{2}{1 + |u|^2}

    The log-determinant is with respect to the surface measure, as the densities on the sphere are.
    """

    domain = constraints.real_vector
    codomain = sphere
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        return torch.cat([2 * x, square - 1], -1) / (square + 1)

    def _inverse(self, y: Tensor) -> Tensor:
        tangent = y[..., :-1]
        height = y[..., -1:]
        square = tangent.square().sum(-1, keepdim=True)
        # 1 - height, without cancellation:
        rest = torch.where(height > 0, square / (1 + height), 1 - height)
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
        r"""log of :math:`(2 \pi)^{d/2} \kappa^{-v} I_v(\kappa)`, with v = d/2 - 1."""
        half = self.event_shape[0] / 2
        kappa = self.concentration.double()
        constant = half * math.log(2 * math.pi) - (half - 1) * math.log(2)
        return (constant + _log_bessel_series(kappa, half)).to(self.concentration)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Unit vectors of shape ``sample_shape + batch_shape + event_shape``.

        Wood's rejection sampler (1994, algorithm VM*) gives the height along the direction. What
        is at a right angle to it is uniform.
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

        heights = torch.zeros_like(kappa)
        todo = torch.ones_like(kappa, dtype=torch.bool)
        shape_of_beta = torch.full_like(kappa, rest / 2)
        beta = torch.distributions.Beta(shape_of_beta, shape_of_beta)
        while bool(todo.any()):
            z = beta.sample()
            height = (1 - (1 + b) * z) / (1 - (1 - b) * z)
            log_ratio = kappa * height + rest * torch.log1p(-x * height) - c
            accept = log_ratio >= torch.rand_like(kappa).log()
            heights = torch.where(todo & accept, height, heights)
            todo = todo & ~accept
        return heights.to(self.loc).clamp(-1, 1)


def _log_bessel_series(kappa: Tensor, half: float) -> Tensor:
    r"""log of :math:`\sum_k (\kappa / 2)^{2k} / (\Gamma(k + 1) \Gamma(k + d / 2))`.

    As a function of k the terms are one smooth peak. Where it is wide, a sum over every m-th term,
    times m, equals the sum over all: with 3 nodes to a standard deviation the difference is below
    rounding. The first node is not left of k = 0. So the same 80 nodes do for any kappa, and no
    shape depends on a value.
    """
    index = half - 1
    fixed = kappa.detach()
    root = (fixed.square() + index**2).sqrt().clamp(min=1e-300)
    peak = (root - index) / 2
    width = fixed / 2 / root.sqrt()

    step = torch.minimum(width / 3, peak / LEFT).clamp(min=1)
    start = (peak - LEFT * step).clamp(min=0).floor()
    nodes = torch.arange(NODES, dtype=kappa.dtype, device=kappa.device)
    k = start[..., None] + step[..., None] * nodes

    log_square = torch.log((kappa / 2).square().clamp(min=1e-300))[..., None]
    terms = k * log_square - torch.lgamma(k + 1) - torch.lgamma(k + half)
    return terms.logsumexp(-1) + step.log()
