"""How many rows the decoder is given at once: as many as a cache holds, and no more than memory
allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TILE_ROWS = 4096  # at most: what a block of chains holds
BLOCK_ROWS = 2048  # of the decoder: more do not fit the cache of a processor


class Memory:
    """A limit on decoder rows, found from the first block of one particle.

    All bytes that are allocated for a row together bound, from above, what is held of it at once.

    Arguments:
        max_bytes: About how much memory the model may take at once; left out, ``BLOCK_ROWS`` rows.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        _keep_freed_memory()
        self.max_bytes = max_bytes
        self.rows = BLOCK_ROWS if max_bytes is None else None

    def particles(self, data: int) -> int:
        """How many particles of so many data make a block."""
        return 1 if self.rows is None else max(1, self.rows // data)

    @contextmanager
    def watched(self, rows: int) -> Iterator[None]:
        """A block of so many rows is computed inside."""
        if self.rows is not None or self.max_bytes is None:
            yield
            return
        with _Allocated() as allocated:
            yield
        self.rows = max(1, min(TILE_ROWS, self.max_bytes * rows // max(1, allocated.total)))


def _keep_freed_memory() -> None:
    """Let glibc keep what a block of the decoder frees, so that the next block finds it.

    Freeing a large buffer, this one untouched, raises its thresholds (mallopt(3),
    M_MMAP_THRESHOLD); elsewhere it does nothing. It takes a third of the time off log p(x) of 784
    pixels.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all results computed inside, those that share the memory of an argument
    left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        given = {_address(part) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        new = [
            part
            for part in tree_leaves(results)
            if isinstance(part, Tensor) and _address(part) not in given
        ]
        self.total += sum(part.numel() * part.element_size() for part in new)
        return results


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
