"""Draws of the guide with their importance weights, as arrays beside the draws of MCMC."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor

from ..assembly.classified import SITES
from ..density.memory import Memory, tile_data
from ..density.problem import Problem, Stream
from ..density.terms import Batch, Values
from ..density.traced import Pair, replay, sites, under_particles
from ..guards import evaluating, owner_of, seeded
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


class NotDrawn(ValueError):
    """No data can be drawn from a model, as it observes something else than x."""


def vae_in(vae: object) -> VAE | None:
    """The VAE that was given, alone or in a problem with nothing around it; none for a pair."""
    if isinstance(vae, Problem):
        owners = {id(getattr(f, "__self__", None)) for f in (vae.model, vae.guide)}
        vae = getattr(vae.model, "__self__", None) if len(owners) == 1 else None
    return vae if isinstance(vae, VAE) else None


def vae_of(who: str, vae: object) -> VAE:
    """The VAE that was given, alone or in a problem, where the parts must be told apart.

    Raises:
        TypeError: Who needs what; what it was.
    """
    owner = vae_in(vae)
    if owner is None:
        of_a_pair = " of a pair" if isinstance(vae, Problem) else ""
        raise TypeError(
            f"{who} needs a VAE; got a {type(vae).__name__}{of_a_pair}; pairs of Pyro functions go "
            "to terms, log_evidence, annealed_log_evidence, bridge_log_evidence, sample_posterior, "
            "compare_posteriors, gaps, calibrate, check_predictions, outliers, to_datatree and "
            "report"
        )
    return owner


def flat(draws: Draws, leading: int) -> np.ndarray:
    """All latents of a datum as one vector, in double precision: shape ``(*leading, D)``."""
    together = [values.reshape(*values.shape[:leading], -1) for _, values in sorted(draws.items())]
    return np.concatenate(together, -1).astype(np.float64)


def simulated(
    who: str, vae: VAE | Pair | Problem, x: Any, c: Any, num: int, seed: int
) -> tuple[Problem, Draws]:
    """As many data as `num` from the model, and the latents that they were made from, each of shape
    ``(num, *Z)``.

    Raises:
        DataError: A pair has no x whose rows give the shape.
        NotDrawn: The model observes something else than x.
    """
    like = _templates(vae, x, c, num, seed)
    with torch.no_grad(), seeded(seed), evaluating(like.model, like.guide):
        z, made = made_by(who, like, like.batch(slice(None)), 1, {})
    problem = Problem.of((like.model, like.guide), made[0].cpu(), like.rows.c)
    return problem, {name: values[0].numpy(force=True) for name, values in z.items()}


def _templates(vae: VAE | Pair | Problem, x: Any, c: Any, num: int, seed: int) -> Problem:
    """Rows of the right shape, repeated as often as it takes; a VAE makes its own."""
    if isinstance(vae, VAE) and x is None:
        given = c if c is None or vae.condition is None else vae.condition.rows_of(c)
        given = given and given.only(np.resize(np.arange(len(given)), num))
        return Problem.of(vae, vae.sample(num, given, seed=seed), given)
    problem = Problem.of(vae, x, c)
    return problem.only(np.resize(np.arange(len(problem)), num)).in_memory()


def made_by(
    who: str, problem: Problem, batch: Batch, num_samples: int, latents: Values
) -> tuple[Values, Tensor]:
    """What the model of a problem draws in place of x, given some of its latents, or none.

    Returns:
        The latents by site and the data, each of shape ``(num_samples, N, ...)``.

    Raises:
        NotDrawn: The model observes something else than x.
    """
    x = batch[0]
    if not isinstance(owner_of(problem.model), VAE):  # which rounds them with care
        latents = {name: z.to(x) if z.is_floating_point() else z for name, z in latents.items()}
    with _Unseen(problem.model):
        trace = under_particles(replay(problem.model, latents), batch, num_samples)
    drawn = sites(trace, observed=False)
    seen = [site for site in drawn if site["infer"].get("was_observed")]
    latent = [site for site in drawn if not site["infer"].get("was_observed")]
    if len(seen) != 1 or not _is_x(seen[0]["infer"]["obs"], x):
        names = ", ".join(repr(site["name"]) for site in seen) or "nothing"
        raise NotDrawn(
            f"{who} needs a model that observes x, unchanged, at one site and nothing beside "
            f"it, so that x can be drawn; got one that observes {names}; write it with one "
            "pyro.sample(..., obs=x)"
        )
    return {site["name"]: site["value"] for site in latent}, seen[0]["value"]


def draws_holes(problem: Problem) -> bool:
    """Whether the model says which cells are missing, so that its draws have holes of their own."""
    owner = owner_of(problem.model)
    return isinstance(owner, VAE) and owner.missingness is not None


def with_holes_of(problem: Problem, x: Tensor, data: Tensor) -> Tensor:
    """Draws with the same cells missing as the data have, unless the model draws these too."""
    return x if draws_holes(problem) else x.masked_fill(data.isnan(), math.nan)


class _Unseen(UnconditionMessenger):
    """What is observed is drawn inside; values that are no draws stay, and so do the classes that a
    VAE with a classifier was given.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.kept = SITES if isinstance(owner_of(model), VAE) else frozenset()

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic") and msg["name"] not in self.kept:
            super()._pyro_sample(msg)


def _is_x(observed: Any, x: Tensor) -> bool:
    """Whether an observation is x, where x is not missing."""
    same = isinstance(observed, Tensor) and observed.shape == x.shape
    return same and bool(((observed == x) | x.isnan()).all())
