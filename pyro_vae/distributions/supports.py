"""Supports of latents and data: their bijections from real numbers, and values inside them."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent, IndependentTransform, Transform, biject_to
from torch.distributions.transforms import StickBreakingTransform
from torch.nn.functional import logsigmoid, pad


class StickBreaking(StickBreakingTransform):
    """Torch's map, exact also where a part of the simplex is close to zero.

    It works with logarithms, and with sums from the far end. Torch takes what is left of the stick
    as 1 less the parts broken off. That never gets below the rounding of 1, and the inverse of such
    a draw is off by hundreds.
    """

    def _logits(self, x: Tensor) -> Tensor:
        """The logit of the share that each break takes of what is left; equal parts for x = 0."""
        return x - torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()

    def _log(self, x: Tensor) -> Tensor:
        """The logarithms of the parts."""
        logits = self._logits(x)
        return pad(logsigmoid(logits), (0, 1)) + pad(logsigmoid(-logits).cumsum(-1), (1, 0))

    def _call(self, x: Tensor) -> Tensor:
        return self._log(x).exp().clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        left = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return y[..., :-1].log() - left.log() - self._logits(torch.zeros_like(left))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log of the product of all parts but the last and of the shares that breaks leave."""
        return (self._log(x)[..., :-1] + logsigmoid(-self._logits(x))).sum(-1)


def bijection_to(support: constraints.Constraint) -> Transform:
    """The bijection from real numbers to the support of a latent.

    It is :class:`StickBreaking` for a simplex, else ``biject_to``.
    """
    if base_of(support) is not constraints.simplex:
        return biject_to(support)
    several = support.event_dim - 1
    return IndependentTransform(StickBreaking(), several) if several else StickBreaking()


def base_of(support: constraints.Constraint) -> constraints.Constraint:
    """The support of one element, where the elements of an event are independent."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


class ToDouble(Transform):
    """Single to double precision: the identity, before a map to a constrained support.

    Near the edge of an interval, a simplex or the positive numbers single precision soon gives the
    edge itself. The map then saturates while its log-determinant goes on, and log p(x) is wrong by
    nats without a warning.
    """

    domain = codomain = constraints.real
    bijective = True

    def __init__(self, to_single: torch.dtype) -> None:
        super().__init__(cache_size=1)  # a planar flow knows only the very tensors that it drew
        self.to_single = to_single

    def _call(self, x: Tensor) -> Tensor:
        return x.double()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.to(self.to_single)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero: nothing is stretched."""
        return torch.zeros_like(y)


def to_single(z: Tensor, support: constraints.Constraint, like: Tensor) -> Tensor:
    """Latents in the precision of `like`, still inside their support.

    Rounding could put them on the edge of an open support, where they have no density.
    """
    support = base_of(support)
    z = z.to(like.dtype)
    low = 0.0 if support is constraints.simplex else getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if support.is_discrete or low is None:
        return z

    low = _bound(low, z)
    lowest = torch.where(low == 0, torch.finfo(z.dtype).tiny, torch.nextafter(low, low + 1))
    z = torch.maximum(z, lowest)
    if high is None:
        return z.clamp(max=torch.finfo(z.dtype).max)
    return torch.minimum(z, torch.nextafter(_bound(high, z), low))


def _bound(value: Any, like: Tensor) -> Tensor:
    """A bound as a tensor, without a number that is brought from the processor."""
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.full((), value, dtype=like.dtype, device=like.device)


def innermost(distribution: Any) -> Any:
    """The distribution of one element, where the elements of an event are independent."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def is_real(support: constraints.Constraint) -> bool:
    """Whether a support is all real numbers, so that no map is needed."""
    return base_of(support) in (constraints.real, constraints.real_vector)


def inside(support: Any, like: Tensor) -> Tensor:
    """A value inside a support."""
    if hasattr(support, "blocks"):
        return _inside_blocks(support, like)
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if low is None:
        return torch.zeros_like(like)

    low = _of_event(low, like)
    if support.is_discrete:
        return low.expand_as(like)
    if high is None:
        return (low + 1).expand_as(like)
    high = _of_event(high, like)
    low = torch.where(low.isinf(), high.clamp(max=1) - 2, low)
    high = torch.where(high.isinf(), low + 2, high)
    return ((low + high) / 2).expand_as(like)


def _of_event(bound: Any, like: Tensor) -> Tensor:
    """A bound of fewer dimensions than draws of several batches have: it is the same in each."""
    bound = torch.as_tensor(bound).to(like)
    return bound[(0,) * (bound.dim() - like.dim())]


def _inside_blocks(support: Any, like: Tensor) -> Tensor:
    whole = torch.zeros_like(like)
    for columns, part in support.blocks:
        whole[..., columns] = inside(part, like[..., columns])
    return whole
