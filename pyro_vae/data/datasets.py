"""Data sets, loaders and streams of torch as rows; of pairs (x, c), as rows of x and rows of c."""

from __future__ import annotations

import contextlib
import logging
import numbers
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from .rows import DataError, Rows

LOG = logging.getLogger("pyro_vae.data")
AsTensor = Callable[[Any], Tensor]  # an item, or a part of it, as a tensor of numbers
MEGABYTE = 2**20
PLAIN = (default_collate, default_convert)  # what a loader does by itself
BATCHES = (BatchSampler, type(None))


def is_dataset(x: Any) -> bool:
    """Whether it is a data set, a stream or a loader of torch."""
    return isinstance(x, (Dataset, DataLoader))


def from_dataset(x: Any, as_tensor: AsTensor, *, pairs: bool) -> Rows:
    """The rows of a data set; of pairs, the first parts.

    Raises:
        DataError: It has no length, an item is no number, items have different shapes, or they are
            pairs and must not be.
    """

    def single(item: Any) -> Tensor:
        if not pairs and _is_pair(item):
            raise DataError(
                "c must be labels or covariates alone; got a data set of pairs, whose first parts "
                "are x; give the second, such as torch.tensor([c for _, c in data])"
            )
        return as_tensor(_first(item))

    return _rows(x, [single])[0]


def pairs_of(x: Any, as_tensor: AsTensor) -> tuple[Rows, Rows] | None:
    """The rows of x and of c of a data set of pairs, both of one reading; None where items are no
    pairs.

    A stream is read once, here: where its items are no pairs, it cannot be read again, so that it
    is refused.
    """
    if not is_dataset(x):
        return None
    source: Any = x.dataset if isinstance(x, DataLoader) else x
    if not isinstance(source, IterableDataset) and not _has_pairs(source):
        return None

    def part(place: int) -> AsTensor:
        def of(item: Any) -> Tensor:
            if not _is_pair(item):
                raise DataError(
                    "this VAE is conditional: give c, a row for each datum, or a stream of pairs "
                    "(x, c)"
                )
            return as_tensor(item[place])

        return of

    first, second = _rows(x, [part(0), part(1)])
    return first, second


def _has_pairs(source: Any) -> bool:
    return hasattr(source, "__len__") and len(source) > 0 and _is_pair(source[0])


def _first(item: Any) -> Any:
    """x of an item: the item, or the first of its parts."""
    has_parts = _is_pair(item) or (isinstance(item, tuple) and len(item) == 1)
    return item[0] if has_parts else item


def _is_pair(item: Any) -> bool:
    """Whether an item is (x, c), and no list of plain numbers.

    Raises:
        DataError: It has more parts.
    """
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        return False
    if isinstance(item, list) and all(isinstance(part, numbers.Number) for part in item):
        return False
    if len(item) > 2:
        raise DataError(
            f"items must be x, or pairs (x, c); got {len(item)} parts; leave the others out, or "
            "join them to c"
        )
    return True


def _rows(x: Any, parts: Sequence[AsTensor]) -> list[Rows]:
    """Rows of the parts of each item."""
    workers = x.num_workers if isinstance(x, DataLoader) else 0
    source = x.dataset if isinstance(x, DataLoader) else x
    if isinstance(x, DataLoader):
        _refuse_what_is_not_used(x)
    if isinstance(source, IterableDataset):
        return _spooled(x, parts)
    if not hasattr(source, "__len__"):
        raise DataError(
            f"data need a length; got {type(source).__name__}; use a map-style Dataset with "
            "__len__, or an IterableDataset, which is read once"
        )
    items = _Items(source, workers)
    return [items.rows(part) for part in parts]


def _refuse_what_is_not_used(loader: DataLoader) -> None:
    """Raise for a loader that chooses or changes items: all rows are taken, in another order."""
    if loader.collate_fn not in PLAIN:
        raise DataError(
            "a loader's collate_fn is not used, as rows are taken in another order; put what it "
            "does into the data set"
        )
    if isinstance(loader.dataset, IterableDataset):
        return
    chosen = getattr(loader.sampler, "replacement", False) or (
        hasattr(loader.sampler, "__len__") and len(loader.sampler) != len(loader.dataset)  # type: ignore[arg-type]
    )
    known = (SequentialSampler, RandomSampler)
    if chosen or type(loader.sampler) not in known or type(loader.batch_sampler) not in BATCHES:
        raise DataError(
            "a loader's sampler is not used, as all rows are taken; give the rows that you mean, "
            "such as torch.utils.data.Subset(data, indices)"
        )


class _Items:
    """The items of a data set, of which all parts are read at once.

    Arguments:
        dataset: A map-style data set.
        workers: How many threads read items together.
    """

    def __init__(self, dataset: Any, workers: int) -> None:
        self.dataset = dataset
        self.workers = workers
        self.title = type(dataset).__name__
        # read for its shape, and handed out at the first reading
        self.known = {0: dataset[0]} if len(dataset) else {}
        self.last: tuple[bytes, int, list[Any]] = (b"", 0, [])  # which rows, which reading, items
        self.places = 0  # that rows were made of

    def rows(self, part: AsTensor) -> Rows:
        """One part of each item, as rows."""
        self.places += 1
        given = 0  # the last reading of which this part was given
        shape = self._tensor(0, self.known[0], part).shape if self.known else torch.Size([0])

        def fetch(index: np.ndarray) -> Tensor:
            nonlocal given
            key = index.tobytes()
            rows, reading, items = self.last
            if rows != key or given == reading:  # each reading gives a part once
                items, reading = self._read(index.tolist()), reading + 1
                self.last = key, reading, items if self.places > 1 else []
            given = reading
            pairs = zip(index.tolist(), items, strict=True)
            tensors = [self._tensor(i, item, part) for i, item in pairs]
            for i, tensor in zip(index.tolist(), tensors, strict=True):
                if tensor.shape != shape:
                    raise DataError(
                        f"item {i} of {self.title} has shape {tuple(tensor.shape)}, item 0 has "
                        f"{tuple(shape)}; pad or select first"
                    )
            return torch.stack(tensors)

        return Rows(fetch, len(self.dataset), shape)

    def _read(self, index: list[int]) -> list[Any]:
        """Items, together where the data set or threads can."""
        known, self.known = self.known, {}
        wanted = [i for i in index if i not in known]
        if hasattr(self.dataset, "__getitems__"):
            items = list(self.dataset.__getitems__(wanted)) if wanted else []
        elif self.workers > 0:
            with ThreadPoolExecutor(self.workers) as pool:
                items = list(pool.map(self.dataset.__getitem__, wanted))
        else:
            items = [self.dataset[i] for i in wanted]
        found = iter(items)
        return [known[i] if i in known else next(found) for i in index]

    def _tensor(self, number: int, item: Any, part: AsTensor) -> Tensor:
        try:
            return part(item)
        except DataError as error:
            raise DataError(f"item {number} of {self.title}: {error}") from None


def _spooled(x: Any, parts: Sequence[AsTensor]) -> list[Rows]:
    """A stream, read once into temporary files, which are mapped and vanish with their rows."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in parts]
        shapes: list[Any] = [None] * len(parts)
        length = 0
        for item in _items_of(x):
            for number, part in enumerate(parts):
                values = part(item).numpy()
                shapes[number] = values.shape if shapes[number] is None else shapes[number]
                if values.shape != shapes[number]:
                    raise DataError(
                        f"item {length} of a stream has shape {values.shape}, item 0 has "
                        f"{shapes[number]}; pad or select first"
                    )
                files[number].write(values.tobytes())
            length += 1
        if not length:
            return [Rows(lambda index: np.empty(0), 0, (0,)) for _ in parts]
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
