r"""A budget that follows the need: more draws for a large error, better proposals for wild weights.

Each datum climbs until its error is at most the tolerance:

1. ``guide``: draws of the guide, with as many of wide distributions beside them (:mod:`.defence`),
   as many as it takes;
2. ``refined``: a wide Student-t with the mean and covariance of the datum's own posterior, mixed
   with the prior: first from weighted draws, and where that is not enough, from short chains of
   HMC, with a Student-t about each chain where these stay in different modes;
3. ``annealed``: annealed importance sampling from there.

A few chains from the prior look for what draws may have missed (:mod:`.search`). An estimate that
does not explain where they end is not kept: then a Student-t about all of these ends, HMC that goes
on from them, or annealing from the prior takes its place.

The error is the standard error where k-hat is at most 0.5. Above, the variance need not exist, and
the error of the mean of K weights falls as :math:`K^{\hat k - 1}` only, so it is taken to be
:math:`K^{\hat k - 1/2}` times as large (Vehtari et al., 2024, https://arxiv.org/abs/1507.02646).

All proposals but the guide live in unconstrained space (:mod:`.proposals`), and where the scale of
a prior depends on other latents, on both sides of the map to units of that prior
(:mod:`..density.noncentred`).
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..density.memory import Memory, tile_data, tile_rows
from ..density.problem import Problem, Stream, Tile
from ..guards import seed_of
from .budget import Budget, halves, lengthened
from .chains import CHAINS
from .climb import RUNGS, Climb
from .defence import Defended, defended_weights
from .heaviest import joined
from .record import Record
from .watch import OutOfTime, Watch
from .weights import Weights, concatenate, unreached


@dataclass(frozen=True)
class Climbed:
    """How far some data have come.

    Arguments:
        weights: The best weights.
        rung: The number of the rung that they are of, of shape ``(N,)``.
        elbo: The ELBO of the guide, of shape ``(N,)``.
        stopped: Which data would have climbed on, had there been time, of shape ``(N,)``.
        refuted: Which have a mode that their draws have missed, of shape ``(N,)``.
        edge: Which may have mass beyond what numbers can tell from an edge, of shape ``(N,)``.
    """

    weights: Weights
    rung: Tensor
    elbo: Tensor
    stopped: Tensor
    refuted: Tensor
    edge: Tensor


def escalate(
    problem: Problem,
    budget: Budget,
    watch: Watch,
    seed: int,
    memory: Memory,
    about: dict[str, Any],
) -> Climbed:
    """Weights that meet the tolerance where some proposal does.

    A datum that no proposal satisfies keeps the best it had; one with a weight that is NaN stays as
    it is.
    """
    found = []
    size = tile_rows(problem.device) // CHAINS  # as many data as fill the decoder with chains
    for tile in problem.tiles(size, (seed, Stream.ESCALATION)):
        ended = watch.has_ended
        watch.begin(len(tile))
        found.append(_missed(tile) if ended else climbed(tile, budget, watch, seed, memory))
        if "measure" not in about:
            about["measure"] = tile.densities.measure
    others = ("rung", "elbo", "stopped", "refuted", "edge")
    figures = {name: torch.cat([getattr(part, name) for part in found]) for name in others}
    return Climbed(concatenate([part.weights for part in found]), **figures)


def _missed(tile: Tile) -> Climbed:
    """A tile that there was no time for."""
    nothing = unreached(len(tile), tile.precision)
    no_rung, all_of_them = torch.zeros(len(tile), dtype=torch.long), torch.ones(len(tile)).bool()
    return Climbed(nothing, no_rung, nothing.total, all_of_them, ~all_of_them, ~all_of_them)


def climbed(
    tile: Tile,
    budget: Budget,
    watch: Watch,
    seed: int,
    memory: Memory,
    record: Record | None = None,
) -> Climbed:
    """A tile, from the first rung on; the draws of its best estimates go to `record`."""

    def defended(part: Tile, num: int, index: Tensor) -> Defended:
        counts = (num, 0) if part.densities.is_discrete else halves(num)
        if record is None:
            return defended_weights(part, *counts, memory, watch)
        told = functools.partial(record.add, index.tolist())
        return defended_weights(part, *counts, memory, watch, told)

    def draw(index: Tensor, num: int, done: int) -> Weights:
        own = seed_of(seed, tile.number, Stream.LENGTHENING, done)
        found = defended(tile.select(index, own), num, index)
        if heaviest is not None and found.heaviest is not None:
            heaviest.add(index, found.heaviest.position, found.heaviest.log_weight)
        return found.mixture

    with watch.on(RUNGS[0], len(tile)):
        everything = torch.arange(len(tile)).split(tile_data(tile.problem.device))
        split = tile.split(tile_data(tile.problem.device), (seed,))
        parts = [
            defended(part, budget.num_samples, index)
            for part, index in zip(split, everything, strict=True)
        ]
        of_guide = concatenate([part.guide for part in parts])
        first = concatenate([part.mixture for part in parts])
        heaviest = joined([part.heaviest for part in parts])
        lost = (~first.log_evidence.isfinite() & of_guide.log_evidence.isfinite()).nonzero()[:, 0]
        first = first.replace(lost, of_guide.select(lost))
        weights = lengthened(first, draw, budget, watch)
        watch.draws[RUNGS[0]] += int(weights.num.sum())
        if record is not None:
            record.keep(range(len(tile)))

    climb = Climb(tile, weights, heaviest, budget, watch, record)
    if not tile.densities.is_discrete:  # there is no unconstrained space for other proposals
        with tile.seeded(), contextlib.suppress(OutOfTime):
            climb.run()
    stopped = torch.zeros(len(tile), dtype=torch.bool)
    stopped[climb.needy] = watch.is_over
    elbo = of_guide.total / of_guide.num
    edge = torch.cat([part.ends_early for part in parts])
    return Climbed(climb.weights, climb.rung, elbo, stopped, ~climb.explained, edge)
