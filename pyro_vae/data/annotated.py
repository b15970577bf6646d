"""AnnData as rows: the numbers of its cells, the names of its genes, and what ``obs`` tells of each
cell.

Of a file that was opened with ``backed="r"`` the rows of X are read when they are wanted. Its
layers are in memory, as anndata reads them, and the X of a view of it is read into memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .refusals import listed
from .rows import DataError, Rows

if TYPE_CHECKING:
    import pandas


class AnnotatedRows(Rows):
    """Rows of an AnnData, whose ``obs`` may be named as c.

    Arguments:
        rows: The numbers.
        columns: The names of their columns.
        obs: What is known of each row.
    """

    def __init__(self, rows: Rows, columns: list[Any] | None, obs: pandas.DataFrame) -> None:
        shape = tuple(rows.event_shape)
        super().__init__(rows.fetch, len(rows), shape, columns, rows.c, is_fixed=rows.is_fixed)
        self.obs = obs

    def only(self, index: np.ndarray) -> Rows:
        numbers = np.arange(len(self))[index]
        rows = AnnotatedRows(super().only(index), self.columns, self.obs.iloc[numbers])
        rows.numbers = numbers if self.numbers is None else self.numbers[numbers]
        return rows


def is_annotated(x: Any) -> bool:
    """Whether it is an AnnData."""
    anndata = sys.modules.get("anndata")
    return anndata is not None and isinstance(x, anndata.AnnData)


def has_obs(x: Any) -> bool:
    """Whether it is an AnnData, or rows of one."""
    return is_annotated(x) or isinstance(x, AnnotatedRows)


def from_annotated(adata: Any, layer: str | None, in_memory: Callable[[Any], Rows]) -> Rows:
    """The rows of X, or of a layer.

    Arguments:
        adata: An AnnData, whole or a view, in memory or backed by a file.
        layer: The name of the layer; None for X.
        in_memory: Makes rows of an array or a sparse matrix.

    Raises:
        DataError: There is no such layer, no X, or it is a file that cannot be read by rows.
    """
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()]
        raise DataError(
            f"an AnnData needs names of its own for its genes; got {twice[0]!r} twice; "
            "adata.var_names_make_unique() helps"
        )
    matrix = _matrix(adata, layer)
    is_in_memory = isinstance(matrix, np.ndarray) or hasattr(matrix, "tocsr")
    rows = in_memory(matrix) if is_in_memory else _of_file(matrix)
    return AnnotatedRows(rows, adata.var_names.tolist(), adata.obs)


def _matrix(adata: Any, layer: str | None) -> Any:
    layers = [name for name in adata.layers if name is not None]  # which anndata 0.13 has for X
    if layer is None:
        matrix = adata.X  # of a view a copy
        if matrix is None:
            raise DataError(
                f"data need the X of an AnnData; got None; its layers are {listed(layers)}; name "
                "one of them: pv.data.as_rows(adata, layer=...)"
            )
        return matrix
    if layer not in layers:
        raise DataError(
            f"layer must name a layer of the AnnData; got {layer!r}; there are "
            f"{listed(layers)}; leave it out for X"
        )
    return adata.layers[layer]


def _of_file(matrix: Any) -> Rows:
    """Rows of a matrix that is not in memory, dense or sparse."""
    if getattr(matrix, "format", None) == "csc":
        raise DataError(
            "data in a file need rows that lie together; got a CSC matrix, of which each row is "
            "all over the file; read it into memory, adata.to_memory(), or write it anew with "
            "adata.X = adata.X.tocsr()"
        )
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"data must be real numbers; got {matrix.dtype}; write them as numbers")

    def fetch(index: np.ndarray) -> np.ndarray:
        rows, places = np.unique(index, return_inverse=True)  # a file is read in its own order
        first, last = int(rows[0]), int(rows[-1])
        are_neighbours = last - first == len(rows) - 1
        found = (matrix[first : last + 1] if are_neighbours else matrix[rows])[places]
        return found.toarray() if hasattr(found, "toarray") else found

    return Rows(fetch, matrix.shape[0], (matrix.shape[1],), is_fixed=True)


def named(x: Any, c: Any) -> Any:
    """What names in c stand for beside an AnnData, or rows of one: those columns of its obs, as a
    frame. Any other c is left as it is.

    Raises:
        DataError: There is no such column, or one is named twice.
    """
    names = [c] if isinstance(c, str) else c
    are_names = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if not are_names or not len(names) or not has_obs(x):
        return c
    unknown = [name for name in names if name not in x.obs.columns]
    if unknown:
        raise DataError(
            f"c must name columns of obs; got {listed(unknown)}; there are "
            f"{listed(list(x.obs.columns))}; labels themselves are given as an array"
        )
    if len(set(names)) < len(names):
        raise DataError(f"c must name different columns of obs; got {listed(list(names))}")
    return x.obs[list(names)]
