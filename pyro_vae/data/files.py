"""Data by name, and from files."""

from __future__ import annotations

import difflib
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np

from .rows import DataError


def load(source: str | Path, key: str | None = None) -> Any:
    """Read data by name or from a file.

    Arguments:
        source: ``"digits"`` (scikit-learn's 8 x 8 digits, 1797 rows of 64 grey levels 0..16) or a
            path to ``.npy`` (memory-mapped), ``.npz``, ``.csv`` (with a header line) or idx (which
            may be gzipped).
        key: The name of an array, for an ``.npz`` with several.

    Returns:
        An array, or a DataFrame for ``.csv``.

    Raises:
        DataError: The name, the file, its format or the key is unknown, or the file is damaged.
    """
    path = Path(source)
    if str(source) == "digits":
        from sklearn.datasets import load_digits

        return load_digits().data
    if not path.is_file():
        hint = "give 'digits' or a path to .npy, .npz, .csv or idx"
        if difflib.get_close_matches(str(source), ["digits"]):
            hint = "did you mean 'digits'?"
        raise DataError(f"there is no data set or file {str(source)!r}; {hint}")
    try:
        return _read(path, key)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path.name} could not be read as {path.suffix or 'idx'} ({type(error).__name__}); it "
            "must be complete and hold numbers, no Python objects"
        ) from error


def _read(path: Path, key: str | None) -> Any:
    if key is not None and path.suffix != ".npz":
        raise DataError(
            f"key= names an array of an .npz file; got key={key!r} for {path.name}; leave it out"
        )
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".npz":
        return _read_npz(path, key)
    if ".csv" in path.suffixes:
        return _read_csv(path)
    return _read_idx(path)


def _read_csv(path: Path) -> Any:
    import pandas

    first = pandas.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
    names = [str(name) for name in first.dropna()]
    if names != [str(number) for number in range(len(first))] and all(
        _is_number(name) for name in names
    ):
        raise DataError(
            f"{path.name} has numbers in its first line, {', '.join(names[:3])} ...; give it a "
            "header line"
        )
    return pandas.read_csv(path)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        if key is None and len(arrays.files) == 1:
            key = arrays.files[0]
        if key not in arrays.files:
            raise DataError(
                f"{path.name} holds {', '.join(arrays.files)}; got key={key!r}; name one of them"
            )
        return arrays[key]


def _read_idx(path: Path) -> np.ndarray:
    """The idx format of MNIST.

    Two zero bytes, a type code, the rank, big-endian sizes, big-endian values.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read()
    kinds = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    if content[:2] != b"\0\0" or len(content) < 4 or content[2] not in kinds:
        raise DataError(
            f"{path.name} is no data file that is known here; convert it to .npy, .npz, .csv or idx"
        )

    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    values = np.frombuffer(content, kinds[content[2]], offset=4 + 4 * rank)
    return values.reshape([int(size) for size in shape])


def write(path: Path, content: bytes) -> None:
    """Write a file; it appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
