"""How many rows are worked on at once: what a cache holds, or keeps a GPU busy, within what memory
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

TILE_ROWS = 4096  # of the decoder, worked on together
TILE_DATA = 64
ON_A_GPU = 8  # times as many rows and data there: a launch costs more than arithmetic
BLOCK_BYTES = 2**25  # what the decoder may take at once, where the cache of a processor counts
SHARE = 4  # of the free memory of a GPU, the part that the decoder may take


def tile_rows(device: torch.device) -> int:
    """How many decoder rows are worked on together; draws depend on it."""
    return TILE_ROWS * (ON_A_GPU if device.type == "cuda" else 1)


def tile_data(device: torch.device) -> int:
    """How many data are worked on together; draws depend on it."""
    return TILE_DATA * (ON_A_GPU if device.type == "cuda" else 1)


class Memory:
    """A limit on decoder rows, found from the first block of one particle.

    All bytes that are allocated for a row together bound, from above, what is held of it at once.

    Arguments:
        device: Where the model is.
        max_bytes: About how much memory the model may take at once. Left out, what a cache holds;
            on a GPU, a quarter of what is free.
    """

    def __init__(self, device: torch.device, max_bytes: int | None = None) -> None:
        _keep_freed_memory()
        self.max_bytes = default_bytes(device) if max_bytes is None else max_bytes
        self.most = tile_rows(device)
        self.rows: int | None = None

    def particles(self, data: int) -> int:
        """How many particles of so many data make a block."""
        return 1 if self.rows is None else max(1, self.rows // data)

    @contextmanager
    def watched(self, rows: int) -> Iterator[None]:
        """A block of so many rows is computed inside."""
        if self.rows is not None:
            yield
            return
        with _Allocated() as allocated:
            yield
        self.rows = max(1, min(self.most, self.max_bytes * rows // max(1, allocated.total)))


def default_bytes(device: torch.device) -> int:
    """How much memory the model may take at once, where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // SHARE
    return BLOCK_BYTES


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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, for more than a second, to keep it from this class."""
        return False

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
