"""Small trained models, data drawn from them, and log p(x) of each datum: a test of any estimator.

log p(x) is a closed form or a quadrature; where there is neither, bidirectional Monte Carlo
(Grosse et al., 2015, https://arxiv.org/abs/1511.02543) holds that of every datum between two bounds
less than 0.05 nats apart. ``benchmarks/reference.py`` makes all of it again from seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..spec.checkpoint import load
from ..vae import VAE

FOLDER = Path(__file__).parent / "reference_models"


@dataclass(frozen=True)
class ReferenceModel:
    """A VAE, data drawn from it, and log p(x) of each datum.

    Attributes:
        vae: The model, on the CPU in double precision.
        x: The data, of shape ``(N, *X)``, in double precision.
        log_evidence: log p(x) in nats, of shape ``(N,)``.
        se: Its error in nats, of shape ``(N,)``: 0 for closed forms and quadrature; for
            bidirectional Monte Carlo half the width between the bounds, plus the standard error of
            the lower one.
        how: Where log p(x) is from, with the protocol.
    """

    vae: VAE
    x: np.ndarray
    log_evidence: np.ndarray
    se: np.ndarray
    how: str


class References(Mapping[str, ReferenceModel]):
    """The reference models of a folder by name, each read when it is asked for.

    A model is two files: ``NAME.safetensors``, and ``NAME.npz`` with the rest.

    Arguments:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> ReferenceModel:
        if name not in list(self):
            raise KeyError(f"no reference model is named {name!r}; there are {', '.join(self)}")
        vae = load(self.folder / f"{name}.safetensors")
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            known = {key: file[key] for key in ("x", "log_evidence", "se")}
            return ReferenceModel(vae, **known, how=str(file["how"]))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in self.folder.glob("*.safetensors")))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"References({', '.join(self)})"


reference = References(FOLDER)
