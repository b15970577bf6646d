"""Tensors, and what is to be said of them, in one safetensors file with a SHA-256 over all of it.

Nothing is pickled, neither in writing nor in reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

MOST = 50_000  # tensors in a file: each takes memory, also where it holds nothing
CHUNK = 1 << 20
# what it raises to use values that no file of ours has
ODD: tuple[type[Exception], ...] = (LookupError, TypeError, AttributeError, RuntimeError)


class CheckpointError(ValueError):
    """A file of tensors cannot be read: the message names the file and the reason."""


def sealed(tensors: dict[str, Tensor], about: dict[str, str]) -> bytes:
    """The content of a file; tensors are copied, so that none shares memory with another."""
    import safetensors.torch

    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return safetensors.torch.save(copies, {**about, "sha256": _digest(copies, about)})


def unsealed(path: Path, kind: str, version: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a file holds.

    Arguments:
        path: The file.
        kind: What it should be, for messages.
        version: The ``format`` that it must state.

    Returns:
        Its tensors by name, and what is said of them, without the SHA-256.

    Raises:
        CheckpointError: The file is missing, damaged, or of another format.
    """
    import safetensors

    try:
        if path.is_file() and _num_tables(path) > MOST:
            raise CheckpointError(f"{path.name} is no {kind}: it names more than {MOST} tensors")
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            about = dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        is_another = path.is_file() and path.suffix != ".safetensors"
        hint = f"; a {kind} is a .safetensors file" if is_another else ""
        raise CheckpointError(f"{path.name} could not be read as a {kind}: {error}{hint}") from None

    digest = about.pop("sha256", None)
    if about.get("format") != version:
        raise CheckpointError(
            f"{path.name} is no pyro_vae {kind} of format {version}; got {about.get('format')!r}"
        )
    if digest != _digest(tensors, about):
        raise CheckpointError(
            f"{path.name} is damaged: its content does not match its SHA-256; copy it again"
        )
    with torch.inference_mode(False):
        # A view into the file may be unaligned in memory, and sums over it round differently.
        return {name: tensor.clone() for name, tensor in tensors.items()}, about


@contextlib.contextmanager
def as_written(path: Path, kind: str, *more: type[Exception]) -> Iterator[None]:
    """Inside, what a whole file says is used: a SHA-256 shows damage, it is no signature.

    Raises:
        CheckpointError: It says what we would not have written.
    """
    try:
        yield
    except (*ODD, *more) as error:
        raise CheckpointError(
            f"{path.name} is no {kind} that pyro_vae wrote ({type(error).__name__}: {error})"
        ) from error


def _num_tables(path: Path) -> int:
    """How many tables the header of a file holds, at most: one for each tensor and a few more.

    Those within its texts are none: what follows on their brackets is escaped.
    """
    num = 0
    with io.FileIO(path) as file:
        left = int.from_bytes(file.read(8), "little")
        while left > 0 and (chunk := file.read(min(left, CHUNK))):
            num += chunk.count(b"{") - chunk.count(b"{\\")
            left -= len(chunk)
    return num


def _digest(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        contiguous = tensor.flatten().clone(memory_format=torch.contiguous_format)
        digest.update(contiguous.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
