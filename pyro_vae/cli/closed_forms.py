"""Models whose log p(x) is known in closed form, as Pyro functions with a guide of any width.

Two are linear-Gaussian: the marginal is normal. Two are conjugate: a gamma prior of Poisson counts,
whose marginal is negative binomial, and a beta prior of binomial counts, whose marginal is
beta-binomial. The exact values come from scipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from scipy import special, stats
from torch import Tensor

from ..density.traced import Pair

NUM_DATA = 20


@dataclass(frozen=True)
class Case:
    """A model whose log p(x) is known.

    ``pair(width)`` gives model and guide. The standard deviations of the guide are those of the
    posterior times `width`.
    """

    pair: Callable[[float], Pair]
    x: Tensor
    log_evidence: np.ndarray
    se: float = 0.0


def closed_forms() -> dict[str, Case]:
    """The models, by name."""
    return {
        "linear-Gaussian, 2 latents": _linear_gaussian(2),
        "linear-Gaussian, 10 latents": _linear_gaussian(10),
        "gamma prior, Poisson": _gamma_poisson(),
        "beta prior, binomial": _beta_binomial(),
    }


def _pair(
    prior: dist.Distribution,
    likelihood: Callable[[Tensor], dist.Distribution],
    guide: Callable[[Tensor], dist.Distribution],
) -> Pair:
    """Pyro functions of these parts."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", likelihood(pyro.sample("z", prior)), obs=x)

    def guide_of(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(x))

    return model, guide_of


def _linear_gaussian(size: int) -> Case:
    """p(z) = N(0, I), p(x|z) = N(W z, diag(s^2)).

    The columns of W are orthogonal in the metric of the noise, so the posterior has independent
    latents.
    """
    rng = np.random.default_rng(size)
    noise = rng.uniform(0.5, 1.0, size + 5)
    directions, _ = np.linalg.qr(rng.normal(size=(size + 5, size)))
    weight = noise[:, None] * directions * rng.uniform(0.5, 3.0, size)
    covariance = weight @ weight.T + np.diag(noise**2)
    marginal = stats.multivariate_normal(np.zeros(len(noise)), covariance)
    x = marginal.rvs(NUM_DATA, random_state=rng)
    x = x.astype(np.float32).astype(float)  # the estimators read them in single precision

    variance = 1 / (1 + ((weight / noise[:, None]) ** 2).sum(0))
    loadings = torch.as_tensor(weight)
    gain = torch.as_tensor(variance * weight / noise[:, None] ** 2)
    sd = torch.as_tensor(variance**0.5)
    scale = torch.as_tensor(noise)
    prior = dist.Normal(torch.zeros_like(sd), 1.0).to_event(1)

    def pair(width: float) -> Pair:
        return _pair(
            prior,
            lambda z: dist.Normal(z @ loadings.T.to(z), scale.to(z)).to_event(1),
            lambda x: dist.Normal(x @ gain.to(x), width * sd.to(x)).to_event(1),
        )

    return Case(pair, torch.as_tensor(x), marginal.logpdf(x))


def _gamma_poisson() -> Case:
    """The posterior is a gamma. The guide is a log-normal with the mean and sd of its log."""
    x = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(2.0, 1.0, NUM_DATA))

    def pair(width: float) -> Pair:
        def guide(x: Tensor) -> dist.Distribution:
            loc = special.digamma(2.0 + x.numpy()) - np.log(2.0)
            sd = np.sqrt(special.polygamma(1, 2.0 + x.numpy()))
            return dist.LogNormal(torch.as_tensor(loc), width * torch.as_tensor(sd))

        one = torch.ones((), dtype=torch.float64)
        return _pair(dist.Gamma(2 * one, one), dist.Poisson, guide)

    exact = stats.nbinom(2.0, 0.5).logpmf(x)
    return Case(pair, torch.as_tensor(x).double(), exact)


def _beta_binomial() -> Case:
    """The posterior is a beta. The guide is normal in log odds, with their mean and sd."""
    rng = np.random.default_rng(2)
    x = rng.binomial(10, rng.beta(2.0, 2.0, NUM_DATA))

    def pair(width: float) -> Pair:
        def guide(x: Tensor) -> dist.Distribution:
            successes = 2.0 + x.numpy()
            failures = 12.0 - x.numpy()
            loc = special.digamma(successes) - special.digamma(failures)
            sd = np.sqrt(special.polygamma(1, successes) + special.polygamma(1, failures))
            log_odds = dist.Normal(torch.as_tensor(loc), width * torch.as_tensor(sd))
            return dist.TransformedDistribution(log_odds, [dist.transforms.SigmoidTransform()])

        two = torch.full((), 2.0, dtype=torch.float64)
        return _pair(dist.Beta(two, two), lambda z: dist.Binomial(10, z), guide)

    exact = stats.betabinom(10, 2.0, 2.0).logpmf(x)
    return Case(pair, torch.as_tensor(x).double(), exact)
