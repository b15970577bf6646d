r"""Flows: a standard normal, transformed by invertible maps, then scaled and shifted.

.. math:: z = \mu + \sigma \odot (f_L \circ \dots \circ f_1)(u), \qquad u \sim \mathcal{N}(0, I)

As a guide a flow reads :math:`\mu`, :math:`\sigma` and some further numbers, ``features``, which
all of its maps see. As a prior (``learned=True``) it reads nothing. The maps are Pyro's. An
autoregressive map is fast in one direction only. A guide uses that direction to draw (inverse
autoregressive flow), a prior uses it to score a given z (masked autoregressive flow).

In the formulas :math:`f` is one of the maps of
:math:`z = \mu + \sigma \odot (f_L \circ \dots \circ f_1)(u)`, where :math:`u` is standard normal.
Every second map takes the elements backwards. :math:`\sigma = [h]_+` is softplus plus
:math:`10^{-6}`, moved so that :math:`[0]_+ = 1`. Networks give what a map reads of other elements
and of the features.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import AffineTransform, ReshapeTransform

from .. import distributions as dists
from ..data.rows import Rows
from ..distributions import transforms as maps
from ..guards import whole_number, whole_numbers
from .base import Conditional, Shape, as_shape
from .continuous import Normal
from .parametric import Value
from .units import in_shape, mean_and_sd


class Flow(Conditional):
    """What all flows share.

    A subclass makes one layer: a map that ``condition(features)`` turns into a transform.

    Arguments:
        event_shape: The shape of one draw.
        layers: How many maps follow each other. They take the elements forwards and backwards in
            turn.
        hidden: The widths of the hidden layers of each map's network. A width below the number of
            elements is raised to it.
        features: How many further numbers of the context the maps see.
        learned: Whether it stands alone, with learned maps, instead of reading a context.
        center: Where the data lie, a number or one for each element; a likelihood takes it from the
            data (:mod:`.units`).
        unit: How far they spread.

    Raises:
        ValueError: An argument makes no sense, or the context has another shape.
    """

    inverted: ClassVar[bool] = True  # alone, it scores by the fast direction of its maps

    def __init__(
        self,
        event_shape: Shape,
        *,
        layers: int = 2,
        hidden: Sequence[int] = (64,),
        features: int = 16,
        learned: bool = False,
        center: Value | None = None,
        unit: Value | None = None,
    ) -> None:
        super().__init__()
        whole_number("layers", layers, at_least=1)
        whole_number("features", features, at_least=1)

        self.event_shape = as_shape(event_shape)
        self.size = self.event_shape.numel()
        self.learned = learned
        given = {"center": center, "unit": unit}
        flat = {key: self._flat(key, value) for key, value in given.items() if value is not None}
        self.affine = Normal((self.size,), learned=learned, **flat)
        self.num_params = 0 if learned else self.affine.num_params + features

        widths = [max(width, self.size) for width in whole_numbers("hidden", hidden)]
        self.layers = nn.ModuleList(
            self.layer(0 if learned else features, widths, i % 2 == 1) for i in range(layers)
        )

    @abc.abstractmethod
    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        """One map of vectors of ``size`` numbers."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        affine, features = self._split(read)
        layers: Any = self.layers
        bijections: list[Transform] = [layer.condition(features) for layer in layers]
        if self.learned and self.inverted:
            bijections = [bijection.inv for bijection in bijections]
        bijections.append(AffineTransform(affine.loc, affine.scale, event_dim=1, cache_size=1))
        if len(self.event_shape) != 1:
            flat = torch.Size([self.size])
            bijections.append(ReshapeTransform(flat, self.event_shape, cache_size=1))

        standard = dist.Normal(torch.zeros_like(affine.loc), torch.ones_like(affine.scale))
        return dists.Pushed(standard.to_event(1), bijections)

    @property
    def options(self) -> dict[str, Any]:
        """What it was built from, without the shape, and without units where it has none."""
        return {key: value for key, value in super().options.items() if value is not None}

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return mean_and_sd(x)

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), hidden=[8], features=2)

    def _flat(self, name: str, value: Value) -> Tensor:
        return in_shape(name, value, self.event_shape).flatten()

    def _split(self, read: Tensor | None) -> tuple[Any, Tensor]:
        """The final shift and scale, and what the maps see."""
        if read is None:
            affine = self.affine().base_dist
            return affine, affine.loc.new_zeros(0)
        numbers = self.affine.num_params
        return self.affine(read[..., :numbers]).base_dist, read[..., numbers:]


class AutoregressiveFlow(Flow, name="autoregressive_flow"):
    r"""Each element is scaled and shifted by functions of those before it.

    .. math:: f(u)_i = m_i(u_{<i}) + e^{s_i(u_{<i})}\, u_i, \quad -3 \le s_i \le 3

    As a guide the inverse autoregressive flow, as a prior the masked one: each map is then the
    inverse of f.

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
        return maps.affine(self.size, features, hidden, backwards)


class SplineFlow(Flow, name="spline_flow"):
    r"""Each element passes through a monotonic spline that depends on those before it.

    .. math:: f(u)_i = \rho\big(u_i;\, \theta_i(u_{<i})\big)

    Between two knots, from :math:`(a, b)` with the slope d to :math:`(a + w, b + h)` with the slope
    d', the spline is, for :math:`\xi = (u - a) / w` and :math:`s = h / w`,

    .. math::

        \rho(u) = b + h\, \frac{s\, \xi^2 + d\, \xi (1 - \xi)}{s + (d + d' - 2 s)\, \xi (1 - \xi)}

    :math:`\theta` are the widths and heights of 8 bins from -6 to 6, and the slopes between them;
    at the ends the slope is 1, and beyond them :math:`\rho(u) = u`. As a prior each map is the
    inverse of f.

    More flexible than :class:`AutoregressiveFlow`, also in one dimension: it can be skewed and
    bimodal.

    References:
        | Neural spline flows (Durkan et al., 2019)
        | https://arxiv.org/abs/1906.04032

    Example:
        >>> SplineFlow((3,), learned=True)().event_shape
        torch.Size([3])
    """

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        return maps.spline(self.size, features, hidden, backwards)


class CouplingFlow(Flow, name="coupling_flow"):
    r"""One half of the elements passes through splines that depend on the other half.

    .. math:: f(u)_A = \rho\big(u_A;\, \theta(u_B)\big), \quad f(u)_B = u_B

    A is the first half of the elements, or one more, B the rest, and :math:`\rho` the spline of
    :class:`SplineFlow`.

    Fast in both directions, to draw and to score. Each layer moves one half of the elements, so it
    takes more layers than :class:`SplineFlow`.

    Arguments:
        layers: How many maps follow each other. They move the two halves in turn.

    References:
        | Neural spline flows (Durkan et al., 2019)
        | https://arxiv.org/abs/1906.04032

    Example:
        >>> CouplingFlow((3,), layers=4, learned=True)().event_shape
        torch.Size([3])
    """

    inverted = False

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        return maps.Coupling(self.size, features, hidden, backwards)


class PlanarFlow(Flow, name="planar_flow"):
    r"""Layers that push along one direction each. It can only be a guide.

    .. math:: f(u) = u + a \tanh(w^\top u + b), \quad w^\top a > -1

    The maps have no inverse in closed form. So it knows the density of its own draws only, and
    cannot stand as a prior or a likelihood.

    Arguments:
        layers: How many maps follow each other.

    References:
        | Variational inference with normalizing flows (Rezende & Mohamed, 2015)
        | https://arxiv.org/abs/1505.05770

    Example:
        >>> PlanarFlow((3,), features=10).num_params
        16
    """

    scores_any_value = False

    def __init__(
        self,
        event_shape: Shape,
        *,
        layers: int = 4,
        hidden: Sequence[int] = (64,),
        features: int = 16,
    ) -> None:
        super().__init__(event_shape, layers=layers, hidden=hidden, features=features)

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {}

    @classmethod
    def standalone(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    def layer(self, features: int, hidden: list[int], backwards: bool) -> nn.Module:
        return maps.planar(self.size, features, hidden)


__all__ = ["AutoregressiveFlow", "CouplingFlow", "PlanarFlow", "SplineFlow"]
