"""Weighted draws of the posterior of each datum: those that log p(x) is estimated from."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..density.memory import Memory, tile_data, tile_rows
from ..density.problem import Problem, Stream, Tile
from ..density.target import Target
from ..density.terms import Batch, Values
from .budget import Budget, halves
from .chains import CHAINS
from .defence import defended_weights, has_wide_draws
from .escalation import climbed
from .record import Record
from .watch import Watch


@dataclass(frozen=True)
class Weighted:
    """As many weighted draws of the posterior for each of some data.

    Arguments:
        rows: Which rows of the problem these data are, of shape ``(N,)``.
        batch: x, and c if there is one.
        values: The latents by site, each of shape ``(K, N, *Z)``.
        log_weight: Of shape ``(K, N)``; over discrete latents, the log joint density of each value.
        flagged: By reason, which data are not to be trusted whatever these weights say, ``(N,)``.
    """

    rows: np.ndarray
    batch: Batch
    values: Values
    log_weight: Tensor
    flagged: dict[str, np.ndarray]


def weighted_draws(
    problem: Problem, budget: Budget | None, num_samples: int, seed: int, watch: Watch
) -> Iterator[Weighted]:
    """Draws for all data, some data at a time.

    Arguments:
        problem: Model, guide and data.
        budget: What is asked of the weights, by :func:`.escalate`; None for one mixture of the
            guide with wide distributions beside it (:mod:`.defence`).
        num_samples: The draws of each datum, where there is no budget.
        seed: The seed of the draws.
        watch: The clock.

    Raises:
        ValueError: There is a budget, and no proposal but the guide.
    """
    device = problem.device
    memory = Memory(device)
    size = tile_data(device) if budget is None else tile_rows(device) // CHAINS
    for tile in problem.tiles(size, (seed, Stream.EXPECTATION)):
        watch.begin(len(tile))
        if problem.sums_exactly:
            yield _all_values(tile)
            continue
        if not has_wide_draws(tile):
            if budget is not None:
                raise ValueError(
                    "a tolerance needs proposals beside the guide, and there are none for these "
                    "latents: of more than 100 dimensions, discrete, of a support that moves, or "
                    "with a missingness that draws cells; leave it out, or give posterior"
                )
            yield _of_guide(tile, num_samples, memory)
            continue
        record, flagged = Record(), {}
        if budget is None:
            told = functools.partial(record.add, range(len(tile)))
            defended = defended_weights(tile, *halves(num_samples), memory, watch, told)
            record.keep(range(len(tile)))
            flagged["edge"] = defended.ends_early
        else:
            found = climbed(tile, budget, watch, seed, memory, record)
            flagged |= {"refuted": found.refuted, "edge": found.edge}
        yield from _recorded(tile, record, flagged)


def _all_values(tile: Tile) -> Weighted:
    """All values of a discrete latent, each once."""
    values = tile.densities.states()
    log_joint = sum(tile.densities.log_model(values))
    return Weighted(_rows(tile), tile.batch, values, torch.as_tensor(log_joint), {})


def _of_guide(tile: Tile, num_samples: int, memory: Memory) -> Weighted:
    with tile.seeded():
        drawn = tile.densities.draw(num_samples)
        terms = tile.densities.weigh(drawn, memory)
    return Weighted(_rows(tile), tile.batch, drawn.values, terms.log_weight, {})


def _recorded(tile: Tile, record: Record, flagged: dict[str, Tensor]) -> Iterator[Weighted]:
    """The draws of the best estimates: data with as many draws together."""
    chunks = [record.of(datum) for datum in range(len(tile))]
    numbers = np.array([0 if chunk is None else len(chunk[1]) for chunk in chunks])
    for number in np.unique(numbers):
        index = torch.as_tensor(np.flatnonzero(numbers == number))
        known = [chunk for chunk in map(chunks.__getitem__, index.tolist()) if chunk is not None]
        position, log_weight = (torch.stack(parts, 1) for parts in zip(*known, strict=True))
        batch = tuple(part[index.to(part.device)] for part in tile.batch)
        densities = tile.densities.select(index)
        target = Target(densities, densities.noncentred)
        yield Weighted(
            _rows(tile)[index.numpy()],
            batch,
            target.constrain(position.to(batch[0].device)),
            log_weight,
            {reason: mask[index].numpy() for reason, mask in flagged.items()},
        )


def _rows(tile: Tile) -> np.ndarray:
    return np.arange(tile.rows.start, tile.rows.stop)
