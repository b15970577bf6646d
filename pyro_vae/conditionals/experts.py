r"""Guides of several views: an expert for each block of columns, where blocks may be missing.

In the formulas the expert of block b is a normal
:math:`\tilde q_b(z) = \mathcal{N}(z;\, \mu_b, \sigma_b^2)` whose numbers a network reads from
:math:`x_b`, and :math:`p_0` is the standard normal. A set S of blocks has the normal
:math:`q_S(z) \propto p_0(z) \prod_{b \in S} \tilde q_b(z)`.

Its precision is :math:`1 + \sum_b \sigma_b^{-2}`. So an expert stands for a likelihood
:math:`p(x_b \mid z)`, not for a posterior: what it knows is counted once, and so is the prior. It
may know nothing of some latents: :math:`\sigma_b = \infty` leaves its factor out. In that way a
missing block is left out (:class:`Blocks`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from .. import distributions as dists
from ..distributions.supports import innermost
from .base import Amortised, Conditional, Make, Own, Shape, as_shape
from .blocks import Blocks, check_shape, columns_of
from .continuous import Normal
from .declared import at
from .networks import shape_beside

MOST_BLOCKS = 10  # of a mixture over all sets of blocks, which are then 1023


class ProductOfExperts(Conditional, name="product_of_experts"):
    r"""A guide of several views: the product of the experts of all blocks that are seen.

    .. math:: q(z \mid x) \propto p_0(z) \prod_{b\ \mathrm{seen}} \tilde q_b(z \mid x_b)

    It is normal, with the standard normal :math:`p_0` where no block is seen. For a linear-Gaussian
    model it can be exact whatever is missing.

    Arguments:
        event_shape: The shape of one draw.
        blocks: Tables with ``columns``, a list of column numbers (in a spec for a frame, of names).
            Each column is in exactly one block. In a spec the default is that of a ``columns``
            likelihood, and a block may have a ``network`` of its own and a ``shape`` in which its
            network reads it: ``[1, 8, 8]`` makes 64 columns an image.

    Raises:
        ValueError: A column is in no block or in several, or a block has none.

    References:
        | Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu & Goodman, 2018)
        | https://arxiv.org/abs/1802.05335

    Example:
        >>> guide = ProductOfExperts((2,), blocks=[{"columns": [0, 1]}, {"columns": [2]}])
        >>> guide(torch.full((8,), torch.inf)).base_dist.scale  # all are missing
        tensor([1., 1.])
    """

    members: Tensor

    def __init__(self, event_shape: Shape, *, blocks: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.columns = _checked_columns(blocks)
        self.expert = Normal(self.event_shape)
        self.num_params = len(self.columns) * self.expert.num_params
        blocks_of_sets = self.sets()
        members = torch.zeros(len(blocks_of_sets), len(self.columns))
        for place, some in enumerate(blocks_of_sets):
            members[place, some] = 1.0
        self.register_buffer("members", members, persistent=False)

    def sets(self) -> list[list[int]]:
        """The sets of blocks whose products are averaged."""
        return [list(range(len(self.columns)))]

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        normals, _ = self.products(read)
        sets = -1 - len(self.event_shape)  # one set
        normal = dist.Normal(normals.loc.squeeze(sets), normals.scale.squeeze(sets))
        return normal.to_event(len(self.event_shape))

    def products(self, read: Tensor | None) -> tuple[dist.Normal, Tensor]:
        """The normal q_S of each set, ``(*, S, *Z)``, and which blocks are seen, ``(*, B)``."""
        assert read is not None
        each = read.reshape(*read.shape[:-1], len(self.columns), self.expert.num_params)
        experts = innermost(self.expert(each))
        flat = experts.scale.isinf()
        precision = experts.scale.reciprocal().square()
        pull = torch.where(flat, 0.0, experts.loc) * precision

        total = 1.0 + self._summed(precision)
        normals = dist.Normal(self._summed(pull) / total, total.rsqrt())
        return normals, ~flat.reshape(*each.shape[:-1], -1).all(-1)

    def _summed(self, factors: Tensor) -> Tensor:
        """Sums over the blocks of each set: ``(*, B, *Z)`` to ``(*, S, *Z)``."""
        several = len(self.event_shape)
        members = self.members.reshape(*self.members.shape, *[1] * several)
        return (members * factors.unsqueeze(-2 - several)).sum(-1 - several)

    def behind(self, make: Make, context: torch.Size, own: Sequence[Own] = ()) -> Amortised:
        num_columns = sum(map(len, self.columns))
        num_given = context.numel() - num_columns
        if len(context) != 1 or num_given < 0:
            raise ValueError(
                f"blocks: {self.name} reads rows of {num_columns} columns; got data of shape "
                f"{tuple(context)}; list each of their columns once"
            )

        networks = []
        each = own or [Own()] * len(self.columns)
        for number, (columns, block) in enumerate(zip(self.columns, each, strict=True)):
            check_shape(number, block.shape, len(columns))
            shape = torch.Size([len(columns)]) if block.shape is None else block.shape
            shape = shape_beside(shape, num_given) if num_given else shape
            with at(f"blocks[{number}]") if block.make else contextlib.nullcontext():
                networks.append((block.make or make)(shape, self.expert.num_params))
        shapes = [block.shape for block in each]
        return Amortised(Blocks(self.columns, num_given, networks, shapes=shapes), self)

    def _remedy(self) -> str:
        return "use it as a guide"

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), blocks=[{"columns": [0]}, {"columns": [1]}])


class MixtureOfExperts(ProductOfExperts, name="mixture_of_experts"):
    r"""A guide of several views: the equal mixture of the experts of all blocks that are seen.

    .. math:: q(z \mid x) = \frac{1}{n} \sum_{b\ \mathrm{seen}} q_b(z \mid x_b)

    Each of the n components is the product of :math:`p_0` and one expert; where no block is seen,
    the guide is :math:`p_0`. It is wider than the posterior given several blocks.

    Arguments:
        event_shape: The shape of one draw.
        blocks: Those of :class:`ProductOfExperts`.

    References:
        | Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models
        | (Shi et al., 2019) https://arxiv.org/abs/1911.03393

    Example:
        >>> MixtureOfExperts((2,), blocks=[{"columns": [0, 1]}, {"columns": [2]}]).num_params
        8
    """

    def sets(self) -> list[list[int]]:
        return [[block] for block in range(len(self.columns))]

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        normals, seen = self.products(read)
        lacks = (self.members.bool() & ~seen.unsqueeze(-2)).any(-1)
        left_out = lacks & seen.any(-1, keepdim=True)  # with none seen, each component is p_0
        logits = torch.zeros_like(left_out, dtype=normals.loc.dtype)
        weights = dist.Categorical(logits=logits.masked_fill(left_out, -torch.inf))
        return dists.Mixture(weights, normals.to_event(len(self.event_shape)))


class MixtureOfProducts(MixtureOfExperts, name="mixture_of_products"):
    r"""A guide of several views: the equal mixture of the products over all sets of seen blocks.

    .. math:: q(z \mid x) = \frac{1}{2^n - 1} \sum_S q_S(z \mid x)

    S runs over the sets of the n blocks that are seen, except the empty one. The product of all is
    one component, and each expert alone another; where no block is seen, the guide is :math:`p_0`.

    Arguments:
        event_shape: The shape of one draw.
        blocks: Those of :class:`ProductOfExperts`, at most 10.

    References:
        | Generalized Multimodal ELBO (Sutter et al., 2021)
        | https://arxiv.org/abs/2105.02470

    Example:
        >>> MixtureOfProducts((2,), blocks=[{"columns": [0, 1]}, {"columns": [2]}]).sets()
        [[0], [1], [0, 1]]
    """

    def sets(self) -> list[list[int]]:
        if len(self.columns) > MOST_BLOCKS:
            raise ValueError(
                f"blocks: {self.name} averages over all sets of at most {MOST_BLOCKS} blocks; got "
                f"{len(self.columns)}; use mixture_of_experts or product_of_experts"
            )
        blocks = range(len(self.columns))
        sizes = range(1, len(self.columns) + 1)
        return [list(some) for size in sizes for some in itertools.combinations(blocks, size)]


def _checked_columns(blocks: Any) -> list[list[int]]:
    """The columns of each block, which are 0, 1, ..., each in exactly one."""
    columns = columns_of(blocks)
    for number, block in enumerate(blocks):
        for key in block.keys() - {"columns"}:
            raise ValueError(f"blocks[{number}].{key}: a block of experts has columns alone")
    listed = sorted(itertools.chain(*columns))
    if not columns or not all(columns) or listed != list(range(len(listed))):
        raise ValueError(
            "blocks: every column must be in exactly one, and every block must have some; got "
            f"{columns}"
        )
    return columns


__all__ = ["MixtureOfExperts", "MixtureOfProducts", "ProductOfExperts"]
