r"""Families over counts. They are declarations, as in :mod:`.continuous`.

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
from .base import Conditional
from .parametric import Parametric
from .units import Units, mean, mean_above_zero, scaled, shifted


class Binomial(Parametric, name="binomial"):
    r"""Counts out of a known total, such as grey levels 0..n or successes in n trials.

    .. math:: x \sim \mathrm{Binomial}(n,\, \sigma(h))

    The total is fixed: one for all features, or one for each.

    Example:
        >>> Binomial((64,), total_count=16).num_params
        64
    """

    family, params = dist.Binomial, ("total_count", "logits")
    standard = {"total_count": 1.0, "logits": 0.0}

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {"total_count": max(x.largest(), 1.0)}


class BetaBinomial(Parametric, name="beta_binomial"):
    r"""Counts out of a known total that vary more than a binomial.

    .. math:: x \sim \mathrm{Binomial}(n,\, p), \quad p \sim \mathrm{Beta}([h_1]_+,\, [h_2]_+)

    Example:
        >>> BetaBinomial((3,), total_count=16).num_params
        6
    """

    family, params = dist.BetaBinomial, ("total_count", "concentration1", "concentration0")
    standard = {"total_count": 1.0, "concentration1": 1.0, "concentration0": 1.0}

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {"total_count": max(x.largest(), 1.0)}


class Poisson(Parametric, name="poisson"):
    r"""Counts whose variance equals their mean.

    .. math:: x \sim \mathrm{Poisson}([h]_+)

    For counts that vary more see :class:`NegativeBinomial`.

    Example:
        >>> Poisson((3,)).num_params
        3
    """

    family, params = dist.Poisson, ("rate",)
    standard = {"rate": 1.0}
    units = Units(mean, {"rate": scaled})
    are_counts = True


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
    units = Units(mean, {"logits": shifted})
    are_counts = True


class ZeroInflatedPoisson(Parametric, name="zero_inflated_poisson"):
    r"""Counts with more zeros than a Poisson has.

    .. math::

        p(x \mid h) = \pi\, [x = 0] + (1 - \pi)\, \mathrm{Poisson}(x;\, [h_1]_+), \quad
        \pi = \sigma(h_2 - 2)

    Example:
        >>> ZeroInflatedPoisson((3,)).num_params
        6
    """

    family, params = dist.ZeroInflatedPoisson, ("rate", "gate_logits")
    standard = {"rate": 1.0, "gate_logits": -2.0}
    units = Units(mean, {"rate": scaled})
    are_counts = True


class ZeroInflatedNegativeBinomial(Parametric, name="zero_inflated_negative_binomial"):
    r"""Counts with more zeros than a negative binomial has: single-cell gene counts.

    .. math::

        p(x \mid h) = \pi\, [x = 0] + (1 - \pi)\, \mathrm{NB}(x;\, r, h_2), \quad
        r = [h_1]_+,\ \pi = \sigma(h_3 - 2)

    NB is that of :class:`NegativeBinomial`: its mean is :math:`r\, e^{h_2}`.

    References:
        | Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018)
        | https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> ZeroInflatedNegativeBinomial((3,), total_count="learned").num_params
        6
    """

    family = dists.ZeroInflatedNegativeBinomial
    params = ("total_count", "logits", "gate_logits")
    standard = {"total_count": 1.0, "logits": 0.0, "gate_logits": -2.0}
    units = Units(mean, {"logits": shifted})
    are_counts = True


class HurdlePoisson(Parametric, name="hurdle_poisson"):
    r"""Counts with more or fewer zeros than a Poisson has.

    .. math::

        p(0 \mid h) = \pi, \quad
        p(x \mid h) = (1 - \pi)\, \mathrm{Poisson}(x;\, \lambda) / (1 - e^{-\lambda})
        \quad (x > 0), \quad \lambda = [h_1]_+,\ \pi = \sigma(h_2 - 2)

    Example:
        >>> HurdlePoisson((3,)).num_params
        6
    """

    family, params = dists.HurdlePoisson, ("rate", "gate_logits")
    standard = {"rate": 1.0, "gate_logits": -2.0}
    units = Units(mean_above_zero, {"rate": scaled})
    are_counts = True


class HurdleNegativeBinomial(Parametric, name="hurdle_negative_binomial"):
    r"""Counts with more or fewer zeros than a negative binomial has.

    .. math::

        p(0 \mid h) = \pi, \quad
        p(x \mid h) = (1 - \pi)\, \mathrm{NB}(x;\, r, h_2) / (1 - \mathrm{NB}(0;\, r, h_2))
        \quad (x > 0), \quad r = [h_1]_+,\ \pi = \sigma(h_3 - 2)

    NB is that of :class:`NegativeBinomial`: its mean is :math:`r\, e^{h_2}`.

    Example:
        >>> HurdleNegativeBinomial((3,), total_count="learned").num_params
        6
    """

    family = dists.HurdleNegativeBinomial
    params = ("total_count", "logits", "gate_logits")
    standard = {"total_count": 1.0, "logits": 0.0, "gate_logits": -2.0}
    units = Units(mean_above_zero, {"logits": shifted})
    are_counts = True


class DiscretizedLogistic(Parametric, name="discretized_logistic"):
    r"""Grey levels 0, ..., levels - 1, as rounded real numbers: neighbouring levels are alike.

    .. math::

        p(x \mid h) = \sigma\big((x' + \delta - h_1) / s\big)
        - \sigma\big((x' - \delta - h_1) / s\big), \quad s = [h_2]_+

    Here :math:`x'` are the levels on a scale from -1 to 1, and :math:`\delta` is half the way
    from one to the next. The lowest and the highest level take the tails.

    See also:
        :class:`Mixture` of them, with ``each="element"``, for several peaks.

    References:
        | PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood
        | (Salimans et al., 2017)
        | https://arxiv.org/abs/1701.05517

    Example:
        >>> DiscretizedLogistic((3,), levels=256).num_params
        6
    """

    family, params = dists.DiscretizedLogistic, ("loc", "scale", "levels")
    standard = {"loc": 0.0, "scale": 0.5, "levels": 256.0}

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {"levels": max(x.largest() + 1, 2.0)}


class Multinomial(Parametric, name="multinomial"):
    r"""Bags of words: how often each of the entries of the last dimension was drawn.

    .. math::

        p(x \mid h, n) = \frac{n!}{\prod_j x_j!} \prod_j \mathrm{softmax}(h)_j^{x_j}, \quad
        n = \sum_j x_j

    The density is given the total n of each datum, so documents may have different lengths.
    ``total_count`` only says how many words a drawn document has.

    Example:
        >>> Multinomial((5,), total_count=20).num_params
        5
    """

    family, params = dists.Multinomial, ("total_count", "logits")
    standard = {"total_count": 1.0, "logits": 0.0}
    are_counts = True

    def parameter_shape(self, name: str) -> torch.Size:
        return self.event_shape[:-1] if name == "total_count" else self.event_shape

    def _fixed(self, name: str, value: Any) -> Tensor:
        tensor = super()._fixed(name, value)
        if name == "total_count":
            dists.Multinomial.one_total(tensor)
        return tensor

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {"total_count": max(x.largest_total(), 1.0)}


__all__ = [
    family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__
]
