r"""Normals with limits. They are declarations, as in :mod:`.continuous`.

In the formulas :math:`h_1, h_2, ...` are the numbers that the parameters read from the context, in
the order of ``params``. :math:`[h]_+` is the link to positive numbers: softplus plus
:math:`10^{-6}`, moved so that :math:`[0]_+` is the standard value.
"""

from __future__ import annotations

import math

from .. import distributions as dists
from .base import Conditional
from .parametric import Parametric
from .units import location_and_scale


class TruncatedNormal(Parametric, name="truncated_normal"):
    r"""Real numbers between fixed limits, outside of which nothing is ever seen.

    .. math::

        p(x \mid h) \propto \mathcal{N}(x;\, h_1,\, [h_2]_+^2), \quad
        \mathrm{low} \le x \le \mathrm{high}

    The limits are ``low`` and ``high``, one for all elements or one for each. They may be infinite;
    by name alone they are 0 and infinity.

    See also:
        :class:`CensoredNormal` for values beyond a limit that are seen as the limit.

    Example:
        >>> TruncatedNormal((3,), low=0.0, high=10.0).num_params
        6
    """

    family, params = dists.TruncatedNormal, ("loc", "scale", "low", "high")
    standard = {"loc": 0.0, "scale": 1.0, "low": 0.0, "high": math.inf}
    units = location_and_scale()


class CensoredNormal(Parametric, name="censored_normal"):
    r"""Real numbers of which those beyond a limit are seen as the limit: limits of detection,
    scales that end.

    .. math::

        \Pr(x = \mathrm{low} \mid h) = \Phi\big((\mathrm{low} - h_1) / s\big), \quad
        \Pr(x = \mathrm{high} \mid h) = \Phi\big((h_1 - \mathrm{high}) / s\big), \quad s = [h_2]_+

    Between the limits the density is that of a normal. The limits are ``low`` and ``high``, one for
    all elements or one for each. They may be infinite; by name alone they are 0 and infinity.

    See also:
        :class:`TruncatedNormal` for data of which those beyond the limits were left out.

    References:
        | Estimation of relationships for limited dependent variables (Tobin, 1958)
        | https://doi.org/10.2307/1907382

    Example:
        >>> CensoredNormal((3,), low=[0.1, 0.1, 0.5], high=math.inf).num_params
        6
    """

    family, params = dists.CensoredNormal, ("loc", "scale", "low", "high")
    standard = {"loc": 0.0, "scale": 1.0, "low": 0.0, "high": math.inf}
    units = location_and_scale()


__all__ = [
    family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__
]
