"""Mixtures whose draws have a gradient."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from .supports import innermost


class Mixture(dist.MixtureSameFamily):
    """Components of one family. Draws have a gradient if the components are normal.

    The gradient is by implicit reparameterisation (Graves, 2016, https://arxiv.org/abs/1607.05690).
    Each element of a draw is seen as the inverse of its distribution function, given the elements
    before it. The derivative of that inverse needs the function itself only.
    """

    @property
    def support(self) -> Any:
        """That of the first component."""
        return self._of_one(self.component_distribution.support)

    def _of_one(self, support: Any) -> Any:
        """A support without the dimension of the components, which its bounds may have."""
        if isinstance(support, constraints.independent):
            base = self._of_one(support.base_constraint)
            return constraints.independent(base, support.reinterpreted_batch_ndims)

        given = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
        bounds = [bound for bound in given if bound is not None]
        first = [self._first(bound) for bound in bounds]
        same = all(one is bound for one, bound in zip(first, bounds, strict=True))
        return support if same else type(support)(*first)

    def _first(self, bound: Any) -> Any:
        """A bound of the first component, if it has the dimension of the components."""
        where = len(self.batch_shape)
        each = isinstance(bound, Tensor) and bound.dim() > where
        return bound.select(where, 0) if each else bound

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a gradient."""
        return isinstance(innermost(self.component_distribution), dist.Normal)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``."""
        drawn = self.sample(torch.Size(sample_shape))
        normal = innermost(self.component_distribution)
        shape = (*self.mixture_distribution.logits.shape, self.event_shape.numel())
        loc = normal.loc.reshape(shape)
        scale = normal.scale.reshape(shape)
        batch = drawn.shape[: drawn.dim() - len(self.event_shape)]

        log_weight = self.mixture_distribution.logits  # given the elements before
        elements = []
        for i, x in enumerate(drawn.reshape(*batch, -1).unbind(-1)):
            element = dist.Normal(loc[..., i], scale[..., i])
            weight = log_weight.softmax(-1)
            below = (weight * element.cdf(x[..., None])).sum(-1)
            density = (weight * element.log_prob(x[..., None]).exp()).sum(-1).detach()
            x = x - (below - below.detach()) / density.clamp(min=torch.finfo(x.dtype).tiny)
            log_weight = log_weight + element.log_prob(x[..., None])
            elements.append(x)
        return torch.stack(elements, -1).reshape(drawn.shape)
