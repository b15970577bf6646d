"""The draws of the largest weights: places in unconstrained space that a later estimate must know.

A narrow mode beside a broad one is met by a draw now and then, which weighs more than all others
together. The estimate with that draw has a large error, and the next one, whose draws happen not to
meet the mode, a small one: so the place is remembered. Chains begin there too, as a proposal grows
where its weights are largest (Raftery & Bao, 2010,
https://doi.org/10.1111/j.1541-0420.2010.01399.x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NUM = 4  # of each datum: one may lie in a tail, and few chains are to begin at them


class Heaviest:
    """The draws of the largest weights so far, for N data.

    Arguments:
        position: Their positions, of shape ``(R, N, D)``.
        log_weight: Their log weights in descending order, ``(R, N)``; -inf where there was no draw.
    """

    def __init__(self, position: Tensor, log_weight: Tensor) -> None:
        self.position, self.log_weight = position, log_weight

    @classmethod
    def none(cls, like: Tensor) -> Heaviest:
        """Before any draw, for positions such as these of shape ``(K, N, D)``."""
        position = like.new_zeros(NUM, *like.shape[1:])
        return cls(position, torch.full_like(position[..., 0], -math.inf, dtype=torch.float64))

    @property
    def largest(self) -> Tensor:
        """The largest log weight of each datum, ``(N,)``."""
        return self.log_weight[0]

    def add(self, index: Tensor | slice, position: Tensor, log_weight: Tensor) -> None:
        """Take in draws ``(K, N', D)`` of log weights ``(K, N')`` for some of the data."""
        known = log_weight.double().nan_to_num(-math.inf, posinf=-math.inf)
        known = torch.where(position.isfinite().all(-1), known, -math.inf)
        heavy, which = known.topk(min(NUM, len(known)), dim=0)
        places = torch.cat([self.position[:, index], _picked(position, which)])
        largest, which = torch.cat([self.log_weight[:, index], heavy]).topk(NUM, dim=0)
        self.position[:, index] = _picked(places, which)
        self.log_weight[:, index] = largest


def _picked(position: Tensor, which: Tensor) -> Tensor:
    return position.gather(0, which[..., None].expand(-1, -1, position.shape[-1]))


def joined(parts: Sequence[Heaviest | None]) -> Heaviest | None:
    """Those of different data as one; none, where some have none."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return Heaviest(
        torch.cat([part.position for part in known], 1),
        torch.cat([part.log_weight for part in known], 1),
    )
