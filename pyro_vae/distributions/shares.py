"""The ordered beta: numbers from 0 to 1, with both ends."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from .intervals import shares


class OrderedBeta(TorchDistribution):
    r"""Zeros, ones, and a beta between them, by a predictor and two ordered cut points.

    The beta has the mean :math:`\mu = \sigma(\mathrm{predictor})` and the concentrations
    :math:`\mu\,\phi` and :math:`(1 - \mu)\,\phi`.
    """

    arg_constraints = {
        "predictor": constraints.real,
        "concentration": constraints.positive,
        "cutpoints": constraints.ordered_vector,
    }
    support = shares

    def __init__(
        self,
        predictor: Tensor,
        concentration: Tensor,
        cutpoints: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.predictor, self.concentration, *cuts = broadcast_all(
            predictor, concentration, *cutpoints.unbind(-1)
        )
        self.cutpoints = torch.stack(cuts, -1)
        super().__init__(self.predictor.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedBeta:
        """The same, of a larger batch shape."""
        shape = torch.Size(batch_shape)
        return OrderedBeta(
            self.predictor.expand(shape),
            self.concentration.expand(shape),
            self.cutpoints.expand((*shape, 2)),
            False,
        )

    @property
    def mean(self) -> Tensor:
        """Ends included."""
        _, between, one = (part.exp() for part in self._log_parts())
        return between * self.predictor.sigmoid() + one

    @property
    def variance(self) -> Tensor:
        """Ends included."""
        _, between, one = (part.exp() for part in self._log_parts())
        mean = self.predictor.sigmoid()
        square = mean.square() + mean * (1 - mean) / (1 + self.concentration)
        return between * square + one - self.mean.square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``; none between is rounded to an end."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            mean, finfo = self.predictor.sigmoid(), torch.finfo(self.predictor.dtype)
            beta = torch.distributions.Beta(
                (self.concentration * mean).clamp(min=finfo.tiny),
                (self.concentration * (1 - mean)).clamp(min=finfo.tiny),
                validate_args=False,
            )
            drawn = beta.sample(torch.Size(sample_shape)).clamp(finfo.tiny, 1 - finfo.eps)
            uniform = torch.rand(shape, dtype=drawn.dtype, device=drawn.device)
            zero, _, one = (part.exp() for part in self._log_parts())
            drawn = torch.where(uniform < zero, 0.0, drawn)
            return torch.where(1 - uniform <= one, 1.0, drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per element: at the ends those of a probability, else of a density."""
        if self._validate_args:
            self._validate_sample(value)
        zero, between, one = self._log_parts()
        is_zero, is_one = value == 0, value == 1
        found = between + self._log_beta(torch.where(is_zero | is_one, 0.5, value))
        return torch.where(is_zero, zero, torch.where(is_one, one, found))

    def _log_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The log probabilities of zeros, of what is between, and of ones."""
        lower, upper = self.cutpoints.unbind(-1)
        below, above = self.predictor - lower, self.predictor - upper
        between = logsigmoid(below) + logsigmoid(-above) + torch.log(-torch.expm1(lower - upper))
        return logsigmoid(-below), between, logsigmoid(above)

    def _log_beta(self, value: Tensor) -> Tensor:
        """The log density of the beta. By lgamma(a) = lgamma(1 + a) - log(a) it stays finite where
        a concentration is rounded to 0.
        """
        logs = [
            self.concentration.log() + logsigmoid(sign * self.predictor) for sign in (1.0, -1.0)
        ]
        first, second = (log.exp() for log in logs)
        normaliser = sum(torch.lgamma(1 + log.exp()) - log for log in logs)
        powers = (first - 1) * value.log() + (second - 1) * torch.log1p(-value)
        return powers + torch.lgamma(self.concentration) - normaliser
