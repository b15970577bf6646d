r"""Models side by side: log p(x) of the same data, and what each model loses of it to the best.

The data are the same, so differences are taken datum by datum, and most of the spread over data
drops out:

.. math:: \Delta = \frac1N \sum_n \big(\log \hat p_a(x_n) - \log \hat p_b(x_n)\big), \qquad
    \mathrm{se}(\Delta) = \frac{1}{\sqrt N}\, \mathrm{sd}_n \big(\log \hat p_a(x_n) - \log \hat
    p_b(x_n)\big)

which holds the noise of z as well as that of the draw of data. The estimate of a datum that is
flagged is mostly too low, by an unknown amount: in the error stands for that what it has gained on
the ELBO, as if as much again were missing, or the distance to the second opinion, if that is more.
A density is per unit of x and a probability is a pure
number, so the two cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..density.identity import is_probability
from ..density.traced import Pair
from ..vae import VAE
from .comparable import checked_problems, is_of_all
from .scoring import scored, untrusted, warn_of_untrusted

if TYPE_CHECKING:
    import pandas
    import xarray


def compare_models(
    models: Mapping[Any, VAE | Pair | xarray.Dataset],
    x: Any = None,
    c: Any = None,
    *,
    num_samples: int = 1000,
    tolerance: float | None = None,
    max_samples: int = 20_000,
    seed: int = 0,
    max_seconds: float | None = None,
    progress: bool = True,
) -> pandas.DataFrame:
    """Models by their log p(x) of the same data, the best first.

    Arguments:
        models: By name, a VAE, a pair ``(model, guide)`` as in :func:`.log_evidence`, or what that,
            or another estimator of log p(x), gave earlier. All have a number for each datum, or
            all one number for all data.
        x: Data of shape ``(N, *X)``, NaN where missing, or a tuple of arguments; needed unless all
            are earlier results.
        c: What all models are conditional on, a row for each datum.
        num_samples: The number of samples K for each datum.
        tolerance: The standard error wanted for each datum, in nats, as in :func:`.log_evidence`.
        max_samples: With a tolerance, the most samples for a datum on one rung.
        seed: The seed of the draws.
        max_seconds: About how long each model may take, as in :func:`.log_evidence`.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A frame with a row for each model: ``log_evidence``, the mean over data in nats per datum,
        and ``se``, its standard error over data and z; ``difference``, the mean of this model less
        the best, so at most 0, and ``difference_se``, its standard error, paired by datum;
        ``flagged``, the share of data that are not to be trusted, as in :func:`.log_evidence`;
        ``bits_per_dim``, for each cell that is seen, NaN for densities; ``seconds`` of the
        evaluation, NaN for earlier results. Of models with one number for all data also
        ``probability``, that of each if all were equally probable before, and ``probability_se``,
        its error by the delta method. Where a model gives a datum no probability its mean and
        its difference are -inf, their errors not finite; between two such models the difference is
        NaN. For a single datum both errors are those of z alone.

    Raises:
        DataError: The data do not fit a model, or earlier results are of other data, or of another
            c.
        TypeError: `models` is no mapping, or holds something else.
        ValueError: There are no models; x is missing; some give densities, others probabilities;
            some have a number for each datum, others one for all; an option makes no sense.

    Warns:
        UserWarning: Data of some model are flagged, so that the order may be another; or two
            AutoGuides share their parameters.
    """
    import pandas

    problems = checked_problems("compare_models", models, x, c)
    results, seconds = scored(
        models,
        problems,
        dict.fromkeys(models, seed),
        num_samples=num_samples,
        tolerance=tolerance,
        max_samples=max_samples,
        max_seconds=max_seconds,
        progress=progress,
    )
    warn_of_untrusted(results, tolerance, "the order of the models may be another")
    order = sorted(results, key=lambda name: _worth(results[name]), reverse=True)
    best = results[order[0]]
    rows = [{**_figures(results[name], best), "seconds": seconds[name]} for name in order]
    table = pandas.DataFrame(rows, index=pandas.Index(order, name="model", tupleize_cols=False))
    of_all = all(is_of_all(model, problems[name]) for name, model in models.items())
    return _with_probabilities(table) if of_all else table


def _with_probabilities(table: pandas.DataFrame) -> pandas.DataFrame:
    """Posterior probabilities of models that are equally probable before, and their errors by the
    delta method.
    """
    share = np.exp((table.log_evidence - table.log_evidence.max()).to_numpy())
    share = share / share.sum()
    slope = share[:, None] * (np.eye(len(share)) - share)  # of one by the log evidence of another
    with np.errstate(invalid="ignore"):  # of a model at -inf, whose error is not finite
        parts = np.where(slope == 0, 0.0, slope * table.se.to_numpy())
    error = np.sqrt((parts**2).sum(1))
    return table.assign(probability=share, probability_se=error)


def bits_per_dim(result: xarray.Dataset) -> float:
    """Minus log p(x) in bits for each cell that is seen, the mean over cells; NaN where p(x) is a
    density.

    Arguments:
        result: What :func:`.log_evidence` gave.
    """
    cells = result.attrs["cells"]
    if not is_probability(result.attrs["measure"]) or not cells:
        return math.nan
    return -result.attrs["mean"] * result.sizes["datum"] / (float(cells) * math.log(2))


def _unknown(result: xarray.Dataset) -> float:
    """The error of the mean that standard errors do not hold: of what is flagged, all one way."""
    if "elbo" not in result:
        return 0.0
    missing = (result.log_evidence - result.elbo).values
    if "second_opinion" in result:
        apart = np.abs(result.second_opinion - result.log_evidence).values
        missing = np.fmax(missing, apart)
    return float(np.where(untrusted(result) & np.isfinite(missing), missing, 0.0).mean())


def _worth(result: xarray.Dataset) -> tuple[bool, float]:
    """What models are ordered by; one without a mean comes last."""
    mean = float(result.attrs["mean"])
    return not math.isnan(mean), mean


def _figures(result: xarray.Dataset, best: xarray.Dataset) -> dict[str, float]:
    apart, error = (0.0, 0.0) if result is best else difference(result, best)
    return {
        "log_evidence": result.attrs["mean"],
        "se": math.hypot(result.attrs["mean_se"], _unknown(result)),
        "difference": apart,
        "difference_se": error,
        "flagged": result.attrs["flagged"] / result.sizes["datum"],
        "bits_per_dim": bits_per_dim(result),
    }


def difference(result: xarray.Dataset, best: xarray.Dataset) -> tuple[float, float]:
    """The mean difference to the best, paired by datum, and its standard error."""
    num = result.sizes["datum"]
    with np.errstate(invalid="ignore"):  # -inf less -inf, and its spread
        apart = result.log_evidence.values - best.log_evidence.values
        unknown = _unknown(result), _unknown(best)
        if num == 1:
            own = result.attrs["mean_mc_se"], best.attrs["mean_mc_se"]
            return float(apart[0]), math.hypot(*own, *unknown)
        spread = float(apart.std(ddof=1) / math.sqrt(num))
        return float(apart.mean()), math.hypot(spread, *unknown)
