"""What scikit-learn gives, as the library takes it: a table X, and a random state."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from numpy.random import RandomState
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_random_state, validate_data
from torch import Tensor

from ..data.annotated import is_annotated
from ..data.arrays import as_rows
from ..data.columns import first_row
from ..data.labels import with_labels
from ..data.rows import Rows

if TYPE_CHECKING:
    import pandas


def rows_of(estimator: BaseEstimator, X: Any, *, reset: bool = False) -> Rows:
    """X as rows, if scikit-learn finds the columns of ``fit``; cells are checked later.

    Arguments:
        estimator: What has the columns, or learns them.
        X: A table of shape ``(N, features)``.
        reset: Whether the columns are learned.

    Raises:
        ValueError: X is no table of numbers, or its columns are not those of ``fit``.
    """
    table = X
    if isinstance(X, (Rows, Tensor)) or is_annotated(X):  # which it does not know
        X = as_rows(X)
        table = first_row(X)
    has_labels = hasattr(X, "iloc") and with_labels(X) is not None
    options = {"dtype": None if has_labels else "numeric", "accept_sparse": True}
    validate_data(estimator, table, reset=reset, ensure_all_finite=False, **options)
    return as_rows(X, labels=True)


def seed_from(random_state: int | RandomState | None) -> int:
    """A seed from what scikit-learn takes as random state."""
    generator = check_random_state(random_state)
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(generator.randint(2**31))


def continued(before: pandas.DataFrame, after: pandas.DataFrame) -> pandas.DataFrame:
    """Two histories as one, its epochs counted on; seconds are those of each training."""
    import pandas

    later = after.assign(epoch=after["epoch"] + len(before))
    return pandas.concat([before, later], ignore_index=True)
