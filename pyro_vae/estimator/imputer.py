"""Missing cells filled in by a VAE, as a transformer of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..assembly.imputation import impute
from ..assembly.streams import joined, rows_at_once
from ..conditionals.base import Conditional
from ..conditionals.classes import Categorical, Ordinal
from ..conditionals.columns import Columns
from ..data.columns import as_array
from ..data.rows import Rows
from ..distributions.intervals import WithAtoms
from ..distributions.supports import base_of
from ..guards import mode, seeded
from ..vae import VAE
from .estimator import VAEEstimator
from .tables import rows_of

STRATEGIES = ("mean", "median", "mode", "draw")


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Missing cells, NaN or None, filled in by a VAE, given the cells of the row that are seen.

    What stands in for a cell x, with p(x | what is seen) its distribution by the VAE:

    ========  =======================  ==========================  ==========================
    strategy  numbers                  ordered classes             classes
    ========  =======================  ==========================  ==========================
    mean      its mean                 the mean of their numbers   the class with most weight
    median    its median               its median                  the class drawn most often
    mode      the number drawn most    the class drawn most often  the class drawn most often
              often: of counts, or of
              values with masses of
              their own, as zeros
    draw      one draw                 one draw                    one draw
    ========  =======================  ==========================  ==========================

    Ordered classes are those of the family ``ordinal``; where they have names, their mean is the
    class that is nearest to it. The mean is best for squared errors and makes data look less
    spread than they are, the median for absolute errors, the mode for the share of cells that are
    right. For what depends on the spread use draws: ``estimator_.vae_.impute(X, draws=20)`` gives
    20 data sets.

    After ``fit`` there are ``estimator_``, ``n_features_in_`` and, where X was a data frame,
    ``feature_names_in_``.

    Arguments:
        estimator: The :class:`VAEEstimator` that is cloned and fitted, None for the default one.
            Its `num_samples` is how many z are drawn for a row, and how many values for a median or
            mode; its `missingness` says why cells are missing.
        strategy: "mean", "median", "mode" or "draw".

    Example:
        >>> X = torch.randn(100, 3).numpy()
        >>> X[0, 1] = np.nan
        >>> filled = VAEImputer(VAEEstimator(latent=1, hidden=[2], epochs=5)).fit_transform(X)
        >>> bool(np.isnan(filled).any()), bool((filled[1:] == X[1:]).all())
        (False, True)
    """

    def __init__(self, estimator: VAEEstimator | None = None, *, strategy: str = "mean") -> None:
        self.estimator = estimator
        self.strategy = strategy

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit a clone of the estimator to X; y is ignored.

        Raises:
            TypeError: The estimator is no :class:`VAEEstimator`.
            DataError, ValueError, FloatingPointError, KeyboardInterrupt: As its own ``fit``.
        """
        return self._fit(X, VAEEstimator() if self.estimator is None else clone(self.estimator))

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train ``estimator_`` on, by its own ``partial_fit``; where there is none, as ``fit``."""
        if not hasattr(self, "estimator_"):
            return self.fit(X)
        rows_of(self, X)
        self.estimator_.partial_fit(X)
        return self

    def _fit(self, X: Any, estimator: VAEEstimator) -> Self:
        if not isinstance(estimator, VAEEstimator):
            raise TypeError(
                f"VAEImputer needs its estimator as a VAEEstimator; got {estimator!r:.40}"
            )
        _check(self.strategy)
        rows_of(self, X, reset=True)
        try:
            estimator.fit(X)
        finally:  # interrupted, it may have learnt something
            if hasattr(estimator, "vae_"):
                self.estimator_ = estimator
        return self

    def transform(self, X: Any) -> np.ndarray:
        """X with its missing cells filled in. What is seen stays as it is.

        The draws of z depend on a row's position, so reordering X changes the numbers slightly.

        Returns:
            An array of shape ``(N, features)``, or of objects where there are labels.

        Raises:
            DataError: The data do not fit the likelihood, or it does not factorise over cells.
            ValueError: X is no table of numbers, its columns are not those of ``fit``, there is no
                such strategy, or a continuous column was to have a mode.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        _check(self.strategy)
        given = rows_of(self, X)
        vae, seed = self.estimator_.vae_, self.estimator_.seed_
        rows = vae.check(given)
        with torch.no_grad(), seeded(seed), mode(vae, training=False):
            filled = _filled(vae, rows, self.strategy, self.estimator_.num_samples)
        array = as_array(vae.as_given(filled, X))
        dtype = getattr(X, "dtype", None)
        return array.astype(np.float32) if dtype == np.float32 else array

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _check(strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}; got {strategy!r}")


def _filled(vae: VAE, rows: Rows, strategy: str, num: int) -> Tensor:
    """Rows ``(N, features)`` with their missing cells filled in, from `num` draws of each."""
    if not rows.has_missing:
        return rows.take(slice(None), like=vae.reference.double())
    if strategy == "draw":
        return impute(vae, rows, num, 1)[0]
    if strategy == "mean":
        return _means(vae, rows, num)
    classes = _columns(vae, lambda part: isinstance(part, Categorical))
    if strategy == "mode":
        _refuse_without_mode(vae, rows)

    def summary(part: Rows) -> Tensor:
        draws = impute(vae, part, num, num)
        if strategy == "mode":
            return _most_often(draws)
        return torch.where(classes, _most_often(draws), draws.median(0).values)

    return _by_chunks(vae, rows, num, summary)


def _means(vae: VAE, rows: Rows, num: int) -> Tensor:
    """Missing cells by their means; of ordered classes that of their numbers."""
    means = impute(vae, rows, num, None)
    ordered = _columns(vae, lambda part: isinstance(part, Ordinal))
    if not ordered.any():
        return means
    numbers = _by_chunks(vae, rows, num, lambda part: impute(vae, part, num, num).mean(0))
    return torch.where(ordered, numbers, means)


def _by_chunks(vae: VAE, rows: Rows, num: int, summary: Callable[[Rows], Tensor]) -> Tensor:
    """What some rows give, for as many at a time as `num` draws of each have room."""
    chunks = rows.chunks(rows_at_once(vae, num))
    parts = ((chunk, rows.only(np.arange(chunk.start, chunk.stop))) for chunk in chunks)
    return joined(((chunk, summary(part)) for chunk, part in parts), len(rows))


def _columns(vae: VAE, is_wanted: Callable[[Conditional], bool]) -> Tensor:
    """Which cells of a row have a family of some kind."""
    head = getattr(vae.likelihood, "head", vae.likelihood)
    found = torch.zeros(vae.likelihood.event_shape, dtype=torch.bool, device=vae.reference.device)
    if not isinstance(head, Columns):
        return found | is_wanted(head)
    for part, columns in zip(head.parts, head.columns, strict=True):
        found[columns] = is_wanted(part)  # type: ignore[arg-type]  # of a ModuleList
    return found


def _most_often(draws: Tensor) -> Tensor:
    """The value that is most often among draws ``(K, N, features)``; of several, the middle one."""
    ordered = draws.movedim(0, -1).contiguous().sort(-1).values
    ends = torch.searchsorted(ordered, ordered, right=True)
    counts = ends - torch.searchsorted(ordered, ordered)
    is_most = counts == counts.max(-1, keepdim=True).values
    return ordered.where(is_most, torch.nan).nanmedian(-1).values


def _refuse_without_mode(vae: VAE, rows: Rows) -> None:
    """Raise where a cell is missing of which no value is drawn twice.

    Raises:
        ValueError: In which column.
    """
    continuous = _columns(vae, lambda part: not _has_masses(part))
    missing = rows.take(slice(None), like=continuous.double()).isnan() & continuous
    if bool(missing.any()):
        column = tuple(missing.nonzero()[0, 1:].tolist())
        raise ValueError(
            "strategy 'mode' needs counts or classes where cells are missing; got a continuous "
            f"{rows.name_of(column)}; use strategy 'median'"
        )


def _has_masses(part: Conditional) -> bool:
    """Whether single values have a probability: all, or some beside a density."""
    return part.support.is_discrete or isinstance(base_of(part.support), WithAtoms)
