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
from ..guards import whole_number
from .base import Conditional, Shape, as_shape, declared
from .declared import at


class Columns(Conditional, name="columns"):
    r"""Real, count, binary, categorical and ordinal columns in one table.

    .. math:: p(x \mid h) = \prod_b p_b(x_b \mid h_b)

    Arguments:
        event_shape: The shape of one row, a vector.
        blocks: Tables. Each has ``columns``, a list of column numbers (in a spec for a frame, of
            names); ``name``, a family whose elements are independent; and that family's own
            arguments. Each column is in exactly one block.

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
            raise ValueError(
                f"blocks: every column must be in exactly one, for rows of shape "
                f"{tuple(self.event_shape)}; got {self.columns}"
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
        for number, block in enumerate(_tables(given.get("blocks", ()))):
            columns = _columns(number, block)
            known = len(x.event_shape) == 1 and columns and max(columns) < x.event_shape[0]
            family = Conditional.lookup(block.get("name")) or Conditional
            blocks.append(family.with_data(block, x.columns_only(columns)) if known else block)
        return {**given, "blocks": blocks} if blocks else given

    def _remedy(self) -> str:
        return "fix them in the tables of its blocks"

    @classmethod
    def example(cls) -> Conditional:
        blocks = [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "poisson"}]
        return cls((3,), blocks=blocks)


def columns_of(blocks: Any) -> list[list[int]]:
    """The column numbers of each block.

    Raises:
        ValueError: They are no list of tables with a list of column numbers.
    """
    return [_columns(number, block) for number, block in enumerate(_tables(blocks))]


def _tables(blocks: Any) -> list[dict[str, Any]]:
    if not isinstance(blocks, Sequence) or not all(isinstance(block, dict) for block in blocks):
        raise ValueError(
            f"blocks: must be a list of tables such as {{'columns': [0], 'name': ...}}; got "
            f"{blocks!r}"
        )
    return list(blocks)


def _independent(block: dict[str, Any], size: int) -> Conditional:
    """The family of a block of `size` columns, whose elements are independent."""
    part = declared({key: value for key, value in block.items() if key != "columns"}, (size,))
    if innermost(part(torch.zeros(part.num_params))).event_shape != ():
        raise ValueError(
            f"{part.name} is a family of whole vectors; use one with independent elements"
        )
    return part


def _columns(number: int, block: dict[str, Any]) -> list[int]:
    columns = block.get("columns")
    if not isinstance(columns, Sequence) or isinstance(columns, str):
        raise ValueError(
            f"blocks[{number}].columns: must be a list of column numbers; got {columns!r}"
        )
    for column in columns:
        whole_number(f"blocks[{number}].columns: every column", column, at_least=0)
    return list(columns)


__all__ = ["Columns"]
