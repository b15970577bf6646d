r"""Why cells are missing: :math:`p(s \mid x)`, the optional fourth part of a VAE.

Where a value makes itself missing, :math:`\log p(x_{seen})` alone learns from the wrong data. The
bounds of :math:`\log p(x_{seen}, s)` do not (Ipsen, Mattei & Frellsen, 2021,
https://arxiv.org/abs/2006.12871, eq. 8), given that the form of p(s | x) is right: that cannot be
told from what is seen.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ..data.rows import Rows
from ..distributions.supports import innermost, inside
from .base import Shape, as_shape
from .declared import Declared
from .networks import MLP


class Missingness(Declared, abc.ABC):
    """A model of p(s | x), where s says which cells of a datum are missing.

    ``class Mine(Missingness, name="mine")`` registers a name. Its first argument is the shape of a
    datum. It writes ``log_chance``; what is integrated over missing values is then one draw of
    them for each latent.
    """

    registry: ClassVar[dict[str, type[Missingness]]] = {}
    kind = "missingness"
    num_sizes = 1
    apt: ClassVar[str] = "normal, student_t or gamma"  # likelihoods, in messages

    event_shape: torch.Size

    @abc.abstractmethod
    def log_chance(self, x: Tensor, missing: Tensor) -> Tensor:
        """The log probability of each cell's `missing`, given complete x: both ``(*, *X)``."""

    def draws(self, likelihood: TorchDistribution) -> bool:
        """Whether :meth:`log_prob` draws missing values afresh, so that it is an estimate."""
        return True

    def fits(self, likelihood: TorchDistribution) -> bool:
        """Whether missing values can be integrated over, with a gradient."""
        return likelihood.has_rsample

    def log_prob(self, likelihood: TorchDistribution, x: Tensor) -> Tensor:
        """log p(x_seen, s | z), of the batch shape of p(x | z), for x of NaN where missing."""
        missing = x.isnan()
        cell = innermost(likelihood)
        filled = torch.where(missing, inside(cell.support, x), x)
        of_seen = cell.mask(~missing).to_event(likelihood.event_dim).log_prob(filled)
        of_s = self.log_missingness(likelihood, filled, missing)
        return of_seen + of_s.sum(tuple(range(-likelihood.event_dim, 0)))

    def log_missingness(self, likelihood: TorchDistribution, x: Tensor, missing: Tensor) -> Tensor:
        """log p(s | x_seen, z) of each cell, the missing values drawn."""
        return self.log_chance(torch.where(missing, likelihood.rsample().to(x), x), missing)

    def given_missing(self, likelihood: TorchDistribution) -> TorchDistribution:
        """p(x | z, s) where every cell is missing, for one of which nothing is drawn."""
        raise NotImplementedError(f"{self.name} draws missing cells")

    def sample(self, x: Tensor) -> Tensor:
        """Which cells of complete x, ``(*, *X)``, are to be missing."""
        everywhere = torch.ones_like(x, dtype=torch.bool)
        return self.log_chance(x, everywhere).exp().bernoulli().bool()

    def initialize(self, x: Rows) -> None:
        """Start where nothing depends on x: at the share of each column that is missing."""

    @classmethod
    @abc.abstractmethod
    def example(cls) -> Missingness:
        """The small instance that tests and documentation use."""


class LogisticMissingness(Missingness, name="logistic"):
    r"""Each cell is missing by all values of the datum, with a logit that a network gives.

    .. math:: p(s_i = \mathrm{missing} \mid x) = \sigma(f_i(x))

    Without hidden layers it is a logistic regression for each cell. One draw of the missing values
    for each latent stands in the place of the integral over them (Ipsen et al., 2021, eq. 8): so
    bounds are bounds and importance weights unbiased, but there is no p(x, z) for MCMC. The more a
    model may say of the missingness, the less can be told from data: :class:`SelfMasking` does
    better where it is apt.

    Arguments:
        event_shape: The shape of one datum.
        hidden: The widths of the hidden layers.

    References:
        | not-MIWAE: Deep Generative Modelling with Missing not at Random Data (Ipsen et al., 2021)
        | https://arxiv.org/abs/2006.12871

    Example:
        >>> LogisticMissingness((2,)).sample(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, event_shape: Shape, *, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.network = MLP(self.event_shape, self.event_shape.numel(), hidden=hidden)
        nn.init.zeros_(self._last.weight)
        nn.init.zeros_(self._last.bias)

    @property
    def _last(self) -> nn.Linear:
        layers: Any = self.network.layers
        return layers[-1]

    def log_chance(self, x: Tensor, missing: Tensor) -> Tensor:
        logit = self.network(x).reshape(x.shape)
        return logsigmoid(torch.where(missing, logit, -logit))

    def initialize(self, x: Rows) -> None:
        self.network.standardize(*x.moments())
        with torch.no_grad():
            self._last.bias.copy_(share_missing(x).flatten().logit())

    @classmethod
    def example(cls) -> Missingness:
        return cls((3,))


def share_missing(x: Rows) -> Tensor:
    """The share of each cell that is missing, between 0 and 1: half a datum more on both sides."""
    holes = x.mapped(lambda values: values.isnan().to(values))
    return (holes.moments()[0] * len(x) + 0.5) / (len(x) + 1)


_public: list[Any] = [Missingness, *Missingness.registry.values()]
__all__ = [thing.__name__ for thing in _public if thing.__module__ == __name__]
