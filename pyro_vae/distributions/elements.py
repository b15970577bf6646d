"""The base of our distributions of single numbers."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all


class Elements(TorchDistribution):
    """A number for each element of the parameters, which are those of ``arg_constraints``."""

    def __init__(self, *, validate_args: bool | None = None, **parameters: Tensor) -> None:
        tensors = broadcast_all(*parameters.values())
        self.__dict__.update(zip(parameters, tensors, strict=True))
        super().__init__(tensors[0].shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same, of a larger batch shape."""
        names = self.arg_constraints
        larger = {name: vars(self)[name].expand(torch.Size(batch_shape)) for name in names}
        return type(self)(**larger, validate_args=False)

    def uniform(self, sample_shape: Any, like: Tensor) -> Tensor:
        """Numbers in (0, 1) of shape ``sample_shape + batch_shape``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        drawn = torch.rand(shape, dtype=like.dtype, device=like.device)
        return drawn.clamp(min=torch.finfo(like.dtype).tiny)
