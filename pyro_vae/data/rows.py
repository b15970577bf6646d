"""Rows: data of one shape, read a few at a time, whatever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

DIGITS = 16  # of a digest
CHUNK = 2**20  # numbers looked at together when data are checked


class DataError(ValueError):
    """The data do not fit: the message names row, column and value, and says what to do."""


@dataclass(frozen=True)
class Summary:
    """What one pass over all rows tells.

    Arguments:
        digest: A digest of all values in single precision: equal for equal data, whatever they
            are read from.
        seen: How many cells are not missing.
        first: The first row, of shape ``(1, *event_shape)``.
    """

    digest: str
    seen: int
    first: Tensor


class Rows:
    """Data as N rows of one event shape, read a few at a time.

    Arguments:
        fetch: Maps an index array of shape ``(B,)`` to an array or tensor of shape
            ``(B, *event_shape)``.
        length: The number of rows, N.
        event_shape: The shape of one row.
        columns: Labels of the columns, if they have any.
        c: What the data are conditional on, row by row.
        is_fixed: Whether a row is the same whenever it is read.
        labels: For each column the names of its classes, of which the rows have the numbers, or
            None for numbers; None if all are.
    """

    def __init__(
        self,
        fetch: Callable[[np.ndarray], Any],
        length: int,
        event_shape: tuple[int, ...],
        columns: list[Any] | None = None,
        c: Rows | None = None,
        is_fixed: bool = False,
        labels: list[list[Any] | None] | None = None,
    ) -> None:
        self.fetch = fetch
        self.length = length
        self.columns = columns
        self.c = c
        self.is_fixed = is_fixed
        self.labels = labels
        self.event_shape = torch.Size(event_shape)
        self.numbers: np.ndarray | None = None  # where these are some rows: which
        self.device: torch.device | None = None  # where all rows are in memory, if they are
        self._summary: Summary | None = None
        self._moments: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.length

    def given(self, c: Rows | None) -> Rows:
        """The same rows, each with its row of c."""
        rows = self._like(self.fetch, self.length, c)
        rows._summary, rows._moments = self._summary, self._moments
        rows.device = self.device
        return rows

    def _like(self, fetch: Callable[[Any], Any], length: int, c: Rows | None) -> Rows:
        """Other rows of the same columns."""
        shape, columns, labels = self.event_shape, self.columns, self.labels
        return Rows(fetch, length, shape, columns, c, is_fixed=self.is_fixed, labels=labels)

    def take(self, index: Any, like: Tensor | None = None) -> Tensor:
        """Rows `index`, a slice, an array or what :meth:`as_index` gave, in the dtype and on the
        device of `like` (default: torch's default dtype, on the CPU).
        """
        like = torch.empty(0) if like is None else like
        index = np.arange(*index.indices(self.length)) if isinstance(index, slice) else index
        batch = self.fetch(index)
        if not isinstance(batch, Tensor):
            kind = np.float64 if like.dtype == torch.float64 else np.float32
            with np.errstate(over="ignore"):  # what overflows is infinite, and the check names it
                batch = torch.from_numpy(np.array(batch, dtype=kind, order="C"))
        if like.is_cuda and not batch.is_cuda:  # a copy that nobody waits for
            batch = batch.to(like.dtype).pin_memory()
        return batch.to(device=like.device, dtype=like.dtype, non_blocking=like.is_cuda)

    def batch(self, index: Any, like: Tensor | None = None) -> tuple[Tensor, ...]:
        """What model and guide are called with: rows `index` of x, and of c if there is one."""
        x = self.take(index, like)
        return (x,) if self.c is None else (x, self.c.take(index, like))

    def as_index(self, index: np.ndarray) -> Any:
        """Row numbers where the rows are, so that to look up some of them moves no numbers."""
        return index if self.device is None else torch.as_tensor(index, device=self.device)

    def only(self, index: np.ndarray) -> Rows:
        """Some of the rows, by number or by a mask, still read a few at a time; and their c.

        Raises:
            DataError: It is neither, or there is no such row.
        """
        index = np.asarray(index)
        if index.dtype == bool and index.shape == (self.length,):
            index = np.flatnonzero(index)
        is_whole = index.ndim == 1 and (index.dtype.kind in "iu" or len(index) == 0)
        if not is_whole or (
            len(index) and not -self.length <= index.min() <= index.max() < self.length
        ):
            raise DataError(
                f"only needs numbers of rows from 0 to {self.length - 1}, or True or False for "
                f"each; got {index!r:.60}"
            )
        index = index.astype(int) % self.length
        c = None if self.c is None else self.c.only(index)
        rows = self._like(lambda inner: self.fetch(index[inner]), len(index), c)
        rows.numbers = index if self.numbers is None else self.numbers[index]
        return rows

    def in_memory(self, like: Tensor | None = None) -> Rows:
        """The same rows, all read now, and not again."""
        like = torch.empty(0) if like is None else like
        x = like.new_empty((self.length, *self.event_shape))
        for chunk in self.chunks():
            x[chunk] = self.take(chunk, like)
        c = None if self.c is None else self.c.in_memory(like)
        fetch = lambda index: x[torch.as_tensor(index, device=x.device)]  # noqa: E731
        rows = self._like(fetch, self.length, c)
        rows.is_fixed = True
        rows.device = x.device
        rows._summary = self._summary
        return rows

    def on_device(self, like: Tensor, max_bytes: int) -> Rows:
        """The same rows, all on the device of `like`, if they fit and each reading gives the same;
        else as they are.
        """
        parts = [self] if self.c is None else [self, self.c]
        size = sum(part.length * part.event_shape.numel() for part in parts) * like.element_size()
        may = size <= max_bytes and all(part.is_fixed for part in parts)
        return self.in_memory(like) if may else self

    def scan(self, like: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """All rows, chunk by chunk. Afterwards the summary is known without another pass."""
        digest = _digest_of_shape(self)
        seen = 0
        first = None
        for chunk in self.chunks():
            x = self.take(chunk, like)
            first = x[:1].clone() if first is None else first
            digest.update(_single(x))
            seen += x.numel() - int(x.isnan().sum())
            yield chunk, x
        assert first is not None
        self._summary = Summary(digest.hexdigest()[:DIGITS], seen, first)

    @property
    def summary(self) -> Summary:
        """Digest, number of seen cells and first row: of the last scan, or of one made now."""
        if self._summary is None:
            for _ in self.scan():
                pass
        assert self._summary is not None
        return self._summary

    @property
    def has_missing(self) -> bool:
        """Whether a cell is missing."""
        return self.summary.seen < self.length * self.event_shape.numel()

    def columns_only(self, columns: list[int]) -> Rows:
        """The same rows with some of their columns."""
        shape = (len(columns),)
        picked = lambda index: self.take(index)[:, columns]  # noqa: E731
        labels = None if self.labels is None else [self.labels[column] for column in columns]
        return Rows(picked, len(self), shape, is_fixed=self.is_fixed, labels=labels)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """A function of each number, of the same rows, in double precision."""
        like = torch.empty(0, dtype=torch.float64)
        return Rows(lambda index: function(self.take(index, like)), len(self), self.event_shape)

    def largest(self) -> float:
        """The largest of the finite values; NaN and infinity are left to the check of the data."""
        return max(
            float(self.take(chunk).nan_to_num(0.0, 0.0, 0.0).max()) for chunk in self.chunks()
        )

    def largest_total(self) -> float:
        """The largest sum of a row over its last dimension."""
        return max(
            float(self.take(chunk).nan_to_num(0.0, 0.0, 0.0).sum(-1).max())
            for chunk in self.chunks()
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each column, in double precision, each of the event shape;
        NaN is left out.
        """
        if self._moments is None:
            self._moments = self._read_moments()
        return self._moments

    def _read_moments(self) -> tuple[Tensor, Tensor]:
        like = torch.empty(0, dtype=torch.float64)
        first = second = count = torch.zeros(self.event_shape, dtype=torch.float64)
        origin = self.take(slice(0, 1), like)[0].nan_to_num(0.0)
        for chunk in self.chunks():
            x = self.take(chunk, like) - origin
            first, second = first + x.nansum(0), second + (x * x).nansum(0)
            count = count + (~x.isnan()).sum(0)

        count = count.clamp(min=1)
        mean = first / count
        return origin + mean, (second / count - mean**2).clamp(min=0).sqrt()

    def chunks(self, size: int | None = None) -> Iterator[slice]:
        """Slices of at most `size` rows (default: as many as hold ``CHUNK`` numbers) that cover all
        rows once.
        """
        size = max(1, CHUNK // self.event_shape.numel()) if size is None else size
        for start in range(0, self.length, size):
            yield slice(start, min(start + size, self.length))

    def locate(self, row: int, column: tuple[int, ...]) -> str:
        """Where a cell is, in the caller's terms."""
        return f"row {row}, {self.name_of(column)}" if column else f"row {row}"

    def name_of(self, column: tuple[int, ...]) -> str:
        """A column, in the caller's terms."""
        if not column:
            return "its one number"
        if self.columns is not None:
            return f"column {self.columns[column[-1]]!r}"
        return f"column {column[0] if len(column) == 1 else tuple(column)}"


class Rereading:
    """Notices whether rows that are read again, in order, are those of the scan; so that a number
    is not of one draw of the data, and what stands beside it of another.

    Arguments:
        rows: The rows; those that were not scanned are not held to anything.
    """

    def __init__(self, rows: Rows) -> None:
        parts = [part for part in (rows, rows.c) if part is not None]
        self.parts = [(part, _digest_of_shape(part)) for part in parts]

    def take(self, chunk: slice, batch: tuple[Tensor, ...]) -> None:
        """Take in the next rows of x, and of c if there is one.

        Raises:
            DataError: The first row is another than before, or in the end any is.
        """
        for (part, digest), x in zip(self.parts, batch, strict=True):
            before = part._summary
            if before is None:
                continue
            digest.update(_single(x))
            is_other = chunk.start == 0 and _single(x[:1]) != _single(before.first)
            is_last = chunk.stop == len(part)
            if is_other or (is_last and digest.hexdigest()[:DIGITS] != before.digest):
                raise DataError(
                    "data must be the same at each reading, or log p(x) is of one and its figures "
                    "of another; these change from one reading to the next, as augmented ones do; "
                    "give one reading, such as binarize_afresh(x).take(slice(None))"
                )


def _digest_of_shape(rows: Rows) -> Any:
    return hashlib.sha256(repr(tuple(rows.event_shape)).encode())


def _single(x: Tensor) -> bytes:
    """Values in single precision, as they are digested."""
    return x.to("cpu", torch.float32).contiguous().numpy().tobytes()
