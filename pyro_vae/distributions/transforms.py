"""The invertible maps of flows, each a module that ``condition(features)`` turns into a transform.

They are Pyro's, with two changes. They are bounded, so that single precision can invert them. They
are inverted in the precision of their argument.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from pyro.distributions import constraints, transforms
from pyro.nn import ConditionalAutoRegressiveNN, DenseNN
from torch import Tensor, nn
from torch.distributions import Transform

BINS = 8  # of each spline
BOUND = 6.0  # a spline changes the numbers from -6 to 6
STEEPEST = 0.7  # what a network gives a spline stays within +- this: slopes are from 1/4 to 4


class _BoundedAutoregressive(ConditionalAutoRegressiveNN):
    def forward(self, x: Tensor, context: Tensor) -> Any:
        return _bounded(super().forward(x, context))


class _BoundedDense(DenseNN):
    def forward(self, x: Tensor) -> Any:
        return _bounded(super().forward(x))


def _bounded(params: Any) -> Any:
    return tuple(STEEPEST * torch.tanh(param / STEEPEST) for param in params)


def _autoregressive(
    kind: Any, size: int, features: int, hidden: list[int], backwards: bool, params: list[int]
) -> Any:
    """A masked network that starts near the identity map."""
    order = torch.arange(size)
    order = order.flip(0) if backwards else order
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ConditionalAutoRegressiveNN input_dim = 1")
        return _gentle(kind(size, features, hidden, params, order))


def _gentle(network: Any) -> Any:
    """Smaller weights in the last layer, so that the map starts near that of a constant network."""
    network.layers[-1].weight.data.mul_(0.1)
    network.layers[-1].bias.data.mul_(0.1)
    return network


class _Affine(transforms.AffineAutoregressive):
    """Pyro's, inverted in the precision of its argument. Pyro takes the default precision."""

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):
            mean, log_scale = self.arn(x)
            clamped = log_scale.clamp(self.log_scale_min_clip, self.log_scale_max_clip)
            log_scale = log_scale + (clamped - log_scale).detach()
            x = (y - mean) * torch.exp(-log_scale)
        self._cached_log_scale = log_scale
        return x


class _ConditionalAffine(transforms.ConditionalAffineAutoregressive):
    def condition(self, context: Tensor) -> Transform:
        return _Affine(functools.partial(self.nn, context=context), **self.kwargs)


class _ConditionalSpline(transforms.ConditionalSplineAutoregressive):
    """Pyro's, without attributes of a ``partial``, which ``torch.compile`` cannot trace."""

    def condition(self, context: Tensor) -> Transform:
        network = functools.partial(self.nn, context=context)
        return transforms.SplineAutoregressive(self.input_dim, network, **self.kwargs)


class Coupling(nn.Module):
    """A layer of a coupling flow: which half moves, and the network that says how."""

    def __init__(self, size: int, features: int, hidden: list[int], backwards: bool) -> None:
        super().__init__()
        self.backwards = backwards
        self.moved = (size + 1) // 2
        params = [self.moved * bins for bins in (BINS, BINS, BINS - 1)]
        network = _gentle(_BoundedDense(size - self.moved + features + 1, hidden, params))
        self.spline = transforms.ConditionalSpline(
            network, self.moved, BINS, BOUND, order="quadratic"
        )

    def condition(self, features: Tensor) -> Transform:
        """The transform given what the maps see."""
        return _Coupled(self, features)


class _Coupled(Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, layer: Coupling, features: Tensor) -> None:
        super().__init__(cache_size=1)
        self.layer = layer
        self.features = features

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        """The half that stays, the half that moves, and the spline that moves it."""
        x = x.flip(-1) if self.layer.backwards else x
        moves = x[..., : self.layer.moved]
        stays = x[..., self.layer.moved :]
        features = self.features.expand(*x.shape[:-1], self.features.shape[-1])
        seen = torch.cat([stays, features, torch.ones_like(x[..., :1])], -1)
        return stays, moves, self.layer.spline.condition(seen)

    def _join(self, stays: Tensor, moved: Tensor) -> Tensor:
        joined = torch.cat([moved, stays], -1)
        return joined.flip(-1) if self.layer.backwards else joined

    def _call(self, x: Tensor) -> Tensor:
        stays, moves, spline = self._split(x)
        moved = spline(moves)
        self.log_abs_det = spline._cache_log_detJ.sum(-1)
        return self._join(stays, moved)

    def _inverse(self, y: Tensor) -> Tensor:
        stays, moves, spline = self._split(y)
        moved = spline._inv_call(moves)
        self.log_abs_det = spline._cache_log_detJ.sum(-1)
        return self._join(stays, moved)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known_x, known_y = self._cached_x_y
        if x is not known_x or y is not known_y:
            self(x)
        return self.log_abs_det


def affine(size: int, features: int, hidden: list[int], backwards: bool) -> nn.Module:
    """Each element scaled and shifted by functions of those before it."""
    network = _autoregressive(
        ConditionalAutoRegressiveNN, size, features, hidden, backwards, [1, 1]
    )
    return _ConditionalAffine(network, log_scale_min_clip=-3.0, log_scale_max_clip=3.0)


def spline(size: int, features: int, hidden: list[int], backwards: bool) -> nn.Module:
    """Each element through a monotonic spline that depends on those before it."""
    params = [BINS, BINS, BINS - 1]
    network = _autoregressive(_BoundedAutoregressive, size, features, hidden, backwards, params)
    return _ConditionalSpline(size, network, count_bins=BINS, bound=BOUND, order="quadratic")


def planar(size: int, features: int, hidden: list[int]) -> nn.Module:
    """A push along one direction; the identity at first."""
    return transforms.ConditionalPlanar(_gentle(DenseNN(features, hidden, [1, size, size])))
