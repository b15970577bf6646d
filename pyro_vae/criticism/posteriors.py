r"""The amortised posterior held against MCMC, datum by datum.

The draws of MCMC stand for :math:`p(z \mid x)`: look at their diagnostics first. Distances are in
units of their standard deviation, so that 0.1 is a tenth of what the data leave open.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.rows import DataError
from ..density.problem import Problem
from ..density.traced import Pair
from ..guards import whole_number
from ..posterior.trees import dataset, draws_by_site, needs_draws_of
from ..progress import Progress
from ..vae import VAE
from .divergence import divergence
from .draws import flat, guide_draws

if TYPE_CHECKING:
    import pandas
    import xarray

INTERVAL = 0.9  # the mass of the guide's intervals
DIRECTIONS = 32  # of the sliced distance
LEAST_DRAWS = 20
CLASSIFIED = 500  # draws of each kind that the classifier sees


def compare_posteriors(
    vae: VAE | Pair | Problem,
    x: Any = None,
    posterior: xarray.DataTree | None = None,
    c: Any = None,
    *,
    num_samples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> xarray.Dataset:
    r"""How far the guide is from MCMC, for each datum.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions, as in
            :func:`.sample_posterior`.
        x: The data of shape ``(N, *X)`` that `posterior` was drawn for.
        posterior: What :func:`.sample_posterior` gave.
        c: What the model is conditional on, a row for each datum.
        num_samples: The draws of the guide for each datum.
        seed: The seed of the draws.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A dataset over datum, or over datum and latent:

        - ``mean_error``: the guide's mean less the posterior's, in posterior standard deviations,
          and ``mean_error_se``, its standard error;
        - ``sd_ratio``: the guide's standard deviation over the posterior's: below 1 it is too
          narrow;
        - ``correlation_missed``: the largest difference of two correlations;
        - ``wasserstein``: the sliced distance, in posterior standard deviations (Bonneel et al.,
          2015);
        - ``c2st``: the accuracy of a classifier that tells the two apart, 0.5 where it cannot
          (Lopez-Paz & Oquab, 2017, https://arxiv.org/abs/1610.06545): quadratic logistic
          regression, two folds;
        - ``coverage``: the share of the posterior inside the guide's central 90 % intervals, the
          mean over latents;
        - ``kl``: KL(q‖p) in nats, ``kl_se``, and ``khat`` of the weights of the guide's draws.
          ``kl_is`` says for each datum whether it is an "estimate", or the divergence is "at least"
          that: neither these weights nor bridge sampling from `posterior` can be trusted.

    Raises:
        DataError: The data do not fit the likelihood, or are not those of `posterior`.
        TypeError: `posterior` is no tree of MCMC draws.
        ValueError: It has fewer than 20 draws, or was drawn from another model.
    """
    whole_number("num_samples", num_samples, at_least=25)

    problem = Problem.of(vae, x, c)
    tree = needs_draws_of("compare_posteriors", posterior, problem)
    drawn, log_weight = guide_draws(problem, num_samples=num_samples, seed=seed)
    guide = flat(drawn, 2)
    judge = _draws_of(tree, like=guide)
    mean, sd = judge.mean((0, 1)), judge.std((0, 1)) + np.finfo(float).tiny
    judge, guide = (judge - mean) / sd, (guide - mean) / sd
    together = judge.reshape(-1, *judge.shape[2:])
    rng = np.random.default_rng(seed)
    kl, kl_is = divergence(problem, tree, log_weight, seed)
    wasserstein, c2st = _sliced_wasserstein(guide, together, rng), []
    with Progress("classified, data", len(problem), shown=progress) as bar:
        for q, p in zip(_by_datum(guide), _by_datum(together), strict=True):
            c2st.append(_c2st(*_some(q, p, rng)))
            bar.advance()

    by_latent = {
        "mean_error": guide.mean(0),
        "mean_error_se": np.sqrt(1 / _ess(judge) + guide.var(0) / num_samples),
        "sd_ratio": guide.std(0),
    }
    by_datum = {
        "correlation_missed": _correlation_missed(guide, together),
        "wasserstein": wasserstein,
        "c2st": np.array(c2st),
        "coverage": _coverage(guide, together),
        **kl,
    }
    both = dataset(by_latent, ("datum", "latent"), "").merge(dataset(by_datum, ("datum",), ""))
    return both.assign_coords(kl_is=("datum", kl_is))


def summarize(comparison: xarray.Dataset) -> pandas.DataFrame:
    """A comparison as a table: a row for each measure, with what an exact guide would give.

    Arguments:
        comparison: What :func:`compare_posteriors` gave.

    Returns:
        A frame with the columns exact, median, quantile_90 (the quantile that a tenth of the data
        exceeds) and worst.
    """
    import pandas

    away = {  # measure: what an exact guide gives, and how far from it each value is
        "mean_error": (0.0, np.abs(comparison.mean_error.values)),
        "sd_ratio": (1.0, np.abs(np.log(comparison.sd_ratio.values))),
        "correlation_missed": (0.0, comparison.correlation_missed.values),
        "wasserstein": (0.0, comparison.wasserstein.values),
        "c2st": (0.5, comparison.c2st.values),
        "coverage": (INTERVAL, np.abs(comparison.coverage.values - INTERVAL)),
        "kl": (0.0, comparison.kl.values),
    }
    table = {}
    for name, (exact, distance) in away.items():
        values, order = comparison[name].values.ravel(), np.argsort(distance.ravel())
        at = [order[math.ceil(share * len(order)) - 1] for share in (0.5, 0.9, 1.0)]
        table[name] = [exact, *values[at]]
    return pandas.DataFrame.from_dict(
        table, orient="index", columns=["exact", "median", "quantile_90", "worst"]
    )


def _draws_of(tree: Any, like: np.ndarray) -> np.ndarray:
    """Draws of MCMC, ``(chains, draws, N, D)``, of the data that draws ``(K, N, D)`` are of."""
    judge = flat(draws_by_site(tree["posterior"].to_dataset()), 3)
    if judge.shape[2:] != like.shape[1:]:
        raise DataError(
            f"compare_posteriors needs the data that the posterior was drawn for: {judge.shape[2]} "
            f"data of {judge.shape[3]} latents; got {like.shape[1]} data of {like.shape[2]}"
        )
    if judge.shape[0] * judge.shape[1] < LEAST_DRAWS:
        got = f"{judge.shape[0]} chains of {judge.shape[1]}"
        raise ValueError(
            f"compare_posteriors needs at least {LEAST_DRAWS} draws of MCMC; got {got}"
        )
    return judge


def _by_datum(draws: np.ndarray) -> np.ndarray:
    return np.moveaxis(draws, 1, 0)


def _ess(judge: np.ndarray) -> np.ndarray:
    from arviz_stats.base import array_stats

    return np.asarray(array_stats.ess(judge, chain_axis=0, draw_axis=1, method="mean"))


def _correlation_missed(guide: np.ndarray, judge: np.ndarray) -> np.ndarray:
    """The largest difference over pairs of latents; 0 for one latent."""
    if guide.shape[-1] == 1:
        return np.zeros(guide.shape[1])
    pairs = [
        np.corrcoef(q, rowvar=False) - np.corrcoef(p, rowvar=False)
        for q, p in zip(_by_datum(guide), _by_datum(judge), strict=True)
    ]
    return np.abs(np.array(pairs)).max((1, 2))


def _sliced_wasserstein(
    guide: np.ndarray, judge: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The mean over random directions of the distance between quantiles."""
    directions = rng.normal(size=(DIRECTIONS, guide.shape[-1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    at = (np.arange(200) + 0.5) / 200
    apart = [
        np.abs(np.quantile(guide @ d, at, axis=0) - np.quantile(judge @ d, at, axis=0)).mean(0)
        for d in directions
    ]
    return np.mean(apart, 0)


def _some(
    guide: np.ndarray, judge: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """As many draws of each kind."""
    num = min(CLASSIFIED, len(guide), len(judge))
    return guide[rng.permutation(len(guide))[:num]], judge[rng.permutation(len(judge))[:num]]


def _c2st(guide: np.ndarray, judge: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    classifier = make_pipeline(
        PolynomialFeatures(2, include_bias=False), StandardScaler(), LogisticRegression()
    )
    z, kind = np.concatenate([guide, judge]), np.repeat([0, 1], len(guide))
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    return float(cross_val_score(classifier, z, kind, cv=folds).mean())


def _coverage(guide: np.ndarray, judge: np.ndarray) -> np.ndarray:
    low, high = np.quantile(guide, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    return ((judge > low) & (judge < high)).mean((0, 2))
