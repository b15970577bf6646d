r"""Which data are too odd for the model to have made them?

How a datum is ranked among draws of the model stands in :mod:`.ranks`.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.columns import index_of
from ..data.rows import DataError
from ..density.problem import Problem
from ..density.traced import Pair
from ..guards import evaluating, whole_number
from ..progress import Progress
from ..vae import VAE
from .draws import draws_holes
from .ranks import SCORES, Trial, p_values

if TYPE_CHECKING:
    import pandas

LEAST, MOST = 1000, 20_000  # draws, where nobody says


def outliers(
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    reference: Any = None,
    fdr: float = 0.05,
    score: str = "log_evidence",
    num_samples: int = 100,
    num_draws: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    """Data that the model would hardly make, with a bound on the share of false alarms.

    A datum that scores too high is no outlier here. Images that are smoother than those of the
    training data have a higher log p(x) than these, and are not found (Nalisnick et al., 2019,
    https://arxiv.org/abs/1810.09136); the regret leans the right way, and finds few of them
    (``examples/12_outliers.py``).

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate, and whose model observes x at one site.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum.
        reference: Data that are known to be ordinary, and were not trained on, without missing
            cells; for a conditional model a pair ``(x, c)``. They stand in for the draws, with the
            cells hidden that a datum misses: the p-values are conformal, and right whether or not
            the model is (Bates et al., 2023, https://arxiv.org/abs/2104.08279).
        fdr: The expected share of ordinary data among those that are called outliers.
        score: ``"log_evidence"``, log p(x), small for outliers; or ``"regret"``, how much the ELBO
            gains when the guide is optimised for the datum, large for outliers (Xiao et al., 2020,
            https://arxiv.org/abs/2003.02977).
        num_samples: The draws of the guide for each score. Draws are scored as data are, so that
            few samples cost power, and leave p-values valid.
        num_draws: The most draws that a datum is ranked among, and with that the smallest p-value,
            1 / (1 + num_draws). Left out, as many as find a single outlier, N / fdr, at least 1000
            and at most 20,000.
        seed: The seed of the draws.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A frame with a row for each datum, and the index of x if x has one: ``score`` in nats,
        ``p_value``, ``q_value``, by Benjamini and Hochberg, and ``outlier``, whether that is at
        most `fdr`. A score that is no number has no p-value, and is no outlier.

    Raises:
        DataError: The data do not fit the likelihood, or those of reference do not.
        TypeError: The regret is asked for of a guide that cannot be moved.
        ValueError: The model observes something else than x; an option makes no sense; there are
            too few draws for any p-value to be below `fdr`.

    Warns:
        UserWarning: No outlier was found, and there were too few draws to find a single one; or a
            score is no number.
    """
    import pandas
    from scipy.stats import false_discovery_control

    whole_number("num_samples", num_samples, at_least=1)
    whole_number("seed", seed, at_least=0)
    if not isinstance(score, str) or score not in SCORES:
        raise ValueError(f"score must be {' or '.join(map(repr, SCORES))}; got {score!r}")
    problem = Problem.of(vae, x, c)
    ordinary = None if reference is None else _reference(problem, reference)
    most = _most_draws(len(problem), fdr, ordinary, num_draws)

    trial = Trial(problem, ordinary, SCORES[score], num_samples, seed)
    with (
        torch.no_grad(),
        evaluating(problem.model, problem.guide),
        Progress("outliers, data", len(problem), shown=progress) as bar,
    ):
        own = trial.score_data()
        p_value = p_values(trial, own, most, bar)

    known = ~np.isnan(own)
    p_value[~known] = np.nan
    q_value = p_value.copy()
    q_value[known] = false_discovery_control(p_value[known])
    _warn(known, q_value <= fdr, math.ceil(len(own) / (fdr * (1 + most))))
    shown = -own if score == "regret" else own
    columns = {"score": shown, "p_value": p_value, "q_value": q_value, "outlier": q_value <= fdr}
    return pandas.DataFrame(columns, index=index_of(x))


def _warn(known: np.ndarray, outlier: np.ndarray, fewest: int) -> None:
    """Say what the frame does not."""
    num = len(known)
    if not known.all():
        warnings.warn(f"the score of {(~known).sum()} of {num} data is NaN", stacklevel=3)
    if fewest > 1 and not outlier.any():
        warnings.warn(
            f"no outlier was found among {num} data, but fewer than {fewest} could not be: raise "
            "num_draws, or give more rows of reference",
            stacklevel=3,
        )


def _reference(problem: Problem, reference: Any) -> Problem:
    """Ordinary data, checked as x is."""
    given = reference if isinstance(reference, tuple) else (reference,)
    if len(given) not in (1, 2):
        raise ValueError(f"reference must be data, or a pair (x, c); got {len(given)} parts")
    try:
        found = Problem.of((problem.model, problem.guide), *given)
    except DataError as error:
        raise DataError(f"reference: {error}") from None
    if found.rows.has_missing and not draws_holes(problem):
        raise DataError(
            "reference needs rows without missing cells, so that those of x can be hidden in them; "
            "got some; drop these rows"
        )
    return found


def _most_draws(num_data: int, fdr: Any, ordinary: Problem | None, num_draws: int | None) -> int:
    """How many draws a datum may be ranked among."""
    is_number = isinstance(fdr, (int, float)) and not isinstance(fdr, bool)
    if not is_number or not 0 < fdr < 1:
        raise ValueError(f"fdr must be a share between 0 and 1, such as 0.05; got {fdr!r}")
    if ordinary is not None and num_draws is not None:
        raise ValueError(
            "num_draws counts draws of the model, and reference stands in for them; give one of "
            "the two"
        )
    if ordinary is not None:
        most, remedy = len(ordinary), "give more rows of reference"
    else:
        wanted = min(max(math.ceil(num_data / fdr), LEAST), MOST)
        most, remedy = wanted if num_draws is None else num_draws, "raise num_draws"
        whole_number("num_draws", most, at_least=1)

    if most + 1 < 1 / fdr:
        raise ValueError(
            f"outliers needs at least {math.ceil(1 / fdr) - 1} draws for an fdr of {fdr}, as no "
            f"p-value is below 1 / (1 + draws); got {most}; {remedy}, or fdr"
        )
    return most
