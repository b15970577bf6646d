"""Mixtures whose draws have a gradient."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from .supports import innermost


class Mixture(dist.MixtureSameFamily):
    """Components of one family; draws of normal components have a gradient, by implicit
    reparameterisation.

    One element after the other is the inverse of its distribution function given those before
    (Graves, 2016, https://arxiv.org/abs/1607.05690), whose derivative needs no inverse."""

    @property
    def support(self) -> Any:
        """That of the first component."""
        return self._of_one(self.component_distribution.support)

    def _of_one(self, support: Any) -> Any:
        """A support without the dimension of the components, which its bounds may have."""
        if isinstance(support, constraints.independent):
            return constraints.independent(
                self._of_one(support.base_constraint), support.reinterpreted_batch_ndims
            )
        bounds = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
        where = len(self.batch_shape)
        if not any(isinstance(bound, Tensor) and bound.dim() > where for bound in bounds):
            return support
        one = [
            b.select(where, 0) if isinstance(b, Tensor) and b.dim() > where else b for b in bounds
        ]
        return type(support)(*(bound for bound in one if bound is not None))

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a gradient."""
        return isinstance(innermost(self.component_distribution), dist.Normal)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``."""
        drawn = self.sample(torch.Size(sample_shape))
        normal = innermost(self.component_distribution)
        shape = (*self.mixture_distribution.logits.shape, self.event_shape.numel())
        loc, scale = normal.loc.reshape(shape), normal.scale.reshape(shape)
        log_weight, moving = self.mixture_distribution.logits, []
        for i, x in enumerate(
            drawn.reshape(*drawn.shape[: drawn.dim() - len(self.event_shape)], -1).unbind(-1)
        ):
            element = dist.Normal(loc[..., i], scale[..., i])
            weight = log_weight.softmax(-1)
            below = (weight * element.cdf(x[..., None])).sum(-1)
            density = (weight * element.log_prob(x[..., None]).exp()).sum(-1).detach()
            x = x - (below - below.detach()) / density.clamp(min=torch.finfo(x.dtype).tiny)
            log_weight = log_weight + element.log_prob(x[..., None])
            moving.append(x)
        return torch.stack(moving, -1).reshape(drawn.shape)
