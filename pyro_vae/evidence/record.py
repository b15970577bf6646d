"""The draws that the best estimate of each datum rests on, for means over the posterior."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

Chunk = tuple[Tensor, Tensor]  # positions (K, D) and log weights (K,) of one datum


class Record:
    """Draws in unconstrained space and their log weights, for some data, on the CPU.

    Estimate after estimate is made of each datum, and the best is kept: so are its draws.
    """

    def __init__(self) -> None:
        self._kept: dict[int, list[Chunk]] = {}
        self._new: defaultdict[int, list[Chunk]] = defaultdict(list)

    def add(self, index: Iterable[int], position: Tensor, log_weight: Tensor) -> None:
        """Take in draws ``(K, N', D)`` with log weights ``(K, N')``, of an estimate to come."""
        position, log_weight = position.cpu(), log_weight.double().cpu()
        for place, datum in enumerate(index):
            self._new[datum].append((position[:, place], log_weight[:, place]))

    def keep(self, index: Iterable[int]) -> None:
        """The estimates that were made last are the best of these data; the others' are lost."""
        for datum in index:
            if datum in self._new:  # copies: a view would hold its whole block
                self._kept[datum] = [(u.clone(), w.clone()) for u, w in self._new[datum]]
        self._new.clear()

    def of(self, datum: int) -> Chunk | None:
        """The draws of one datum; None where none were told."""
        chunks = self._kept.get(datum)
        if chunks is None:
            return None
        position, log_weight = zip(*chunks, strict=True)
        return torch.cat(position), torch.cat(log_weight)
