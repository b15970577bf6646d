"""Distributions of whole vectors that Pyro lacks, or has in a form that does not serve here."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from .supports import StickBreaking


class LogisticNormal(dist.LogisticNormal):
    """With sticks that are broken by logarithms: Pyro's density is off by thousands of nats where a
    part is tiny.
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.transforms = [StickBreaking()]

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticNormal:
        """The same, of a larger batch shape."""
        return super().expand(batch_shape, _instance or self._get_checked_instance(LogisticNormal))


class Multinomial(dist.Multinomial):
    """The density given the total of each datum: `total_count` only says how many draws ``sample``
    makes.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, total_count: Any, logits: Tensor, validate_args: bool | None = None) -> None:
        total = torch.as_tensor(total_count)
        if bool((total != total.max().round()).any()):
            raise ValueError(
                "Multinomial needs total_count as one whole number for all draws; got "
                f"{total.tolist()}"
            )
        super().__init__(int(total.max()), logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Multinomial:
        """The same, of a larger batch shape."""
        return super().expand(batch_shape, _instance or self._get_checked_instance(Multinomial))
