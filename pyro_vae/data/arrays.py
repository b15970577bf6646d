"""Data: arrays, frames, annotated matrices and data sets as rows.

Everything that takes data reads it through :class:`Rows`, a few rows at a time, so a memory map is
never loaded whole. Integers and booleans are converted. The error for a cell that is no number says
its row, column and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .annotated import from_annotated, is_annotated, named
from .columns import labels_as_names, names_of, refuse_other_order
from .datasets import from_dataset, is_dataset, pairs_of
from .labels import coded, own_labels
from .refusals import refuse
from .rows import DataError, Rows

if TYPE_CHECKING:
    import pandas

HALF = (torch.float16, torch.bfloat16)


def as_rows(
    x: Any,
    event_shape: torch.Size | None = None,
    *,
    pairs: bool = True,
    labels: bool = False,
    layer: str | None = None,
) -> Rows:
    """Anything array-like as :class:`Rows`.

    Arguments:
        x: A tensor, array, memory map, DataFrame, sparse matrix of scipy's or torch's (rows are
            made dense as they are read), AnnData (of which X, by the names of its genes; a file
            that backs it is read by rows), torch ``Dataset`` or ``DataLoader`` (of pairs the first
            parts; a stream is read once, into a temporary file), nested list, or :class:`Rows`.
        event_shape: The shape that one row must have.
        pairs: Whether the items of a data set may be pairs, of which the first part is taken.
        labels: Whether columns of a DataFrame may be strings or categories: they become the numbers
            of their classes, whose names the rows keep.
        layer: The layer of an AnnData to take in place of X.

    Raises:
        DataError: `x` is empty, not numeric, its rows have another shape, or it has no such layer.
    """
    if layer is not None and not is_annotated(x):
        raise DataError(
            f"layer= names a layer of an AnnData; got {type(x).__name__}; give the AnnData, or "
            "leave it out"
        )
    rows = _dispatch(x, pairs, labels, layer)
    if len(rows) == 0 or rows.event_shape.numel() == 0:
        shape = (len(rows), *rows.event_shape)
        raise DataError(
            f"data need at least one row and one column; got shape {shape}; check how they were "
            "selected"
        )
    if event_shape is not None and rows.event_shape != event_shape:
        raise DataError(_wrong_shape(rows, event_shape))
    return rows


def _dispatch(x: Any, pairs: bool, labels: bool, layer: str | None) -> Rows:
    if isinstance(x, Rows):
        return x
    if is_annotated(x):
        return from_annotated(x, layer, _of_matrix)
    if isinstance(x, Tensor):
        return _from_tensor(x)
    if hasattr(x, "to_numpy") and hasattr(x, "columns"):
        return _from_frame(x, labels)
    if is_dataset(x):
        return from_dataset(x, _number, pairs=pairs)
    if isinstance(x, tuple) and any(isinstance(part, (Tensor, np.ndarray)) for part in x):
        raise DataError(
            "data are one array with a row for each datum; got a tuple of arrays. A tuple is taken "
            "as the arguments of a pair of Pyro functions, by log_evidence, annealed_log_evidence "
            "and compare_models, or of a model, by bridge_log_evidence. What a VAE is conditional "
            "on is given as c"
        )
    return _of_matrix(x)


def _of_matrix(x: Any) -> Rows:
    return _from_sparse(x) if hasattr(x, "tocsr") else _from_array(x)


def _from_tensor(x: Tensor) -> Rows:
    if x.is_complex():
        raise DataError(
            f"data must be real numbers; got {x.dtype}; use x.real, x.imag or torch.view_as_real(x)"
        )
    if x.dim() == 0:
        raise DataError("data need rows: an array of shape (N, ...); got a single number")
    if x.layout != torch.strided and x.dim() != 2:
        raise DataError(
            f"sparse data need two dimensions; got shape {tuple(x.shape)}; give x.to_dense()"
        )

    x = x.detach()
    if x.layout != torch.strided:
        from scipy import sparse

        cells = x.cpu().to_sparse_coo().coalesce()
        values = cells.values().float() if x.dtype in HALF else cells.values()
        parts = values.numpy(), tuple(cells.indices().numpy())
        return _from_sparse(sparse.coo_array(parts, shape=tuple(x.shape)))
    return Rows(
        lambda index: x[torch.as_tensor(index, device=x.device)],
        len(x),
        tuple(x.shape[1:]),
        is_fixed=True,
    )


def _from_sparse(x: Any) -> Rows:
    """A sparse matrix or array of scipy's: rows are made dense as they are read."""
    if x.ndim != 2:
        raise DataError(f"sparse data need two dimensions; got shape {x.shape}; give x.toarray()")
    rows = x.tocsr()
    if rows.dtype.kind not in "biuf":
        raise DataError(f"data must be real numbers; got {rows.dtype}; use x.real or abs(x)")
    return Rows(lambda index: rows[index].toarray(), rows.shape[0], (rows.shape[1],), is_fixed=True)


def _from_array(x: Any, columns: list[Any] | None = None) -> Rows:
    try:
        if isinstance(x, np.ma.MaskedArray) and x.dtype.kind in "biuf":
            x = np.ma.filled(x.astype(float), np.nan)
        array = x if isinstance(x, np.ndarray) else np.asarray(x)
    except ValueError:
        raise DataError(
            "data need rows of equal length; got a ragged sequence; pad or select first"
        ) from None

    if array.ndim == 0:
        raise DataError(
            f"data need rows: an array of shape (N, ...); got {type(x).__name__} {x!r:.60}"
        )
    if array.dtype.kind == "c":
        raise DataError(
            f"data must be real numbers; got {array.dtype}; use x.real, x.imag or np.abs(x)"
        )
    if array.dtype.kind not in "biuf":
        array = _numeric(array, Rows(array.__getitem__, len(array), array.shape[1:], columns))
    return Rows(array.__getitem__, len(array), array.shape[1:], columns, is_fixed=True)


def _numeric(array: np.ndarray, rows: Rows) -> np.ndarray:
    """An array of objects as numbers.

    Raises:
        DataError: A cell is no number; the message names the first.
    """
    for place in np.ndindex(array.shape):
        value = array[place]
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            raise DataError(
                f"data must be numbers; got {value!r:.60} ({type(value).__name__}) at "
                f"{rows.locate(place[0], place[1:])}; encode or drop it"
            )
    return array.astype(np.float64)


def _from_frame(frame: Any, labels: bool) -> Rows:
    columns = labels_as_names(frame.columns)
    own = own_labels(frame) if labels and hasattr(frame, "iloc") else None
    if own is not None:
        rows = _from_array(coded(frame, own, "data", missing=True), columns)
        rows.labels = own
        if names_of(rows) is None:
            raise DataError(
                "a frame with labels needs a name for each column, a string of its own; got "
                f"{columns!r:.60}; frame.columns = [...] names them"
            )
        return rows
    if not hasattr(frame, "iloc"):
        return _from_array(frame.to_numpy(), columns)
    rows = _of_numbers(frame, columns)
    rows.labels = [None] * len(columns) if labels else None
    return rows


def _of_numbers(frame: pandas.DataFrame, columns: list[Any]) -> Rows:
    """A frame of pandas without labels, whose missing numbers may be None."""
    if all(isinstance(dtype, np.dtype) and dtype.kind != "O" for dtype in frame.dtypes):
        return _from_array(frame.to_numpy(), columns)
    cells = np.empty(frame.shape, dtype=object)
    for number, dtype in enumerate(frame.dtypes):
        column = frame.iloc[:, number]
        if dtype.kind in "biuf":  # nullable numbers: a missing one becomes NaN
            cells[:, number] = column.to_numpy(dtype=float, na_value=np.nan)
        else:
            cells[:, number] = column.to_numpy(dtype=object, na_value=np.nan)
    return _from_array(cells, columns)


def with_c(x: Any, c: Any) -> tuple[Any, Any]:
    """x and c, where c may be the second parts of a data set of pairs, or given by the names of
    columns of ``obs`` of an AnnData.
    """
    if c is not None:
        refuse_other_order(x, c, "c")
        return x, named(x, c)
    found = pairs_of(x, _number)
    return (x, None) if found is None else found


def _number(value: Any) -> Tensor:
    """One item as a tensor in double precision."""
    rows = as_rows(value[None] if isinstance(value, Tensor) else np.asarray(value)[None])
    return rows.take(slice(0, 1), like=torch.empty(0, dtype=torch.float64))[0]


def _wrong_shape(rows: Rows, event_shape: torch.Size) -> str:
    got = (len(rows), *rows.event_shape)
    needs = f"data must have shape (N, {', '.join(map(str, event_shape))}); got {got}"
    if got == tuple(event_shape):
        return f"{needs}; one datum alone is x[None]"
    if rows.event_shape.numel() == event_shape.numel():
        return f"{needs}; x.reshape(len(x), {', '.join(map(str, event_shape))}) fits"
    return f"{needs}; build the parts for {tuple(rows.event_shape)}, or select the columns"


def binarize(x: Any, threshold: float | None = None) -> Tensor:
    """Grey values as 0 and 1: 1 where they exceed a threshold.

    Arguments:
        x: Grey values of shape ``(N, *X)``.
        threshold: The threshold; left out it is 0.5, and the grey values must lie in [0, 1].

    Returns:
        A tensor of the shape of `x`, in torch's default dtype.

    Raises:
        DataError: A value is not a number, or without a threshold lies outside [0, 1].
    """
    rows = as_rows(x)
    grey = rows.take(slice(None))
    all_rows = slice(0, len(rows))
    refuse(
        grey.isnan(), grey, rows, all_rows, "binarize needs numbers", "drop or impute these rows"
    )
    if threshold is None:
        outside = (grey < 0) | (grey > 1)
        needs = "binarize needs grey values from 0 to 1"
        remedy = "give a threshold, such as threshold=127"
        refuse(outside, grey, rows, all_rows, needs, remedy)
        threshold = 0.5
    return (grey > threshold).to(grey.dtype)


def binarize_afresh(x: Any) -> Rows:
    """Grey values in [0, 1] as probabilities: rows are drawn anew whenever they are read, so in
    every epoch.

    This is the dynamic binarisation of Salakhutdinov & Murray (2008). For evaluation draw once:
    ``binarize_afresh(x).take(slice(None))``.

    Arguments:
        x: Grey values of shape ``(N, *X)``.

    Returns:
        Rows of 0 and 1; each reading is a new draw.

    Raises:
        DataError: A value lies outside [0, 1].
    """
    grey = as_rows(x)
    for chunk in grey.chunks():
        values = grey.take(chunk)
        outside = ~((values >= 0) & (values <= 1))
        refuse(
            outside,
            values,
            grey,
            chunk,
            "binarize_afresh needs grey values from 0 to 1",
            "divide by the largest",
        )
    return Rows(
        lambda index: torch.bernoulli(grey.take(index)), len(grey), grey.event_shape, grey.columns
    )
