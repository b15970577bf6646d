"""Data by name, and from files."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.lib import format as npy

from .arrays import as_rows
from .delimited import ENDINGS, read_delimited
from .lines import COMPRESSED
from .packed import read_idx, read_npz
from .rows import DataError

LOG = logging.getLogger("pyro_vae.data")
KEYED = (".npz", ".h5ad")
SHEETS = "save the sheet as .csv, or give pandas.read_excel(...)"
REMEDIES = {
    ".zip": "unpack it, and give the file that is in it",
    **dict.fromkeys((".xls", ".xlsx", ".ods"), SHEETS),
}
SHOWN = 8  # names of columns


def load(source: str | Path, key: str | None = None) -> Any:
    """Read data by name or from a file.

    Arguments:
        source: ``"digits"`` (scikit-learn's 8 x 8 digits, 1797 rows of 64 grey levels 0..16) or a
            path to ``.npy`` (memory-mapped), ``.npz`` (of arrays, or a sparse one of scipy's),
            ``.csv``, ``.tsv`` or ``.txt`` (with a header line; what separates the cells and marks
            the decimals is found; comments before the header, which begin with ``#``, are left
            out; may end in ``.gz``, ``.bz2`` or ``.xz``), ``.parquet`` or ``.feather`` (by
            pyarrow), ``.h5ad`` (by anndata, ``backed="r"``) or idx (which may be gzipped).
        key: The name of an array, for an ``.npz`` with several; the layer of an ``.h5ad`` to take
            in place of X.

    Returns:
        An array; a DataFrame of a table, of which the log of ``pyro_vae.data`` says what was found;
        an AnnData, or of a layer of it :class:`Rows`.

    Raises:
        DataError: The name, the file, its format or the key is unknown, the file is damaged, or a
            table is irregular.
    """
    path = Path(source)
    if str(source) == "digits":
        from sklearn.datasets import load_digits

        return load_digits().data
    if not path.is_file():
        hint = f"give 'digits' or a path to a file: {READ}"
        if difflib.get_close_matches(str(source), ["digits"]):
            hint = "did you mean 'digits'?"
        raise DataError(f"there is no data set or file {str(source)!r}; {hint}")
    try:
        table, found = _read(path, key)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path.name} could not be read as {path.suffix or 'idx'} ({type(error).__name__}); it "
            "must be complete and hold numbers, no Python objects"
        ) from error
    if hasattr(table, "columns"):
        LOG.info("read %s: %s%s", path.name, _described(table), found and f"; {found}")
    return table


def _read(path: Path, key: str | None) -> tuple[Any, str]:
    """What a file holds, and how it is written, in words."""
    if key is not None and path.suffix not in KEYED:
        raise DataError(
            "key= names an array of an .npz file or a layer of an .h5ad file; got "
            f"key={key!r} for {path.name}; leave it out"
        )
    if path.suffix in READERS:
        return READERS[path.suffix](path, key), ""
    if path.suffix in REMEDIES:
        raise DataError(f"{path.suffix} files are not read; {REMEDIES[path.suffix]}")
    ending = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
    if ending.lower() in ENDINGS:
        return read_delimited(path)
    return read_idx(path), ""


def _described(table: Any) -> str:
    names = [str(name) for name in table.columns]
    shown = ", ".join(names if len(names) <= SHOWN else [*names[: SHOWN - 1], "...", names[-1]])
    return f"rows: {len(table)}; columns: {len(names)} ({shown})"


def _read_npy(path: Path, key: None) -> Any:
    return npy.open_memmap(path, mode="r")


def _read_by_pyarrow(path: Path, key: None) -> Any:
    import pandas

    if importlib.util.find_spec("pyarrow") is None:
        raise DataError(f"{path.suffix} files need pyarrow; pip install pyarrow")
    return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_feather(path)


def _read_by_anndata(path: Path, layer: str | None) -> Any:
    if importlib.util.find_spec("anndata") is None:
        raise DataError(".h5ad files need anndata; pip install anndata")
    import anndata

    adata = anndata.read_h5ad(path, backed="r")
    return adata if layer is None else as_rows(adata, layer=layer)


READERS: dict[str, Callable[[Path, Any], Any]] = {  # beside those of separated text, and of idx
    ".npy": _read_npy,
    ".npz": read_npz,
    ".parquet": _read_by_pyarrow,
    ".feather": _read_by_pyarrow,
    ".h5ad": _read_by_anndata,
}
READ = (
    f"{', '.join(READERS)}, idx, or {', '.join(ENDINGS)} (also compressed: {', '.join(COMPRESSED)})"
)


def write(path: Path, content: bytes) -> None:
    """Write a file; it appears whole or not at all. Of a link, the file that it leads to; what is
    no file, such as a pipe, is written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Have the names of its files on the disk too, where the system can say so."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
