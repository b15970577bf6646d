r"""Importance weights of many draws for each of N data, summed up in memory O(N): all that is said
about log p(x).

With shares :math:`s_k = w_k / \sum_j w_j` the estimate :math:`\log \hat p_K = \log \frac1K \sum_k
w_k` has the effective sample size :math:`1 / \sum_k s_k^2` (Kish), a standard error by the delta
method, and a bias of :math:`(K - 1) (\frac1K \sum_k \log \hat p_{-k} - \log \hat p_K)` by the
jackknife, which leaves out one draw at a time: :math:`\hat p_{-k} = \hat p_K \frac{K}{K - 1} (1 -
s_k)`. The curve is the mean of :math:`\log \hat p_{2^j}` over disjoint blocks of :math:`2^j` draws:
the ELBO at j = 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .controls import adjusted, summed
from .curve import Curve
from .pareto import fit_tail, tail_length

SUMS = ("num", "log_sum", "log_square", "total")
ARRAYS = (*SUMS, "tail", "curve", "blocks", "controls", "explained")
FILLING = {"tail": -math.inf, "curve": math.nan, "blocks": 0.0}  # below what a datum has
BUFFER = 4096  # draws that are kept until they are summed
AT_ONCE = 1024  # data whose figures are computed together


def _kept(num_samples: int) -> int:
    """How many of the largest weights are kept: the tail, and enough to still have it when draws
    are added.
    """
    length = tail_length(num_samples)
    return length + length // 4 + 17


@dataclass(frozen=True)
class Weights:
    """What is known of the weights of N data, on the CPU.

    Arguments:
        num: The number of draws K, of shape ``(N,)``.
        log_sum: The log of the sum of the weights, of shape ``(N,)``.
        log_square: The log of the sum of their squares, of shape ``(N,)``.
        total: The sum of the log weights, of shape ``(N,)``.
        tail: The largest log weights in descending order, of shape ``(T, N)``; -inf below what
            there is.
        curve: The mean of log p_K over disjoint blocks of K = 1, 2, 4, ... draws, of shape ``(J,
            N)``.
        blocks: How many blocks these were, of shape ``(J, N)``.
        controls: The sums of the control variates and of their products, of shape ``(5, N)``; 0
            where there are none.
        explained: The means of the control variates under the weights, of shape ``(2, N)``.
        precision: The relative precision of a log weight.
    """

    num: Tensor
    log_sum: Tensor
    log_square: Tensor
    total: Tensor
    tail: Tensor
    curve: Tensor
    blocks: Tensor
    controls: Tensor
    explained: Tensor
    precision: float

    def merge(self, other: Weights) -> Weights:
        """What is known with the draws of `other` for the same data."""
        num = self.num + other.num
        tail = torch.cat([self.tail, other.tail])
        levels = max(len(self.curve), len(other.curve))
        blocks = [_padded(part.blocks, levels, 0.0) for part in (self, other)]
        sums = [
            torch.where(count > 0, count * _padded(part.curve, levels, 0.0), 0.0)
            for count, part in zip(blocks, (self, other), strict=True)
        ]
        log_sum = torch.logaddexp(self.log_sum, other.log_sum)
        shares = [torch.exp(part.log_sum - log_sum).nan_to_num() for part in (self, other)]
        return Weights(
            num,
            log_sum,
            torch.logaddexp(self.log_square, other.log_square),
            self.total + other.total,
            tail.topk(min(len(tail), _kept(int(num.max()))), dim=0).values,
            (sums[0] + sums[1]) / (blocks[0] + blocks[1]),
            blocks[0] + blocks[1],
            self.controls + other.controls,
            shares[0] * self.explained + shares[1] * other.explained,
            self.precision,
        )

    def select(self, index: Tensor | slice) -> Weights:
        """Those of some of the data."""
        return replace(self, **{name: getattr(self, name)[..., index] for name in ARRAYS})

    def replace(self, index: Tensor, other: Weights) -> Weights:
        """The same, with those of `other` in place of those of the data that `index` names."""
        rest = torch.ones(len(self.num), dtype=torch.bool)
        rest[index] = False
        (rest,) = rest.nonzero(as_tuple=True)
        return concatenate([self.select(rest), other]).select(torch.cat([rest, index]).argsort())

    def with_elbo(self, elbo: Tensor) -> Weights:
        """The same with the ELBO replaced by a known value, of shape ``(N,)``."""
        return replace(self, total=elbo * self.num, curve=torch.cat([elbo[None], self.curve[1:]]))

    @functools.cached_property
    def log_evidence(self) -> Tensor:
        """log p_K, in nats, of shape ``(N,)``."""
        return self.log_sum - self.num.log() + self._adjusted[0].log()

    @functools.cached_property
    def ess(self) -> Tensor:
        """The effective sample size, from 1 to K; 0 where all weights are."""
        return torch.where(
            self.log_sum == -math.inf, 0.0, torch.exp(2 * self.log_sum - self.log_square)
        )

    @functools.cached_property
    def se(self) -> Tensor:
        """The standard error of log p_K, and the rounding of it; NaN for one draw."""
        left, share = self._adjusted
        variance = share * (self.num / self.ess - 1).clamp(min=0) / (self.num - 1) / left**2
        rounding = self.precision * self.log_sum.abs().clamp(min=1)
        return torch.where(self.num > 1, (variance + rounding**2).sqrt(), math.nan)

    @functools.cached_property
    def _adjusted(self) -> tuple[Tensor, Tensor]:
        return adjusted(self.controls, self.explained, self.num, self.num / self.ess - 1)

    @functools.cached_property
    def bias(self) -> Tensor:
        """The jackknife's estimate of E log p_K - log p, mostly below 0; NaN for one draw.

        Exact for the weights of the tail; of all others, which are small, to second order about
        their mean.
        """
        share = torch.exp(self.tail - self.log_sum)
        others = self.num - (self.tail > -math.inf).sum(0)
        mean = (1 - share.sum(0)).clamp(min=0) / others.clamp(min=1)
        spread = (1 / self.ess - share.square().sum(0) - others * mean**2).clamp(min=0)
        beside_it = (
            torch.logaddexp(self.tail[1:].logsumexp(0), (others * mean).log() + self.log_sum)
            - self.log_sum
        )
        # 1 less a share may round to 0.
        largest = torch.where(share[0] > 0.5, beside_it, torch.log1p(-share[0]))

        rest = others * torch.log1p(-mean) - spread / (2 * (1 - mean) ** 2)
        without = largest + torch.log1p(-share[1:]).sum(0) + rest
        return (self.num - 1) * (without / self.num + torch.log(self.num / (self.num - 1)))

    @functools.cached_property
    def khat(self) -> Tensor:
        """The Pareto shape of the largest weights."""
        found = torch.full_like(self.log_sum, math.nan)
        for num in self.num.unique().tolist():
            those, length = self.num == num, tail_length(int(num))
            found[those] = fit_tail(self.tail[: length + 1, those], length, self.precision)
        return found

    def figures(self) -> dict[str, Tensor]:
        """The estimates by name, each of shape ``(N,)``; of some data at a time, as they need
        several times the memory of the tail.
        """
        starts = range(0, len(self.num), AT_ONCE)
        parts = [self.select(slice(start, start + AT_ONCE))._figures() for start in starts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _figures(self) -> dict[str, Tensor]:
        return {
            "log_evidence": self.log_evidence,
            "se": self.se,
            "ess": self.ess,
            "khat": self.khat,
            "max_weight": torch.exp(self.tail[0] - self.log_sum),
            "bias": self.bias,
            "elbo": self.total / self.num,
            "num_samples": self.num,
        }


class Collected:
    """The weights of tiles as one, in memory that is taken at once for all `num_data`: small pieces
    that stay would lie in the room that a large one before had left.
    """

    def __init__(self, num_data: int) -> None:
        self.num_data = num_data
        self.done = 0
        self.arrays: dict[str, Tensor] = {}
        self.precision = 0.0

    def add(self, part: Weights) -> None:
        """Take in the weights of the next data."""
        stop = self.done + len(part.num)
        for name in ARRAYS:
            piece = getattr(part, name)
            whole = self.arrays.get(name)
            if whole is None:
                whole = piece.new_full((*piece.shape[:-1], self.num_data), FILLING.get(name, 0.0))
            elif len(piece) > len(whole) and name in FILLING:
                whole = _padded(whole, len(piece), FILLING[name])
            rows = whole[: len(piece)] if piece.dim() > 1 else whole
            rows[..., self.done : stop] = piece
            self.arrays[name] = whole
        self.done, self.precision = stop, max(self.precision, part.precision)

    def result(self) -> Weights:
        """All of them."""
        return Weights(**self.arrays, precision=self.precision)


def concatenate(parts: Sequence[Weights]) -> Weights:
    """The weights of different data as one."""
    collected = Collected(sum(len(part.num) for part in parts))
    for part in parts:
        collected.add(part)
    return collected.result()


class Summing:
    """What is known of log weights that come in blocks.

    Arguments:
        precision: The relative precision of a log weight.
    """

    def __init__(self, precision: float) -> None:
        self.precision = precision
        self.curve = Curve()
        self.sums: Weights | None = None
        self.waiting: list[Tensor] = []
        self.beside: list[Tensor] = []

    def add(self, log_weight: Tensor, controls: Tensor | None = None) -> None:
        """Take in a block of shape ``(K', N)``, perhaps with control variates ``(K', 2, N)``."""
        self.waiting.append(log_weight)
        if controls is not None:
            self.beside.append(controls)
        if sum(map(len, self.waiting)) >= BUFFER:
            self._sum()

    def result(self) -> Weights:
        """What is known of all blocks, of which there must be one."""
        if self.waiting:
            self._sum()
        assert self.sums is not None
        mean, count = self.curve.result()
        whole = replace(self.sums, curve=mean, blocks=count)
        return replace(whole, **{name: getattr(whole, name).cpu() for name in ARRAYS})

    def _sum(self) -> None:
        log_weight = torch.cat(self.waiting).double()
        controls = torch.cat(self.beside).double() if self.beside else None
        self.waiting = []
        self.beside = []
        self.curve.add(log_weight)
        part = _block(log_weight, controls, self.precision)
        self.sums = part if self.sums is None else self.sums.merge(part)


def from_blocks(blocks: Iterable[Tensor], precision: float) -> Weights:
    """What is known of log weights that come in blocks of shape ``(K', N)``, with a relative
    `precision`.
    """
    summing = Summing(precision)
    for log_weight in blocks:
        summing.add(log_weight)
    return summing.result()


def unreached(num_data: int, precision: float) -> Weights:
    """What is known without a draw: nothing."""
    nothing = from_blocks([torch.full((1, num_data), -math.inf)], precision)
    zeros = torch.zeros_like(nothing.num)
    return replace(nothing, num=zeros, total=zeros, blocks=torch.zeros_like(nothing.blocks))


def _block(log_weight: Tensor, controls: Tensor | None, precision: float) -> Weights:
    """The sums over one block; the curve goes across blocks."""
    num, data = log_weight.shape
    largest = log_weight.topk(min(num, _kept(num)), dim=0).values
    nothing = log_weight.new_zeros(0, data)
    log_sum, log_square = log_weight.logsumexp(0), (2 * log_weight).logsumexp(0)
    counted = torch.full_like(log_sum, num)
    sums, explained = summed(controls, torch.exp(log_weight - log_sum))
    total = log_weight.sum(0)
    found = (counted, log_sum, log_square, total, largest, nothing, nothing, sums, explained)
    return Weights(*found, precision)


def _padded(values: Tensor, length: int, filling: float) -> Tensor:
    """With rows of `filling` to that length."""
    return torch.cat([values, values.new_full((length - len(values), values.shape[1]), filling)])
