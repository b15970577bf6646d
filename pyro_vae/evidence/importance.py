"""Importance sampling, tile by tile.

The (K, N) weights are never all in memory. Data are worked through in tiles of at most
``tile_data`` rows, samples in tiles that fill ``tile_rows`` decoder rows. A tile has its own seed
and a shape that depends on nothing but N, K and the kind of the device, so the memory given to the
decoder changes neither the draws nor the answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..density.memory import Memory, tile_data, tile_rows
from ..density.problem import Tile
from ..density.terms import Terms
from .watch import Watch
from .weights import Weights, from_blocks


def importance_weights(tile: Tile, num_samples: int, memory: Memory, watch: Watch) -> Weights:
    """The weights of draws from the guide for one tile, fewer if its time is over; of a discrete
    latent, all its values.
    """
    with tile.seeded():
        if tile.problem.sums_exactly:
            return _exact(tile.densities.enumerated(memory), tile.precision)
        drawn = (
            tile.terms(end - begin, memory).log_weight
            for begin, end in watch.until_over(blocks(tile, num_samples))
        )
        return from_blocks(drawn, tile.precision)


def blocks(tile: Tile, num_samples: int) -> Iterator[tuple[int, int]]:
    """The first and the last of so many draws, as many at a time as fill a tile of decoder rows."""
    device = tile.problem.device
    size = max(1, tile_rows(device) // min(tile_data(device), len(tile.problem)))
    for begin in range(0, num_samples, size):
        yield begin, min(begin + size, num_samples)


def _exact(terms: Terms, precision: float) -> Weights:
    """All values of a discrete latent, each once: equal weights that sum to p(x).

    The ELBO is exact as well.
    """
    log_joint = (terms.log_likelihood + terms.log_prior).double()
    log_guide = terms.log_guide.double()
    possible = log_guide > -torch.inf
    elbo = torch.where(possible, log_guide.exp() * (log_joint - log_guide), 0.0).sum(0)
    equal = log_joint.logsumexp(0).expand(len(log_joint), -1)
    return from_blocks([equal], precision).with_elbo(elbo.cpu())
