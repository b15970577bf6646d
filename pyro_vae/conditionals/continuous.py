r"""Families over numbers.

Each is a declaration: the Pyro distribution, its parameters, its standard values.

In the formulas :math:`h_1, h_2, ...` are the numbers that the parameters read from the context, in
the order of ``params``. :math:`[h]_+` is the link to positive numbers: softplus plus
:math:`10^{-6}`, moved so that :math:`[0]_+` is the standard value.
"""

from __future__ import annotations

from pyro import distributions as dist

from .. import distributions as dists
from .base import Conditional
from .parametric import Parametric
from .units import (
    Units,
    divided,
    geometric_mean,
    location_and_scale,
    mean,
    mean_and_sd_of_logarithms,
    root_mean_square,
    scaled,
)


class Normal(Parametric, name="normal"):
    r"""Real numbers with light tails.

    .. math:: p(x \mid h) = \mathcal{N}(x;\, h_1,\, [h_2]_+^2)

    The usual prior and guide. As a likelihood whose scale is read from the context, its density has
    no upper bound. If training drifts to ever smaller scales, fix the scale or learn one per
    feature.

    See also:
        :class:`StudentT` for outliers, :class:`Laplace` for sharp peaks.

    Example:
        >>> head = Normal((3,))
        >>> head.num_params
        6
        >>> head(torch.zeros(2, 6)).batch_shape
        torch.Size([2])
    """

    family, params = dists.Normal, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}
    units = location_and_scale()


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
    units = location_and_scale()


class StudentT(Parametric, name="student_t"):
    r"""Real numbers with heavy tails.

    .. math:: p(x \mid h) = t_\nu\big((x - h_2) / s\big) / s, \quad \nu = [h_1]_+,\ s = [h_3]_+

    For data with outliers. As a guide its tails are heavy, which keeps the importance weights of
    log p(x) from becoming wild.

    Example:
        >>> StudentT((3,), df=4.0).num_params
        6
    """

    family, params = dists.StudentT, ("df", "loc", "scale")
    standard = {"df": 4.0, "loc": 0.0, "scale": 1.0}
    units = location_and_scale()


class Logistic(Parametric, name="logistic"):
    r"""Real numbers with exponential tails and a smooth peak.

    .. math:: p(x \mid h) = \sigma(u)\,\sigma(-u) / s, \quad u = (x - h_1) / s,\ s = [h_2]_+

    Example:
        >>> Logistic((3,), loc=0.0, scale=1.0)().event_shape
        torch.Size([3])
    """

    family, params = dist.Logistic, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}
    units = location_and_scale()


class HorseshoeLike(Parametric, name="horseshoe_like"):
    r"""Sparse real numbers: most very near zero, some far away.

    .. math:: p(z \mid h) = \frac{1}{2 \pi s} \log\Big(1 + \frac{s^2}{z^2}\Big), \quad s = [h]_+

    It has the pole at zero and the Cauchy tails of the horseshoe, and a density in closed form.

    See also:
        :class:`Laplace`, which is sparse in its mode only.

    References:
        | The horseshoe-like regularization for feature subset selection (Bhadra et al., 2019)
        | https://arxiv.org/abs/1702.07400

    Example:
        >>> HorseshoeLike((3,), scale=1.0)().event_shape
        torch.Size([3])
    """

    family, params = dists.HorseshoeLike, ("scale",)
    standard = {"scale": 1.0}
    units = Units(geometric_mean, {"scale": scaled})


class VonMises(Parametric, name="von_mises"):
    r"""Angles in radians, from :math:`-\pi` to :math:`\pi`: times of day, directions of wind.

    .. math:: p(x \mid h) = \exp\big(\kappa \cos(x - h_1)\big) / \big(2 \pi I_0(\kappa)\big), \quad
        \kappa = [h_2]_+

    Its mean is a direction; the average of such means over latents is that of plain numbers. Draws
    have no gradient.

    See also:
        :class:`VonMisesFisher` for unit vectors, which is also the prior for directions.

    Example:
        >>> VonMises((3,)).num_params
        6
    """

    family, params = dists.VonMises, ("loc", "concentration")
    standard = {"loc": 0.0, "concentration": 1.0}


class LogNormal(Parametric, name="log_normal"):
    r"""Positive numbers over several orders of magnitude.

    .. math:: \log x \sim \mathcal{N}(h_1,\, [h_2]_+^2)

    Zeros have no density.

    See also:
        :class:`ZeroInflatedLogNormal` for data with zeros.

    Example:
        >>> LogNormal((3,)).num_params
        6
    """

    family, params = dist.LogNormal, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}
    units = location_and_scale(mean_and_sd_of_logarithms)


class Gamma(Parametric, name="gamma"):
    r"""Positive numbers: waiting times, amounts, rates.

    .. math:: p(x \mid h) \propto x^{a - 1} e^{-b x}, \quad a = [h_1]_+,\ b = [h_2]_+

    The density of an exact zero is 0 or infinity, so zeros are refused as data.

    See also:
        :class:`ZeroInflatedGamma` and :class:`Tweedie` for data with zeros.

    Example:
        >>> Gamma((3,), concentration=2.0).num_params
        3
    """

    family, params = dist.Gamma, ("concentration", "rate")
    standard = {"concentration": 1.0, "rate": 1.0}
    units = Units(mean, {"rate": divided})


class Exponential(Parametric, name="exponential"):
    r"""Positive numbers: waiting times without memory.

    .. math:: p(x \mid h) = \lambda e^{-\lambda x}, \quad \lambda = [h]_+

    Example:
        >>> Exponential((3,)).num_params
        3
    """

    family, params = dist.Exponential, ("rate",)
    standard = {"rate": 1.0}
    units = Units(mean, {"rate": divided})


class HalfNormal(Parametric, name="half_normal"):
    r"""Positive numbers with light tails: the absolute value of a normal.

    .. math:: p(x \mid h) \propto \exp\big(-x^2 / (2 s^2)\big), \quad x > 0,\ s = [h]_+

    Example:
        >>> HalfNormal((3,)).num_params
        3
    """

    family, params = dists.HalfNormal, ("scale",)
    standard = {"scale": 1.0}
    units = Units(root_mean_square, {"scale": scaled})


class HalfCauchy(Parametric, name="half_cauchy"):
    r"""Positive numbers with very heavy tails: the absolute value of a Cauchy.

    .. math:: p(x \mid h) \propto (1 + x^2 / s^2)^{-1}, \quad x > 0,\ s = [h]_+

    Example:
        >>> HalfCauchy((3,)).num_params
        3
    """

    family, params = dists.HalfCauchy, ("scale",)
    standard = {"scale": 1.0}
    units = Units(geometric_mean, {"scale": scaled})


class Beta(Parametric, name="beta"):
    r"""Proportions strictly between 0 and 1.

    .. math:: p(x \mid h) \propto x^{a - 1} (1 - x)^{b - 1}, \quad a = [h_1]_+,\ b = [h_2]_+

    See also:
        :class:`OrderedBeta` for proportions of which some are 0 or 1; :class:`ContinuousBernoulli`
        for grey values that include them.

    Example:
        >>> Beta((3,)).num_params
        6
    """

    family, params = dist.Beta, ("concentration1", "concentration0")
    standard = {"concentration1": 1.0, "concentration0": 1.0}


class Uniform(Parametric, name="uniform"):
    r"""Numbers spread evenly over a fixed interval.

    .. math:: p(x) = 1 / (\mathrm{high} - \mathrm{low}), \quad \mathrm{low} \le x < \mathrm{high}

    A prior on an interval. Its bounds are fixed: learned bounds could leave data outside.

    Example:
        >>> Uniform((3,), low=-1.0, high=1.0)().event_shape
        torch.Size([3])
    """

    family, params = dist.Uniform, ("low", "high")
    standard = {"low": 0.0, "high": 1.0}


class ContinuousBernoulli(Parametric, name="continuous_bernoulli"):
    r"""Grey values in [0, 1], 0 and 1 included.

    .. math:: p(x \mid h) \propto \lambda^x (1 - \lambda)^{1 - x}, \quad \lambda = \sigma(h)

    References:
        | The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        | (Loaiza-Ganem et al., 2019)
        | https://arxiv.org/abs/1907.06845

    Example:
        >>> ContinuousBernoulli((3,)).num_params
        3
    """

    family, params = dist.ContinuousBernoulli, ("logits",)
    standard = {"logits": 0.0}


__all__ = [
    family.__name__ for family in Conditional.registry.values() if family.__module__ == __name__
]
