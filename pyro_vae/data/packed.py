"""Arrays in files that are packed: ``.npz``, and idx, which may be gzipped.

What a header claims is held against what is there before memory is given to it. Few bytes may
unpack to gigabytes; no more of them is read than the array takes that they are said to be.
"""

from __future__ import annotations

import gzip
import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .rows import DataError

HEADER = 1 << 16  # bytes at most before the numbers of an array
DENSEST = 1032  # bytes that deflate makes of one, at most
KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
OF_SPARSE = {"format", "shape", "data"}  # as scipy writes them


def read_npz(path: Path, key: str | None) -> Any:
    """The only array of an ``.npz`` file, or that of a name; or the sparse matrix that it holds."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise DataError(f"{path.name} has two arrays of one name; write it again")
        if key is None and members.keys() > OF_SPARSE:
            for member in archive.infolist():
                _refuse_other_size(path, archive, member)
            return _read_sparse(path)
        if key is None and len(members) == 1:
            (key,) = members
        if key not in members:
            raise DataError(
                f"{path.name} holds {', '.join(members)}; got key={key!r}; name one of them"
            )
        _refuse_other_size(path, archive, members[key])
        with archive.open(members[key]) as file:
            return npy.read_array(file, allow_pickle=False)


def _refuse_other_size(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise where a member is no array, or not as long as its header says."""
    with archive.open(member) as file:
        start = io.BytesIO(file.read(HEADER))
    version = npy.read_magic(start)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(start)
    if not dtype.hasobject and start.tell() + _size(shape, dtype) != member.file_size:
        raise DataError(
            f"{path.name} is damaged: {member.filename} should hold an array of shape {shape} in "
            f"{dtype}, and has {member.file_size - start.tell()} bytes; get it again"
        )


def _read_sparse(path: Path) -> Any:
    from scipy import sparse

    matrix = sparse.load_npz(path)
    if hasattr(matrix, "check_format"):  # or what reads it may leave its memory
        matrix.check_format(full_check=True)
    return matrix


def read_idx(path: Path) -> np.ndarray:
    """The idx format of MNIST.

    Two zero bytes, a type code, the rank, big-endian sizes, big-endian values.
    """
    is_packed = path.suffix == ".gz"
    with (gzip.open if is_packed else open)(path, "rb") as file:
        start = file.read(4)
        if start[:2] != b"\0\0" or len(start) < 4 or start[2] not in KINDS:
            raise DataError(
                f"{path.name} is no data file that is known here; convert it to .npy, .npz or .csv"
            )
        kind = np.dtype(KINDS[start[2]])
        shape = [int(size) for size in np.frombuffer(file.read(4 * start[3]), ">u4", start[3])]
        size = _size(shape, kind)
        may_be = size <= path.stat().st_size * (DENSEST if is_packed else 1)
        content = file.read(size + 1) if may_be else b""
    if len(content) != size:
        raise DataError(
            f"{path.name} is damaged: it should hold an array of shape {tuple(shape)}, {size} "
            f"bytes, and has {'more' if len(content) > size else 'fewer'}; get it again"
        )
    return np.frombuffer(content, kind).reshape(shape)


def _size(shape: Any, dtype: np.dtype) -> int:
    """The bytes of an array."""
    return math.prod(shape) * dtype.itemsize
