"""Closed-form self-test: every estimator of log p(x) against models whose log p(x) is known, on the
user's own machine.

Linear-Gaussian models, whose marginal is normal, and two conjugate ones: a gamma prior of Poisson
counts, whose marginal is negative binomial, and a beta prior of binomial ones, whose marginal is
beta-binomial. The exact values are scipy's."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from rich.table import Table
from scipy import special, stats
from torch import Tensor

from ..density.traced import Pair
from ..evidence.annealing import annealed_log_evidence
from ..evidence.bridge import bridge_log_evidence
from ..evidence.evidence import log_evidence
from ..posterior.mcmc import sample_posterior

if TYPE_CHECKING:
    import pandas

NUM_DATA = 20
# standard errors of a single datum, 4 of the mean: in a right program both are rarer than 1 in 1000
# runs
LIMIT = 5.0
MEAN_LIMIT = 4.0


@dataclass(frozen=True)
class Case:
    """A model with a guide by the factor that its standard deviations are too wide; data; their
    exact log p(x).
    """

    name: str
    pair: Callable[[float], Pair]
    x: Tensor
    exact: np.ndarray


def check_estimators(seed: int = 0) -> pandas.DataFrame:
    """Every estimator on every model.

    Arguments:
        seed: The seed of the draws; the data are fixed.

    Returns:
        A frame with a row for each model and estimator: ``error`` and ``se``, the mean over data in
        nats; ``z``, the error of the mean in standard errors; ``worst``, the largest error of one
        datum in its own; ``passed``, and ``seconds``.
    """
    import pandas

    rows = []
    for case in (_linear_gaussian(2), _linear_gaussian(10), _gamma_poisson(), _beta_binomial()):
        for name, estimator in ESTIMATORS.items():
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a bad guide is part of the test
                found = estimator(case, seed)
            rows.append({"model": case.name, "estimator": name, **_judged(found, case.exact)})
            rows[-1]["seconds"] = time.perf_counter() - began
    return pandas.DataFrame(rows)


def table(found: pandas.DataFrame) -> Table:
    """What :func:`check_estimators` gave, for a terminal."""
    shown = Table(
        "model",
        "log p(x) by",
        title="log p(x) against closed forms, in nats per datum",
        title_justify="left",
    )
    for name in ("mean error", "mean SE", "z of the mean", "largest |z|", "", "seconds"):
        shown.add_column(name, justify="right")
    for row in found.itertuples():
        figures = f"{row.error:+.4f}", f"{row.se:.4f}", f"{row.z:+.2f}", f"{row.worst:.2f}"
        shown.add_row(
            str(row.model),
            str(row.estimator),
            *figures,
            "pass" if row.passed else "FAIL",
            f"{row.seconds:.1f}",
        )
    return shown


def _judged(found: Any, exact: np.ndarray) -> dict[str, Any]:
    error, se = found.log_evidence.values - exact, found.se.values
    z = error.mean() / (np.sqrt(np.square(se).sum()) / len(se))
    worst = np.abs(error / se).max()
    passed = bool(np.isfinite(error).all() and worst < LIMIT and abs(z) < MEAN_LIMIT)
    return {"error": error.mean(), "se": se.mean(), "z": z, "worst": worst, "passed": passed}


def _bridge(case: Case, seed: int) -> Any:
    pair = case.pair(1.3)
    return bridge_log_evidence(
        pair, case.x, sample_posterior(pair, case.x, num_samples=500, warmup=300, seed=seed)
    )


ESTIMATORS: dict[str, Callable[[Case, int], Any]] = {
    "importance sampling": lambda case, seed: log_evidence(
        case.pair(1.3), case.x, num_samples=2000, seed=seed
    ),
    "ladder, from a guide of a fifth the width": lambda case, seed: log_evidence(
        case.pair(0.2), case.x, tolerance=0.05, seed=seed
    ),
    "annealing, from the guide": lambda case, seed: annealed_log_evidence(
        case.pair(1.3), case.x, num_distributions=100, chains=32, num_steps=5, seed=seed
    ),
    "annealing, from the prior": lambda case, seed: annealed_log_evidence(
        case.pair(1.3),
        case.x,
        num_distributions=200,
        chains=64,
        start="prior",
        num_steps=5,
        seed=seed,
    ),
    "bridge sampling": _bridge,
}


def _pair(prior: Any, likelihood: Callable[[Tensor], Any], guide: Callable[[Tensor], Any]) -> Pair:
    """Pyro functions of these parts."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", likelihood(pyro.sample("z", prior)), obs=x)

    def guide_of(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(x))

    return model, guide_of


def _linear_gaussian(size: int) -> Case:
    """p(z) = N(0, I), p(x|z) = N(W z, diag(s^2)), with loadings that are orthogonal in the metric
    of the noise.
    """
    rng = np.random.default_rng(size)
    noise = rng.uniform(0.5, 1.0, size + 5)
    directions, _ = np.linalg.qr(rng.normal(size=(size + 5, size)))
    weight = noise[:, None] * directions * rng.uniform(0.5, 3.0, size)
    marginal = stats.multivariate_normal(
        np.zeros(len(noise)), weight @ weight.T + np.diag(noise**2)
    )
    x = (
        marginal.rvs(NUM_DATA, random_state=rng).astype(np.float32).astype(float)
    )  # as pairs are given it
    variance = 1 / (1 + ((weight / noise[:, None]) ** 2).sum(0))
    loadings, gain, sd, scale = (
        torch.as_tensor(part)
        for part in (weight, variance * weight / noise[:, None] ** 2, variance**0.5, noise)
    )
    prior = dist.Normal(torch.zeros_like(sd), 1.0).to_event(1)

    def pair(width: float) -> Pair:
        return _pair(
            prior,
            lambda z: dist.Normal(z @ loadings.T.to(z), scale.to(z)).to_event(1),
            lambda x: dist.Normal(x @ gain.to(x), width * sd.to(x)).to_event(1),
        )

    return Case(f"linear-Gaussian, {size} latents", pair, torch.as_tensor(x), marginal.logpdf(x))


def _gamma_poisson() -> Case:
    x = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(2.0, 1.0, NUM_DATA))

    def pair(
        width: float,
    ) -> Pair:  # the posterior is gamma: mean and sd of its log, and a log-normal of these
        def guide(x: Tensor) -> Any:
            loc = special.digamma(2.0 + x.numpy()) - np.log(2.0)
            sd = np.sqrt(special.polygamma(1, 2.0 + x.numpy()))
            return dist.LogNormal(torch.as_tensor(loc), width * torch.as_tensor(sd))

        one = torch.ones((), dtype=torch.float64)
        return _pair(dist.Gamma(2 * one, one), dist.Poisson, guide)

    return Case(
        "gamma prior, Poisson", pair, torch.as_tensor(x).double(), stats.nbinom(2.0, 0.5).logpmf(x)
    )


def _beta_binomial() -> Case:
    rng = np.random.default_rng(2)
    x = rng.binomial(10, rng.beta(2.0, 2.0, NUM_DATA))

    def pair(
        width: float,
    ) -> Pair:  # the posterior is beta: mean and sd of its log odds, and a normal of these
        def guide(x: Tensor) -> Any:
            above, below = 2.0 + x.numpy(), 12.0 - x.numpy()
            loc = special.digamma(above) - special.digamma(below)
            sd = np.sqrt(special.polygamma(1, above) + special.polygamma(1, below))
            odds = dist.Normal(torch.as_tensor(loc), width * torch.as_tensor(sd))
            return dist.TransformedDistribution(odds, [dist.transforms.SigmoidTransform()])

        two = torch.full((), 2.0, dtype=torch.float64)
        return _pair(dist.Beta(two, two), lambda z: dist.Binomial(10, z), guide)

    return Case(
        "beta prior, binomial",
        pair,
        torch.as_tensor(x).double(),
        stats.betabinom(10, 2.0, 2.0).logpmf(x),
    )
