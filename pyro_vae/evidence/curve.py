"""How log p_K rises with K."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Curve:
    """log p_K for K = 1, 2, 4, ...: the mean over disjoint blocks of draws, which come a few at a
    time.
    """

    def __init__(self) -> None:
        self.waiting: list[
            Tensor
        ] = []  # by level, a block of 2^level draws that waits for its neighbour, or none
        self.total: list[Tensor] = []  # by level, the sum of log p over blocks
        self.count: list[int] = []

    def add(self, log_sum: Tensor) -> None:
        """Take in log weights of shape ``(K', N)``."""
        level = 0
        while len(log_sum):
            if level == len(self.total):
                self.waiting.append(log_sum[:0])
                self.total.append(torch.zeros_like(log_sum[0]))
                self.count.append(0)
            self.total[level] = self.total[level] + (log_sum - level * math.log(2)).sum(0)
            self.count[level] += len(log_sum)
            log_sum = torch.cat([self.waiting[level], log_sum])
            even = len(log_sum) - len(log_sum) % 2
            self.waiting[level] = log_sum[even:]
            log_sum = torch.logaddexp(log_sum[0:even:2], log_sum[1:even:2])
            level += 1

    def result(self) -> tuple[Tensor, Tensor]:
        """The means, and over how many blocks, each of shape ``(J, N)``."""
        total = torch.stack(self.total)
        count = torch.tensor(self.count).to(total)[:, None]
        return total / count, count.expand_as(total)
