r"""Data of which some cells are missing for a reason: a distribution over data with holes.

.. math:: p(x_{seen}, s \mid z) = \int p(x \mid z)\, p(s \mid x)\, dx_{missing}

Its value has NaN where s says that a cell is missing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.special import log_ndtr

from .joint import Cells


class Selected(TorchDistribution):
    """Draws of `complete`, whose cells `missingness` takes away.

    Arguments:
        complete: The distribution of complete data, whose cells are independent.
        missingness: p(s | x): an object with ``log_prob(complete, x)`` of data with holes, and
            ``sample(x)``, true where a cell of complete x is to be missing.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, complete: TorchDistribution, missingness: Any) -> None:
        self.complete = complete
        self.missingness = missingness
        super().__init__(complete.batch_shape, complete.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of what is seen."""
        return self.complete.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Selected:
        """The same, of a larger batch shape."""
        return Selected(self.complete.expand(torch.Size(batch_shape)), self.missingness)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``, NaN where missing."""
        x = self.complete.sample(torch.Size(sample_shape))
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return torch.where(self.missingness.sample(x), math.nan, x)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of what is seen, and of which cells are."""
        return self.missingness.log_prob(self.complete, value)


def has_closed_form(cell: Any) -> bool:
    """Whether :func:`log_mean_probit` of a cell is exact: it is normal, or has few values."""
    if isinstance(cell, Cells):
        return all(map(has_closed_form, cell.parts))
    return isinstance(cell, dist.Normal) or bool(cell.has_enumerate_support)


def is_integrable(cell: Any) -> bool:
    """Whether :func:`log_mean_probit` of a cell is exact, or draws have a gradient."""
    if isinstance(cell, Cells):
        return all(map(is_integrable, cell.parts))
    return has_closed_form(cell) or cell.has_rsample


def log_mean_probit(cell: Any, intercept: Tensor, slope: Tensor) -> Tensor:
    r"""The logarithm of :math:`\mathrm{E}\,\Phi(a + b x)` for x of each cell.

    For a normal it is :math:`\Phi((a + b \mu) / \sqrt{1 + b^2 \sigma^2})`, for a family of
    finitely many values a sum. Of others one draw stands for the mean, with a gradient.

    Arguments:
        cell: The distribution of single cells.
        intercept: a, of the event shape.
        slope: b, of the event shape.
    """
    if isinstance(cell, Cells):
        return cell.joined(
            lambda part, at: log_mean_probit(part, intercept[..., at], slope[..., at])
        )
    if isinstance(cell, dist.Normal):
        return log_ndtr((intercept + slope * cell.loc) * (1 + (slope * cell.scale) ** 2).rsqrt())
    if not cell.has_enumerate_support:
        return log_ndtr(intercept + slope * cell.rsample())
    values = cell.enumerate_support(expand=False)
    return (cell.log_prob(values) + log_ndtr(intercept + slope * values)).logsumexp(0)
