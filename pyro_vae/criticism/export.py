"""Everything about a VAE and some data as one ArviZ tree: draws, predictions, weights, data.

``az.loo`` and ``az.compare`` read the group ``log_likelihood``, and ask how well all other data
predict a datum. Its latent is its own and the parameters are fixed, so the others say nothing of
it: the answer is log p(x). The mean of p(x|z) over draws that have seen x is another number, mostly
far too high; its terms are in ``conditional_log_likelihood``.
"""

from __future__ import annotations

import math
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.rows import DataError, Rows
from ..density.memory import tile_rows
from ..density.problem import Problem
from ..evidence.evidence import log_evidence
from ..evidence.pareto import khat
from ..guards import evaluating, seed_of, seeded, whole_number
from ..posterior.trees import DRAWS, dataset, features, needs_draws_of, observed_groups
from ..vae import VAE
from .draws import guide_draws, vae_of

if TYPE_CHECKING:
    import xarray

TOLERANCE = 0.1  # nats, of log p(x)
LEAST, MOST = 100, 10  # draws for it at first; and how many times as many on a rung
APART = 1e-6  # nats between what stand for draws of log p(x)


def to_datatree(
    vae: VAE | Problem,
    x: Any = None,
    c: Any = None,
    *,
    posterior: xarray.DataTree | None = None,
    num_samples: int = 500,
    seed: int = 0,
) -> xarray.DataTree:
    """The groups that ArviZ knows, for a VAE and data.

    Arguments:
        vae: A VAE.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What a conditional VAE is conditional on, a row for each datum.
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
        ``prior``, ``prior_predictive`` (of each c, for a conditional VAE), ``observed_data`` and
        ``constant_data``. All in nats.

    Raises:
        DataError: The data do not fit the likelihood, or are not those of `posterior`.
        ValueError: `posterior` was drawn from another model.

    Warns:
        UserWarning: log p(x) of some data cannot be trusted.
    """
    import xarray

    whole_number("num_samples", num_samples, at_least=1)
    own = vae_of("to_datatree", vae)
    problem = Problem.of(vae, x, c)
    rows = problem.rows
    if posterior is not None:
        posterior = needs_draws_of("to_datatree", posterior, problem)
    drawn, log_weight = guide_draws(problem, num_samples=num_samples, seed=seed)
    guide = dataset({"z": drawn["z"][None]}, DRAWS, "latent")
    groups = {"posterior": guide}
    if posterior is not None:
        groups = {name: node.to_dataset() for name, node in posterior.items()}
    z = groups["posterior"]["z"]
    if z.shape[2:] != drawn["z"].shape[1:]:
        raise DataError(
            f"to_datatree needs the data that the posterior was drawn for; got {len(rows)} data"
        )

    with torch.no_grad(), seeded(seed_of(seed, 1)), evaluating(own):
        batch = problem.batch(slice(None))
        thinned = z.isel(draw=slice(None, None, _step(z, num_samples)))
        groups |= {
            "guide": guide,
            "importance": _importance(log_weight),
            "log_likelihood": _log_likelihood(problem, z, num_samples, seed),
            "conditional_log_likelihood": _conditional_log_likelihood(own, batch, z),
            "posterior_predictive": _predicted(own, rows, batch, thinned),
            **_prior(own, rows, batch, num_samples),
        }
    tree = xarray.DataTree.from_dict(groups | observed_groups(rows, own.reference))
    for role, name in (("inference_library", "pyro-ppl"), ("creation_library", "pyro-vae")):
        tree.attrs |= {role: name, f"{role}_version": metadata.version(name)}
    tree.attrs["seed"] = seed
    return tree


def _step(z: xarray.DataArray, num_samples: int) -> int:
    return -(-z.sizes["draw"] // num_samples)


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


def _blocks(vae: VAE, z: xarray.DataArray) -> Any:
    """Draws of latents ``(S, N, *Z)``, a few at a time."""
    flat = z.values.reshape(-1, *z.shape[2:])
    step = max(1, tile_rows(vae.reference.device) // z.shape[2])
    for start in range(0, len(flat), step):
        yield torch.as_tensor(flat[start : start + step]).to(vae.reference.device)


def _log_likelihood(
    problem: Problem, z: xarray.DataArray, num_samples: int, seed: int
) -> xarray.Dataset:
    """log p(x) of each datum, over chain, draw and datum: the draws are normal quantiles, very
    close together.
    """
    num = max(num_samples, LEAST)
    found = log_evidence(
        problem, num_samples=num, tolerance=TOLERANCE, max_samples=MOST * num, seed=seed
    )
    draws = z.sizes["chain"] * z.sizes["draw"]
    apart = APART * torch.special.ndtri((torch.arange(draws).double() + 0.5) / draws)
    terms = found.log_evidence.values + apart.reshape(*z.shape[:2], 1).numpy()
    flag = ("datum", found.flag.values)
    return dataset({"x": terms}, DRAWS, "").assign_coords(draw=z.draw, flag=flag)


def _conditional_log_likelihood(
    vae: VAE, batch: tuple[Tensor, ...], z: xarray.DataArray
) -> xarray.Dataset:
    """log p(x|z) of each datum, over chain, draw and datum."""
    c = vae.encode_condition(len(batch[0]), *batch[1:])
    blocks = [vae.log_likelihood(batch[0], block, c).numpy(force=True) for block in _blocks(vae, z)]
    return dataset({"x": np.concatenate(blocks).reshape(z.shape[:3])}, DRAWS, "").assign_coords(
        draw=z.draw
    )


def _predicted(
    vae: VAE, rows: Rows, batch: tuple[Tensor, ...], z: xarray.DataArray
) -> xarray.Dataset:
    """Data drawn from p(x|z), one for each draw of z."""
    c = vae.encode_condition(len(batch[0]), *batch[1:])
    blocks = [vae.likelihood_of(block, c).sample().numpy(force=True) for block in _blocks(vae, z)]
    drawn = np.concatenate(blocks)
    drawn = drawn.reshape(*z.shape[:3], *drawn.shape[2:])
    return features({"x": drawn}, DRAWS, rows).assign_coords(draw=z.draw)


def _prior(
    vae: VAE, rows: Rows, batch: tuple[Tensor, ...], num_samples: int
) -> dict[str, xarray.Dataset]:
    """Draws of the prior and of data from it; given each c where there is one."""
    c = vae.encode_condition(len(batch[0]), *batch[1:])
    num = 1 if c is None else len(c)
    z = vae.prior_of(c).expand(torch.Size([num])).sample(torch.Size([num_samples]))
    x = vae.likelihood_of(z, c).sample()

    leading = DRAWS if c is not None else DRAWS[:2]
    prior, predicted = (values[None] if c is not None else values[None, :, 0] for values in (z, x))
    return {
        "prior": dataset({"z": prior.numpy(force=True)}, leading, "latent"),
        "prior_predictive": features({"x": predicted.numpy(force=True)}, leading, rows),
    }
