r"""What a conditional VAE is conditional on: :math:`p(z \mid c)`, :math:`p(x \mid z, c)`,
:math:`q(z \mid x, c)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..data.arrays import as_rows
from ..data.columns import in_order, names_of
from ..data.rows import DataError, Rows, refuse
from ..guards import whole_number

PARTS = ("prior", "likelihood", "guide")
RARE = 3  # times as many classes as occur are no classes, but years


class Condition:
    """How a condition c is written, and which parts of the VAE see it.

    A part that sees it reads it beside its own context: a vector is lengthened by c, an image (C,
    H, W) gets one constant channel for each number of c, any other shape is flattened first; the
    prior reads c alone.

    Arguments:
        size: How many numbers c has, for a numeric condition.
        categories: How many classes c has, for a categorical one, coded 0, 1, ...; it is made
            one-hot here.
        seen_by: The parts that see it: any of prior, likelihood, guide.
        columns: The names of the numbers, by which frames are put in order.

    Raises:
        ValueError: Both or neither of size and categories are given, a part is unknown, or there
            are not as many columns as numbers.

    Example:
        >>> Condition(categories=3).encode(torch.tensor([2.0, 0.0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        categories: int | None = None,
        seen_by: Sequence[str] = ("likelihood", "guide"),
        columns: list[str] | None = None,
    ) -> None:
        if (size is None) == (categories is None):
            raise ValueError(
                f"Condition needs size= for numbers, or categories= for classes; got {size!r} and "
                f"{categories!r}"
            )
        name, given = ("size", size) if categories is None else ("categories", categories)
        whole_number(name, given, at_least=1)
        if (
            not isinstance(seen_by, (list, tuple))
            or not seen_by
            or any(part not in PARTS for part in seen_by)
        ):
            raise ValueError(
                f"Condition needs seen_by as a list of some of {', '.join(PARTS)}; got {seen_by!r}"
            )
        if columns is not None and (not isinstance(columns, list) or len(columns) != size):
            raise ValueError(
                f"Condition needs columns as a list of {size} names; got {columns!r:.60}"
            )
        self.columns = columns
        self.size = size
        self.categories = categories
        self.seen_by = tuple(seen_by)

    @classmethod
    def of(cls, c: Any) -> Condition:
        """The condition that data c suggest: one column of whole numbers is classes; fractions, and
        columns of 0 and 1, are numbers.

        Raises:
            DataError: c may be either: several columns of whole numbers, or numbers such as years,
                of which few occur.
        """
        rows = as_rows(c, pairs=False)
        size, largest = rows.event_shape.numel(), rows.largest()
        if not _is_whole(rows) or (size > 1 and largest <= 1):
            return cls(size=size, columns=names_of(rows) if size > 1 else None)
        if size > 1:
            raise DataError(
                f"c has {size} columns of whole numbers, which may be numbers or classes; give "
                f"condition={{'size': {size}}} for numbers, and classes as one column, or as "
                "columns of 0 and 1"
            )
        categories, seen = int(largest) + 1, _count(rows)
        if categories > RARE * seen:
            raise DataError(
                f"c has whole numbers up to {categories - 1}, of which {seen} occur; number "
                "classes from 0, as np.unique(c, return_inverse=True)[1] does, or give "
                f"condition={{'size': 1}} for numbers, {{'categories': {categories}}} for so many "
                "classes"
            )
        return cls(categories=categories)

    @property
    def width(self) -> int:
        """How many numbers the parts see."""
        return self.categories or self.size or 0

    def describe(self) -> dict[str, Any]:
        """Names and plain values, as a spec writes them."""
        sizes = {"size": self.size} if self.categories is None else {"categories": self.categories}
        columns = {} if self.columns is None else {"columns": self.columns}
        return {**sizes, "seen_by": list(self.seen_by), **columns}

    def check(self, c: Any, length: int) -> Rows:
        """Data c as rows that fit.

        Raises:
            DataError: There is none, it has another length or shape, or values that are no classes
                or not finite.
        """
        if c is None:
            raise DataError("this VAE is conditional: give c, a row for each datum")
        rows = in_order(as_rows(c, pairs=False), self.columns)
        if len(rows) != length or rows.event_shape.numel() != (1 if self.categories else self.size):
            shape = (length,) if self.categories else (length, self.size)
            raise DataError(
                f"c must have shape {shape}, a row for each datum; got "
                f"{(len(rows), *rows.event_shape)}"
            )
        rows = rows.given(None)  # of our own: a caller's are left as they are
        for chunk, x in rows.scan():
            refuse(
                ~x.isfinite(), x, rows, chunk, "c needs finite numbers", "drop or impute these rows"
            )
            if self.categories:
                known = (x == x.round()) & (x >= 0) & (x < self.categories)
                needs = f"c needs classes from 0 to {self.categories - 1}"
                refuse(
                    ~known, x, rows, chunk, needs, "build the VAE with more categories, or recode"
                )
        return rows

    def fits(self, c: Any, length: int) -> bool:
        """Whether c is a tensor of the right shape: a batch, its values checked at the door."""
        plain = isinstance(c, Tensor) and c.is_floating_point() and c.dim() > 0 and len(c) == length
        return plain and c.shape[1:].numel() == (1 if self.categories else self.size)

    def encode(self, c: Tensor) -> Tensor:
        """Numbers ``(N, width)`` for c of shape ``(N,)`` or ``(N, size)``; classes one-hot."""
        flat = c.reshape(len(c), -1)
        return one_hot(flat[:, 0].long(), self.categories).to(c.dtype) if self.categories else flat

    def joined_shape(self, part: str, shape: torch.Size) -> torch.Size:
        """The shape of the context that `part` reads, `shape` being its shape without c."""
        if part not in self.seen_by:
            return shape
        if len(shape) == 3:
            return torch.Size((shape[0] + self.width, *shape[1:]))
        return torch.Size([shape.numel() + self.width])

    def join(self, part: str, context: Tensor, c: Tensor, event_dim: int) -> Tensor:
        """A context of shape ``(*, ...)`` beside encoded c of shape ``(N, width)``, for the parts
        that see it.
        """
        if part not in self.seen_by:
            return context
        batch = torch.broadcast_shapes(context.shape[: context.dim() - event_dim], c.shape[:-1])
        context = context.expand(batch + context.shape[context.dim() - event_dim :])
        if event_dim == 3:
            channels = c[..., None, None].expand(*batch, self.width, *context.shape[-2:])
            return torch.cat([context, channels], -3)
        return torch.cat([context.reshape(*batch, -1), c.expand(*batch, self.width)], -1)


def _count(rows: Rows) -> int:
    """How many values occur."""
    values = torch.empty(0)
    for chunk in rows.chunks():
        values = torch.cat([values, rows.take(chunk).flatten()]).unique()
    return len(values)


def _is_whole(rows: Rows) -> bool:
    return all(
        bool(((x := rows.take(chunk)) == x.round()).all() and (x >= 0).all())
        for chunk in rows.chunks()
    )
