"""Files that someone wrote to do harm: each a function of a folder, which gives the content.

Most are as whole as a good file: a SHA-256 shows damage, it is no signature.
"""

import gzip
import io
import json
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

import pyro_vae as pv
from pyro_vae.data.sealed import sealed, unsealed
from pyro_vae.spec.checkpoint import FORMAT
from pyro_vae.training.checkpoints import FORMAT as FORMAT_OF_RUNS

MARKER = "code-ran"
MODULE = "evil"  # lies beside the files, and leaves the marker where it is imported
BOMB = 1 << 28  # bytes, of a few hundred kilobytes


class Payload:
    """Leaves the marker where it is unpickled."""

    def __init__(self, folder):
        self.marker = str(folder / MARKER)

    def __reduce__(self):
        return open, (self.marker, "w")


def pickled(folder):
    return pickle.dumps(Payload(folder))


def saved_by_torch(folder):
    file = io.BytesIO()
    torch.save({"weight": Payload(folder)}, file)
    return file.getvalue()


def zeros_zipped(name, start=b"", size=BOMB):
    """One member of so many zeros, after `start`: a thousandth of it on the disk."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(start)
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def gzipped(start, what=b"\0", size=BOMB):
    """The start and so many bytes, in members that are alike."""
    part = gzip.compress(what * ((1 << 22) // len(what)), 1)
    return gzip.compress(start) + part * (size >> 22)


# Models


def tensors(header, body=b"", length=None):
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def good():
    return pv.build({"event": [3], "latent": [1]}, hidden=[4])


def model(spec=None, state=None, **about):
    """A sealed model: its spec as a table or as text, its tensors, and the rest."""
    vae = good()
    spec = pv.describe(vae) if spec is None else spec
    text = spec if isinstance(spec, str) else json.dumps(spec)
    said = {"format": FORMAT, "spec": text, **about}
    return sealed(vae.state_dict() if state is None else state, said)


def spec(**changes):
    return {**pv.describe(good()), **changes}


MODELS = {
    "pickle.safetensors": pickled,
    "pickle.pt": pickled,
    "pickle.json": pickled,
    "torch.pt": saved_by_torch,
    "torch.safetensors": saved_by_torch,
    "zip-bomb.safetensors": lambda _: zeros_zipped("model.safetensors"),
    "gzip-bomb.safetensors": lambda _: gzipped(tensors({})),
    "header-of-eight-exabytes.safetensors": lambda _: tensors({}, length=(1 << 63) - 1),
    "header-longer-than-the-file.safetensors": lambda _: tensors({}, length=90_000_000),
    "header-nested.safetensors": lambda _: tensors(b'{"a":' + b"[" * 1_000_000),
    "header-of-a-million-tensors.safetensors": lambda _: tensors(
        b"{"
        + b",".join(
            b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(10**6)
        )
        + b"}"
    ),
    "overlap.safetensors": lambda _: tensors(
        {"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)
    ),
    "offsets-beyond-the-end.safetensors": lambda _: tensors({"a": tensor(0, 1 << 40, [1 << 38])}),
    "shape-overflows.safetensors": lambda _: tensors({"a": tensor(0, 0, [1 << 40, 1 << 40, 0])}),
    "type-of-four-bits.safetensors": lambda _: tensors({"a": tensor(0, 2, [4], "F4")}, bytes(2)),
    "names-of-paths.safetensors": lambda folder: model(
        state={f"../../{MARKER}": torch.zeros(2), f"{folder}/{MARKER}": torch.zeros(2)}
    ),
    "spec-nested.safetensors": lambda _: model("[" * 1_000_000),
    "spec-is-a-list.safetensors": lambda _: model("[]"),
    "spec-is-not-there.safetensors": lambda _: sealed({}, {"format": FORMAT}),
    "spec-of-a-huge-number.safetensors": lambda _: model('{"event": [' + "9" * 1_000_000 + "]}"),
    "spec-of-an-infinite-number.safetensors": lambda _: model('{"event": [1e999], "latent": [1]}'),
    "spec-names-a-module.safetensors": lambda _: model(spec(modules=[MODULE])),
    "spec-names-a-function.safetensors": lambda _: model(spec(prior={"name": "os.system"})),
    "times-fitted.safetensors": lambda _: model(times_fitted="9" * 10_000),
}


# Checkpoints: each is the newest of a folder


def run(state, tensors=None):
    return sealed(tensors or {}, {"format": FORMAT_OF_RUNS, "state": state})


CHECKPOINTS = {
    "pickle": pickled,
    "torch": saved_by_torch,
    "header of eight exabytes": MODELS["header-of-eight-exabytes.safetensors"],
    "overlap": MODELS["overlap.safetensors"],
    "a model": lambda _: model(),
    "state nested": lambda _: run("[" * 1_000_000),
    "state is not there": lambda _: sealed({}, {"format": FORMAT_OF_RUNS}),
    "state is a list": lambda _: run("[]"),
    "state is empty": lambda _: run("{}"),
    "state of a huge number": lambda _: run('{"epoch": ' + "9" * 1_000_000 + "}"),
    "names of paths": lambda _: run("{}", {f"model/../../{MARKER}": torch.zeros(2)}),
}


def fit(folder, epochs=2, **options):
    x = np.random.default_rng(0).normal(size=(20, 3))
    vae = pv.build(x, latent=1, hidden=[4])
    return pv.fit(vae, x, epochs=epochs, checkpoint=folder, progress=False, **options)


def doctored(change):
    """The checkpoint of a real run, of which `change` takes the tensors and the state."""

    def content(folder):
        with tempfile.TemporaryDirectory(dir=folder) as real:
            fit(real)
            path = Path(real) / "state-000001.safetensors"
            tensors, about = unsealed(path, "checkpoint", FORMAT_OF_RUNS)
        state = json.loads(about["state"])
        change(tensors, state)
        return run(json.dumps(state), tensors)

    return content


CHECKPOINTS |= {
    "random state of another size": doctored(
        lambda tensors, _: tensors.update({"random/0": torch.zeros(3, dtype=torch.uint8)})
    ),
    "random state of fractions": doctored(
        lambda tensors, _: tensors.update({"random/0": torch.zeros(3)})
    ),
    "optimiser of no parameter": doctored(
        lambda tensors, _: tensors.update({"optimiser/99/exp_avg": torch.zeros(3)})
    ),
    "optimiser of a name": doctored(
        lambda tensors, _: tensors.update({f"optimiser/{MARKER}/a": torch.zeros(3)})
    ),
    "nothing of the optimiser": doctored(lambda _, state: state.pop("optimiser")),
    "no history": doctored(lambda _, state: state.update(history=[])),
    "history of a text": doctored(lambda _, state: state.update(history="a")),
    "watched rows of another shape": doctored(
        lambda tensors, _: tensors.update({"watched/0": torch.zeros(3)})
    ),
    "an epoch of a text": doctored(lambda _, state: state.update(epoch="a")),
    "the best of nothing": doctored(lambda _, state: state.update(best=[])),
}
