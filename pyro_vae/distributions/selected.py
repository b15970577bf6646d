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
from torch.special import erfcx, log_ndtr

from .elements import Elements
from .joint import Cells
from .limits import TruncatedNormal

ROOT_HALF = math.sqrt(0.5)


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


def log_probit(x: Tensor) -> Tensor:
    r""":math:`\log \Phi(x)`; unlike torch's, its gradient has all digits far below 0 too."""
    below = x < -1
    far, near = torch.where(below, x, -1.0), torch.where(below, 0.0, x)
    tail = (0.5 * erfcx(far * -ROOT_HALF)).log() - 0.5 * far.square()
    return torch.where(below, tail, log_ndtr(near))


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
        return log_probit((intercept + slope * cell.loc) * (1 + (slope * cell.scale) ** 2).rsqrt())
    if not cell.has_enumerate_support:
        return log_probit(intercept + slope * cell.rsample())
    return _weighted_values(cell, intercept, slope)[1].logsumexp(0)


def given_missing(cell: Any, intercept: Tensor, slope: Tensor) -> Any:
    """Cells given that they are missing, of those :func:`has_closed_form` knows: the density is in
    proportion to that of the cell times the probit.
    """
    if isinstance(cell, Cells):
        places = [torch.as_tensor(some, device=intercept.device) for some in cell.columns]
        parts = [
            given_missing(part, intercept[..., at], slope[..., at])
            for part, at in zip(cell.parts, places, strict=True)
        ]
        return Cells(parts, cell.columns, cell.order, cell.inverse)
    if isinstance(cell, dist.Normal):
        return TiltedNormal(loc=cell.loc, scale=cell.scale, intercept=intercept, slope=slope)
    return FewValues(cell, *_weighted_values(cell, intercept, slope))


def _weighted_values(cell: Any, intercept: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The values of cells that have few, ``(V, *1)``, and for each the log of its probability times
    the probit, ``(V, *batch_shape)``. Cells may have totals of their own.
    """
    total = getattr(cell, "total_count", None)
    if total is None:
        values = cell.enumerate_support(expand=False)
        log_prob = cell.log_prob(values)
    else:
        ones = (1,) * len(cell.batch_shape)
        values = torch.arange(1 + int(total.max()), device=total.device).reshape(-1, *ones)
        values = values.to(intercept.dtype)
        log_prob = cell.log_prob(torch.minimum(values, total))
        log_prob = torch.where(values <= total, log_prob, -math.inf)
    return values, log_prob + log_probit(intercept + slope * values)


class TiltedNormal(Elements):
    r"""A normal times a probit: a density in proportion to :math:`N(x; \mu, \sigma) \Phi(a + b x)`.

    It is what is left of a normal x where a normal y of mean a + b x and variance 1 is positive,
    the extended skew normal of Azzalini (1985).
    """

    arg_constraints: dict[str, Any] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "intercept": constraints.real,
        "slope": constraints.real,
    }
    support = constraints.real

    @property
    def mean(self) -> Tensor:
        """Of what is left."""
        return self.loc + self._gain * (self._positive.mean - self._score)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            y = self._positive.sample(torch.Size(sample_shape))
            left = self.scale * (1 + (self.slope * self.scale).square()).rsqrt()
            return self.loc + self._gain * (y - self._score) + left * torch.randn_like(y)

    @property
    def _score(self) -> Tensor:
        """The mean of y."""
        return self.intercept + self.slope * self.loc

    @property
    def _positive(self) -> TruncatedNormal:
        """y above 0."""
        spread = (1 + (self.slope * self.scale).square()).sqrt()
        return TruncatedNormal(
            loc=self._score, scale=spread, low=torch.zeros_like(spread), high=spread + math.inf
        )

    @property
    def _gain(self) -> Tensor:
        """How much x moves with y."""
        return self.slope * self.scale.square() / (1 + (self.slope * self.scale).square())


class FewValues(TorchDistribution):
    """Cells of finitely many values, with new weights.

    Arguments:
        cell: Their distribution before.
        values: The values, of shape ``(V, *1)``.
        weight: Their log weights, of shape ``(V, *batch_shape)``.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, cell: Any, values: Tensor, weight: Tensor) -> None:
        self.cell = cell
        self.values = values.expand(weight.shape)
        self.share = weight.softmax(0)
        super().__init__(weight.shape[1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the cells."""
        return self.cell.support

    @property
    def mean(self) -> Tensor:
        """NaN where they are classes."""
        mean = (self.share * self.values).sum(0)
        return torch.where(self.cell.mean.isfinite(), mean, math.nan)

    @property
    def mode(self) -> Tensor:
        """The value of the largest weight."""
        return self.values.gather(0, self.share.argmax(0, keepdim=True))[0]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``."""
        index = dist.Categorical(self.share.movedim(0, -1)).sample(torch.Size(sample_shape))
        leading = len(sample_shape)
        several = self.values.expand(index.shape[:leading] + self.values.shape)
        return several.gather(leading, index.unsqueeze(leading)).squeeze(leading)
