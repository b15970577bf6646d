"""Everything about a model, its guide and some data as one ArviZ tree: draws, predictions, weights,
data.

``az.loo`` and ``az.compare`` read the group ``log_likelihood``, and ask how well all other data
predict a datum. Its latent is its own and the parameters are fixed, so the others say nothing of
it: the answer is log p(x). The mean of p(x|z) over draws that have seen x is another number, mostly
far too high; its terms are in ``conditional_log_likelihood``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.rows import DataError
from ..density.memory import tile_rows
from ..density.problem import Problem
from ..density.terms import Batch, Values
from ..density.traced import Pair
from ..evidence.evidence import log_evidence
from ..evidence.pareto import khat
from ..guards import evaluating, seed_of, seeded, whole_number
from ..posterior.trees import (
    DRAWS,
    dataset,
    draws_by_site,
    features,
    latents,
    needs_draws_of,
    observed_groups,
)
from ..vae import VAE
from .draws import guide_draws, made_by

if TYPE_CHECKING:
    import xarray

TOLERANCE = 0.1  # nats, of log p(x)
LEAST, MOST = 100, 10  # draws for it at first; and how many times as many on a rung
APART = 1e-6  # nats between what stand for draws of log p(x)


def to_datatree(
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    posterior: xarray.DataTree | None = None,
    num_samples: int = 500,
    seed: int = 0,
) -> xarray.DataTree:
    """The groups that ArviZ knows, for a model, its guide and data.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate, and whose model observes x at one site.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum.
        posterior: What :func:`.sample_posterior` gave for these data; left out, draws of the guide
            take its place.
        num_samples: The draws of the guide, of the prior and, at most, of each chain for
            predictions.
        seed: The seed of the draws.

    Returns:
        A tree with ``posterior`` (chain, draw, datum, latent), ``sample_stats`` and ``diagnostics``
        where there are chains, ``guide`` (the guide's draws, as one chain, named as in
        ``posterior``), ``importance`` (``log_weight`` of these draws; ``log_evidence``, ``ess`` and
        ``khat`` of each datum), ``log_likelihood`` (log p(x) of each datum by :func:`.log_evidence`
        with a tolerance of 0.1 nats, which ``az.loo`` and ``az.compare`` read; the same for all
        draws, but for 1e-6 nats, since ArviZ refuses equal ones),
        ``conditional_log_likelihood`` (log p(x|z) of each draw), ``posterior_predictive``,
        ``prior``, ``prior_predictive`` (of each c, where there is one), ``observed_data`` and
        ``constant_data``. All in nats.

    Raises:
        DataError: The data do not fit the likelihood, or are not those of `posterior`.
        ValueError: `posterior` was drawn from another model; the model observes something else
            than x.

    Warns:
        UserWarning: log p(x) of some data cannot be trusted.
    """
    import xarray

    whole_number("num_samples", num_samples, at_least=1)
    problem = Problem.of(vae, x, c)
    if posterior is not None:
        posterior = needs_draws_of("to_datatree", posterior, problem)
    drawn, log_weight = guide_draws(problem, num_samples=num_samples, seed=seed)
    guide = latents({name: values[None] for name, values in drawn.items()})
    groups = {"posterior": guide}
    if posterior is not None:
        groups = {name: node.to_dataset() for name, node in posterior.items()}
    if groups["posterior"].sizes["datum"] != len(problem):
        raise DataError(
            f"to_datatree needs the data that the posterior was drawn for; got {len(problem)} data"
        )

    draws = groups["posterior"]
    with torch.no_grad(), seeded(seed_of(seed, 1)), evaluating(problem.model, problem.guide):
        batch = problem.batch(slice(None))
        thinned = draws.isel(draw=slice(None, None, -(-draws.sizes["draw"] // num_samples)))
        groups |= {
            "guide": guide,
            "importance": _importance(log_weight),
            "log_likelihood": _log_likelihood(problem, draws, num_samples, seed),
            "conditional_log_likelihood": _conditional_log_likelihood(problem, batch, draws),
            "posterior_predictive": _predicted(problem, batch, thinned),
            **_prior(problem, batch, num_samples),
        }
    tree = xarray.DataTree.from_dict(groups | observed_groups(problem.rows, problem.like))
    for role, name in (("inference_library", "pyro-ppl"), ("creation_library", "pyro-vae")):
        tree.attrs |= {role: name, f"{role}_version": metadata.version(name)}
    tree.attrs["seed"] = seed
    return tree


def _importance(log_weight: Tensor) -> xarray.Dataset:
    shape, log_weight = khat(log_weight), log_weight.double()
    total, squares = log_weight.logsumexp(0), (2 * log_weight).logsumexp(0)
    by_datum = {
        "log_evidence": total - math.log(len(log_weight)),
        "ess": torch.exp(2 * total - squares),
        "khat": shape,
    }
    found = dataset(
        {name: values.numpy(force=True) for name, values in by_datum.items()}, DRAWS[2:], ""
    )
    return found.merge(dataset({"log_weight": log_weight[None].numpy(force=True)}, DRAWS, ""))


def _blocks(problem: Problem, draws: xarray.Dataset) -> Iterator[Values]:
    """Draws of latents by site, each ``(S, N, *Z)``, a few at a time."""
    flat = {name: z.reshape(-1, *z.shape[2:]) for name, z in draws_by_site(draws).items()}
    num = draws.sizes["chain"] * draws.sizes["draw"]
    step = max(1, tile_rows(problem.device) // len(problem))
    for start in range(0, num, step):
        part = {name: z[start : start + step] for name, z in flat.items()}
        yield {name: torch.as_tensor(z).to(problem.device) for name, z in part.items()}


def _log_likelihood(
    problem: Problem, draws: xarray.Dataset, num_samples: int, seed: int
) -> xarray.Dataset:
    """log p(x) of each datum, over chain, draw and datum: the draws are normal quantiles, very
    close together.
    """
    num = max(num_samples, LEAST)
    found = log_evidence(
        problem, num_samples=num, tolerance=TOLERANCE, max_samples=MOST * num, seed=seed
    )
    shape = draws.sizes["chain"], draws.sizes["draw"], 1
    num = shape[0] * shape[1]
    apart = APART * torch.special.ndtri((torch.arange(num).double() + 0.5) / num)
    terms = found.log_evidence.values + apart.reshape(shape).numpy()
    flag = ("datum", found.flag.values)
    return dataset({"x": terms}, DRAWS, "").assign_coords(draw=draws.draw, flag=flag)


def _conditional_log_likelihood(
    problem: Problem, batch: Batch, draws: xarray.Dataset
) -> xarray.Dataset:
    """log p(x|z) of each datum, over chain, draw and datum."""
    densities = problem.densities(batch)
    blocks = [densities.log_model(z)[0].numpy(force=True) for z in _blocks(problem, draws)]
    shape = tuple(draws.sizes[name] for name in DRAWS)
    return dataset({"x": np.concatenate(blocks).reshape(shape)}, DRAWS, "").assign_coords(
        draw=draws.draw
    )


def _predicted(problem: Problem, batch: Batch, draws: xarray.Dataset) -> xarray.Dataset:
    """Data drawn from p(x|z), one for each draw of z."""
    blocks = []
    for z in _blocks(problem, draws):
        num = len(next(iter(z.values())))
        blocks.append(made_by("to_datatree", problem, batch, num, z)[1].numpy(force=True))
    drawn = np.concatenate(blocks)
    drawn = drawn.reshape(*(draws.sizes[name] for name in DRAWS), *drawn.shape[2:])
    return features({"x": drawn}, DRAWS, problem.rows).assign_coords(draw=draws.draw)


def _prior(problem: Problem, batch: Batch, num_samples: int) -> dict[str, xarray.Dataset]:
    """Draws of the prior and of data from it; given each c where there is one."""
    own = batch if len(batch) > 1 else (batch[0][:1],)
    drawn, made = made_by("to_datatree", problem, own, num_samples, {})
    z = latents({name: values[None].numpy(force=True) for name, values in drawn.items()})
    x = features({"x": made[None].numpy(force=True)}, DRAWS, problem.rows)
    groups = {"prior": z, "prior_predictive": x}
    if len(batch) > 1:
        return groups
    return {name: group.isel(datum=0, drop=True) for name, group in groups.items()}
