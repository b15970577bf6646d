r"""Tables: a different likelihood for each block of columns."""

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
        blocks: Tables, each with ``columns``, a list of column numbers, ``name``, a family whose
            elements are independent, and that family's own arguments. Each column is in exactly one
            block.

    Raises:
        ValueError: A column is in no block or in several, or a family is unknown or is one of whole
            vectors.

    Example:
        >>> blocks = [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "categorical", "categories": 3}]
        >>> Columns((3,), blocks=blocks).num_params
        7
    """

    def __init__(self, event_shape: Shape, *, blocks: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.columns = [_columns(number, block) for number, block in enumerate(_tables(blocks))]
        if len(self.event_shape) != 1 or sorted(itertools.chain(*self.columns)) != list(
            range(self.event_shape[0])
        ):
            shape = tuple(self.event_shape)
            raise ValueError(
                f"blocks: every column must be in exactly one, for rows of shape {shape}; got "
                f"{self.columns}"
            )
        self.parts: Any = nn.ModuleList()
        for number, (block, columns) in enumerate(zip(blocks, self.columns, strict=True)):
            with at(f"blocks[{number}]"):
                part = declared(
                    {key: value for key, value in block.items() if key != "columns"},
                    (len(columns),),
                )
                if innermost(part(torch.zeros(part.num_params))).event_shape != ():
                    raise ValueError(
                        f"{part.name} is a family of whole vectors; use one with independent "
                        "elements"
                    )
            self.parts.append(part)

    @property
    def num_params(self) -> int:  # type: ignore[override]
        """How many numbers are read from the context for each row."""
        return sum(part.num_params for part in self.parts)

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        read = [None] * len(self.parts)
        if context is not None and self.num_params:
            read = list(context.split([part.num_params for part in self.parts], -1))
        cells = [innermost(part(h)) for part, h in zip(self.parts, read, strict=True)]
        built = dists.Cells(cells, self.columns).to_event(1)
        return built if context is None or self.num_params else built.expand(context.shape[:-1])

    @classmethod
    def with_data(cls, given: dict[str, Any], x: Rows) -> dict[str, Any]:
        blocks = []
        for number, block in enumerate(_tables(given.get("blocks", ()))):
            columns = _columns(number, block)
            known = len(x.event_shape) == 1 and columns and max(columns) < x.event_shape[0]
            family = Conditional.registry.get(str(block.get("name")), Conditional)
            blocks.append(family.with_data(block, x.columns_only(columns)) if known else block)
        return {**given, "blocks": blocks} if blocks else given

    @classmethod
    def example(cls) -> Conditional:
        blocks = [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "poisson"}]
        return cls((3,), blocks=blocks)


def _tables(blocks: Any) -> list[dict[str, Any]]:
    if not isinstance(blocks, Sequence) or not all(isinstance(block, dict) for block in blocks):
        raise ValueError(
            f"blocks: must be a list of tables such as {{'columns': [0], 'name': ...}}; got "
            f"{blocks!r}"
        )
    return list(blocks)


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
