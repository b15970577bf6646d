"""Blocks of columns with a network each: one that reads the block, or one that writes what its
family reads.

A spec says them in the tables of the blocks, with ``network`` and ``shape``. Conditionals know
nothing of them; the two networks here do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..guards import whole_number
from .base import Shape, as_shape
from .networks import Network, beside, filled

OF_NETWORKS = ("network", "shape")  # what a block says of the network that is its own
Reader = tuple[nn.Module, Callable[[Tensor], Tensor]]  # a network, and what it reads of the context


def tables_of(blocks: Any) -> list[dict[str, Any]]:
    """The tables of all blocks.

    Raises:
        ValueError: They are no list of tables.
    """
    if not isinstance(blocks, Sequence) or not all(isinstance(block, dict) for block in blocks):
        raise ValueError(
            f"blocks: must be a list of tables such as {{'columns': [0], 'name': ...}}; got "
            f"{blocks!r}"
        )
    return list(blocks)


def columns_of(blocks: Any) -> list[list[int]]:
    """The column numbers of each block of a conditional.

    Raises:
        ValueError: They are no list of tables with a list of column numbers, or a table says
            something of a network.
    """
    tables = tables_of(blocks)
    for number, block in enumerate(tables):
        for key in OF_NETWORKS:
            if key in block:
                raise ValueError(
                    f"blocks[{number}].{key}: needs a spec, whose networks build makes; got a "
                    "conditional without a network; leave it out here, and give Amortised(Blocks("
                    "...), guide) or Amortised(ToBlocks(...), likelihood)"
                )
    return [columns_of_block(number, block) for number, block in enumerate(tables)]


def columns_of_block(number: int, block: dict[str, Any]) -> list[int]:
    """The column numbers of one block.

    Raises:
        ValueError: They are no list of column numbers.
    """
    columns = block.get("columns")
    if not isinstance(columns, Sequence) or isinstance(columns, str):
        raise ValueError(
            f"blocks[{number}].columns: must be a list of column numbers; got {columns!r}"
        )
    for column in columns:
        whole_number(f"blocks[{number}].columns: every column", column, at_least=0)
    return list(columns)


def check_shape(number: int, shape: torch.Size | None, num_columns: int) -> None:
    """Raise unless a block of so many columns can have this shape."""
    if shape is not None and shape.numel() != num_columns:
        raise ValueError(
            f"blocks[{number}].shape: must hold the {num_columns} columns of the block; got "
            f"{list(shape)}, which holds {shape.numel()}; change shape or columns"
        )


class ByBlock(Network):
    """Several networks, each for its blocks."""

    def readers(self) -> list[Reader]:
        """Each network, and a function from the whole context to what it reads."""
        raise NotImplementedError

    def described(
        self, table: dict[str, Any], describe: Callable[[nn.Module], dict[str, Any]]
    ) -> dict[str, Any]:
        """The table of a conditional, completed by its networks.

        Raises:
            TypeError: The blocks of the conditional are others.
        """
        raise NotImplementedError


class Blocks(ByBlock):
    """A network for each block of columns: what they read side by side, inf for a missing block.

    A block is missing where all of its columns are. Where some are, its network reads these at what
    is typical for it. What stands behind the columns of all blocks is c, which each network reads
    behind its own columns; an image ``(C, H, W)`` gets a constant channel for each number of c.

    Arguments:
        columns: The columns of each block.
        num_given: How many numbers of c stand behind the columns.
        networks: The network of each block, all of them with as many outputs.
        shapes: The shape in which each network reads the columns of its block, None for a vector
            (default: all are vectors).

    Raises:
        ValueError: A shape does not hold as many cells as its block has columns; or there are not
            as many networks or shapes as blocks.

    Example:
        >>> blocks = Blocks([[0, 2], [1]], 0, (nn.Linear(2, 1), nn.Linear(1, 1)))
        >>> blocks(torch.tensor([0.5, torch.nan, 0.3])).isinf()
        tensor([False,  True])
    """

    reads_missing = True

    order: Tensor

    def __init__(
        self,
        columns: Sequence[Sequence[int]],
        num_given: int,
        networks: Iterable[nn.Module],
        *,
        shapes: Sequence[Shape | None] | None = None,
    ) -> None:
        super().__init__()
        self.columns = [list(block) for block in columns]
        self.networks = nn.ModuleList(networks)
        shapes = [None] * len(self.columns) if shapes is None else shapes
        if not len(self.columns) == len(self.networks) == len(shapes):
            raise ValueError(
                f"Blocks needs a network, and a shape if any, for each of {len(self.columns)} "
                f"blocks; got {len(self.networks)} networks and {len(shapes)} shapes"
            )
        self.shapes = [None if shape is None else as_shape(shape) for shape in shapes]
        for number, (shape, block) in enumerate(zip(self.shapes, self.columns, strict=True)):
            check_shape(number, shape, len(block))

        self.num_columns = sum(map(len, self.columns))
        given = range(self.num_columns, self.num_columns + num_given)
        order = [[*block, *given] for block in self.columns]
        self.sizes = [len(block) for block in order]
        self.register_buffer("order", torch.tensor(list(itertools.chain(*order))), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        read = []
        for number, piece in enumerate(self._pieces(x)):
            network = self.networks[number]
            columns = piece[..., : len(self.columns[number])]
            missing = columns.isnan().all(-1, keepdim=True)
            known = network(filled(self._shaped(number, piece), network))
            read.append(torch.where(missing, torch.inf, known))
            _of_width(read[0].shape[-1], known, f"block {number}")
        return torch.cat(read, -1)

    def readers(self) -> list[Reader]:
        def seen_by(number: int) -> Callable[[Tensor], Tensor]:
            return lambda x: self._shaped(number, self._pieces(x.to(self.order.device))[number])

        return [(network, seen_by(number)) for number, network in enumerate(self.networks)]

    def described(
        self, table: dict[str, Any], describe: Callable[[nn.Module], dict[str, Any]]
    ) -> dict[str, Any]:
        blocks = table.get("blocks", [])
        if [block["columns"] for block in blocks] != self.columns:
            raise TypeError(
                f"no spec can name {table['name']} behind Blocks with other columns; give both the "
                "same"
            )
        blocks = [
            block if shape is None else {**block, "shape": list(shape)}
            for block, shape in zip(blocks, self.shapes, strict=True)
        ]
        first, *others = each = [describe(network) for network in self.networks]
        if all(other == first for other in others):
            return {**table, "blocks": blocks, "network": first}
        own = ({**block, "network": one} for block, one in zip(blocks, each, strict=True))
        return {**table, "blocks": list(own)}

    def _pieces(self, x: Tensor) -> Sequence[Tensor]:
        """The columns of each block, and c behind them."""
        return x.index_select(-1, self.order).split(self.sizes, -1)

    def _shaped(self, number: int, piece: Tensor) -> Tensor:
        """What the network of a block reads of its columns and c."""
        shape = self.shapes[number]
        if shape is None:
            return piece
        columns, c = piece.tensor_split([shape.numel()], -1)
        shaped = columns.reshape(*piece.shape[:-1], *shape)
        return beside(shaped, c, len(shape)) if c.shape[-1] else shaped


class ToBlocks(ByBlock):
    """Networks of a likelihood of several blocks: some write what the family of one block reads,
    one writes for all the others. All read the same context.

    Arguments:
        sizes: How many numbers the family of each block reads: their ``num_params``.
        own: The networks of blocks that have their own, by the number of the block.
        shared: The network of the other blocks, whose outputs stand in their order.

    Raises:
        ValueError: A network is for no block, or a block that reads numbers has none.

    Example:
        >>> head = Columns(3, blocks=[{"columns": [0, 2], "name": "normal", "scale": 1.0},
        ...                           {"columns": [1], "name": "poisson"}])
        >>> network = ToBlocks([2, 1], {0: MLP(4, 2)}, MLP(4, 1))
        >>> Amortised(network, head)(torch.zeros(7, 4)).batch_shape
        torch.Size([7])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        own: Mapping[int, nn.Module],
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sizes = list(sizes)
        numbers = range(len(self.sizes))
        if other := [number for number in own if number not in numbers]:
            raise ValueError(f"ToBlocks has blocks {list(numbers)}; got networks for {other}")
        lacking = [number for number in numbers if number not in own and self.sizes[number]]
        if shared is None and lacking:
            raise ValueError(
                f"ToBlocks needs a network for each block that reads numbers; got none for "
                f"{lacking}; give shared"
            )
        self.own = nn.ModuleDict({str(number): network for number, network in own.items()})
        self.shared = shared
        self.others = [number for number in range(len(self.sizes)) if number not in own]

    def forward(self, context: Tensor) -> Tensor:
        written = {}
        for name, network in self.own.items():
            number = int(name)
            written[number] = _of_width(self.sizes[number], network(context), f"block {number}")
        if self.shared is not None:
            sizes = [self.sizes[number] for number in self.others]
            shared = _of_width(sum(sizes), self.shared(context), f"blocks {self.others}")
            written |= zip(self.others, shared.split(sizes, -1), strict=True)
        return torch.cat([written[number] for number in sorted(written)], -1)

    def readers(self) -> list[Reader]:
        networks = [*self.own.values(), *([] if self.shared is None else [self.shared])]
        return [(network, lambda context: context) for network in networks]

    def described(
        self, table: dict[str, Any], describe: Callable[[nn.Module], dict[str, Any]]
    ) -> dict[str, Any]:
        blocks = list(table.get("blocks", []))
        if len(blocks) != len(self.sizes):
            raise TypeError(
                f"no spec can name {table['name']} behind ToBlocks for {len(self.sizes)} blocks; "
                f"got {len(blocks)} of them; use a conditional with these blocks, such as columns"
            )
        for name, network in self.own.items():
            blocks[int(name)] = {**blocks[int(name)], "network": describe(network)}
        shared = {} if self.shared is None else {"network": describe(self.shared)}
        return {**table, "blocks": blocks, **shared}


def _of_width(width: int, read: Tensor, where: str) -> Tensor:
    """What a network gives, if these are as many numbers as the blocks need: else others would be
    read in their place.
    """
    if read.shape[-1] != width:
        raise ValueError(
            f"{where}: needs a network with {width} outputs; got {read.shape[-1]}; give it another"
        )
    return read


__all__ = ["Blocks", "ToBlocks"]
