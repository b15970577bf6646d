r"""log p(x) by importance sampling, datum by datum, with its error and a warning light.

.. math::

    \log \hat p_K(x) = \log \frac1K \sum_{k=1}^K w_k, \qquad
    w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

:math:`\hat p_K` is unbiased, so its log is a lower bound in the mean that rises to log p(x) with K
(Burda et al., 2015, https://arxiv.org/abs/1509.00519). Its standard error is by the delta method.
Both are worthless when the weights have too heavy a tail: the Pareto shape k-hat of the largest
ones says so (Vehtari et al., 2024, https://arxiv.org/abs/1507.02646); above 0.7 the number cannot
be trusted at any affordable K. Below 0.7 is no proof: what the guide never draws leaves no trace,
and a low effective sample size is a second warning. A guide fitted with ``beta=2.0`` while the
model is held fixed aims beyond the posterior, at :math:`p(z)\, p(x \mid z)^{1/2}`, whose weights
are bounded where the likelihood is.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyro
import torch
import xarray

from ..density.memory import Memory
from ..density.terms import Pair, entrance
from ..guards import mode, own_store, owner_of, whole_number
from ..vae import VAE
from .escalation import RUNGS, escalate
from .importance import importance_weights
from .pareto import KHAT_LIMIT
from .results import (
    as_dataset,
    describe_evidence,
    exact_figures,
    from_dataset,
    observing,
    warn_of_flags,
)

REMEDY = (
    "give a tolerance, which escalates; or fit the guide with beta=2.0 and the model held fixed"
)
SPENT = "no rung of the ladder held: raise max_samples, or look at these data and at the model"


def log_evidence(
    vae: VAE | Pair,
    x: Any,
    c: Any = None,
    *,
    num_samples: int = 1000,
    tolerance: float | None = None,
    max_samples: int = 20_000,
    more: xarray.Dataset | None = None,
    seed: int = 0,
    max_bytes: int = 2**26,
) -> xarray.Dataset:
    """log p(x) for each datum, by importance sampling from the guide; over discrete latents by an
    exact sum.

    Of data with missing cells (NaN) it is the evidence of the cells that are seen.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate. What a pair closes over is taken as it is: its data are not checked against
            a support.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        num_samples: The number of samples K for each datum; exactly as many are drawn. With a
            tolerance, how many are drawn at first.
        tolerance: The standard error wanted for each datum, in nats. Data whose error is larger, or
            whose k-hat is above 0.5, are given more draws, and then better proposals: rung by rung
            of the :mod:`.ladder`.
        max_samples: With a tolerance, the most samples for a datum on one rung.
        more: An earlier result for the same model and data, which `num_samples` are added to.
        seed: The seed of the draws.
        max_bytes: About how much memory the model may take at once; never another answer.

    Returns:
        A dataset over the dimension ``datum``, all in nats per datum where they are log densities:
        ``log_evidence``; ``se``, its standard error (NaN for one sample); ``ess``, the effective
        sample size, between 1 and K; ``khat``, the Pareto shape of the largest weights (-inf for
        equal weights, NaN below 25 samples); ``max_weight``, the largest share of one weight in the
        sum; ``bias``, the jackknife's estimate of what is missing to log p(x) at this K; ``elbo``,
        that of the guide; ``num_samples``; with a tolerance ``rung``, the name of the rung that
        each datum needed. Over (``particles``, ``datum``) the ``curve``, log p_K at K = 1, 2, 4,
        ..., each the mean over so many disjoint ``blocks`` of draws; over (``rank``, ``datum``) the
        ``tail``, the largest log weights. Its attributes: ``mean`` of log p(x) over data,
        ``mean_se`` (over the draw of data and of z), ``mean_mc_se`` (of z alone), ``num_samples``,
        ``flagged``, the number of data with k-hat above 0.7 or an estimate that is not finite, and
        what it is of: ``measure``, ``cells``, ``data``, ``model``. An exact sum has ``se`` and
        ``bias`` 0, ``khat`` -inf and as ``ess`` the number of values summed over.

    Raises:
        DataError: The data do not fit the likelihood, or `more` is of other data.
        ValueError: The pair has sites outside the data plate, or model and guide have different
            latents; an option makes no sense; `more` is of another model.

    Warns:
        UserWarning: Some data are flagged, or miss the tolerance.
    """
    whole_number("seed", seed, at_least=0)
    whole_number("max_bytes", max_bytes, at_least=1)
    whole_number("max_samples", max_samples, at_least=1)
    model, guide, rows, like = entrance(vae, x, c, num_samples)
    if tolerance is not None:
        _check(tolerance, max_samples, num_samples, more)
    memory = Memory(max_bytes)
    with (
        torch.no_grad(),
        own_store(),
        mode(model, guide, training=False),
        pyro.validation_enabled(False),
    ):
        about = describe_evidence(model, guide, rows)
        earlier = None if more is None else from_dataset(more, about)
        done = 0 if earlier is None else int(earlier.num.max())
        with observing(about):
            weights = importance_weights(
                model, guide, rows, like, num_samples, (seed, done), memory
            )
        if getattr(owner_of(guide), "is_discrete", False):
            needed = {} if tolerance is None else {"rung": np.full(len(rows), RUNGS[0])}
            result = as_dataset(weights, about, **exact_figures(weights), **needed)
        elif tolerance is None:
            result = as_dataset(weights if earlier is None else earlier.merge(weights), about)
        else:
            of_guide = (weights.total / weights.num).numpy(force=True)
            weights, rung = escalate(
                weights, model, guide, rows, like, tolerance, max_samples, seed, memory
            )
            result = as_dataset(weights, about, rung=rung, elbo=of_guide)
    warn_of_flags(result, REMEDY if tolerance is None else SPENT)
    missed = (
        0
        if tolerance is None
        else int(((result.se > tolerance) & (result.khat <= KHAT_LIMIT)).sum())
    )
    if missed:
        warnings.warn(
            f"the standard error of {missed} of {len(rows)} data is above the tolerance of "
            f"{tolerance}, the largest {float(result.se.max()):.2g}: raise max_samples, or the "
            "tolerance",
            stacklevel=2,
        )
    return result


def _check(tolerance: Any, max_samples: Any, num_samples: int, more: Any) -> None:
    if (
        isinstance(tolerance, bool)
        or not isinstance(tolerance, (int, float))
        or not 0 < tolerance < math.inf
    ):
        raise ValueError(
            f"tolerance must be a standard error in nats above 0, such as 0.05; got {tolerance!r}"
        )
    whole_number(
        "num_samples with a tolerance", num_samples, at_least=25
    )  # below, k-hat is unknown
    whole_number("max_samples", max_samples, at_least=num_samples)
    if more is not None:
        raise ValueError(
            "more adds draws of the guide, a tolerance says how many are wanted; give one of the "
            "two"
        )
