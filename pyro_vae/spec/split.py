"""Which rows of which data a model was trained on, and which were held out: a part of its file."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.rows import Rows
from ..data.sealed import as_written, unsealed

FORMAT = "pyro_vae/1"


@dataclass(frozen=True)
class Split:
    """The rows that were held out of some data.

    Arguments:
        digest: What tells these data from others.
        held_out: For each row of shape ``(N,)``, whether it was held out.
    """

    digest: str
    held_out: np.ndarray

    @classmethod
    def of(cls, x: Rows, held_out: np.ndarray) -> Split:
        """The split of data.

        Arguments:
            x: All data.
            held_out: The numbers of the rows that are held out.
        """
        mask = np.zeros(len(x), dtype=bool)
        mask[held_out] = True
        return cls(x.summary.digest, mask)

    def is_of(self, x: Rows) -> bool:
        """Whether these are the data that were split."""
        return len(x) == len(self.held_out) and x.summary.digest == self.digest

    def as_json(self) -> str:
        """A text: the digest, the number of rows, and a bit for each."""
        bits = base64.b64encode(np.packbits(self.held_out).tobytes()).decode()
        return json.dumps({"digest": self.digest, "num_data": len(self.held_out), "held_out": bits})

    @classmethod
    def from_json(cls, text: str) -> Split:
        """What :meth:`as_json` gave.

        Raises:
            ValueError: The bits are fewer or more than the rows.
        """
        read = json.loads(text)
        packed = np.frombuffer(base64.b64decode(read["held_out"], validate=True), dtype=np.uint8)
        num = read["num_data"]
        if type(num) is not int or len(packed) != -(-num // 8):
            raise ValueError(f"held_out has a bit for each of {num!r} rows; got {8 * len(packed)}")
        return cls(str(read["digest"]), np.unpackbits(packed, count=num).astype(bool))


def read_split(path: str | Path) -> Split | None:
    """How the data were split that a saved model was fitted to; None where its file does not say.

    Raises:
        CheckpointError: The file is missing, damaged, or no model.
    """
    path = Path(path)
    _, about = unsealed(path, "model", FORMAT)
    if "split" not in about:
        return None
    with as_written(path, "model", ValueError, RecursionError):
        return Split.from_json(about["split"])
