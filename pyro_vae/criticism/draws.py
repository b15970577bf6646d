"""Draws of the guide with their importance weights, as arrays beside the draws of MCMC."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..data.arrays import as_rows
from ..density.memory import Memory
from ..density.terms import Pair, entrance, replayed_terms, sites, under_particles
from ..evidence.importance import TILE_DATA
from ..evidence.pareto import khat
from ..guards import mode, own_store, seeded
from ..vae import VAE

Draws = dict[str, np.ndarray]


def guide_draws(
    vae: VAE | Pair, x: Any, c: Any = None, *, num_samples: int, seed: int
) -> tuple[Draws, Tensor]:
    """Draws of the guide for each datum.

    Returns:
        The latents by site, each of shape ``(num_samples, N, *Z)``, and their log weights, of shape
        ``(num_samples, N)``.
    """
    model, guide, rows, like = entrance(vae, x, c, num_samples)
    draws, weights = [], []
    with (
        torch.no_grad(),
        own_store(),
        seeded(seed),
        mode(model, guide, training=False),
        pyro.validation_enabled(False),
    ):
        for tile in rows.chunks(TILE_DATA):
            batch = rows.batch(tile, like=like)
            trace = under_particles(guide, batch, num_samples)
            draws.append(
                {
                    site["name"]: site["value"].numpy(force=True)
                    for site in sites(trace, observed=False)
                }
            )
            weights.append(replayed_terms(model, trace, batch, num_samples, Memory()).log_weight)
    return {
        name: np.concatenate([part[name] for part in draws], 1) for name in draws[0]
    }, torch.cat(weights, 1)


def needs_vae(who: str, vae: Any) -> None:
    """Raise unless it is a VAE, whose parts can be told apart.

    Raises:
        TypeError: Who needs what; what it was.
    """
    if not isinstance(vae, VAE):
        by_pairs = "terms, log_evidence, sample_posterior and compare_posteriors take pairs of Pyro functions"
        raise TypeError(f"{who} needs a VAE; got {type(vae).__name__}; {by_pairs}")


def flat(draws: Draws, leading: int) -> np.ndarray:
    """All latents of a datum as one vector, in double precision: shape ``(*leading, D)``."""
    together = [values.reshape(*values.shape[:leading], -1) for _, values in sorted(draws.items())]
    return np.concatenate(together, -1).astype(np.float64)


def divergence(log_weight: Tensor) -> dict[str, np.ndarray]:
    """KL(q‖p) = log p(x) - ELBO of each datum in nats, its standard error, and k-hat, from log
    weights ``(K, N)``.
    """
    shape, log_weight, num_samples = khat(log_weight), log_weight.double(), len(log_weight)
    log_mean = log_weight.logsumexp(0) - math.log(num_samples)
    influence = (log_weight - log_mean).exp() - log_weight
    found = {
        "kl": log_mean - log_weight.mean(0),
        "kl_se": influence.std(0) / math.sqrt(num_samples),
        "khat": shape,
    }
    return {name: values.numpy(force=True) for name, values in found.items()}


def simulated(
    vae: VAE, c: Any, num: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """True latents, data, and the c that they were made for."""
    given = None
    if c is not None:
        rows = as_rows(c)
        given = rows.take(np.resize(np.arange(len(rows)), num)).numpy()
    with torch.no_grad(), seeded(seed), mode(vae, training=False), pyro.validation_enabled(False):
        encoded = vae.check_condition(num, given)
        z = vae.prior_of(encoded).expand(torch.Size([num])).sample()
        x = vae.likelihood_of(z, encoded).sample()
    return z.numpy(force=True), x.numpy(force=True), given
