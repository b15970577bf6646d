r"""Families over classes. They are declarations, as in :mod:`.continuous`.

In the formulas :math:`h_1, h_2, ...` are the numbers that the parameters read from the context, in
the order of ``params``. :math:`[h]_+` is the link to positive numbers: softplus plus
:math:`10^{-6}`, moved so that :math:`[0]_+` is the standard value.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from .. import distributions as dists
from ..data.rows import Rows
from ..guards import whole_number
from .base import Conditional, Shape
from .parametric import Parametric, Value


class Bernoulli(Parametric, name="bernoulli"):
    r"""Binary data: 0 or 1.

    .. math:: p(x = 1 \mid h) = \sigma(h)

    Grey values are refused.

    See also:
        :class:`ContinuousBernoulli` for grey values in [0, 1], :class:`Binomial` for grey levels
        0..n.

    Example:
        >>> Bernoulli((3,)).num_params
        3
    """

    family, params = dists.Bernoulli, ("logits",)
    standard = {"logits": 0.0}


class Categorical(Parametric, name="categorical"):
    r"""One of several unordered classes, coded 0, 1, ..., categories - 1.

    .. math:: p(x = j \mid h) = \mathrm{softmax}(h)_j

    Arguments:
        event_shape: The shape of one draw.
        categories: How many classes there are.
        learned: Whether the logits, if left out, are learned, instead of read from the context.
        values: ``logits`` of shape ``(*event_shape, categories)``, if they are fixed or learned.

    Example:
        >>> Categorical((3,), categories=4).num_params
        12
    """

    family, params = dists.Categorical, ("logits",)
    standard = {"logits": 0.0}

    def __init__(
        self, event_shape: Shape, *, categories: int, learned: bool = False, **values: Value
    ) -> None:
        whole_number("categories", categories, at_least=1)
        self.categories = categories
        super().__init__(event_shape, learned=learned, **values)

    def parameter_shape(self, name: str) -> torch.Size:
        return torch.Size((*self.event_shape, self.categories))

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {"categories": _categories(x, at_least=1)}

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), categories=4)


class OneHot(Parametric, name="one_hot"):
    r"""One of several classes, as a vector of zeros and a one along the last dimension.

    .. math:: p(x = e_j \mid h) = \mathrm{softmax}(h)_j

    With this prior the latents are summed over exactly. The VAE is then a mixture model whose
    components share one decoder, and its guide is a ``one_hot`` too.

    Example:
        >>> OneHot((3,)).num_params
        3
    """

    family, params = dist.OneHotCategorical, ("logits",)
    standard = {"logits": 0.0}


class Ordinal(Parametric, name="ordinal"):
    r"""One of several ordered classes, coded 0, 1, ..., categories - 1: ratings, grades.

    .. math:: p(x < j \mid h) = \sigma(c_j - h_1), \quad c_1 < c_2 < ...

    The cut points are usually ``cutpoints="learned"``. They start where all classes are equally
    likely for h = 0.

    Arguments:
        event_shape: The shape of one draw.
        categories: How many classes there are, at least 2.
        learned: Whether the parameters that are left out are learned, instead of read from the
            context.
        values: ``predictor``, and ``cutpoints`` of shape ``(*event_shape, categories - 1)``, if
            fixed or learned. One number for the cut points is a factor of the standard ones.

    Example:
        >>> Ordinal((3,), categories=4, cutpoints="learned").num_params
        3
    """

    family, params = dists.OrderedLogistic, ("predictor", "cutpoints")
    standard = {"predictor": 0.0, "cutpoints": 1.0}

    def __init__(
        self, event_shape: Shape, *, categories: int, learned: bool = False, **values: Value
    ) -> None:
        whole_number("categories", categories, at_least=2)
        self.categories = categories
        super().__init__(event_shape, learned=learned, **values)

    def parameter_shape(self, name: str) -> torch.Size:
        if name == "cutpoints":
            return torch.Size((*self.event_shape, self.categories - 1))
        return self.event_shape

    def filled(self, name: str, number: float) -> Tensor:
        if name != "cutpoints":
            return super().filled(name, number)
        even = torch.arange(1, self.categories, dtype=torch.float64) / self.categories
        return (number * torch.logit(even)).expand(self.parameter_shape(name))

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {"categories": _categories(x, at_least=2)}

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), categories=4)


def _categories(x: Rows, at_least: int) -> int:
    """How many classes data have: as many as there are names, or numbers up to the largest."""
    named = max((len(labels) for labels in x.labels or () if labels is not None), default=0)
    return max(named, int(x.largest()) + 1, at_least)


__all__ = [
    family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__
]
