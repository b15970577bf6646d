r"""Several models as one: a mixture of them, with the weights that do best on held-out data.

.. math:: p_w(x) = \sum_k w_k\, p_k(x), \qquad
    \hat w = \arg\max_w \frac1N \sum_n \log \sum_k w_k\, p_k(x_n)

over the simplex (Yao et al., 2018, https://arxiv.org/abs/1704.02030, with log p(x) of held-out data
in place of leave-one-out densities). Where no model is the true one, a mixture may be better than
each of them; as data grow, :math:`\hat w` goes to the best mixture, and not to the best model, as
posterior probabilities do.

The objective is concave. With :math:`g_k = \frac1N \sum_n p_k(x_n) / p_w(x_n)` it is at most
:math:`\max_k g_k - 1` below its maximum, which says of a solution how good it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..density.traced import Pair
from ..vae import VAE
from .averaging import mixture
from .comparable import checked_problems, is_of_all
from .models import difference
from .scoring import scored, warn_of_untrusted

if TYPE_CHECKING:
    import pandas
    import xarray

GAP = 1e-7  # nats below the maximum: no data tell weights apart that are as close
STEPS, ROUNDS = 50, 20  # of EM, before and between attempts to end it
LEAST = 1e-12  # what the solver leaves of a weight that is 0


def stack(
    models: Mapping[Any, VAE | Pair | xarray.Dataset],
    x: Any = None,
    c: Any = None,
    *,
    num_samples: int = 1000,
    tolerance: float | None = None,
    seed: int = 0,
) -> pandas.Series:
    """The weights of the mixture of models with the largest mean of log p(x) over held-out data.

    Data that the models were trained on will not do: they favour the model that has overfitted
    most. Between models that give all data the same density any split is as good as any other.

    Arguments:
        models: By name, a VAE, a pair ``(model, guide)``, or what :func:`.log_evidence` or another
            estimator gave earlier, as in :func:`.compare_models`; with a number for each datum.
        x: Data of shape ``(N, *X)`` that no model was trained on, NaN where missing; needed unless
            all are earlier results.
        c: What all models are conditional on, a row for each datum.
        num_samples: The number of samples K for each datum.
        tolerance: The standard error wanted for each datum, in nats, as in :func:`.log_evidence`.
        seed: The seed of the draws.

    Returns:
        A weight for each model, from 0 to 1 and of sum 1, for :func:`.average`. Its attributes, in
        nats per datum: ``mean`` of log p(x) of the mixture over data; ``best``, the name of the
        best single model, and ``best_mean``; ``difference``, the first less the second, which is
        at least 0; ``difference_se``, its standard error, paired by datum; and ``gap``, how far
        the mean is at most below that of the best weights. The weights were chosen for these very
        data, so new data would give less, by about (number of models - 1) / N.

    Raises:
        DataError: The data do not fit a model, or earlier results are of other data, or of another
            c.
        TypeError: `models` is no mapping, or holds something else.
        ValueError: There are no models; x is missing; some give densities, others probabilities;
            one has no number for each datum; a number is NaN or infinite; no model gives a datum
            any probability.

    Warns:
        UserWarning: Data of some model are flagged, and mostly too low, so that it may have too
            little weight; or two AutoGuides share their parameters.
    """
    import pandas

    problems = checked_problems("stack", models, x, c)
    for name, model in models.items():
        if is_of_all(model, problems[name]):
            raise ValueError(
                f"stack needs log p(x) of each datum; {name!r} gives one number for all data, of "
                "which the best model would have all weight; compare_models compares those"
            )
    options: dict[str, Any] = {"num_samples": num_samples, "tolerance": tolerance}
    results, _ = scored(models, problems, dict.fromkeys(models, seed), **options)
    warn_of_untrusted(results, tolerance, "the weights may be others")

    names = list(results)
    log_density = np.stack([results[name].log_evidence.values for name in names])
    _check_densities(names, log_density)
    weights, gap = best_weights(log_density)
    best = names[int(log_density.mean(1).argmax())]
    found = mixture(results, dict(zip(names, weights, strict=True)))
    alone = weights[names.index(best)] == 1
    apart, error = (0.0, 0.0) if alone else difference(found, results[best])
    apart = max(0.0, apart)  # but for rounding it is
    index = pandas.Index(names, name="model", tupleize_cols=False)
    series = pandas.Series(weights, index=index, name="weight")
    series.attrs = {
        "mean": found.attrs["mean"],
        "best": best,
        "best_mean": results[best].attrs["mean"],
        "difference": apart,
        "difference_se": error,
        "gap": gap,
        "unit": "nats per datum",
    }
    return series


def _check_densities(names: list[Any], log_density: np.ndarray) -> None:
    """Raise unless a mixture of the models has a log density for each datum."""
    for name, values in zip(names, log_density, strict=True):
        unknown = np.isnan(values) | (values == math.inf)
        if unknown.any():
            raise ValueError(
                f"stack needs a number log p(x) for each datum; that of {name!r} is NaN or "
                f"infinite for {unknown.sum()} of {len(values)}, datum {unknown.argmax()} first; "
                "leave the model out, or those data for all models"
            )
    impossible = (log_density == -math.inf).all(0)
    if impossible.any():
        raise ValueError(
            f"stack needs a model that gives a datum some probability; none does for "
            f"{impossible.sum()} of {len(impossible)}, datum {impossible.argmax()} first, so that "
            "no weights are better than others; leave those data out, or add a model"
        )


def best_weights(log_density: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights of fixed densities with the largest mean log density of their mixture, and how
    far that mean is at most below the maximum.

    EM never goes down, but is slow at the end; from where it has come SLSQP is quick, which alone
    may stop far off. They are never worse than all weight on a single density.

    Arguments:
        log_density: Of shape ``(models, N)``; for each datum one is finite.
    """
    density = np.exp(log_density - log_density.max(0))  # a factor for a datum changes nothing
    climbed = np.full(len(density), 1 / len(density))
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            climbed = climbed * _ratio(climbed, density)
        candidates = [_polished(climbed, density), climbed, *np.eye(len(density))]
        weights = min(candidates, key=lambda one: _loss(one, density))
        gap = float(np.maximum(0.0, _ratio(weights, density).max() - 1))
        if gap < GAP:
            break
    return weights, gap


def _loss(weights: np.ndarray, density: np.ndarray) -> float:
    """Minus the mean log density of a mixture."""
    with np.errstate(divide="ignore", invalid="ignore"):  # at an edge, where a datum may have 0
        return -float(np.log(weights @ density).mean())


def _ratio(weights: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The mean over data of each density over that of the mixture: minus the slope of the loss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (density / (weights @ density)).mean(1)


def _polished(weights: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Better weights, by sequential quadratic programming from those given."""
    from scipy.optimize import minimize

    found = minimize(
        _loss,
        weights,
        args=(density,),
        jac=lambda weights, density: -_ratio(weights, density),
        method="SLSQP",
        bounds=[(0, 1)] * len(weights),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    ).x
    found = np.where(found < LEAST, 0.0, found)
    return found / found.sum()
