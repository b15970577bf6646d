"""A model in one file: weights, and the spec from which the VAE is built, in safetensors.

Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.files import write
from ..guards import device_of
from ..vae import VAE
from .build import build, describe

FORMAT = "pyro_vae/1"


class CheckpointError(ValueError):
    """A model file cannot be read: the message names the file and the reason."""


def save(vae: VAE, path: str | Path) -> None:
    """Write weights and spec to one safetensors file. The file appears whole or not at all.

    Arguments:
        vae: The model.
        path: Where to write; a file that is there is replaced.

    Raises:
        TypeError: A part is not registered, or no spec can build it again; nothing is written.
    """
    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in vae.state_dict().items()
    }
    versions = {name: metadata.version(name) for name in ("pyro-ppl", "torch")}
    about = {"format": FORMAT, "spec": _verified(vae), "versions": json.dumps(versions)}
    content = _serialized(tensors, {**about, "sha256": _digest(tensors, about)})
    write(path, content)


def _verified(vae: VAE) -> str:
    """The spec as JSON, after a VAE was built from it that has the same parameters: what cannot be
    loaded is not written.
    """
    try:
        spec = json.dumps(describe(vae))
        again = build(json.loads(spec)).state_dict()
    except ValueError as error:
        raise TypeError(f"no spec can build this VAE again: {error}") from error
    if _shapes(again) != _shapes(vae.state_dict()):
        raise TypeError(
            "no spec can build this VAE again: its parameters are not those that its parts imply"
        )
    return spec


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def load(path: str | Path, *, device: str | torch.device = "cpu") -> VAE:
    """Read a model that :func:`save` wrote. Nothing is unpickled; every parameter is trainable.

    Arguments:
        path: The file.
        device: Where the VAE is to be; "auto" for a GPU where there is one.

    Returns:
        The VAE, with the dtypes that were saved.

    Raises:
        CheckpointError: The file is missing, damaged, or no model.
        ValueError: Torch has no such device.
    """
    place = device_of(device)
    path = Path(path)
    tensors, about = _contents(path)
    digest = about.pop("sha256", None)
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path.name} is no pyro_vae model of format {FORMAT}; got {about.get('format')!r}"
        )
    if digest != _digest(tensors, about):
        raise CheckpointError(
            f"{path.name} is damaged: its content does not match its SHA-256; copy it again"
        )

    try:
        return _rebuilt(json.loads(about["spec"]), tensors).to(place)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path.name} holds a model that cannot be built here: {error}"
        ) from error


def _rebuilt(spec: dict[str, Any], tensors: dict[str, Tensor]) -> VAE:
    """The VAE of a spec, with these tensors."""
    for module in spec.pop("modules", []):
        if module not in sys.modules:
            raise ValueError(
                f"its parts are defined in the module {module!r}; import it first "
                f"(--module {module})"
            )
    with torch.inference_mode(False):
        vae = build(spec)
        # A view into the file may be unaligned in memory, and sums over it round differently.
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        vae.load_state_dict(copies, assign=True)
    return vae


def _serialized(tensors: dict[str, Tensor], about: dict[str, str]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save(tensors, about)


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            return tensors, dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path.name} could not be read as a model: {error}") from None


def _digest(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        contiguous = tensor.flatten().clone(memory_format=torch.contiguous_format)
        digest.update(contiguous.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
