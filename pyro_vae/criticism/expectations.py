r"""Means over the posterior, :math:`\mathrm{E}[f(z, x) \mid x]` for each datum, with their error.

.. math::

    \hat\mu = \sum_k s_k f(z_k, x), \qquad s_k = w_k / \sum_j w_j, \qquad
    \mathrm{se}^2 = \sum_k s_k^2 \, (f(z_k, x) - \hat\mu)^2

by self-normalised importance sampling (Owen, 2013, *Monte Carlo theory, methods and examples*,
chapter 9), whose largest weights are smoothed by a Pareto tail (Vehtari et al., 2024,
https://arxiv.org/abs/1507.02646). The draws are such as :func:`.log_evidence` makes: of its second
opinion, and with a tolerance of the best rung of each datum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..density.problem import Problem, Stream
from ..density.traced import Pair
from ..evidence.budget import Budget
from ..evidence.flags import counted, warn_of_flags
from ..evidence.watch import Watch
from ..evidence.weighted import weighted_draws
from ..guards import above_zero, evaluating, seed_of, seeded, whole_number
from ..posterior.trees import dataset, needs_draws_of
from ..vae import VAE
from .posterior_means import Figures, Function, of_chains, of_weighted

if TYPE_CHECKING:
    import xarray

LEAST = 25  # draws with which k-hat is known
REMEDY = "give a tolerance, which escalates, or draws of MCMC as posterior"
SPENT = "raise max_samples, or give draws of MCMC as posterior"
MORE = "draw longer chains by sample_posterior"


def expect(
    vae: VAE | Pair | Problem,
    x: Any = None,
    f: Function | None = None,
    c: Any = None,
    *,
    num_samples: int = 1000,
    tolerance: float | None = None,
    max_samples: int = 20_000,
    posterior: xarray.DataTree | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xarray.Dataset:
    r""":math:`\mathrm{E}[f(z, x) \mid x]` for each datum: the mean over the posterior of a function
    of its latents.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate; or a :class:`.Problem`.
        x: Data of shape ``(N, *X)``, NaN where missing.
        f: A function ``f(z, x)`` of latents of shape ``(K, N', *Z)`` and data ``(N', *X)``, called
            with some of the data at a time; ``f(z, x, c)`` where there is a c. A pair with several
            latents gives them by site. It returns numbers ``(K, N')``, or several for each draw,
            ``(K, N', *F)``: ``lambda z, x: vae.decode(z).mean``.
        c: What the model is conditional on, a row for each datum.
        num_samples: The draws of each datum, with a tolerance those at first; half of them come
            from the guide, half from wide distributions beside it, weighed as one mixture.
        tolerance: The standard error of log p(x) that the weights must allow, in nats, as in
            :func:`.log_evidence`: then a mean has an error of about so many posterior standard
            deviations. Data whose draws do not allow it climb to better proposals.
        max_samples: With a tolerance, the most draws of a datum on one rung.
        posterior: Draws of MCMC, as :func:`.sample_posterior` gives them, in place of all these.
        names: The names of the outputs of f, if they have some: ``vae.columns`` for decoded means.
        seed: The seed of the draws.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A dataset over the dimension ``datum``, and ``output`` (or ``output_0``, ...) where f gives
        several numbers: ``mean``; ``sd``, the standard deviation of f over the posterior; ``se``,
        the standard error of the mean; ``ess``, the number of independent draws that would have
        this error; ``khat``, the larger Pareto shape of the weights and of the weights times the
        distance of f from its mean (-inf for draws of MCMC and exact sums);
        ``num_samples``; and the coordinate ``flag``, the reason not to trust a mean, empty where
        there is none, as in :func:`.log_evidence`: by the k-hat of the weights, as that of the
        products is large for any skewed f; "dominated", where the error rests on fewer than 50
        draws and may be too small; "not mixed" for chains. Over discrete latents it is an exact
        sum, of ``se`` 0.

    Raises:
        DataError: The data do not fit the likelihood, or are not those of `posterior`.
        TypeError: f is no function, or `posterior` no tree of MCMC draws.
        ValueError: f gives no real numbers of shape ``(K, N', ...)``; there are other names than
            outputs; a tolerance is asked for of latents that are discrete and not summed over, or
            of more than 100 dimensions; an option makes no sense; or `posterior` was drawn from
            another model.

    Warns:
        UserWarning: Some means are flagged.

    Example:
        >>> vae = VAE(
        ...     prior=Normal((1,), loc=0.0, scale=1.0),
        ...     likelihood=Amortised(torch.nn.Identity(), Normal((1,), scale=1.0)),
        ...     guide=Amortised(torch.nn.Identity(), Normal((1,), scale=1.0)),
        ... )
        >>> found = expect(vae, torch.tensor([[1.0]]), lambda z, x: z, num_samples=4000)
        >>> bool(abs(found["mean"] - 0.5) < 4 * found.se)  # the posterior is N(1/2, 1/2)
        True
    """
    if not callable(f):
        hint = "; with a Problem, which holds its data, f must be named" if callable(x) else ""
        raise TypeError(f"expect needs f as a function of z and x; got {type(f).__name__}{hint}")
    if posterior is not None and tolerance is not None:
        raise ValueError(
            "tolerance is for draws made here, posterior has its own; give one of the two"
        )
    budget = _budget(num_samples, tolerance, max_samples)
    whole_number("seed", seed, at_least=0)
    problem = Problem.of(vae, x, c)
    watch = Watch(len(problem), progress=progress, max_seconds=None)

    of_f = seeded(seed_of(seed, Stream.EXPECTATION))  # which may draw
    with torch.no_grad(), of_f, evaluating(problem.model, problem.guide), watch:
        if posterior is None:
            draws = weighted_draws(problem, budget, num_samples, seed, watch)
            parts = [(part.rows, of_weighted(f, part, problem)) for part in draws]
        else:
            tree = needs_draws_of("expect", posterior, problem)
            parts = list(of_chains(f, tree, problem))
    figures = _in_order(parts)
    result = _as_dataset(figures, problem, names)
    remedy = REMEDY if tolerance is None else SPENT
    warn_of_flags(result, remedy if posterior is None else MORE, "means")
    return result


def _budget(num_samples: int, tolerance: Any, max_samples: int) -> Budget | None:
    whole_number("num_samples", num_samples, at_least=2)
    whole_number("max_samples", max_samples, at_least=1)
    if tolerance is None:
        return None
    above_zero("tolerance", "a standard error in nats", tolerance, "0.05")
    whole_number("num_samples with a tolerance", num_samples, at_least=LEAST)
    whole_number("max_samples", max_samples, at_least=num_samples)
    return Budget(num_samples, tolerance, max_samples)


def _in_order(parts: list[tuple[np.ndarray, Figures]]) -> Figures:
    """The figures of all data, in the order of these."""
    order = np.concatenate([rows for rows, _ in parts]).argsort()
    return {
        name: np.concatenate([figures[name] for _, figures in parts])[order] for name in parts[0][1]
    }


def _as_dataset(figures: Figures, problem: Problem, names: Sequence[str] | None) -> xarray.Dataset:
    flag = figures.pop("flag")
    result = dataset(figures, ("datum",), "output")
    if names is not None:
        if len(names) != result.sizes.get("output"):
            shape = tuple(result["mean"].shape[1:])
            raise ValueError(f"{len(names)} names do not fit outputs of f of shape {shape}")
        result = result.assign_coords(output=list(names))
    result = result.assign_coords(flag=(result["mean"].dims, flag))
    return result.assign_attrs(**counted(flag), **problem.about)
