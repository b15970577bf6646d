r"""Flows: a standard normal, bent by invertible maps, then scaled and shifted.

.. math:: z = \mu + \sigma \odot (f_L \circ \dots \circ f_1)(u), \qquad u \sim \mathcal{N}(0, I)

As a guide a flow reads :math:`\mu`, :math:`\sigma` and some further numbers, ``features``, which all of its maps see;
as a prior (``learned=True``) it reads nothing. The maps are Pyro's. An autoregressive map is fast one way only: a guide
uses that way to draw (inverse autoregressive flow), a prior to score a given z (masked autoregressive flow).
"""

from __future__ import annotations

import abc
import functools
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints, transforms
from pyro.nn import ConditionalAutoRegressiveNN, DenseNN
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import AffineTransform, ReshapeTransform

from ..guards import whole_number
from .base import Conditional, Shape, as_shape
from .families import Normal

BINS, BOUND = 8, 4.0  # of each spline
STEEPEST = 1.5  # what a network says about a spline is kept within +- this, so that single precision can invert it


class Flow(Conditional):
    """What all flows share; a subclass makes one layer, a map that ``condition(features)`` turns into a transform.

    Arguments:
        event_shape: The shape of one draw.
        layers: How many maps follow each other; they look at the elements forwards and backwards in turn.
        hidden: The widths of the hidden layers of each map's network, widened to the number of elements if smaller.
        features: How many further numbers of the context the maps see.
        learned: Whether it stands alone, with learned maps, instead of reading a context.

    Raises:
        ValueError: An argument makes no sense, or the context has another shape.
    """

    inverted: ClassVar[bool] = True  # whether it scores by the fast way of its maps when it stands alone

    def __init__(
        self,
        event_shape: Shape,
        *,
        layers: int = 2,
        hidden: Sequence[int] = (64,),
        features: int = 16,
        learned: bool = False,
    ) -> None:
        super().__init__()
        whole_number("layers", layers, at_least=1)
        whole_number("features", features, at_least=1)
        self.event_shape, self.learned = as_shape(event_shape), learned
        self.size = self.event_shape.numel()
        self.affine = Normal((self.size,), learned=learned)
        self.num_params = 0 if learned else 2 * self.size + features
        widths = [max(whole, self.size) for whole in hidden]
        self.layers = nn.ModuleList(self.layer(0 if learned else features, widths, i % 2 == 1) for i in range(layers))

    @abc.abstractmethod
    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        """One map of vectors of ``size`` numbers."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        affine, features = self._read(context)
        maps: list[Transform] = [layer.condition(features) for layer in self.layers]  # type: ignore[operator]
        if self.learned and self.inverted:
            maps = [one.inv for one in maps]
        maps.append(AffineTransform(affine.loc, affine.scale, event_dim=1, cache_size=1))
        if len(self.event_shape) != 1:
            maps.append(ReshapeTransform(torch.Size([self.size]), self.event_shape, cache_size=1))
        standard = dist.Normal(torch.zeros_like(affine.loc), torch.ones_like(affine.scale)).to_event(1)
        built = dist.TransformedDistribution(standard, maps)
        return built.expand(context.shape[:-1]) if self.learned and context is not None else built

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), hidden=[8], features=2)

    def _read(self, context: Tensor | None) -> tuple[Any, Tensor]:
        """The final scale and shift, and what the maps see."""
        if self.learned:
            affine = self.affine().base_dist
            return affine, affine.loc.new_zeros(0)
        if context is None or context.shape[-1:] != (self.num_params,):
            got = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
            who = f"{type(self).__name__}{tuple(self.event_shape)}"
            raise ValueError(f"{who} reads {self.num_params} numbers per datum; got {got}; learned=True reads none")
        return self.affine(context[..., : 2 * self.size]).base_dist, context[..., 2 * self.size :]


class _BoundedAutoregressive(ConditionalAutoRegressiveNN):
    def forward(self, x: Tensor, context: Tensor) -> Any:
        return _bounded(super().forward(x, context))


class _BoundedDense(DenseNN):
    def forward(self, x: Tensor) -> Any:
        return _bounded(super().forward(x))


def _bounded(params: Any) -> Any:
    return tuple(STEEPEST * torch.tanh(param / STEEPEST) for param in params)


def _autoregressive(kind: Any, size: int, features: int, hidden: list[int], backwards: bool, params: list[int]) -> Any:
    """A masked network that starts near the identity map."""
    order = torch.arange(size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ConditionalAutoRegressiveNN input_dim = 1")
        return _gentle(kind(size, features, hidden, params, order.flip(0) if backwards else order))


def _gentle(network: Any) -> Any:
    """Smaller weights in the last layer: the map starts near the one of a constant network."""
    network.layers[-1].weight.data.mul_(0.1)
    network.layers[-1].bias.data.mul_(0.1)
    return network


class _Affine(transforms.AffineAutoregressive):
    """Pyro's, inverted in the precision of its argument, where Pyro takes the default one."""

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


class AutoregressiveFlow(Flow, name="autoregressive_flow"):
    r"""Each element is scaled and shifted by functions of those before it.

    .. math:: f(u)_i = m_i(u_{<i}) + e^{s_i(u_{<i})}\, u_i

    As a guide the inverse autoregressive flow, as a prior the masked one.

    Arguments:
        event_shape: The shape of one draw.
        layers: How many maps follow each other; they look at the elements forwards and backwards in turn.
        hidden: The widths of the hidden layers of each map's network, widened to the number of elements if smaller.
        features: How many further numbers of the context the maps see.
        learned: Whether it stands alone, with learned maps, instead of reading a context.

    References:
        | Improving variational inference with inverse autoregressive flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934
        | Masked autoregressive flow for density estimation (Papamakarios et al., 2017)
        | https://arxiv.org/abs/1705.07057

    Example:
        >>> AutoregressiveFlow((3,), learned=True)().event_shape
        torch.Size([3])
        >>> AutoregressiveFlow((3,), features=10).num_params
        16
    """

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        network = _autoregressive(ConditionalAutoRegressiveNN, self.size, features, hidden, backwards, [1, 1])
        return _ConditionalAffine(network, log_scale_min_clip=-3.0, log_scale_max_clip=3.0)


class SplineFlow(Flow, name="spline_flow"):
    r"""Each element passes through a monotonic spline that depends on those before it.

    More flexible than :class:`AutoregressiveFlow`, also in one dimension: skewed and bimodal posteriors. The splines
    bend the interval from -4 to 4 standard deviations and leave the rest.

    Arguments:
        event_shape: The shape of one draw.
        layers: How many maps follow each other; they look at the elements forwards and backwards in turn.
        hidden: The widths of the hidden layers of each map's network, widened to the number of elements if smaller.
        features: How many further numbers of the context the maps see.
        learned: Whether it stands alone, with learned maps, instead of reading a context.

    References:
        | Neural spline flows (Durkan et al., 2019)
        | https://arxiv.org/abs/1906.04032

    Example:
        >>> SplineFlow((3,), learned=True)().event_shape
        torch.Size([3])
    """

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        params = [BINS, BINS, BINS - 1]
        network = _autoregressive(_BoundedAutoregressive, self.size, features, hidden, backwards, params)
        return transforms.ConditionalSplineAutoregressive(
            self.size, network, count_bins=BINS, bound=BOUND, order="quadratic"
        )


class CouplingFlow(Flow, name="coupling_flow"):
    r"""One half of the elements passes through splines that depend on the other half.

    Fast both ways: to draw and to score. Each layer moves one half, so it takes more of them than :class:`SplineFlow`.

    Arguments:
        event_shape: The shape of one draw.
        layers: How many maps follow each other; they move the two halves in turn.
        hidden: The widths of the hidden layers of each map's network, widened to the number of elements if smaller.
        features: How many further numbers of the context the maps see.
        learned: Whether it stands alone, with learned maps, instead of reading a context.

    References:
        | Neural spline flows (Durkan et al., 2019)
        | https://arxiv.org/abs/1906.04032

    Example:
        >>> CouplingFlow((3,), layers=4, learned=True)().event_shape
        torch.Size([3])
    """

    inverted = False

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        return _Coupling(self.size, features, hidden, backwards)


class PlanarFlow(Flow, name="planar_flow"):
    r"""Layers that push along one direction each: a guide only.

    .. math:: f(u) = u + a \tanh(w^\top u + b)

    The maps have no inverse in closed form, so it knows the density of its own draws and of no other value: it cannot
    stand as a prior or a likelihood.

    Arguments:
        event_shape: The shape of one draw.
        layers: How many maps follow each other.
        hidden: The widths of the hidden layers of each map's network, widened to the number of elements if smaller.
        features: How many further numbers of the context the maps see.

    References:
        | Variational inference with normalizing flows (Rezende & Mohamed, 2015)
        | https://arxiv.org/abs/1505.05770

    Example:
        >>> PlanarFlow((3,), features=10).num_params
        16
    """

    scores_any_value = False

    def __init__(
        self, event_shape: Shape, *, layers: int = 4, hidden: Sequence[int] = (64,), features: int = 16
    ) -> None:
        super().__init__(event_shape, layers=layers, hidden=hidden, features=features)

    @classmethod
    def alone(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        return transforms.ConditionalPlanar(_gentle(DenseNN(features, hidden, [1, self.size, self.size])))


class _Coupling(nn.Module):
    """A layer of :class:`CouplingFlow`: which half moves, and the network that says how."""

    def __init__(self, size: int, features: int, hidden: list[int], backwards: bool) -> None:
        super().__init__()
        self.backwards, self.moved = backwards, (size + 1) // 2
        params = [self.moved * bins for bins in (BINS, BINS, BINS - 1)]
        network = _gentle(_BoundedDense(size - self.moved + features + 1, hidden, params))
        self.spline = transforms.ConditionalSpline(network, self.moved, BINS, BOUND, order="quadratic")

    def condition(self, features: Tensor) -> Transform:
        """The transform given what the maps see."""
        return _Coupled(self, features)


class _Coupled(Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, layer: _Coupling, features: Tensor) -> None:
        super().__init__(cache_size=1)
        self.layer, self.features = layer, features

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        """The half that stays, the half that moves, and the spline that moves it."""
        x = x.flip(-1) if self.layer.backwards else x
        stays, moves = x[..., self.layer.moved :], x[..., : self.layer.moved]
        features = self.features.expand(*x.shape[:-1], self.features.shape[-1])
        spline = self.layer.spline.condition(torch.cat([stays, features, torch.ones_like(x[..., :1])], -1))
        return stays, moves, spline

    def _join(self, stays: Tensor, moved: Tensor) -> Tensor:
        joined = torch.cat([moved, stays], -1)
        return joined.flip(-1) if self.layer.backwards else joined

    def _call(self, x: Tensor) -> Tensor:
        stays, moves, spline = self._split(x)
        moved = spline(moves)
        self.log_slope = spline._cache_log_detJ.sum(-1)
        return self._join(stays, moved)

    def _inverse(self, y: Tensor) -> Tensor:
        stays, moves, spline = self._split(y)
        moved = spline._inv_call(moves)
        self.log_slope = spline._cache_log_detJ.sum(-1)
        return self._join(stays, moved)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known_x, known_y = self._cached_x_y
        if x is not known_x or y is not known_y:
            self(x)
        return self.log_slope


__all__ = ["AutoregressiveFlow", "CouplingFlow", "PlanarFlow", "SplineFlow"]
