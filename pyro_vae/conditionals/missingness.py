r"""Why cells are missing: :math:`p(s \mid x)`, the optional fourth part of a VAE.

Where a value makes itself missing, :math:`\log p(x_{seen})` alone learns from the wrong data. The
bounds of :math:`\log p(x_{seen}, s)` do not (Ipsen, Mattei & Frellsen, 2021,
https://arxiv.org/abs/2006.12871, eq. 8), given that the form of p(s | x) is right: that cannot be
told from what is seen.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus
from torch.special import log_ndtr

from ..data.rows import Rows
from ..distributions.selected import given_missing, has_closed_form, is_integrable, log_mean_probit
from ..distributions.supports import innermost, inside
from .base import Shape, as_shape
from .declared import Declared
from .networks import MLP

DIRECTIONS = {"high": 1.0, "low": -1.0}


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


class SelfMasking(Missingness, name="self_masking"):
    r"""Each cell is missing by its own value, with a probit.

    .. math:: p(s_i = \mathrm{missing} \mid x) = \Phi(b_i (x_i - t_i))

    With slope :math:`b_i` and threshold :math:`t_i` for each column; a slope of 0 is chance alone.
    The integral over missing values is exact for a normal likelihood, the model of Heckman (1979),
    and a sum for one of finitely many values, so that everything that needs :math:`p(x, z)`, such
    as MCMC, works. For others one draw of them stands in, and MCMC is refused.

    Which sign the slope has is hardly seen in data: give `direction` where it is known.

    Arguments:
        event_shape: The shape of one datum.
        direction: Which values are the rather missing: "high" or "low" (default: learned, and
            started at chance).
        slope: The slope, where it is known, of the event shape or one for all.
        threshold: The threshold, where it is known.

    Raises:
        ValueError: The direction is unknown; or slope and threshold are not both given.

    References:
        | not-MIWAE: Deep Generative Modelling with Missing not at Random Data (Ipsen et al., 2021)
        | https://arxiv.org/abs/2006.12871
        | Sample Selection Bias as a Specification Error (Heckman, 1979)
        | https://doi.org/10.2307/1912352

    Example:
        >>> limit = SelfMasking((2,), slope=100.0, threshold=1.0)  # nothing is seen above 1
        >>> limit.sample(torch.tensor([0.8, 1.2]))
        tensor([False,  True])
    """

    apt = "normal, student_t, gamma, bernoulli, binomial or categorical"
    mean: Tensor
    sd: Tensor
    known: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        direction: str | None = None,
        slope: Any = None,
        threshold: Any = None,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        if direction is not None and direction not in DIRECTIONS:
            raise ValueError(f"direction must be 'high' or 'low'; got {direction!r}")
        self.is_known = slope is not None
        if self.is_known != (threshold is not None):
            raise ValueError("slope and threshold are known together; give both, or none")
        if self.is_known and direction is not None:
            raise ValueError("direction is the sign of the slope, which is given; leave it out")
        self.sign = None if direction is None else DIRECTIONS[direction]
        self.register_buffer("mean", torch.zeros(self.event_shape))
        self.register_buffer("sd", torch.ones(self.event_shape))
        if self.is_known:
            b = _numbers("slope", slope, self.event_shape)
            t = _numbers("threshold", threshold, self.event_shape)
            self.register_buffer("known", torch.stack([-b * t, b]))
            return
        self.intercept = nn.Parameter(torch.zeros(self.event_shape))
        self.raw_slope = nn.Parameter(torch.zeros(self.event_shape))

    @property
    def slope(self) -> Tensor:
        """b, of the event shape, in units of the data."""
        return self._coefficients()[1]

    @property
    def threshold(self) -> Tensor:
        """t, of the event shape: where a cell is missing half the time."""
        intercept, slope = self._coefficients()
        return -intercept / slope

    def log_chance(self, x: Tensor, missing: Tensor) -> Tensor:
        intercept, slope = self._coefficients()
        score = intercept + slope * x
        return log_ndtr(torch.where(missing, score, -score))

    def draws(self, likelihood: TorchDistribution) -> bool:
        return not has_closed_form(innermost(likelihood))

    def fits(self, likelihood: TorchDistribution) -> bool:
        return is_integrable(innermost(likelihood))

    def log_missingness(self, likelihood: TorchDistribution, x: Tensor, missing: Tensor) -> Tensor:
        """log p(s | x_seen, z) of each cell, exact where the mean of the probit is."""
        intercept, slope = self._coefficients()
        of_missing = log_mean_probit(innermost(likelihood), intercept, slope)
        return torch.where(missing, of_missing, log_ndtr(-(intercept + slope * x)))

    def given_missing(self, likelihood: TorchDistribution) -> TorchDistribution:
        hidden = given_missing(innermost(likelihood), *self._coefficients())
        return hidden.to_event(likelihood.event_dim)

    def initialize(self, x: Rows) -> None:
        if self.is_known:
            return
        mean, sd = x.moments()
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))
        share = _share_missing(x).flatten().tolist()
        start = torch.tensor([NormalDist().inv_cdf(p) for p in share]).reshape(self.event_shape)
        with torch.no_grad():
            self.intercept.copy_(start)

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """Intercept and slope of the probit, in units of the data."""
        if self.is_known:
            return self.known[0], self.known[1]
        slope = self.raw_slope if self.sign is None else self.sign * softplus(self.raw_slope)
        slope = slope / self.sd
        return self.intercept - slope * self.mean, slope

    @classmethod
    def example(cls) -> Missingness:
        return cls((3,))


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
            self._last.bias.copy_(_share_missing(x).flatten().logit())

    @classmethod
    def example(cls) -> Missingness:
        return cls((3,))


def _numbers(name: str, values: Any, shape: torch.Size) -> Tensor:
    """A number for each cell.

    Raises:
        ValueError: They are no finite numbers, or not as many.
    """
    try:
        found = torch.as_tensor(values, dtype=torch.get_default_dtype()).expand(shape).clone()
    except (TypeError, ValueError, RuntimeError):
        found = torch.full(shape, torch.nan)
    if isinstance(values, bool) or not bool(found.isfinite().all()):
        raise ValueError(
            f"{name} must be a finite number, or one for each of {tuple(shape)} cells; got "
            f"{values!r:.60}; a large slope, such as 1e3, is a hard limit"
        )
    return found


def _share_missing(x: Rows) -> Tensor:
    """The share of each cell that is missing, between 0 and 1: half a datum more on both sides."""
    holes = x.mapped(lambda values: values.isnan().to(values))
    return (holes.moments()[0] * len(x) + 0.5) / (len(x) + 1)


_public: list[Any] = [Missingness, *Missingness.registry.values()]
__all__ = [thing.__name__ for thing in _public if thing.__module__ == __name__]
