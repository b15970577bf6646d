"""Data sets, loaders and streams of torch as rows; of pairs (x, c), as rows of x and rows of c."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    default_collate,
    default_convert,
)

from .rows import DataError, Rows

LOG = logging.getLogger("pyro_vae.data")
AsTensor = Callable[[Any], Tensor]  # one item as a tensor of numbers
MEGABYTE = 2**20
PLAIN = (default_collate, default_convert)  # what a loader does by itself


def is_dataset(x: Any) -> bool:
    """Whether it is a data set, a stream or a loader of torch."""
    return isinstance(x, (Dataset, DataLoader))


def from_dataset(x: Any, as_tensor: AsTensor, *, pairs: bool) -> Rows:
    """The rows of a data set; of pairs, the first parts.

    Raises:
        DataError: It has no length, an item is no number, items have different shapes, or they are
            pairs and must not be.
    """

    def single(value: Any) -> Any:
        if not pairs and _is_pair(value):
            raise DataError(
                "c must be labels or covariates alone; got a data set of pairs, whose first parts "
                "are x; give the second, such as torch.tensor([c for _, c in data])"
            )
        return as_tensor(_part(value, 0))

    return _parts(x, single, [None])[0]


def pairs_of(x: Any, as_tensor: AsTensor) -> tuple[Rows, Rows] | None:
    """The rows of x and of c of a data set of pairs, each item read once; None where items are no
    pairs.
    """
    if not is_dataset(x) or not _has_pairs(x):
        return None
    first, second = _parts(x, as_tensor, [0, 1])
    return first, second


def _has_pairs(x: Any) -> bool:
    source: Any = x.dataset if isinstance(x, DataLoader) else x
    if isinstance(source, IterableDataset):
        first = next(iter(source), None)
    else:
        first = source[0] if len(source) else None
    return _is_pair(first)


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) > 1


def _parts(x: Any, as_tensor: AsTensor, places: Sequence[int | None]) -> list[Rows]:
    """Rows of the parts of each item at these places; None for the whole item."""
    workers = x.num_workers if isinstance(x, DataLoader) else 0
    source = x.dataset if isinstance(x, DataLoader) else x
    if isinstance(x, DataLoader) and x.collate_fn not in PLAIN:
        raise DataError(
            "a loader's collate_fn is not used, as rows are taken in another order; put what it "
            "does into the data set"
        )
    if isinstance(source, IterableDataset):
        return _spooled(x, as_tensor, places)
    if not hasattr(source, "__len__"):
        raise DataError(
            f"data need a length; got {type(source).__name__}; use a map-style Dataset with "
            "__len__, or an IterableDataset, which is read once"
        )
    items = _Items(source, as_tensor, workers)
    return [items.rows(place) for place in places]


class _Items:
    """The items of a data set, of which all parts are read at once.

    Arguments:
        dataset: A map-style data set.
        as_tensor: Makes a tensor of a part.
        workers: How many threads read items together.
    """

    def __init__(self, dataset: Any, as_tensor: AsTensor, workers: int) -> None:
        self.dataset = dataset
        self.as_tensor = as_tensor
        self.workers = workers
        self.title = type(dataset).__name__
        # read for its shape, and handed out at the first reading
        self.known = {0: dataset[0]} if len(dataset) else {}
        self.last: tuple[bytes, list[Any]] = (b"", [])
        self.readings = 0
        self.places = 0  # that rows were made of

    def rows(self, place: int | None) -> Rows:
        """The parts at one place, as rows."""
        self.places += 1
        given = 0  # the last reading of which this part was given
        shape = self._tensor(0, self.known[0], place).shape if self.known else torch.Size([0])

        def fetch(index: np.ndarray) -> Tensor:
            nonlocal given
            key = index.tobytes()
            if self.last[0] != key or given == self.readings:  # each reading gives a part once
                self.last = key, self._read(index.tolist())
                self.readings += 1
            given = self.readings
            parts = [
                self._tensor(i, value, place)
                for i, value in zip(index.tolist(), self.last[1], strict=True)
            ]
            for i, part in zip(index.tolist(), parts, strict=True):
                if part.shape != shape:
                    raise DataError(
                        f"item {i} of {self.title} has shape {tuple(part.shape)}, item 0 has "
                        f"{tuple(shape)}; pad or select first"
                    )
            if self.places == 1:
                self.last = (b"", [])  # nobody else wants it
            return torch.stack(parts)

        return Rows(fetch, len(self.dataset), shape)

    def _read(self, index: list[int]) -> list[Any]:
        """Items, together where the data set or threads can."""
        wanted = [i for i in index if i not in self.known]
        if hasattr(self.dataset, "__getitems__"):
            values = list(self.dataset.__getitems__(wanted)) if wanted else []
        elif self.workers > 0:
            with ThreadPoolExecutor(self.workers) as pool:
                values = list(pool.map(self.dataset.__getitem__, wanted))
        else:
            values = [self.dataset[i] for i in wanted]
        found = iter(values)
        return [self.known.pop(i) if i in self.known else next(found) for i in index]

    def _tensor(self, number: int, value: Any, place: int | None) -> Tensor:
        try:
            return self.as_tensor(_part(value, place))
        except DataError as error:
            raise DataError(f"item {number} of {self.title}: {error}") from None


def _part(item: Any, place: int | None) -> Any:
    return item[place] if isinstance(item, (tuple, list)) and place is not None else item


def _spooled(x: Any, as_tensor: AsTensor, places: Sequence[int | None]) -> list[Rows]:
    """A stream, read once into temporary files, which are mapped and vanish with their rows."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in places]
        shapes: list[Any] = [None] * len(places)
        length = 0
        for value in _items_of(x):
            for number, place in enumerate(places):
                part = as_tensor(_part(value, place)).numpy()
                shapes[number] = shapes[number] or part.shape
                if part.shape != shapes[number]:
                    raise DataError(
                        f"item {length} of a stream has shape {part.shape}, item 0 has "
                        f"{shapes[number]}; pad or select first"
                    )
                files[number].write(part.tobytes())
            length += 1
        if not length:
            return [Rows(lambda index: np.empty(0), 0, (0,)) for _ in places]
        size = sum(file.tell() for file in files) / MEGABYTE
        LOG.info("read %d rows of a stream into a temporary file of %.0f MB", length, size)
        return [_mapped(*each, length) for each in zip(files, shapes, strict=True)]


def _mapped(file: Any, shape: tuple[int, ...], length: int) -> Rows:
    """Rows of numbers in double precision in a file, which may be closed and unlinked after."""
    file.flush()
    array = np.memmap(file, np.float64, "r", shape=(length, *shape))
    return Rows(array.__getitem__, length, shape, is_fixed=True)


def _items_of(x: Any) -> Iterator[Any]:
    """The items of a stream; a loader reads it by its workers, a batch at a time."""
    if not isinstance(x, DataLoader) or x.batch_size is None:
        yield from x
        return
    batches: Iterable[Any] = x
    for batch in batches:
        parts = batch if isinstance(batch, (tuple, list)) else [batch]
        for values in zip(*parts, strict=True):
            yield values if len(values) > 1 else values[0]
