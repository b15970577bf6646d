"""Distributions of several pieces: cells of different families, layers, joint discrete values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Cells(TorchDistribution):
    """Independent cells, of a family for each block of the last dimension.

    `columns` lists the columns of each block. `order` is all of them in one index tensor, `inverse`
    its inverse permutation: both on the device of the cells, so that no call makes them anew.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self, parts: list[Any], columns: list[list[int]], order: Tensor, inverse: Tensor
    ) -> None:
        self.parts = parts
        self.columns = columns
        self.order = order
        self.inverse = inverse
        batch = torch.Size((*parts[0].batch_shape[:-1], len(order)))
        super().__init__(batch, validate_args=False)

    @property
    def support(self) -> Any:
        """The supports of all blocks."""
        return Supports([part.support for part in self.parts], self.columns)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Cells:
        """The same, of a larger batch shape."""
        outer = torch.Size(batch_shape)[:-1]
        parts = [part.expand(outer + part.batch_shape[-1:]) for part in self.parts]
        return Cells(parts, self.columns, self.order, self.inverse)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``."""
        return self.joined(lambda part, _: part.sample(torch.Size(sample_shape)))

    @property
    def has_rsample(self) -> bool:
        """Whether draws of every block have a gradient."""
        return all(part.has_rsample for part in self.parts)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a gradient, of shape ``sample_shape + batch_shape``."""
        return self.joined(lambda part, _: part.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Of each cell."""
        return self.joined(lambda part, columns: part.log_prob(value[..., columns]))

    @property
    def mean(self) -> Tensor:
        """Of each cell; NaN for classes."""
        return self.joined(lambda part, _: part.mean)

    @property
    def mode(self) -> Tensor:
        """Of each cell that has no mean; else the mean."""
        return self.joined(lambda part, _: _mean_or_mode(part))

    def joined(self, function: Any) -> Tensor:
        """The results of a function of each part and its columns, in the order of the columns."""
        places = self.order.split([len(columns) for columns in self.columns])
        pieces = [function(part, place) for part, place in zip(self.parts, places, strict=True)]
        return torch.cat(pieces, -1)[..., self.inverse]


def _mean_or_mode(part: Any) -> Tensor:
    try:
        mode = part.mode
    except NotImplementedError:
        return part.mean
    return torch.where(part.mean.isfinite(), part.mean, mode)


class Supports(constraints.Constraint):
    """Each block of columns has its own."""

    event_dim = 0

    def __repr__(self) -> str:
        return f"Supports({', '.join(str(support) for _, support in self.blocks)})"

    def __init__(self, supports: list[Any], columns: list[list[int]]) -> None:
        self.blocks = list(zip(columns, supports, strict=True))
        self.is_discrete = all(support.is_discrete for support in supports)

    def check(self, value: Tensor) -> Tensor:
        """Whether each cell lies in the support of its column."""
        good = torch.zeros_like(value, dtype=torch.bool)
        for columns, support in self.blocks:
            good[..., columns] = support.check(value[..., columns])
        return good


class Chain(TorchDistribution):
    """Vectors whose pieces are drawn one after the other, each given the one before."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, first: TorchDistribution, rest: list[Any], upwards: bool) -> None:
        self.first = first
        self.rest = rest
        self.upwards = upwards
        sizes = [first.event_shape[0], *(part.event_shape[0] for part in rest)]
        self.sizes = sizes if upwards else sizes[::-1]
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a gradient."""
        return self.first.has_rsample

    def expand(self, batch_shape: Any, _instance: Any = None) -> Chain:
        """The same, of a larger batch shape."""
        return Chain(self.first.expand(torch.Size(batch_shape)), self.rest, self.upwards)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``."""
        pieces = [self.first.rsample(torch.Size(sample_shape))]
        for part in self.rest:
            pieces.append(part(pieces[-1]).rsample())
        return torch.cat(self._in_turn(pieces), -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without a gradient."""
        with torch.no_grad():
            pieces = [self.first.sample(torch.Size(sample_shape))]
            for part in self.rest:
                pieces.append(part(pieces[-1]).sample())
            return torch.cat(self._in_turn(pieces), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum over the pieces."""
        pieces = self._in_turn(value.split(self.sizes, -1))
        total = self.first.log_prob(pieces[0])
        for part, (before, piece) in zip(self.rest, itertools.pairwise(pieces), strict=True):
            total = total + part(before).log_prob(piece)
        return total

    def _in_turn(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Pieces as drawn to pieces as listed from the data upwards, and back."""
        return list(pieces if self.upwards else pieces[::-1])


class Joint(dist.Independent):
    """Independent discrete elements whose joint values can be enumerated."""

    has_enumerate_support = True

    @property
    def num_states(self) -> int:
        """How many joint values there are."""
        num = self.base_dist.batch_shape[len(self.batch_shape) :].numel()
        return len(self.base_dist.enumerate_support(expand=False)) ** num

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All joint values, of shape ``(S, *batch_shape, *event_shape)``.

        Without `expand` the batch dimensions are ones.
        """
        base = self.base_dist
        values = base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
        num = base.batch_shape[len(self.batch_shape) :].numel()

        each = torch.arange(len(values), device=values.device)
        index = torch.cartesian_prod(*[each] * num).reshape(-1, num)
        joint = values[index].reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return joint.expand(-1, *self.batch_shape, *self.event_shape) if expand else joint


def enumerable(distribution: Any) -> Any:
    """The same distribution, with joint values that can be enumerated if it is discrete."""
    if isinstance(distribution, dist.Independent) and distribution.base_dist.has_enumerate_support:
        return Joint(distribution.base_dist, distribution.reinterpreted_batch_ndims)
    return distribution
