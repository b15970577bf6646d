r"""Is the guide right on average? Simulation-based calibration, and predictive checks of the model.

Draw :math:`z \sim p(z)` and :math:`x \sim p(x \mid z)`: then z is one draw of :math:`p(z \mid x)`,
and among L others its rank is uniform (Talts et al., 2018, https://arxiv.org/abs/1804.06788). A
guide that is shifted makes ranks lean to one side, one that is narrow heaps them at both ends.
Beside each latent, :math:`\log p(x, z)` is ranked: it sees what no single latent shows, such as a
correlation that is missed.

A test of location (ranks) and one of spread (their distance from the middle) is made for each
quantity, by Kolmogorov and Smirnov; the verdict is by the smallest of all p-values, times their
number (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..density.memory import tile_rows
from ..density.problem import Problem
from ..guards import evaluating, seeded, whole_number
from ..posterior.mcmc import sample_posterior
from ..posterior.trees import dataset
from ..vae import VAE
from .draws import flat, guide_draws, simulated, vae_of

if TYPE_CHECKING:
    import pandas
    import xarray

REJECTED = 1e-3  # the p-value below which the verdict is no


def calibrate(
    vae: VAE,
    c: Any = None,
    *,
    num_simulations: int = 500,
    num_samples: int = 99,
    kernel: str | None = None,
    seed: int = 0,
) -> xarray.Dataset:
    """Simulation-based calibration of the guide, or of MCMC.

    Arguments:
        vae: A VAE over continuous latents.
        c: For a conditional VAE: rows to simulate for; they are repeated as often as it takes.
        num_simulations: How many data are simulated from the model.
        num_samples: The draws L that each true z is ranked among.
        kernel: Left out, the guide is judged; ``"hmc"`` or ``"nuts"`` judges MCMC, thinned to L
            draws: the control.
        seed: The seed of the simulations and draws.

    Returns:
        A dataset over simulation and quantity (``z_0``, ``z_1``, ..., ``log_joint``): ``rank``,
        between 0 and 1; over quantity: ``p_location`` and ``p_spread``. Attributes: ``p_value``,
        the verdict's, and ``calibrated``, whether it is at least 0.001.

    Raises:
        TypeError: The latents are discrete.
        ValueError: An option makes no sense.
    """
    whole_number("num_simulations", num_simulations, at_least=20)
    whole_number("num_samples", num_samples, at_least=25)
    whole_number("seed", seed, at_least=0, at_most=2**62)
    vae = vae_of("calibrate", vae)
    if vae.is_discrete:
        raise TypeError(
            "calibrate needs continuous latents; over discrete ones compare the guide's "
            "probabilities"
        )

    z, x, given = simulated(vae, c, num_simulations, seed)
    problem = Problem.of(vae, x, given)
    if kernel is None:
        drawn = guide_draws(problem, num_samples=num_samples, seed=seed + 1)[0]["z"]
    else:
        options: dict[str, Any] = {"num_samples": 10 * num_samples, "seed": seed + 1}
        tree = sample_posterior(problem, kernel=kernel, **options)
        drawn = tree["posterior"].z.values.reshape(-1, num_simulations, *z.shape[1:])
        drawn = drawn[np.linspace(0, len(drawn) - 1, num_samples).astype(int)]

    both = np.concatenate([z[None], drawn])
    log_joint = _log_joint(problem, both)[..., None]
    quantities = np.concatenate([flat({"z": both}, 2), log_joint], -1)
    names = [f"z_{number}" for number in range(quantities.shape[-1] - 1)] + ["log_joint"]
    return _verdict(_ranks(quantities, seed + 2), names)


def _log_joint(problem: Problem, z: np.ndarray) -> np.ndarray:
    """log p(x, z) of latents ``(L, N, *Z)``, shape ``(L, N)``."""
    found = []
    with torch.no_grad(), evaluating(problem.model, problem.guide):
        batch = problem.batch(slice(None))
        densities = problem.densities(batch)
        rows = tile_rows(problem.device)
        for block in np.array_split(z, max(1, math.ceil(z.shape[0] * z.shape[1] / rows))):
            values = {"z": torch.as_tensor(block).to(batch[0].device)}
            log_likelihood, log_prior = densities.log_model(values)
            found.append((log_likelihood + log_prior).numpy(force=True))
    return np.concatenate(found)


def _ranks(quantities: np.ndarray, seed: int) -> np.ndarray:
    """The place of the first of ``(1 + L, N, Q)`` among the others: uniform on (0, 1), ties broken
    at random.
    """
    below = (quantities[1:] < quantities[0]).sum(0)
    ties = (quantities[1:] == quantities[0]).sum(0)
    uniform = np.random.default_rng(seed).random(below.shape)
    return (below + uniform * (ties + 1)) / len(quantities)


def _verdict(rank: np.ndarray, names: list[str]) -> xarray.Dataset:
    from scipy import stats

    location = [float(stats.kstest(each, "uniform").pvalue) for each in rank.T]
    spread = [float(stats.kstest(np.abs(2 * each - 1), "uniform").pvalue) for each in rank.T]
    found = dataset({"rank": rank}, ("simulation", "quantity"), "").assign_coords(quantity=names)
    found = found.assign(p_location=("quantity", location), p_spread=("quantity", spread))
    p_value = min(1.0, 2 * len(names) * min(*location, *spread))
    return found.assign_attrs(p_value=p_value, calibrated=int(p_value >= REJECTED))


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.nanmean,
    "sd": np.nanstd,
    "min": np.nanmin,
    "max": np.nanmax,
    "zeros": lambda x: float(np.mean(x[~np.isnan(x)] == 0)),
}


def check_predictions(
    vae: VAE | Problem,
    x: Any = None,
    c: Any = None,
    *,
    statistics: Mapping[str, Callable[[np.ndarray], float]] | None = None,
    num_samples: int = 200,
    seed: int = 0,
) -> pandas.DataFrame:
    """Posterior predictive check: statistics of the data against those of data that the model makes
    of them.

    Arguments:
        vae: A VAE.
        x: Data of shape ``(N, *X)``, NaN where missing: missing cells are left out on both sides.
        c: What a conditional VAE is conditional on, a row for each datum.
        statistics: By name, functions of an array of the shape of x (default: mean, sd, min, max,
            share of zeros).
        num_samples: How many data sets are drawn: z from the guide, then x from p(x|z).
        seed: The seed of the draws.

    Returns:
        A frame with a row for each statistic: ``observed``, ``mean`` and ``sd`` over the data sets
        drawn, and ``p_value``, two-sided, NaN where a statistic is; small where the model does not
        make data like these. It is not uniform under a true model, but closer to 1/2 (Gelman et
        al., 1996), since the data are used twice.

    Raises:
        DataError: The data do not fit the likelihood.
    """
    import pandas

    whole_number("num_samples", num_samples, at_least=20)
    own = vae_of("check_predictions", vae)
    statistics = STATISTICS if statistics is None else statistics
    by_name = isinstance(statistics, Mapping) and all(map(callable, statistics.values()))
    if not by_name:
        raise TypeError(
            f"check_predictions needs statistics as functions by name; got {statistics!r:.60}"
        )
    problem = Problem.of(vae, x, c)
    first, *given = problem.batch(slice(None))

    drawn = []
    with torch.no_grad(), seeded(seed), evaluating(own):
        encoded = own.encode_condition(len(first), *given)
        guide, missing = own.guide_of(first, encoded), first.isnan()
        for _ in range(num_samples):
            again = own.likelihood_of(guide.sample(), encoded).sample().to(first)
            again = again.masked_fill(missing, math.nan).numpy(force=True)
            drawn.append([function(again) for function in statistics.values()])

    table = pandas.DataFrame(index=list(statistics))
    values, observed = (
        np.array(drawn, dtype=float),
        [float(f(first.numpy(force=True))) for f in statistics.values()],
    )
    above = ((values > observed) + 0.5 * (values == observed)).mean(0)
    table["observed"] = observed
    table["mean"] = values.mean(0)
    table["sd"] = values.std(0)
    known = np.isfinite(observed) & np.isfinite(values).all(0)
    table["p_value"] = np.where(
        known, np.clip(2 * np.minimum(above, 1 - above), 1 / num_samples, 1.0), np.nan
    )
    return table
