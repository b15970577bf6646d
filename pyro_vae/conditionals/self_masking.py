"""Cells that are missing by their own value."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..data.rows import Rows
from ..distributions.selected import (
    given_missing,
    has_closed_form,
    is_integrable,
    log_mean_probit,
    log_probit,
)
from ..distributions.supports import innermost
from .base import Shape, as_shape
from .missingness import Missingness, share_missing

DIRECTIONS = {"high": 1.0, "low": -1.0, "either": 0.0}


class SelfMasking(Missingness, name="self_masking"):
    r"""Each cell is missing by its own value, with a probit.

    .. math:: p(s_i = \mathrm{missing} \mid x) = \Phi(b_i (x_i - t_i))

    With slope :math:`b_i` and threshold :math:`t_i` for each column; a slope of 0 is chance.
    The integral over missing values is exact for a normal likelihood, the model of Heckman (1979),
    and a sum for one of finitely many values, so that everything that needs :math:`p(x, z)`, such
    as MCMC, works. For others one draw of them stands in, and MCMC is refused.

    Which sign the slope has is hardly seen in data: give `direction` where it is known. A slope of
    0 hides half of a column; one that hides nothing has a threshold far beyond its values.

    Arguments:
        event_shape: The shape of one datum.
        direction: Which values are the rather missing: "high", "low" or "either", which is learned
            and begins at chance; one for all columns, or a list with one for each.
        slope: The slope, where it is known, of the event shape or one for all.
        threshold: The threshold, where it is known.

    Raises:
        ValueError: A direction is unknown, or there are not as many as columns; slope and threshold
            are not both given, or no finite numbers.

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
    sign: Tensor
    known: Tensor

    def __init__(
        self,
        event_shape: Shape,
        *,
        direction: str | Sequence[str] = "either",
        slope: Any = None,
        threshold: Any = None,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.is_known = slope is not None
        if self.is_known != (threshold is not None):
            raise ValueError("what is known is slope and threshold: give both, or none")
        if self.is_known and direction != "either":
            raise ValueError("direction is the sign of the slope, which is given; leave it out")
        self.register_buffer("sign", _signs(direction, self.event_shape), persistent=False)
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
        return log_probit(torch.where(missing, score, -score))

    def draws(self, likelihood: TorchDistribution) -> bool:
        return not has_closed_form(innermost(likelihood))

    def fits(self, likelihood: TorchDistribution) -> bool:
        return is_integrable(innermost(likelihood))

    def log_missingness(self, likelihood: TorchDistribution, x: Tensor, missing: Tensor) -> Tensor:
        """log p(s | x_seen, z) of each cell, exact where the mean of the probit is."""
        intercept, slope = self._coefficients()
        # where another term is taken, zeros: no gradient of what is not used
        of_missing = (torch.where(missing, each, 0.0) for each in (intercept, slope))
        score = torch.where(missing, 0.0, intercept + slope * x)
        integrated = log_mean_probit(innermost(likelihood), *of_missing)
        return torch.where(missing, integrated, log_probit(-score))

    def given_missing(self, likelihood: TorchDistribution) -> TorchDistribution:
        hidden = given_missing(innermost(likelihood), *self._coefficients())
        return hidden.to_event(likelihood.event_dim)

    def initialize(self, x: Rows) -> None:
        if self.is_known:
            return
        mean, sd = x.moments()
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))
        share = share_missing(x).flatten().tolist()
        start = torch.tensor([NormalDist().inv_cdf(p) for p in share]).reshape(self.event_shape)
        with torch.no_grad():
            self.intercept.copy_(start)

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """Intercept and slope of the probit, in units of the data."""
        if self.is_known:
            return self.known[0], self.known[1]
        of_known_sign = self.sign * softplus(self.raw_slope)
        slope = torch.where(self.sign == 0, self.raw_slope, of_known_sign) / self.sd
        return self.intercept - slope * self.mean, slope

    @classmethod
    def example(cls) -> Missingness:
        return cls((3,))


def _signs(direction: Any, shape: torch.Size) -> Tensor:
    """The sign of each slope, 0 where it is learned."""
    given = [direction] if isinstance(direction, str) else direction
    known = isinstance(given, (list, tuple)) and all(
        isinstance(one, str) and one in DIRECTIONS for one in given
    )
    fits = known and (isinstance(direction, str) or [len(given)] == list(shape))
    if not fits:
        raise ValueError(
            f"direction must be 'high', 'low' or 'either', or a list with one for each of "
            f"{tuple(shape)} columns; got {direction!r:.60}"
        )
    return torch.tensor([DIRECTIONS[one] for one in given]).expand(shape).clone()


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


__all__ = ["SelfMasking"]
