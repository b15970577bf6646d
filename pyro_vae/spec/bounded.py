"""A model of a file takes memory for the tensors that are there, whatever its spec says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAKERS = {  # of tensors, by their sizes
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn),
    *(Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full),
}
LEAST = 1000  # numbers that a tensor counts as: a small one takes time
ALLOWED = 10_000_000  # numbers beyond those of the file


@contextmanager
def at_most(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, tensors are made of few more numbers than these have, and few more of them.

    Raises:
        ValueError: One would be larger, or there would be many more.
    """
    with _Bounded(ALLOWED + 2 * sum(max(LEAST, tensor.numel()) for tensor in tensors.values())):
        yield


class _Bounded(TorchFunctionMode):
    """Layers make their weights by ``torch.empty``: these together, any other one by one, before
    memory is given to it. An expanded one takes none until a function works on it.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.left = most, most

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        sizes = [value.numel() for value in (*args, *given.values()) if isinstance(value, Tensor)]
        if func in MAKERS:
            planned = {key: value for key, value in given.items() if key != "generator"}
            size = func(*args, **{**planned, "device": "meta"}).numel()
            sizes.append(size)
            self.left -= max(LEAST, size) if func is torch.empty else 0
        if max(sizes, default=0) > self.most or self.left < 0:
            raise ValueError("its spec describes a larger model than its tensors make")
        return func(*args, **given)
