"""A model in one file: weights, and the spec from which the VAE is built, in safetensors.

Nothing is pickled.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.files import write
from ..data.sealed import ODD, CheckpointError, sealed, unsealed
from ..guards import device_of
from ..vae import VAE
from .build import build
from .describe import describe
from .split import FORMAT, Split

UNBUILDABLE: tuple[type[Exception], ...] = (*ODD, ValueError, ArithmeticError)


def save(vae: VAE, path: str | Path, *, split: Split | None = None) -> None:
    """Write weights and spec to one safetensors file. The file appears whole or not at all.

    Arguments:
        vae: The model.
        path: Where to write; a file that is there is replaced.
        split: Which rows of which data were held out in training, for :func:`.read_split`.

    Raises:
        TypeError: A part is not registered, or no spec can build it again; nothing is written.
    """
    versions = {name: metadata.version(name) for name in ("pyro-ppl", "torch")}
    about = {"format": FORMAT, "spec": _verified(vae), "versions": json.dumps(versions)}
    if vae.times_fitted:
        about["times_fitted"] = str(vae.times_fitted)
    if split is not None:
        about["split"] = split.as_json()
    write(Path(path), sealed(vae.state_dict(), about))


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
    tensors, about = unsealed(path, "model", FORMAT)
    try:
        vae = _rebuilt(json.loads(about["spec"]), tensors).to(place)
        vae.times_fitted = int(about.get("times_fitted", 0))
    except UNBUILDABLE as error:
        raise CheckpointError(
            f"{path.name} holds a model that cannot be built here: {error}"
        ) from error
    return vae


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
        vae.load_state_dict(tensors, assign=True)
    return vae
