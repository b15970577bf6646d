"""Data: arrays, frames, files and data sets as rows.

Everything that takes data reads it through :class:`Rows`, a few rows at a time, so a memory map is never loaded whole.
Integers and booleans are converted; what cannot be a number is refused with its row, column and value.
"""

from __future__ import annotations

import difflib
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

CHUNK = 2**22  # numbers looked at together when data are checked


class DataError(ValueError):
    """The data do not fit: the message names row, column and value, and says what to do."""


class Rows:
    """Data as N rows of one event shape, read a few at a time.

    Arguments:
        fetch: Maps an index array of shape ``(B,)`` to an array or tensor of shape ``(B, *event_shape)``.
        length: The number of rows, N.
        event_shape: The shape of one row.
        columns: Labels of the columns, if they have any.
    """

    def __init__(
        self,
        fetch: Callable[[np.ndarray], Any],
        length: int,
        event_shape: tuple[int, ...],
        columns: list[Any] | None = None,
    ) -> None:
        self.fetch, self.length, self.columns = fetch, length, columns
        self.event_shape = torch.Size(event_shape)

    def __len__(self) -> int:
        return self.length

    def take(self, index: np.ndarray | slice, like: Tensor | None = None) -> Tensor:
        """Rows `index`, in the dtype and on the device of `like` (default: torch's default dtype, on the CPU)."""
        like = torch.empty(0) if like is None else like
        index = np.arange(self.length)[index] if isinstance(index, slice) else index
        batch = self.fetch(index)
        if not isinstance(batch, Tensor):
            kind = np.float64 if like.dtype == torch.float64 else np.float32
            with np.errstate(over="ignore"):  # what overflows is infinite, and the check names it
                batch = torch.from_numpy(np.array(batch, dtype=kind, order="C"))
        return batch.to(device=like.device, dtype=like.dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each column, in double precision, each of the event shape."""
        like = torch.empty(0, dtype=torch.float64)
        first = second = torch.zeros(self.event_shape, dtype=torch.float64)
        origin = self.take(slice(0, 1), like)[0]
        for chunk in self.chunks(max(1, CHUNK // self.event_shape.numel())):
            x = self.take(chunk, like) - origin
            first, second = first + x.sum(0), second + (x * x).sum(0)
        mean = first / self.length
        return origin + mean, (second / self.length - mean**2).clamp(min=0).sqrt()

    def chunks(self, size: int) -> Iterator[slice]:
        """Slices of at most `size` rows that cover all rows once."""
        for start in range(0, self.length, size):
            yield slice(start, min(start + size, self.length))

    def locate(self, row: int, column: tuple[int, ...]) -> str:
        """Where a cell is, in the caller's terms."""
        if not column:
            return f"row {row}"
        if self.columns is not None:
            return f"row {row}, column {self.columns[column[-1]]!r}"
        return f"row {row}, column {column[0] if len(column) == 1 else tuple(column)}"


def as_rows(x: Any, event_shape: torch.Size | None = None) -> Rows:
    """Anything array-like as :class:`Rows`.

    Arguments:
        x: A tensor, array, memory map, DataFrame, map-style torch ``Dataset`` (the first element where an item is a
            tuple), nested list, or :class:`Rows`.
        event_shape: The shape that one row must have.

    Raises:
        DataError: `x` is empty, not numeric, or its rows have another shape.
    """
    rows = _dispatch(x)
    if len(rows) == 0 or rows.event_shape.numel() == 0:
        shape = (len(rows), *rows.event_shape)
        raise DataError(f"data need at least one row and one column; got shape {shape}; check how they were selected")
    if event_shape is not None and rows.event_shape != event_shape:
        raise DataError(_wrong_shape(rows, event_shape))
    return rows


def _dispatch(x: Any) -> Rows:
    if isinstance(x, Rows):
        return x
    if isinstance(x, Tensor):
        return _from_tensor(x)
    if hasattr(x, "to_numpy") and hasattr(x, "columns"):
        return _from_frame(x)
    if isinstance(x, Dataset) and not isinstance(x, IterableDataset):
        return _from_dataset(x)
    if hasattr(x, "toarray"):
        raise DataError(f"data must be dense; got a sparse {type(x).__name__}; convert with x.toarray()")
    return _from_array(x)


def _from_tensor(x: Tensor) -> Rows:
    if x.layout != torch.strided:
        raise DataError(f"data must be dense; got a tensor with layout {x.layout}; convert with x.to_dense()")
    if x.is_complex():
        raise DataError(f"data must be real numbers; got {x.dtype}; use x.real, x.imag or torch.view_as_real(x)")
    if x.dim() == 0:
        raise DataError("data need rows: an array of shape (N, ...); got a single number")
    x = x.detach()
    return Rows(lambda index: x[torch.as_tensor(index, device=x.device)], len(x), tuple(x.shape[1:]))


def _from_array(x: Any, columns: list[Any] | None = None) -> Rows:
    try:
        array = x if isinstance(x, np.ndarray) else np.asarray(x)
    except ValueError:
        raise DataError("data need rows of equal length; got a ragged sequence; pad or select first") from None
    if array.ndim == 0:
        raise DataError(f"data need rows: an array of shape (N, ...); got {type(x).__name__} {x!r:.60}")
    if array.dtype.kind == "c":
        raise DataError(f"data must be real numbers; got {array.dtype}; use x.real, x.imag or np.abs(x)")
    if array.dtype.kind not in "biuf":
        array = _numeric(array, Rows(array.__getitem__, len(array), array.shape[1:], columns))
    return Rows(array.__getitem__, len(array), array.shape[1:], columns)


def _numeric(array: np.ndarray, rows: Rows) -> np.ndarray:
    """An array of objects that are all numbers, as numbers; anything else is refused by its first cell."""
    for place in np.ndindex(array.shape):
        value = array[place]
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            raise DataError(
                f"data must be numbers; got {value!r:.60} ({type(value).__name__}) at "
                f"{rows.locate(place[0], place[1:])}; encode or drop it"
            )
    return array.astype(np.float64)


def _from_frame(frame: Any) -> Rows:
    columns = list(frame.columns)
    if not hasattr(frame, "iloc") or all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return _from_array(frame.to_numpy(), columns)
    cells = np.empty(frame.shape, dtype=object)
    for number, dtype in enumerate(frame.dtypes):
        column = frame.iloc[:, number]
        numeric = dtype.kind in "biuf"  # nullable numbers: what is missing becomes NaN, and the check names it
        cells[:, number] = column.to_numpy(dtype=float, na_value=np.nan) if numeric else column.to_numpy(dtype=object)
    return _from_array(cells, columns)


def _from_dataset(dataset: Any) -> Rows:
    def item(index: int) -> np.ndarray:
        value = dataset[index]
        value = value[0] if isinstance(value, (tuple, list)) else value
        return value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)

    length = len(dataset)
    first = _from_array(item(0)[None]) if length else Rows(np.asarray, 0, (0,))
    return Rows(lambda index: np.stack([item(int(i)) for i in index]), length, first.event_shape)


def _wrong_shape(rows: Rows, event_shape: torch.Size) -> str:
    got = (len(rows), *rows.event_shape)
    needs = f"data must have shape (N, {', '.join(map(str, event_shape))}); got {got}"
    if got == tuple(event_shape):
        return f"{needs}; one datum alone is x[None]"
    if rows.event_shape.numel() == event_shape.numel():
        return f"{needs}; x.reshape(len(x), {', '.join(map(str, event_shape))}) fits"
    return f"{needs}; build the parts for {tuple(rows.event_shape)}, or select the columns"


def refuse(bad: Tensor, x: Tensor, rows: Rows, chunk: slice, needs: str, remedy: str) -> None:
    """Raise for the first cell of `chunk` that is bad, if there is one.

    Raises:
        DataError: Who needs what; the value, its row and column; how many others; the remedy.
    """
    if not bool(bad.any()):
        return
    row, *column = bad.nonzero()[0].tolist()
    value = x[(row, *column)].tolist()
    more = int(bad.sum()) - 1
    others = f" (and {more} more)" if more else ""
    raise DataError(f"{needs}; got {value} at {rows.locate(chunk.start + row, tuple(column))}{others}; {remedy}")


def binarize(x: Any, threshold: float = 0.5) -> Tensor:
    """Grey values as 0 and 1: 1 where they exceed `threshold`.

    Returns:
        A tensor of the shape of `x`, in torch's default dtype.

    Raises:
        DataError: A value is not a number.
    """
    rows = as_rows(x)
    grey = rows.take(slice(None))
    refuse(grey.isnan(), grey, rows, slice(0, len(rows)), "binarize needs numbers", "drop or impute these rows")
    return (grey > threshold).to(grey.dtype)


def binarize_afresh(x: Any) -> Rows:
    """Grey values in [0, 1] as probabilities: rows are drawn anew whenever they are read, so at every epoch.

    This is the dynamic binarisation of Salakhutdinov & Murray (2008). For evaluation draw once:
    ``binarize_afresh(x).take(slice(None))``.

    Raises:
        DataError: A value lies outside [0, 1].
    """
    grey = as_rows(x)
    for chunk in grey.chunks(max(1, CHUNK // grey.event_shape.numel())):
        values = grey.take(chunk)
        outside = ~((values >= 0) & (values <= 1))
        refuse(outside, values, grey, chunk, "binarize_afresh needs grey values from 0 to 1", "divide by the largest")
    return Rows(lambda index: torch.bernoulli(grey.take(index)), len(grey), grey.event_shape, grey.columns)


def load(source: str | Path, key: str | None = None) -> Any:
    """Read data by name or from a file.

    Arguments:
        source: ``"digits"`` (scikit-learn's 8 x 8 digits, 1797 rows of 64 grey levels 0..16) or a path to ``.npy``
            (memory-mapped), ``.npz``, ``.csv`` (with a header line) or idx, the last also gzipped.
        key: Which array of an ``.npz`` with several.

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
        near = difflib.get_close_matches(str(source), ["digits"])
        hint = f"did you mean {near[0]!r}?" if near else "give 'digits' or a path to .npy, .npz, .csv or idx"
        raise DataError(f"there is no data set or file {str(source)!r}; {hint}")
    try:
        return _read(path, key)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path.name} could not be read as {path.suffix or 'idx'}: {error}; is it complete?") from error


def _read(path: Path, key: str | None) -> Any:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".npz":
        return _read_npz(path, key)
    if ".csv" in path.suffixes:
        import pandas

        return pandas.read_csv(path)
    return _read_idx(path)


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        if key is None and len(arrays.files) == 1:
            key = arrays.files[0]
        if key not in arrays.files:
            raise DataError(f"{path.name} holds {', '.join(arrays.files)}; got key={key!r}; name one of them")
        return arrays[key]


def _read_idx(path: Path) -> np.ndarray:
    """The idx format of MNIST: two zero bytes, a type code, the rank, big-endian sizes, big-endian values."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read()
    kinds = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    if content[:2] != b"\0\0" or len(content) < 4 or content[2] not in kinds:
        raise DataError(f"{path.name} is no data file that is known here; convert it to .npy, .npz, .csv or idx")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    values = np.frombuffer(content, kinds[content[2]], offset=4 + 4 * rank)
    return values.reshape([int(size) for size in shape])
