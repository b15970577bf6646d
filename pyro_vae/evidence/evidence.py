r"""log p(x) by importance sampling, datum by datum, with its error and a warning light.

.. math::

    \log \hat p_K(x) = \log \frac1K \sum_{k=1}^K w_k, \qquad
    w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

:math:`\hat p_K` is unbiased, so its log is a lower bound in the mean that rises to log p(x) with K
(Burda et al., 2015, https://arxiv.org/abs/1509.00519). Its standard error is by the delta method.
Both are worthless when the weights have too heavy a tail: the Pareto shape k-hat of the largest
ones says so (Vehtari et al., 2024, https://arxiv.org/abs/1507.02646). It says nothing of what the
guide never draws, which leaves no trace: for that other draws stand beside the guide's
(:mod:`.defence`). A guide fitted with ``beta=2.0`` while the model is held fixed aims beyond the
posterior, at :math:`p(z)\, p(x \mid z)^{1/2}`, whose weights are bounded where the likelihood is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..density.memory import Memory, tile_data
from ..density.precision import USUAL_TOLERANCE, precise
from ..density.problem import Problem
from ..density.traced import Pair
from ..density.whole import WholeProblem, problem_of
from ..guards import above_zero, evaluating, whole_number
from ..vae import VAE
from .budget import Budget
from .climb import RUNGS
from .defence import Defended, Opinion, defended_weights, refuted
from .escalation import escalate
from .flags import warn_of_flags, warn_of_tolerance
from .over_classes import over_classes
from .results import as_dataset, by_datum, exact_figures, from_dataset, one_number
from .watch import Watch
from .weights import Collected, Weights, unreached

if TYPE_CHECKING:
    import xarray

Found = tuple[Weights, dict[str, np.ndarray], dict[str, np.ndarray]]  # flags by reason, figures
OfGuide = tuple[Weights, Opinion | None, Tensor, Tensor]  # its draws, another; late, at an edge

BESIDE = 4  # without a tolerance, one draw beside so many of the guide, to refute them
LEAST_BESIDE, MOST_BESIDE = 50, 500
LEAST = 25  # draws with which k-hat is known

REMEDY = (
    "give a tolerance, which escalates; or fit the guide longer, of a VAE with beta=2.0 and the "
    "model held fixed"
)
LATE = "raise max_seconds, or ask for a larger tolerance or fewer samples"
SPENT = "no rung held: raise max_samples, or look at these data and at the model"


def log_evidence(
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    num_samples: int = 1000,
    tolerance: float | None = None,
    max_samples: int = 20_000,
    more: xarray.Dataset | None = None,
    seed: int = 0,
    max_bytes: int | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
) -> xarray.Dataset:
    """log p(x) for each datum, by importance sampling from the guide; over discrete latents by an
    exact sum. Of a pair with latents that belong to no single datum, the one number log p(data).
    Hierarchies may be written centred where the prior is normal, Student-t, Laplace, Cauchy or
    log-normal (:mod:`..density.noncentred`); of others the neck may be missed, unflagged. With a
    tolerance other modes are found if one of 16 chains from the prior comes to them, or one of
    `num_samples` and 2,000 draws meets them, or of 4,000 more where the guide is not enough. A mode
    that none meets, such as a narrow one in several dimensions, is missed, unflagged
    (:mod:`.search`). Mass that numbers cannot tell from the edge of a support is lost, nearer to 1
    than 1e-16 (of a pair in single precision 6e-8): flagged ("edge") where it is more than a few
    percent, as of a Beta(0.05, 0.05).
    Masks count; ``poutine.scale``, which weighs data or latents for training, does not.

    Of data with missing cells (NaN) it is the evidence of the cells that are seen.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions. What a pair closes over is
            taken as it is: its data are not checked against a support. There is one number for all
            data where a latent of the model is outside the data plate, where the guide is an
            AutoGuide, and where x is a tuple.
        x: Data of shape ``(N, *X)``, NaN where missing; of a pair also a tuple of the arguments of
            model and guide.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide. Of a VAE with a classifier it is log p(x|c) where the class is known, and log
            p(x), summed over classes, where it is not (NaN); without ``curve`` and ``tail``.
        num_samples: The number of samples K for each datum; exactly as many are drawn of the
            guide, and from K = 25 on others beside them, for a second opinion. With a tolerance,
            how many are drawn at first, half of them beside the guide's (:mod:`.defence`).
        tolerance: The error wanted for each datum, in nats. Data whose error is larger are given
            more draws, and then better proposals: rung by rung of the :mod:`.escalation`.
        max_samples: With a tolerance, the most samples for a datum on one rung.
        more: An earlier result for the same model and data, which `num_samples` are added to.
        seed: The seed of the draws.
        max_bytes: About how much memory the model may take at once (default: 32 MB, which a cache
            holds; on a GPU, a quarter of what is free); never another answer, but for
            rounding.
        max_seconds: About how long it may take: then it ends with the best there is, and flags what
            would have been given more. Every tile of data gets its share.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A dataset over the dimension ``datum``, all in nats per datum where they are log densities:
        ``log_evidence``; ``se``, its standard error (NaN for one sample); ``ess``, the effective
        sample size, between 1 and K; ``khat``, the Pareto shape of the largest weights (-inf for
        equal weights, NaN below 25 samples); ``max_weight``, the largest share of one weight in the
        sum; ``bias``, the jackknife's estimate of what is missing to log p(x) at this K; ``elbo``,
        that of the guide; ``num_samples``; without a tolerance, ``second_opinion``, the estimate of
        log p(x) by all draws as one mixture. As coordinates: ``flag``, the reason not to trust a
        number, empty where there is none: "not finite", "heavy tail" (k-hat above 1 - 1 / log10 K,
        at most 0.7, at least 0.5, or above 0.5 in the second opinion), "refuted" (by the second
        opinion, or by the :mod:`.search`), "edge" (mass that numbers cannot tell from the edge of a
        support), "low ESS" (fewer than 15 effective draws), "out of time"
        (by `max_seconds`), "few draws" (below 25, where k-hat is unknown); and, with a tolerance,
        ``rung``, the name of the rung that each datum needed.

        Over (``particles``, ``datum``) the ``curve``, log p_K at K = 1, 2, 4, ..., each the mean
        over so many disjoint ``blocks`` of draws; over (``rank``, ``datum``) the ``tail``, the
        largest log weights.

        Its attributes: ``mean`` of log p(x) over data, ``mean_se`` (over the draw of data and of
        z), ``mean_mc_se`` (of z alone), ``num_samples``, ``seconds``, and ``seconds_guide``,
        ``draws_guide`` and the like by rung and, with a tolerance, of the ``search`` for modes,
        ``flagged``, the number of data with a flag, and for each reason that there is
        ``flagged_heavy_tail`` and the like; and what it is of: ``measure``, ``cells``,
        ``data_digest``, ``model_digest``. One number for all data has no dimension ``datum``. An
        exact sum has
        ``se`` and ``bias`` 0, ``khat`` -inf and as ``ess`` the number of values summed over.

    Raises:
        DataError: The data do not fit the likelihood, or `more` is of other data.
        TypeError: The guide of all data is a single point, as AutoDelta's, or the data are other
            arguments than the model takes.
        ValueError: Model and guide have different latents; a prior is improper, a plate takes a
            subsample, or all data as one have NaN; an option makes no sense; `more` is of another
            model.

    Warns:
        UserWarning: Some data are flagged, or miss the tolerance.
    """
    whole_number("seed", seed, at_least=0)
    whole_number("max_bytes", 1 if max_bytes is None else max_bytes, at_least=1)
    _check(tolerance, max_seconds, max_samples, num_samples, more)
    options: dict[str, Any] = {"num_samples": num_samples, "tolerance": tolerance, "seed": seed}
    options |= {"max_samples": max_samples, "max_bytes": max_bytes, "max_seconds": max_seconds}
    result = over_classes(log_evidence, vae, x, c, more, progress=progress, **options)
    if result is None:
        result = _of_problem(problem_of(vae, x, c), more, progress=progress, **options)
    remedy = REMEDY if tolerance is None else SPENT
    warn_of_flags(result, LATE if result.attrs.get("flagged_out_of_time") else remedy)
    if tolerance is not None:
        warn_of_tolerance(result, tolerance)
    return result


def _of_problem(
    problem: Problem,
    more: xarray.Dataset | None,
    *,
    num_samples: int,
    tolerance: float | None,
    max_samples: int,
    seed: int,
    max_bytes: int | None,
    max_seconds: float | None,
    progress: bool,
) -> xarray.Dataset:
    """The evidence of a model and data, by the guide or by the ladder."""
    import xarray

    watch = Watch(len(problem), progress=progress, max_seconds=max_seconds)
    about = problem.about
    problem = precise(problem, USUAL_TOLERANCE if tolerance is None else tolerance)
    memory = Memory(problem.device, max_bytes)

    with torch.no_grad(), evaluating(problem.model, problem.guide), watch:
        more = by_datum(more) if isinstance(more, xarray.Dataset) else more
        earlier = None if more is None else from_dataset(more, about)
        if tolerance is not None and not problem.sums_exactly:
            budget = Budget(num_samples, tolerance, max_samples)
            found = _by_the_ladder(problem, budget, watch, seed, memory, about)
        else:
            done = 0 if earlier is None else int(earlier.num.sum())
            draws = _of_guide(problem, num_samples, watch, seed, memory, about, done)
            found = _by_the_guide(draws, None if problem.sums_exactly else earlier, more)
        weights, flagged, extra = found
        if problem.sums_exactly:
            extra |= exact_figures(weights)
            extra |= {} if tolerance is None else {"rung": np.full(len(problem), RUNGS[0])}
        elif problem.lost:
            extra["se"] = np.hypot(weights.se.numpy(), problem.lost)
        result = as_dataset(weights, about | watch.attrs, flagged, **extra)

    return one_number(result) if isinstance(problem, WholeProblem) else result


def _by_the_ladder(
    problem: Problem,
    budget: Budget,
    watch: Watch,
    seed: int,
    memory: Memory,
    about: dict[str, Any],
) -> Found:
    """What meets the tolerance."""
    climbed = escalate(problem, budget, watch, seed, memory, about)
    rung = np.array(RUNGS)[climbed.rung.numpy()]
    extra = {"rung": rung, "elbo": climbed.elbo.numpy(force=True)}
    flagged = {"out_of_time": climbed.stopped.numpy(), "refuted": climbed.refuted.numpy()}
    flagged["edge"] = climbed.edge.numpy()
    return climbed.weights, flagged, extra


def _by_the_guide(draws: OfGuide, earlier: Weights | None, more: xarray.Dataset | None) -> Found:
    """What draws of the guide give, with those of an earlier result, and a second opinion.

    What one of more draws has refuted earlier, one of fewer does not clear.
    """
    new, second, stopped, edge = draws
    weights = new if earlier is None else earlier.merge(new)
    flagged = {} if second is None else refuted(weights, second)
    if more is not None and bool(new.num.max() < more.num_samples.max().item()):
        for reason in ("refuted", "heavy_tail"):
            before = more.flag.values == reason.replace("_", " ")
            flagged[reason] = flagged.get(reason, np.zeros_like(before)) | before
    flagged |= {"out_of_time": stopped.numpy(), "edge": edge.numpy()}
    opinion = {} if second is None else {"second_opinion": second.log_evidence.numpy()}
    return weights, flagged, opinion


def _of_guide(
    problem: Problem,
    num_samples: int,
    watch: Watch,
    seed: int,
    memory: Memory,
    about: dict[str, Any],
    done: int,
) -> OfGuide:
    """The weights of draws of the guide, after so many; the opinion of a mixture with other draws
    beside them; for which data there was not enough time, and which have mass at an edge.
    """
    stream = (seed, done) if done else (seed,)  # added draws are others
    weights, opinions, edges = Collected(len(problem)), [], []
    too_few = problem.sums_exactly or num_samples < LEAST
    beside = 0 if too_few else min(max(num_samples // BESIDE, LEAST_BESIDE), MOST_BESIDE)
    for tile in problem.tiles(tile_data(problem.device), stream):
        ended = watch.has_ended
        watch.begin(len(tile))
        with watch.on(RUNGS[0], len(tile)):
            if ended:
                nothing = unreached(len(tile), tile.precision)
                part = Defended(nothing, nothing)
            else:
                part = defended_weights(tile, num_samples, beside, memory, watch)
        weights.add(part.guide)
        if beside:
            opinions.append(Opinion.of(part.mixture))
        edges.append(part.ends_early)
        if "measure" not in about:
            about["measure"] = tile.densities.measure
    found = weights.result()
    watch.draws[RUNGS[0]] += int(found.num.sum())
    second = Opinion.joined(opinions) if beside else None
    stopped = found.num < (1 if problem.sums_exactly else num_samples)
    return found, second, stopped, torch.cat(edges)


def _check(tolerance: Any, max_seconds: Any, max_samples: Any, num_samples: int, more: Any) -> None:
    whole_number("num_samples", num_samples, at_least=1)
    whole_number("max_samples", max_samples, at_least=1)
    if max_seconds is not None:
        above_zero("max_seconds", "a number of seconds", max_seconds, "60")
    if tolerance is None:
        return
    above_zero("tolerance", "a standard error in nats", tolerance, "0.05")
    whole_number("num_samples with a tolerance", num_samples, at_least=LEAST)
    whole_number("max_samples", max_samples, at_least=num_samples)
    if more is not None:
        raise ValueError(
            "more adds draws of the guide, a tolerance says how many are wanted; give one of the "
            "two"
        )
