"""Encoding, decoding and drawing a few rows at a time, so that a million need no more memory than
their result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..conditionals.base import Amortised
from ..data.rows import Rows
from ..distributions.summaries import mean_of, mode_of
from .base import Assembly

NUMBERS = 2**22  # of data and layers of networks, at once
LAYER = 512  # numbers that a row takes in a network, at least


def rows_at_once(vae: Assembly, num_samples: int = 1) -> int:
    """How many rows are worked on together, each with some draws of z."""
    width = max(LAYER, vae.likelihood.event_shape.numel())
    return max(1, NUMBERS // (width * num_samples))


def joined(pieces: Iterable[tuple[slice, Tensor]], length: int, dim: int = 0) -> Tensor:
    """Pieces of a result in their places along `dim`.

    Memory for all is taken at once. Small pieces that stay would lie in the room that a large one
    before had left, and the next large one would need new room.
    """
    whole: Tensor | None = None
    for place, piece in pieces:
        if whole is None:
            whole = piece.new_empty((*piece.shape[:dim], length, *piece.shape[dim + 1 :]))
        whole.narrow(dim, place.start, place.stop - place.start).copy_(piece)
    assert whole is not None
    return whole


def encode(vae: Assembly, rows: Rows) -> TorchDistribution:
    """q(z | x); without gradients, what its head reads is computed a few rows at a time."""
    size = rows_at_once(vae)
    guide = vae.posterior
    if torch.is_grad_enabled() or len(rows) <= size or not isinstance(guide, Amortised):
        x, *given = rows.batch(slice(None), like=vae.reference)
        return vae.guide_of(x, vae.encode_condition(len(x), *given))
    batches = _batches(vae, rows, size)
    read = ((place, guide.read(vae.guide_input(x, c))) for place, x, c in batches)
    return vae.push_forward(guide.head(joined(read, len(rows))))


def reconstruct(vae: Assembly, rows: Rows, num_samples: int) -> Tensor:
    """The mean of p(x' | z) over draws of z; where there is none, the mode for one z."""

    def mean(x: Tensor, c: Tensor | None) -> Tensor:
        decoded = vae.likelihood_of(vae.guide_of(x, c).sample(torch.Size([num_samples])), c)
        mean = mean_of(decoded).mean(0)
        known = mean.isfinite()
        return mean if known.all() else torch.where(known, mean, mode_of(decoded)[0])

    batches = _batches(vae, rows, rows_at_once(vae, num_samples))
    return joined(((place, mean(x, c)) for place, x, c in batches), len(rows))


def sample(vae: Assembly, size: int, c: Tensor | None) -> Tensor:
    """Data drawn from the model; c is encoded."""
    at_once = rows_at_once(vae)

    def pieces() -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, size, at_once):
            place = slice(start, min(start + at_once, size))
            given = None if c is None else c[place]
            z = vae.prior_of(given).expand(torch.Size([place.stop - start])).sample()
            yield place, vae.likelihood_of(z, given).sample()

    return joined(pieces(), size)


def _batches(vae: Assembly, rows: Rows, size: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """A few rows at a time: their place, x, and c as the parts read it."""
    for place in rows.chunks(size):
        x, *given = rows.batch(place, like=vae.reference)
        yield place, x, vae.encode_condition(len(x), *given)
