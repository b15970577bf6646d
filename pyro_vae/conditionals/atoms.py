r"""Families that give single points a probability beside a density: amounts with zeros, shares that
are 0 or 1.

They are declarations, as in :mod:`.continuous`. Such a point is an atom. Models with atoms at the
same places are compared with each other, and with no others: a probability and a density have no
common scale.

In the formulas :math:`h_1, h_2, ...` are the numbers that the parameters read from the context, in
the order of ``params``. :math:`[h]_+` is the link to positive numbers: softplus plus
:math:`10^{-6}`, moved so that :math:`[0]_+` is the standard value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import distributions as dists
from .base import Conditional
from .parametric import Parametric
from .units import (
    Units,
    divided,
    location_and_scale,
    mean,
    mean_above_zero,
    mean_and_sd_of_logarithms,
    scaled,
)


class ZeroInflatedGamma(Parametric, name="zero_inflated_gamma"):
    r"""Amounts of which some are zero: rainfall, expenses.

    .. math::

        \Pr(x = 0 \mid h) = \pi, \quad
        p(x \mid h) = (1 - \pi)\, \mathrm{Gamma}(x;\, [h_1]_+,\, [h_2]_+) \quad (x > 0), \quad
        \pi = \sigma(h_3 - 2)

    See also:
        :class:`Tweedie`, where the amount and the share of zeros depend on each other.

    Example:
        >>> ZeroInflatedGamma((3,)).num_params
        9
    """

    family, params = dists.ZeroInflatedGamma, ("concentration", "rate", "gate_logits")
    standard = {"concentration": 1.0, "rate": 1.0, "gate_logits": -2.0}
    units = Units(mean_above_zero, {"rate": divided})


class ZeroInflatedLogNormal(Parametric, name="zero_inflated_log_normal"):
    r"""Amounts of which some are zero, the others over several orders of magnitude.

    .. math::

        \Pr(x = 0 \mid h) = \pi, \quad
        p(x \mid h) = (1 - \pi)\, \mathrm{LogNormal}(x;\, h_1,\, [h_2]_+^2) \quad (x > 0), \quad
        \pi = \sigma(h_3 - 2)

    Example:
        >>> ZeroInflatedLogNormal((3,)).num_params
        9
    """

    family, params = dists.ZeroInflatedLogNormal, ("loc", "scale", "gate_logits")
    standard = {"loc": 0.0, "scale": 1.0, "gate_logits": -2.0}
    units = location_and_scale(mean_and_sd_of_logarithms)


class Tweedie(Parametric, name="tweedie"):
    r"""Totals of a random number of gamma amounts, zero if there is none: insurance claims.

    .. math::

        x = \sum_{i=1}^N a_i, \quad N \sim \mathrm{Poisson}(\lambda), \quad
        a_i \sim \mathrm{Gamma}\big((2 - p) / (p - 1),\, \mu^{1 - p} / (\phi\,(p - 1))\big), \quad
        \lambda = \mu^{2 - p} / (\phi\,(2 - p))

    So :math:`\mathrm{E}\,x = \mu`, :math:`\mathrm{Var}\,x = \phi\,\mu^p` and
    :math:`\Pr(x = 0) = e^{-\lambda}`, where :math:`\mu = [h_1]_+`, :math:`\phi = [h_2]_+` and
    :math:`p = 1.01 + 0.98\, \sigma(h_3)`. The power p is usually fixed or ``power="shared"``. The
    density of each number is a sum of 80 terms, so it costs as much as many of another family.

    References:
        | Series evaluation of Tweedie exponential dispersion model densities (Dunn & Smyth, 2005)
        | https://doi.org/10.1007/s11222-005-4070-y

    Example:
        >>> Tweedie((3,), power=1.5).num_params
        6
    """

    family, params = dists.Tweedie, ("mean", "dispersion", "power")
    standard = {"mean": 1.0, "dispersion": 1.0, "power": 1.5}
    units = Units(mean, {"mean": scaled})

    def _values(self, read: Tensor | None) -> dict[str, Any]:
        """With the dispersion in the units of the data, for which it needs the power."""
        values = super()._values(read)
        if self.in_units is not None and "dispersion" not in self.fixed_names:
            factor = self.in_units.unit ** (2 - values["power"])
            values["dispersion"] = values["dispersion"] * factor
        return values


class OrderedBeta(Parametric, name="ordered_beta"):
    r"""Proportions from 0 to 1 of which some are 0 or 1: shares of time, positions of a slider.

    .. math::

        \Pr(x = 0 \mid h) = \sigma(c_1 - h_1), \quad \Pr(x = 1 \mid h) = \sigma(h_1 - c_2), \quad
        c_1 < c_2

    Between them x is beta with the mean :math:`\mu = \sigma(h_1)` and the concentrations
    :math:`\mu \phi` and :math:`(1 - \mu) \phi`, where :math:`\phi = [h_2]_+`. The cut points are
    usually ``cutpoints="learned"``. One number c for them means -c and c.

    References:
        | Ordered beta regression: a parsimonious, well-fitting model for continuous data with lower
        | and upper bounds (Kubinec, 2023)
        | https://doi.org/10.1017/pan.2022.20

    Example:
        >>> OrderedBeta((3,), cutpoints="learned").num_params
        6
    """

    family, params = dists.OrderedBeta, ("predictor", "concentration", "cutpoints")
    standard = {"predictor": 0.0, "concentration": 2.0, "cutpoints": 2.0}

    def parameter_shape(self, name: str) -> torch.Size:
        return torch.Size((*self.event_shape, 2)) if name == "cutpoints" else self.event_shape

    def filled(self, name: str, number: float) -> Tensor:
        if name != "cutpoints":
            return super().filled(name, number)
        ends = torch.tensor([-number, number], dtype=torch.float64)
        return ends.expand(self.parameter_shape(name))


__all__ = [
    family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__
]
