"""Draws of the guide with their importance weights, as arrays beside the draws of MCMC."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..data.arrays import as_rows
from ..density.memory import Memory, tile_data
from ..density.problem import Problem, Stream
from ..guards import evaluating, mode, seeded
from ..vae import VAE

Draws = dict[str, np.ndarray]


def guide_draws(problem: Problem, *, num_samples: int, seed: int) -> tuple[Draws, Tensor]:
    """Draws of the guide for each datum.

    Returns:
        The latents by site, each of shape ``(num_samples, N, *Z)``, and their log weights, of shape
        ``(num_samples, N)``.
    """
    draws, weights = [], []
    with torch.no_grad(), evaluating(problem.model, problem.guide):
        for tile in problem.tiles(tile_data(problem.device), (seed, Stream.GUIDE)):
            with tile.seeded():
                drawn = tile.densities.draw(num_samples)
                weights.append(tile.densities.weigh(drawn, Memory(problem.device)).log_weight)
            draws.append({name: z.numpy(force=True) for name, z in drawn.values.items()})
    by_site = {name: np.concatenate([part[name] for part in draws], 1) for name in draws[0]}
    return by_site, torch.cat(weights, 1)


def vae_of(who: str, vae: object) -> VAE:
    """The VAE that was given, alone or in a problem, where the parts must be told apart.

    Raises:
        TypeError: Who needs what; what it was.
    """
    owner = vae
    if isinstance(vae, Problem):  # its model and guide must be the VAE's, with nothing around them
        owners = {id(getattr(f, "__self__", None)) for f in (vae.model, vae.guide)}
        owner = getattr(vae.model, "__self__", None) if len(owners) == 1 else None
    if not isinstance(owner, VAE):
        of_a_pair = " of a pair" if isinstance(vae, Problem) else ""
        raise TypeError(
            f"{who} needs a VAE; got a {type(vae).__name__}{of_a_pair}; pairs of Pyro functions go "
            "to terms, log_evidence, annealed_log_evidence, bridge_log_evidence, "
            "sample_posterior and compare_posteriors"
        )
    return owner


def flat(draws: Draws, leading: int) -> np.ndarray:
    """All latents of a datum as one vector, in double precision: shape ``(*leading, D)``."""
    together = [values.reshape(*values.shape[:leading], -1) for _, values in sorted(draws.items())]
    return np.concatenate(together, -1).astype(np.float64)


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
