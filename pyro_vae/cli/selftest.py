"""The command check: every estimator of log p(x) on the user's machine, against models whose log
p(x) is known.

Two are linear-Gaussian: the marginal is normal. Two are conjugate: a gamma prior of Poisson counts,
whose marginal is negative binomial, and a beta prior of binomial counts, whose marginal is
beta-binomial. The exact values come from scipy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
import typer
import xarray
from pyro import distributions as dist
from rich.table import Table
from scipy import special, stats
from torch import Tensor

from ..density.traced import Pair
from ..evidence.annealing import annealed_log_evidence
from ..evidence.bridge import bridge_log_evidence
from ..evidence.evidence import log_evidence
from ..posterior.mcmc import sample_posterior
from .arguments import Seed
from .terminal import console

if TYPE_CHECKING:
    import pandas

NUM_DATA = 20
# In a correct program either limit is passed in less than 1 of 1000 runs.
DATUM_LIMIT = 5.0  # standard errors of a single datum
MEAN_LIMIT = 4.0  # standard errors of the mean


def check(seed: Seed = 0) -> None:
    """Test every estimator of log p(x) on this machine, against models whose log p(x) is known.

    `pyro-vae check`

    Exit code 1 if one fails.
    """
    found = check_estimators(seed)
    console().print(table(found))
    failed = int((~found.passed).sum())
    typer.echo(f"{len(found) - failed} of {len(found)} passed in {found.seconds.sum():.0f} s.")
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Case:
    """A model whose log p(x) is known.

    ``pair(width)`` gives model and guide. The standard deviations of the guide are those of the
    posterior times `width`.
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
        datum in its own standard errors; ``passed``; and ``seconds``.
    """
    import pandas

    rows = []
    for case in (_linear_gaussian(2), _linear_gaussian(10), _gamma_poisson(), _beta_binomial()):
        for name, estimator in ESTIMATORS.items():
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a bad guide is part of the test
                found = estimator(case, seed)
            scores = _scores(found, case.exact)
            rows.append({"model": case.name, "estimator": name, **scores})
            rows[-1]["seconds"] = time.perf_counter() - start
    return pandas.DataFrame(rows)


def table(found: pandas.DataFrame) -> Table:
    """What :func:`check_estimators` gave, for a terminal."""
    result = Table(
        "model",
        "log p(x) by",
        title="log p(x) against closed forms, in nats per datum",
        title_justify="left",
    )
    for name in ("mean error", "mean SE", "z of the mean", "largest |z|", "", "seconds"):
        result.add_column(name, justify="right")
    for row in found.itertuples():
        result.add_row(
            str(row.model),
            str(row.estimator),
            f"{row.error:+.4f}",
            f"{row.se:.4f}",
            f"{row.z:+.2f}",
            f"{row.worst:.2f}",
            "pass" if row.passed else "FAIL",
            f"{row.seconds:.1f}",
        )
    return result


def _scores(found: xarray.Dataset, exact: np.ndarray) -> dict[str, Any]:
    """How far estimates are from the exact values, and whether that passes."""
    error = found.log_evidence.values - exact
    se = found.se.values
    se_of_mean = np.sqrt(np.square(se).sum()) / len(se)
    z = error.mean() / se_of_mean
    worst = np.abs(error / se).max()

    passed = bool(np.isfinite(error).all() and worst < DATUM_LIMIT and abs(z) < MEAN_LIMIT)
    return {"error": error.mean(), "se": se.mean(), "z": z, "worst": worst, "passed": passed}


def _importance(case: Case, seed: int) -> xarray.Dataset:
    return log_evidence(case.pair(1.3), case.x, num_samples=2000, seed=seed)


def _escalation(case: Case, seed: int) -> xarray.Dataset:
    return log_evidence(case.pair(0.2), case.x, tolerance=0.05, seed=seed)


def _annealing_from_guide(case: Case, seed: int) -> xarray.Dataset:
    return annealed_log_evidence(
        case.pair(1.3), case.x, num_distributions=100, chains=32, num_steps=5, seed=seed
    )


def _annealing_from_prior(case: Case, seed: int) -> xarray.Dataset:
    return annealed_log_evidence(
        case.pair(1.3),
        case.x,
        num_distributions=200,
        chains=64,
        start="prior",
        num_steps=5,
        seed=seed,
    )


def _bridge(case: Case, seed: int) -> xarray.Dataset:
    pair = case.pair(1.3)
    posterior = sample_posterior(pair, case.x, num_samples=500, warmup=300, seed=seed)
    return bridge_log_evidence(pair, case.x, posterior)


ESTIMATORS: dict[str, Callable[[Case, int], xarray.Dataset]] = {
    "importance sampling": _importance,
    "escalation, from a guide of a fifth the width": _escalation,
    "annealing, from the guide": _annealing_from_guide,
    "annealing, from the prior": _annealing_from_prior,
    "bridge sampling": _bridge,
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

    return Case(f"linear-Gaussian, {size} latents", pair, torch.as_tensor(x), marginal.logpdf(x))


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
    return Case("gamma prior, Poisson", pair, torch.as_tensor(x).double(), exact)


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
    return Case("beta prior, binomial", pair, torch.as_tensor(x).double(), exact)
