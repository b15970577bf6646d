"""The Tweedie distribution: a Poisson number of gamma amounts."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from .elements import Elements
from .intervals import amounts

TERMS = 80  # of the series
REACH = 6.5  # how many standard deviations of the series they span to each side of its peak


class Tweedie(Elements):
    r"""A sum of N gamma amounts, where N is Poisson.

    .. math::

        \mathrm{E}\,x = \mu, \quad \mathrm{Var}\,x = \phi\,\mu^p, \quad
        \Pr(x = 0) = \exp\Big(-\frac{\mu^{2 - p}}{\phi\,(2 - p)}\Big)

    In double precision inside, as its terms are large and cancel.

    References:
        | Series evaluation of Tweedie exponential dispersion model densities (Dunn & Smyth, 2005)
        | https://doi.org/10.1007/s11222-005-4070-y
    """

    arg_constraints = {
        "mean": constraints.positive,
        "dispersion": constraints.positive,
        "power": constraints.interval(1.01, 1.99),  # where the series has digits
    }
    support = amounts
    dispersion: Tensor
    power: Tensor

    @property
    def mean(self) -> Tensor:
        """A parameter."""
        mean: Tensor = vars(self)["mean"]
        return mean

    @property
    def variance(self) -> Tensor:
        """A power of the mean, and a factor."""
        return self.dispersion * self.mean**self.power

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``; no positive one is rounded to zero."""
        with torch.no_grad():
            rate, concentration, scale = self._compound()
            number = torch.poisson(rate.expand(self._extended_shape(torch.Size(sample_shape))))
            drawn = scale * torch._standard_gamma(number.clamp(min=1) * concentration)
            drawn = drawn.to(self.mean.dtype)
            drawn = drawn.clamp(min=torch.finfo(drawn.dtype).tiny)
            return torch.where(number == 0, 0.0, drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element: at zero those of a probability, else of a density."""
        if self._validate_args:
            self._validate_sample(value)
        rate, concentration, scale = self._compound()
        is_zero = value == 0
        x = torch.where(is_zero, 1.0, value.double())
        series = self._log_series(x, rate.log() + concentration * (x / scale).log(), concentration)
        positive = series - x / scale - x.log()
        return torch.where(is_zero, -rate, positive - rate).to(self.mean.dtype)

    def _compound(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rate of the Poisson; the concentration and the scale of the gamma."""
        mean, dispersion, power = self.mean.double(), self.dispersion.double(), self.power.double()
        rate = mean ** (2 - power) / (dispersion * (2 - power))
        concentration = (2 - power) / (power - 1)
        return rate, concentration, dispersion * (power - 1) * mean ** (power - 1)

    def _log_series(self, x: Tensor, log_ratio: Tensor, concentration: Tensor) -> Tensor:
        r""":math:`\log \sum_{n \ge 1} r^n / (n!\, \Gamma(n \alpha))`.

        The terms are nearly those of a normal in n. Where they are many the sum is over every h-th,
        times h: of a smooth function the two are equal, and n need not be whole.
        """
        with torch.no_grad():
            n, step = self._numbers(x, concentration)
        terms = n * log_ratio.unsqueeze(-1) - torch.lgamma(n + 1)
        terms = terms - torch.lgamma(n * concentration.unsqueeze(-1))
        return terms.logsumexp(-1) + step.log()

    def _numbers(self, x: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
        """The n that count, of shape ``(*, TERMS)``, and how far apart they are."""
        left = 2 - self.power.double()
        peak = x**left / (left * self.dispersion.double())
        spread = (peak / (1 + concentration)).sqrt()
        step = (2 * REACH / (TERMS - 1) * spread).clamp(min=1)
        first = (peak - step * (TERMS - 1) / 2).round().clamp(min=1)
        along = torch.arange(TERMS, dtype=peak.dtype, device=peak.device)
        return first.unsqueeze(-1) + step.unsqueeze(-1) * along, step
