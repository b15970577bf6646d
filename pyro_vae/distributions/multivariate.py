"""Distributions of whole vectors that Pyro lacks, or has in a form that does not serve here."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution

from .supports import StickBreaking


class LogisticNormal(dist.LogisticNormal):
    """With a stick-breaking map by logarithms.

    Pyro's density is off by thousands of nats where a part is tiny.
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.transforms = [StickBreaking()]

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticNormal:
        """The same, of a larger batch shape."""
        return super().expand(batch_shape, _instance or self._get_checked_instance(LogisticNormal))


class Multinomial(dist.Multinomial):
    """The density given the total of each datum.

    `total_count` only says how many draws ``sample`` makes, so it is looked at only there.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, total_count: Any, logits: Tensor, validate_args: bool | None = None) -> None:
        self.total_count = total_count
        self._categorical = dist.Categorical(logits=logits)
        batch_shape, event_shape = logits.shape[:-1], logits.shape[-1:]
        Distribution.__init__(self, batch_shape, event_shape, validate_args=validate_args)

    @staticmethod
    def one_total(total_count: Any) -> int:
        """The total as one whole number.

        Raises:
            ValueError: The totals differ, or are no whole numbers.
        """
        total = torch.as_tensor(total_count)
        if bool((total != total.max().round()).any()):
            raise ValueError(
                "Multinomial needs total_count as one whole number for all draws; got "
                f"{total.tolist()}"
            )
        return int(total.max())

    def entropy(self) -> Tensor:
        """It depends on the total."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """The mean of the draws that ``sample`` makes."""
        return self.one_total(self.total_count) * self.probs

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts of shape ``sample_shape + batch_shape + event_shape``."""
        total = self.one_total(self.total_count)
        drawn = dist.Multinomial(total, logits=self.logits, validate_args=False)
        return drawn.sample(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Multinomial:
        """The same, of a larger batch shape."""
        return super().expand(batch_shape, _instance or self._get_checked_instance(Multinomial))
