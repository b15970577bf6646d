"""The process group of processes that a launcher such as ``torchrun`` has started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import distributed

from pyro_vae_command.processes import are_several


@contextlib.contextmanager
def process_group(device: str) -> Iterator[str]:
    """The process group that the launcher's environment describes, if it does.

    Arguments:
        device: The name of the device.

    Yields:
        The device of this process: of several GPUs its own.

    Raises:
        ValueError: The device is one that all would share.
    """
    if not are_several():
        yield device
        return
    backend = "gloo"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        backend, device = "nccl", f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    elif device not in ("auto", "cpu"):
        raise ValueError(
            f"--device must be cpu, cuda or auto where processes were launched; got {device}; each "
            "takes the GPU of its number, LOCAL_RANK"
        )
    distributed.init_process_group(backend)
    try:
        yield device
    finally:
        distributed.destroy_process_group()
