"""Files of data, and specs, that someone wrote to do harm: see ``malicious``."""

import io
import struct
import zipfile

import numpy as np
from malicious import BOMB, MARKER, MODULE, Payload, gzipped, pickled, zeros_zipped
from scipy import sparse


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(header, body=b"", version=1):
    """An array file with this header, as text."""
    text = header.encode()
    start = b"\x93NUMPY" + bytes([version, 0])
    return start + struct.pack("<H" if version == 1 else "<I", len(text)) + text + body


def array(shape, descr="<f8"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


def lying(content, size=8000 << 34):
    """A zip file that gives its one member this size in its directory."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.infolist()[0].file_size = size + 128
        archive.writestr("other.npy", b"")  # the directory is written again
    return file.getvalue()


def objects(folder):
    file = io.BytesIO()
    np.save(file, np.array([Payload(folder)], dtype=object), allow_pickle=True)
    return file.getvalue()


def plain(values):
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def sparse_of(column):
    """A sparse matrix of four columns with a value in this one."""
    file = io.BytesIO()
    matrix = sparse.csr_array(np.eye(4))
    matrix.indices[-1] = column
    sparse.save_npz(file, matrix)
    return file.getvalue()


def idx(*sizes, kind=0x08):
    return bytes([0, 0, kind, len(sizes)]) + b"".join(struct.pack(">I", size) for size in sizes)


HUGE = array((1 << 34, 1000))
DATA = {
    "pickle.npy": pickled,
    "pickle.npz": pickled,
    "pickle.csv": pickled,
    "pickle.idx": pickled,
    "objects.npy": objects,
    "objects.npz": lambda folder: zipped(**{"x.npy": objects(folder)}),
    "shape.npy": lambda _: npy(HUGE),
    "shape-negative.npy": lambda _: npy(array((-1,)), bytes(80)),
    "header-of-code.npy": lambda folder: npy(f"open({str(folder / MARKER)!r}, 'w')"),
    "header-nested.npy": lambda _: npy("[" * 9000),
    "header-of-signs.npy": lambda _: npy("-" * 9000 + "1"),
    "zip.npy": lambda _: zipped(**{"x.npy": plain(np.eye(2))}),
    "shape.npz": lambda _: zipped(**{"x.npy": npy(HUGE, bytes(80))}),
    "shape-and-size.npz": lambda _: lying(zipped(**{"x.npy": npy(HUGE, bytes(80))})),
    "bomb.npz": lambda _: zeros_zipped("x.npy", npy(array((4, 2)))),
    "bomb-of-a-header.npz": lambda _: zeros_zipped(
        "x.npy", b"\x93NUMPY\2\0" + struct.pack("<I", BOMB)
    ),
    "bomb-that-is-no-array.npz": lambda _: zeros_zipped("x"),
    "names-of-paths.npz": lambda _: zipped(**{f"../../{MARKER}.npy": plain(np.eye(2))}),
    "sparse-out-of-bounds.npz": lambda _: sparse_of(1 << 20),
    "sparse-before-the-first.npz": lambda _: sparse_of(-(1 << 20)),
    "sparse-of-objects.npz": lambda folder: zipped(
        **{name: objects(folder) for name in ("format.npy", "shape.npy", "data.npy")}
    ),
    "sparse-bomb.npz": lambda _: zeros_zipped("format.npy", npy(array((), "<U3"))),
    "sizes.idx": lambda _: idx(1 << 31, 1 << 31, 1 << 31),
    "sizes.gz": lambda _: gzipped(idx(1 << 31, 1 << 31), size=0),
    "bomb.gz": lambda _: gzipped(idx(4, 2)),
    "bomb-that-is-no-idx.gz": lambda _: gzipped(b""),
    "rank.idx": lambda _: bytes([0, 0, 8, 255]),
    "one-long-line.csv.gz": lambda _: gzipped(b"a,b\n"),
    "one-long-header.csv.gz": lambda _: gzipped(b"", b"a,"),
    "quote.csv.gz": lambda _: gzipped(b'a,b\n1,2\n1,"', b"1,2\n"),
    "columns.csv": lambda _: (
        ",".join(f"a{n}" for n in range(50_000)) + "\n" + ",".join(["0"] * 50_000) + "\n"
    ).encode(),
    "zeros.csv": lambda _: bytes(1 << 20),
    "garbage.parquet": lambda _: b"PAR1" + bytes(1000) + b"PAR1",
    "garbage.feather": lambda _: b"ARROW1" + bytes(1000) + b"ARROW1",
}


# Specs

HEAD = "event = [3]\nlatent = [1]\n"
SPECS = {
    "nested.toml": lambda _: b"prior = " + b"[" * 100_000,
    "nested-tables.toml": lambda _: b"prior = " + b"{a = " * 100_000,
    "huge-number.toml": lambda _: b"event = [" + b"9" * 1_000_000 + b"]\nlatent = [1]",
    "infinite.toml": lambda _: b"event = [inf]\nlatent = [nan]",
    "pickle.toml": pickled,
    "pickle.json": pickled,
    "function.toml": lambda _: f'{HEAD}prior = "os.system"'.encode(),
    "code.toml": lambda _: f"{HEAD}prior = \"__import__('{MODULE}')\"".encode(),
    "path.toml": lambda _: f'{HEAD}modules = ["../{MODULE}"]'.encode(),
}
