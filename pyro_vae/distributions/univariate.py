"""Distributions that Pyro lacks, or has in a form that does not serve here."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import AbsTransform, Distribution, TransformedDistribution
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from .intervals import circle

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Normal(dist.Normal):
    """With a density in half as many passes, and draws that come with theirs."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_density((value - self.loc) / self.scale)

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draws and their log density, of shape ``sample_shape + batch_shape``.

        The density is that of the noise, so its gradient is the one for the parameters along the
        path of the draw; for the draw itself it has none.
        """
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise * self.scale, self._log_density(noise)

    def _log_density(self, standardized: Tensor) -> Tensor:
        peak = -HALF_LOG_2PI - self.scale.log()
        return torch.addcmul(peak, standardized, standardized, value=-0.5)


class Bernoulli(dist.Bernoulli):
    r"""With a density in fewer passes, :math:`\log p(x \mid h) = \log \sigma((2 x - 1) h)`: for 0
    and 1 only.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element."""
        if self._validate_args:
            self._validate_sample(value)
        sign = (2 * value.to(self.logits)).sub_(1)
        return logsigmoid(sign * self.logits)


# Torch brings the constants of these three from the processor, which a CUDA graph cannot hold.


class StudentT(dist.StudentT):
    """With constants that are made where the parameters are."""

    def __init__(
        self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        self._chi2 = dist.Gamma(self.df / 2, torch.full_like(self.df, 0.5))
        Distribution.__init__(self, self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StudentT:
        return super().expand(batch_shape, _instance or self._get_checked_instance(StudentT))


class HalfNormal(dist.HalfNormal):
    """With constants that are made where the parameters are."""

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        whole = dist.Normal(torch.zeros_like(scale), scale, validate_args=False)
        TransformedDistribution.__init__(self, whole, AbsTransform(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HalfNormal:
        return super().expand(batch_shape, _instance or self._get_checked_instance(HalfNormal))


class HalfCauchy(dist.HalfCauchy):
    """With constants that are made where the parameters are."""

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        whole = dist.Cauchy(torch.zeros_like(scale), scale, validate_args=False)
        TransformedDistribution.__init__(self, whole, AbsTransform(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HalfCauchy:
        return super().expand(batch_shape, _instance or self._get_checked_instance(HalfCauchy))


class ZeroInflatedNegativeBinomial(dist.ZeroInflatedNegativeBinomial):
    """Without a domain for probs.

    Pyro works them out from the logits. It then refuses one that was rounded to 1.
    """

    arg_constraints = {
        "total_count": dist.NegativeBinomial.arg_constraints["total_count"],
        "logits": constraints.real,
        "gate_logits": constraints.real,
    }


class Categorical(dist.Categorical):
    """With torch's density. Pyro's compares ids, which ``torch.compile`` cannot trace."""

    log_prob = torch.distributions.Categorical.log_prob


class OrderedLogistic(dist.OrderedLogistic):
    """With torch's density, as :class:`Categorical`."""

    log_prob = torch.distributions.Categorical.log_prob


class VonMises(dist.VonMises):
    """Over one turn, with a normaliser that is exact for any concentration."""

    support = circle

    @property
    def mean(self) -> Tensor:
        """The direction of the mean, within one turn."""
        return torch.remainder(self.loc + math.pi, 2 * math.pi) - math.pi

    def expand(self, batch_shape: Any, _instance: Any = None) -> VonMises:
        """The same, of a larger batch shape."""
        shape = torch.Size(batch_shape)
        return VonMises(self.loc.expand(shape), self.concentration.expand(shape), False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element."""
        if self._validate_args:
            self._validate_sample(value)
        below_peak = -2 * torch.sin((value - self.loc) / 2).square()  # cos - 1, without cancelling
        log_bessel = torch.special.i0e(self.concentration).log()
        return self.concentration * below_peak - math.log(2 * math.pi) - log_bessel


class DiscretizedLogistic(TorchDistribution):
    r"""A logistic on the scale from -1 to 1, rounded to the nearest of n levels.

    The end levels take the tails.
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "levels": constraints.positive_integer,
    }

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: Any, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, levels = broadcast_all(loc, scale, levels)
        self.levels = levels.to(self.loc)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The mean over all levels."""
        levels = torch.arange(int(self.levels.max()), dtype=self.loc.dtype, device=self.loc.device)
        levels = levels.reshape(-1, *[1] * self.loc.dim())
        return (self.log_prob(levels).exp() * levels).sum(0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """The same, of a larger batch shape."""
        return DiscretizedLogistic(
            self.loc.expand(batch_shape),
            self.scale.expand(batch_shape),
            self.levels.expand(batch_shape),
            False,
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Levels of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            x = dist.Logistic(self.loc, self.scale).sample(torch.Size(sample_shape))
            return (x + 1).mul((self.levels - 1) / 2).round().clamp(min=0).minimum(self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element.

        For the edges a > b of a level, log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b -
        a)), where s is the logistic function.
        """
        if self._validate_args:
            self._validate_sample(value)
        step = 2 / (self.levels - 1)
        middle = (value * step - 1 - self.loc) / self.scale
        half = step / (2 * self.scale)
        last = value >= self.levels - 1
        below_upper = logsigmoid(middle + half).masked_fill(last, 0.0)
        above_lower = logsigmoid(half - middle).masked_fill(value <= 0, 0.0)

        both = (value > 0) & ~last
        between = torch.where(both, torch.log(-torch.expm1(-2 * half)), 0.0)
        return below_upper + above_lower + between


class HorseshoeLike(TorchDistribution):
    r"""A Cauchy whose scale is uniform on (0, scale): :math:`p(z) = \log(1 + s^2 / z^2) / (2 \pi
    s)`.
    """

    arg_constraints = {"scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        self.scale = torch.as_tensor(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """None: its tails are those of a Cauchy."""
        return torch.full_like(self.scale, math.nan)

    @property
    def mode(self) -> Tensor:
        """The pole at zero."""
        return torch.zeros_like(self.scale)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HorseshoeLike:
        """The same, of a larger batch shape."""
        return HorseshoeLike(self.scale.expand(batch_shape), False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``."""
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.scale.dtype, device=self.scale.device)
        cauchy = dist.Cauchy(torch.zeros_like(self.scale), torch.ones_like(self.scale))
        return self.scale * uniform * cauchy.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element: log(log1p(s² / z²)) - log(2 pi s).

        z² / s² is at least the smallest number, so that the pole at zero is finite.
        """
        if self._validate_args:
            self._validate_sample(value)
        square = (value / self.scale).square().clamp(min=torch.finfo(value.dtype).tiny)
        return torch.log(torch.log1p(1 / square)) - torch.log(2 * math.pi * self.scale)
