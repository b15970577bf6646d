"""Zero with a probability, else a number above zero: amounts and counts."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from .elements import Elements
from .intervals import amounts


class Hurdle(Elements):
    """A subclass writes what a number above zero is drawn from. ``gate_logits`` are the log odds of
    a zero.
    """

    gate_logits: Tensor

    @property
    def above(self) -> TorchDistribution:
        """The distribution of what is not zero."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Zeros included."""
        return torch.sigmoid(-self.gate_logits) * self.above.mean

    @property
    def variance(self) -> Tensor:
        """Zeros included."""
        above = self.above
        square = torch.sigmoid(-self.gate_logits) * (above.variance + above.mean.square())
        return square - self.mean.square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``; of amounts no positive one is rounded to
        zero.
        """
        with torch.no_grad():
            drawn = self.above.sample(torch.Size(sample_shape))
            drawn = drawn.clamp(min=torch.finfo(drawn.dtype).tiny)
            is_zero = self.uniform(sample_shape, drawn) < torch.sigmoid(self.gate_logits)
            return torch.where(is_zero, 0.0, drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element."""
        if self._validate_args:
            self._validate_sample(value)
        is_zero = value == 0
        above = self.above.log_prob(torch.where(is_zero, 1.0, value))
        return torch.where(
            is_zero, logsigmoid(self.gate_logits), logsigmoid(-self.gate_logits) + above
        )


class ZeroInflatedGamma(Hurdle):
    """Zero, or an amount that is gamma."""

    arg_constraints = {**dist.Gamma.arg_constraints, "gate_logits": constraints.real}
    support = amounts
    concentration: Tensor
    rate: Tensor

    @property
    def above(self) -> TorchDistribution:
        """The gamma."""
        return dist.Gamma(self.concentration, self.rate, validate_args=False)


class ZeroInflatedLogNormal(Hurdle):
    """Zero, or an amount that is log-normal."""

    arg_constraints = {**dist.LogNormal.arg_constraints, "gate_logits": constraints.real}
    support = amounts
    loc: Tensor
    scale: Tensor

    @property
    def above(self) -> TorchDistribution:
        """The log-normal."""
        return dist.LogNormal(self.loc, self.scale, validate_args=False)


class HurdlePoisson(Hurdle):
    """Zero, or a count that is Poisson given that it is not zero."""

    arg_constraints = {"rate": constraints.positive, "gate_logits": constraints.real}
    support = constraints.nonnegative_integer
    rate: Tensor

    @property
    def above(self) -> TorchDistribution:
        """The Poisson without its zeros."""
        return PositivePoisson(rate=self.rate, validate_args=False)


class HurdleNegativeBinomial(Hurdle):
    """Zero, or a count that is negative binomial given that it is not zero."""

    arg_constraints = {
        "total_count": constraints.positive,
        "logits": constraints.real,
        "gate_logits": constraints.real,
    }
    support = constraints.nonnegative_integer
    total_count: Tensor
    logits: Tensor

    @property
    def above(self) -> TorchDistribution:
        """The negative binomial without its zeros."""
        return PositiveNegativeBinomial(
            total_count=self.total_count, logits=self.logits, validate_args=False
        )


class PositiveCounts(Elements):
    r"""Counts given that they are not zero.

    A subclass writes ``base``, the counts of the events of a unit of time, and
    :math:`\Lambda = -\log p(0)`.

    Draws are exact: one for the time of the first event, given that it is before 1, and one for the
    number of those after it.
    """

    @property
    def base(self) -> TorchDistribution:
        """The counts, zeros included."""
        raise NotImplementedError

    @property
    def log_hazard(self) -> Tensor:
        r""":math:`\log \Lambda`."""
        raise NotImplementedError

    @property
    def log_some(self) -> Tensor:
        r"""The log probability that a count is not zero, :math:`\log(1 - e^{-\Lambda})`."""
        hazard = self.log_hazard.exp()
        hazard = hazard.clamp(min=torch.finfo(hazard.dtype).tiny)
        return self.log_hazard + torch.log(-torch.expm1(-hazard) / hazard)

    @property
    def log_base_mean(self) -> Tensor:
        """The log of the mean, zeros included."""
        raise NotImplementedError

    @property
    def fano_factor(self) -> Tensor:
        """The variance by the mean, zeros included."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Without zeros; 1 where the mean with them is 0."""
        return (self.log_base_mean - self.log_some).exp()

    @property
    def variance(self) -> Tensor:
        """Without zeros."""
        square = self.mean * (self.fano_factor + self.log_base_mean.exp())
        return square - self.mean.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element."""
        return self.base.log_prob(value) - self.log_some

    def passed(self, sample_shape: Any) -> Tensor:
        r"""Draws of :math:`\Lambda` up to the first event."""
        some = self.log_some.exp()
        return -torch.log1p(-some * self.uniform(sample_shape, some))


class PositivePoisson(PositiveCounts):
    """Of a Poisson."""

    arg_constraints = {"rate": constraints.positive}
    support = constraints.positive_integer
    rate: Tensor

    @property
    def base(self) -> TorchDistribution:
        """The Poisson."""
        return dist.Poisson(self.rate, validate_args=False)

    @property
    def log_hazard(self) -> Tensor:
        """That of its rate."""
        return self.rate.log()

    @property
    def log_base_mean(self) -> Tensor:
        """That of its rate."""
        return self.rate.log()

    @property
    def fano_factor(self) -> Tensor:
        """One."""
        return torch.ones_like(self.rate)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            return 1 + torch.poisson((self.rate - self.passed(sample_shape)).clamp(min=0))


class PositiveNegativeBinomial(PositiveCounts):
    """Of a negative binomial: a Poisson whose rate is gamma."""

    arg_constraints = {"total_count": constraints.positive, "logits": constraints.real}
    support = constraints.positive_integer
    total_count: Tensor
    logits: Tensor

    @property
    def base(self) -> TorchDistribution:
        """The negative binomial."""
        return dist.NegativeBinomial(self.total_count, logits=self.logits, validate_args=False)

    @property
    def log_hazard(self) -> Tensor:
        """That of r log(1 + exp(logits)); softplus is its argument's exponential far below 0."""
        far = self.logits < -30
        near = softplus(torch.where(far, 0.0, self.logits)).log()
        return self.total_count.log() + torch.where(far, self.logits, near)

    @property
    def log_base_mean(self) -> Tensor:
        """That of r exp(logits)."""
        return self.total_count.log() + self.logits

    @property
    def fano_factor(self) -> Tensor:
        """One more than exp(logits)."""
        return 1 + self.logits.exp()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts of shape ``sample_shape + batch_shape``.

        The gamma has the rate b = exp(-logits). With no event up to the time t it has the rate b +
        t, and the first event there adds one to its concentration. Below all is in units of b,
        which may be infinite.
        """
        with torch.no_grad():
            first = torch.expm1(self.passed(sample_shape) / self.total_count)
            left = (self.logits.exp() - first).clamp(min=0)
            gamma = torch._standard_gamma((self.total_count + 1).expand_as(first))
            return 1 + torch.poisson(gamma * left / (1 + first))
