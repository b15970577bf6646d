"""Importance sampling, tile by tile.

The (K, N) weights are never all in memory. Data are worked through in tiles of at most
``TILE_DATA`` rows, samples in tiles that fill ``TILE_ROWS`` decoder rows. A tile has its own seed
and a shape that depends on nothing but N and K, so the memory given to the decoder changes neither
the draws nor the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..data.rows import Rows
from ..density.memory import TILE_ROWS, Memory
from ..density.terms import Terms, enumerated_terms, trace_terms
from ..guards import owner_of, seed_of, seeded
from .weights import Weights, concatenate, from_blocks

TILE_DATA = 64
BUFFER = 4096  # weights per datum kept until they are merged into the running sums


def importance_weights(
    model: Callable,
    guide: Callable,
    rows: Rows,
    like: Tensor | None,
    num_samples: int,
    seed: tuple[int, int],
    memory: Memory,
) -> Weights:
    """The weights of draws from the guide; over a discrete latent, of all its values.

    `seed` is a number and how many draws there were before, which makes these others.
    """
    size = max(1, TILE_ROWS // min(TILE_DATA, len(rows)))
    parts = []
    for number, tile in enumerate(rows.chunks(TILE_DATA)):
        batch = rows.batch(tile, like=like)
        precision = torch.finfo(batch[0].dtype).eps
        with seeded(seed_of(seed[0], number, *seed[1:] if seed[1] else ())):
            if getattr(owner_of(guide), "is_discrete", False):
                parts.append(_exact(enumerated_terms(model, guide, batch, memory), precision))
                continue
            drawn = (
                trace_terms(model, guide, batch, min(size, num_samples - done), memory).log_weight
                for done in range(0, num_samples, size)
            )
            parts.append(from_blocks(_buffered(drawn), precision))
    return concatenate(parts)


def _exact(terms: Terms, precision: float) -> Weights:
    """All values of a discrete latent, each once: equal weights that sum to p(x), and the exact
    ELBO.
    """
    log_joint, log_guide = (
        (terms.log_likelihood + terms.log_prior).double(),
        terms.log_guide.double(),
    )
    elbo = torch.where(log_guide > -math.inf, log_guide.exp() * (log_joint - log_guide), 0.0).sum(0)
    equal = log_joint.logsumexp(0).expand(len(log_joint), -1)
    return from_blocks([equal], precision).with_elbo(elbo)


def _buffered(parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """Log weights, joined to blocks worth merging."""
    kept: list[Tensor] = []
    for part in parts:
        kept.append(part)
        if sum(map(len, kept)) >= BUFFER:
            yield torch.cat(kept)
            kept = []
    if kept:
        yield torch.cat(kept)
