r"""Families of distributions, each a declaration: the Pyro distribution, its parameters, its standard values.

In the formulas :math:`h_1, h_2, ...` are what the parameters read from the context, in the order of ``params``, and
:math:`[h]_+` is the link to positive numbers, softplus, with :math:`[0]_+` at the standard value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro import distributions as dist

from ..guards import whole_number
from .base import Conditional, Parametric, Shape, Value


class _ZeroInflated(dist.ZeroInflatedNegativeBinomial):
    """Without a domain for probs: Pyro works them out from the logits, rounds one to 1, and then refuses it."""

    arg_constraints = {
        "total_count": dist.NegativeBinomial.arg_constraints["total_count"],
        "logits": dist.constraints.real,
        "gate_logits": dist.constraints.real,
    }


class Normal(Parametric, name="normal"):
    r"""Real numbers with light tails.

    .. math:: p(x \mid h) = \mathcal{N}(x;\, h_1,\, [h_2]_+^2)

    The usual prior and guide. As a likelihood with a scale read from the context its density has no upper bound: fix
    the scale, or learn one per feature, when training drifts to ever smaller scales.

    See also:
        :class:`StudentT` for outliers, :class:`Laplace` for sharp peaks.

    Example:
        >>> head = Normal((3,))
        >>> head.num_params
        6
        >>> head(torch.zeros(2, 6)).batch_shape
        torch.Size([2])
    """

    family, params = dist.Normal, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}


class Laplace(Parametric, name="laplace"):
    r"""Real numbers with a sharp peak and exponential tails.

    .. math:: p(x \mid h) = \tfrac{1}{2 s} \exp(-|x - h_1| / s), \quad s = [h_2]_+

    As a likelihood it fits medians instead of means; as a prior it favours sparse latents.

    Example:
        >>> Laplace((3,), scale="shared")(torch.zeros(2, 3)).event_shape
        torch.Size([3])
    """

    family, params = dist.Laplace, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}


class StudentT(Parametric, name="student_t"):
    r"""Real numbers with heavy tails.

    .. math:: p(x \mid h) = t_\nu\big((x - h_2) / s\big) / s, \quad \nu = [h_1]_+,\ s = [h_3]_+

    For data with outliers. As a guide its weights have tails heavy enough to keep log p(x) honest.

    Example:
        >>> StudentT((3,), df=4.0).num_params
        6
    """

    family, params = dist.StudentT, ("df", "loc", "scale")
    standard = {"df": 4.0, "loc": 0.0, "scale": 1.0}


class Logistic(Parametric, name="logistic"):
    r"""Real numbers with exponential tails and a smooth peak.

    .. math:: p(x \mid h) = \sigma(u)\,\sigma(-u) / s, \quad u = (x - h_1) / s,\ s = [h_2]_+

    Example:
        >>> Logistic((3,), loc=0.0, scale=1.0)().event_shape
        torch.Size([3])
    """

    family, params = dist.Logistic, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}


class LogNormal(Parametric, name="log_normal"):
    r"""Positive numbers over several orders of magnitude.

    .. math:: \log x \sim \mathcal{N}(h_1,\, [h_2]_+^2)

    Zeros have no density: they need a count family or an offset.

    Example:
        >>> LogNormal((3,)).num_params
        6
    """

    family, params = dist.LogNormal, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}


class Gamma(Parametric, name="gamma"):
    r"""Positive numbers: waiting times, amounts, rates.

    .. math:: p(x \mid h) = \mathrm{Gamma}(x;\, \mathrm{concentration} = [h_1]_+,\, \mathrm{rate} = [h_2]_+)

    Exact zeros have density 0 or infinity and are refused as data.

    Example:
        >>> Gamma((3,), concentration=2.0).num_params
        3
    """

    family, params = dist.Gamma, ("concentration", "rate")
    standard = {"concentration": 1.0, "rate": 1.0}


class Beta(Parametric, name="beta"):
    r"""Proportions strictly between 0 and 1.

    .. math:: p(x \mid h) \propto x^{a - 1} (1 - x)^{b - 1}, \quad a = [h_1]_+,\ b = [h_2]_+

    See also:
        :class:`ContinuousBernoulli` for grey values that include 0 and 1.

    Example:
        >>> Beta((3,)).num_params
        6
    """

    family, params = dist.Beta, ("concentration1", "concentration0")
    standard = {"concentration1": 1.0, "concentration0": 1.0}


class Dirichlet(Parametric, name="dirichlet"):
    r"""Compositions: positive numbers that sum to 1 along the last dimension.

    .. math:: p(x \mid h) \propto \prod_i x_i^{a_i - 1}, \quad a_i = [h_i]_+

    As a prior over topic proportions; the guide then has one dimension less.

    Example:
        >>> Dirichlet((3,), concentration=1.0)().support
        Simplex()
    """

    family, params = dist.Dirichlet, ("concentration",)
    standard = {"concentration": 1.0}


class Uniform(Parametric, name="uniform"):
    r"""Numbers spread evenly over a fixed interval.

    .. math:: p(x) = 1 / (\mathrm{high} - \mathrm{low}), \quad \mathrm{low} \le x \le \mathrm{high}

    A prior on an interval. Its bounds are fixed: learned ones would leave data outside the support.

    Example:
        >>> Uniform((3,), low=-1.0, high=1.0)().event_shape
        torch.Size([3])
    """

    family, params = dist.Uniform, ("low", "high")
    standard = {"low": 0.0, "high": 1.0}


class Bernoulli(Parametric, name="bernoulli"):
    r"""Binary data: 0 or 1.

    .. math:: p(x = 1 \mid h) = \sigma(h)

    Grey values are refused; see also:
        :class:`ContinuousBernoulli` for grey values in [0, 1], :class:`Binomial` for grey levels 0..n.

    Example:
        >>> Bernoulli((3,)).num_params
        3
    """

    family, params = dist.Bernoulli, ("logits",)
    standard = {"logits": 0.0}


class ContinuousBernoulli(Parametric, name="continuous_bernoulli"):
    r"""Grey values in [0, 1], 0 and 1 included.

    .. math:: p(x \mid h) \propto \lambda^x (1 - \lambda)^{1 - x}, \quad \lambda = \sigma(h)

    References:
        | The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem et al., 2019)
        | https://arxiv.org/abs/1907.06845

    Example:
        >>> ContinuousBernoulli((3,)).num_params
        3
    """

    family, params = dist.ContinuousBernoulli, ("logits",)
    standard = {"logits": 0.0}


class Binomial(Parametric, name="binomial"):
    r"""Counts out of a known total: grey levels 0..n, successes in n trials.

    .. math:: x \sim \mathrm{Binomial}(n,\, \sigma(h))

    The total is fixed, one for all features or one each.

    Example:
        >>> Binomial((64,), total_count=16).num_params
        64
    """

    family, params = dist.Binomial, ("total_count", "logits")
    standard = {"total_count": 1.0, "logits": 0.0}

    @classmethod
    def implied(cls, largest: Callable[[], float]) -> dict[str, Any]:
        return {"total_count": max(largest(), 1.0)}


class Categorical(Parametric, name="categorical"):
    r"""One of several unordered classes, coded 0, 1, ..., categories - 1.

    .. math:: p(x = j \mid h) = \mathrm{softmax}(h)_j

    Arguments:
        event_shape: The shape of one draw.
        categories: How many classes there are.
        values: ``logits`` of shape ``(*event_shape, categories)``, if they are fixed or learned.

    Example:
        >>> Categorical((3,), categories=4).num_params
        12
    """

    family, params = dist.Categorical, ("logits",)
    standard = {"logits": 0.0}

    def __init__(self, event_shape: Shape, *, categories: int, **values: Value) -> None:
        whole_number("categories", categories, at_least=1)
        self.categories = categories
        super().__init__(event_shape, **values)

    def parameter_shape(self, name: str) -> torch.Size:
        return torch.Size((*self.event_shape, self.categories))

    @classmethod
    def implied(cls, largest: Callable[[], float]) -> dict[str, Any]:
        return {"categories": max(int(largest()), 0) + 1}

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), categories=4)


class Poisson(Parametric, name="poisson"):
    r"""Counts: :math:`x \sim \mathrm{Poisson}([h]_+)`.

    Variance equals mean; for counts that vary more see :class:`NegativeBinomial`.

    Example:
        >>> Poisson((3,)).num_params
        3
    """

    family, params = dist.Poisson, ("rate",)
    standard = {"rate": 1.0}


class NegativeBinomial(Parametric, name="negative_binomial"):
    r"""Counts that vary more than their mean.

    .. math:: x \sim \mathrm{NB}(r, h_2), \quad \mathrm{E}\,x = r\, e^{h_2},\ r = [h_1]_+

    Usually with ``total_count="learned"``: one dispersion per feature.

    Example:
        >>> NegativeBinomial((3,), total_count="learned").num_params
        3
    """

    family, params = dist.NegativeBinomial, ("total_count", "logits")
    standard = {"total_count": 1.0, "logits": 0.0}


class ZeroInflatedNegativeBinomial(Parametric, name="zero_inflated_negative_binomial"):
    r"""Counts with more zeros than a negative binomial has: single-cell gene counts.

    .. math::

        p(x \mid h) = \pi\, [x = 0] + (1 - \pi)\, \mathrm{NB}(x;\, r, h_2), \quad r = [h_1]_+,\ \pi = \sigma(h_3 - 2)

    References:
        | Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018)
        | https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> ZeroInflatedNegativeBinomial((3,), total_count="learned").num_params
        6
    """

    family, params = _ZeroInflated, ("total_count", "logits", "gate_logits")
    standard: ClassVar[dict[str, float]] = {"total_count": 1.0, "logits": 0.0, "gate_logits": -2.0}


__all__ = [family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__]
