"""Tables: a different likelihood for each block of columns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from .. import distributions as dists
from ..data.rows import Rows
from ..distributions.supports import innermost
from .base import Amortised, Conditional, Make, Own, Shape, as_shape, declared
from .blocks import ToBlocks, check_shape, columns_of, columns_of_block, tables_of
from .declared import at


class Columns(Conditional, name="columns"):
    r"""Real, count, binary, categorical and ordinal columns in one table.

    .. math:: p(x \mid h) = \prod_b p_b(x_b \mid h_b)

    Arguments:
        event_shape: The shape of one row, a vector.
        blocks: Tables. Each has ``columns``, a list of column numbers (in a spec for a frame, of
            names); ``name``, a family whose elements are independent; and that family's own
            arguments. Each column is in exactly one block. In a spec a block may have a
            ``network`` of its own; the others share one. ``shape`` says what that network writes:
            ``[1, 8, 8]`` makes 64 columns an image.

    Raises:
        ValueError: A column is in no block or in several, or a family is unknown or is one of whole
            vectors.

    Example:
        >>> blocks = [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "poisson"}]
        >>> Columns((3,), blocks=blocks).num_params
        5
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, event_shape: Shape, *, blocks: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.columns = columns_of(blocks)
        listed = list(itertools.chain(*self.columns))
        if len(self.event_shape) != 1 or sorted(listed) != list(range(self.event_shape[0])):
            num = self.event_shape.numel()
            absent = [number for number in range(num) if number not in listed]
            said = f"; columns {absent} are in none" if absent else ""
            raise ValueError(
                f"blocks: every column must be in exactly one, for rows of shape "
                f"{tuple(self.event_shape)}; got {self.columns}{said}"
            )

        parts: list[Conditional] = []
        for number, (block, columns) in enumerate(zip(blocks, self.columns, strict=True)):
            with at(f"blocks[{number}]"):
                parts.append(_independent(block, len(columns)))

        self.parts = nn.ModuleList(parts)
        self.sizes = [part.num_params for part in parts]
        self.num_params = sum(self.sizes)
        self.register_buffer("order", torch.tensor(listed), persistent=False)
        self.register_buffer("inverse", self.order.argsort(), persistent=False)

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        pieces = [None] * len(self.sizes) if read is None else read.split(self.sizes, -1)
        cells = [innermost(part(piece)) for part, piece in zip(self.parts, pieces, strict=True)]
        return dists.Cells(cells, self.columns, self.order, self.inverse).to_event(1)

    @classmethod
    def with_data(cls, given: dict[str, Any], x: Rows) -> dict[str, Any]:
        blocks = []
        for number, block in enumerate(tables_of(given.get("blocks", ()))):
            columns = columns_of_block(number, block)
            known = len(x.event_shape) == 1 and columns and max(columns) < x.event_shape[0]
            family = Conditional.lookup(block.get("name")) or Conditional
            blocks.append(family.with_data(block, x.columns_only(columns)) if known else block)
        return {**given, "blocks": blocks} if blocks else given

    def behind(self, make: Make, context: torch.Size, own: Sequence[Own] = ()) -> Amortised:
        networks: dict[int, nn.Module] = {}
        for number, block in enumerate(own):
            check_shape(number, block.shape, len(self.columns[number]))
            with at(f"blocks[{number}]"):
                if block.make is not None:
                    networks[number] = self._network(number, block.make, context)
                elif block.shape is not None:
                    raise ValueError(
                        "shape: needs a network that writes this block alone; got the one of all "
                        "blocks; give the block a network beside it, or leave it out"
                    )

        if not networks:
            return super().behind(make, context)
        rest = sum(size for number, size in enumerate(self.sizes) if number not in networks)
        return Amortised(
            ToBlocks(self.sizes, networks, make(context, rest) if rest else None), self
        )

    def _network(self, number: int, make: Make, context: torch.Size) -> nn.Module:
        """The network of one block."""
        if not self.sizes[number]:
            raise ValueError(
                f"network: {self.parts[number].name} reads no context here, so it takes no "
                "network; leave it out"
            )
        return make(context, self.sizes[number])

    def _remedy(self) -> str:
        return "fix them in the tables of its blocks"

    @classmethod
    def example(cls) -> Conditional:
        blocks = [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "poisson"}]
        return cls((3,), blocks=blocks)


def _independent(block: dict[str, Any], size: int) -> Conditional:
    """The family of a block of `size` columns, whose elements are independent."""
    part = declared({key: value for key, value in block.items() if key != "columns"}, (size,))
    if innermost(part(torch.zeros(part.num_params))).event_shape != ():
        raise ValueError(
            f"{part.name} is a family of whole vectors; use one with independent elements"
        )
    return part


__all__ = ["Columns"]
