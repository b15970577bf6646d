"""Processes that a launcher such as ``torchrun`` has started: they train together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import distributed

from ..guards import device_of


def is_first() -> bool:
    """Whether this process writes and speaks for all that were launched."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def process_group(device: str) -> Iterator[str]:
    """The process group that the launcher's environment describes, if it does.

    Arguments:
        device: The name of the device.

    Returns:
        The device of this process: of several GPUs its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    backend = "gloo"
    if device_of(device).type == "cuda":
        backend, device = "nccl", f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    distributed.init_process_group(backend)
    try:
        yield device
    finally:
        distributed.destroy_process_group()
