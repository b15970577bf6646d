r"""What a conditional VAE is conditional on: :math:`p(z \mid c)`, :math:`p(x \mid z, c)`,
:math:`q(z \mid x, c)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..conditionals.networks import beside, shape_beside
from ..data.arrays import as_rows
from ..data.columns import in_order
from ..data.labels import (
    Labels,
    class_names,
    coded,
    none_as_nan,
    refuse_numbers_for_names,
    with_labels,
)
from ..data.refusals import refuse
from ..data.rows import DataError, Rows
from ..guards import whole_number
from .covariates import UNKNOWN, suggested

PARTS = ("prior", "likelihood", "guide")
Classes = int | Sequence[Any]  # how many, or their names


class Condition:
    """How a condition c is written, and which parts of the VAE see it.

    A column of c is a number, a class (made one-hot here), or the exposure. Parts read c beside
    their own context: a vector is lengthened by c, an image (C, H, W) gets a constant channel for
    each number, any other shape is flattened first; the prior reads c alone.

    The exposure, such as a time or the size factor of a cell, multiplies the rate of counts or
    amounts: it is known, and no network need learn it. The guide sees its logarithm.

    Arguments:
        size: How many columns c has.
        categories: For one column of classes: how many, coded 0, 1, ..., or their names.
        classes: Which of several columns are classes: how many, or their names, by column.
        exposure: The column that is the exposure.
        seen_by: The parts that see it: any of prior, likelihood, guide.
        columns: The names of the columns, by which frames are put in order; `classes` and
            `exposure` name columns by these, or by their numbers.

    Raises:
        ValueError: Both or neither of size and categories are given; a part or a column is unknown,
            or given twice; there are not as many names as columns; or the prior sees nothing.

    Example:
        >>> Condition(categories=3).encode(torch.tensor([2.0]))
        tensor([[0., 0., 1.]])
        >>> mixed = Condition(size=2, columns=["age", "batch"], classes={"batch": ["a", "b"]})
        >>> mixed.encode(torch.tensor([[0.5, 1.0]]))
        tensor([[0.5000, 0.0000, 1.0000]])
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        categories: Classes | None = None,
        classes: Mapping[str, Classes] | None = None,
        exposure: str | int | None = None,
        seen_by: Sequence[str] = ("likelihood", "guide"),
        columns: list[str] | None = None,
    ) -> None:
        if (size is None) == (categories is None):
            raise ValueError(
                f"Condition needs size= for numbers, or categories= for classes; got {size!r} and "
                f"{categories!r}; pv.build(x, c=...) finds them"
            )
        self.size = 1 if size is None else size
        whole_number("size", self.size, at_least=1)
        if columns is not None and (not isinstance(columns, list) or len(columns) != self.size):
            needs = f"Condition needs columns as a list of {self.size} names"
            raise ValueError(f"{needs}; got {columns!r:.60}")
        self.columns = columns
        self.seen_by = _checked_parts(seen_by)
        self.is_one_of_classes = categories is not None
        self.labels = self._labels(categories, classes or {})
        self.exposure = None if exposure is None else self._place("exposure", exposure)
        if self.exposure is not None and self.labels[self.exposure] is not None:
            raise ValueError(f"exposure: column {exposure!r} is one of classes; name another")
        self._numbers: list[int] = [
            place
            for place, labels in enumerate(self.labels)
            if labels is None and place != self.exposure
        ]
        if "prior" in self.seen_by and not self.width:
            raise ValueError(
                "Condition: the prior does not see the exposure, and there is nothing else in c; "
                "leave 'prior' out of seen_by"
            )

    @classmethod
    def of(cls, c: Any) -> Condition:
        """The condition that data c suggest: strings, categories, and one column of whole numbers
        are classes; fractions, and columns of 0 and 1, are numbers.

        Raises:
            DataError: c may be either: several columns of whole numbers, or numbers such as years,
                of which few occur.
        """
        return cls(**suggested(c))

    @property
    def width(self) -> int:
        """How many numbers prior and likelihood see; the guide sees the exposure too."""
        return len(self._numbers) + sum(len(labels or []) for labels in self.labels)

    @property
    def encoded_width(self) -> int:
        """How many numbers :meth:`encode` gives."""
        return self.width + (self.exposure is not None)

    def describe(self) -> dict[str, Any]:
        """Names and plain values, as a spec writes them."""
        classes = {
            self._name(place): labels if isinstance(labels[0], str) else len(labels)
            for place, labels in enumerate(self.labels)
            if labels is not None
        }
        given: dict[str, Any] = {"size": self.size}
        if self.is_one_of_classes:
            given = {"categories": classes.popitem()[1]}
        if classes:
            given["classes"] = classes
        if self.exposure is not None:
            given["exposure"] = self._name(self.exposure)
        columns = {} if self.columns is None else {"columns": self.columns}
        return {**given, "seen_by": list(self.seen_by), **columns}

    def check(self, c: Any, length: int, *, unknown: bool = False) -> Rows:
        """Data c as rows that fit. Classes may be NaN if they may be `unknown`.

        Raises:
            DataError: There is none, it has another length or shape, or values that are no classes,
                no exposure, or not finite.
        """
        if c is None:
            raise DataError("this VAE is conditional: give c, a row for each datum")
        rows = in_order(self.rows_of(c), self.columns, "c needs")
        if len(rows) != length or rows.event_shape.numel() != self.size:
            shape = (length,) if self.is_one_of_classes else (length, self.size)
            raise DataError(
                f"c must have shape {shape}, a row for each datum; got "
                f"{(len(rows), *rows.event_shape)}"
            )
        rows = rows.given(None)  # of our own: a caller's are left as they are
        for chunk, x in rows.scan():
            bad = x.isinf() if unknown else ~x.isfinite()
            remedy = UNKNOWN if self.is_one_of_classes else "drop or impute these rows"
            refuse(bad, x, rows, chunk, "c needs finite numbers", remedy)
            self._check_columns(x.reshape(len(x), -1), rows, chunk)
        return rows

    def rows_of(self, c: Any) -> Rows:
        """Data c as rows of numbers: labels as the numbers of their classes.

        Raises:
            DataError: A label is none of the classes, or c is no table of the right columns.
        """
        frame = with_labels(c := none_as_nan(c))
        if frame is None:
            refuse_numbers_for_names(c, self.labels)
            return as_rows(c, pairs=False)
        is_named = hasattr(c, "columns")
        if self.columns is not None and set(frame.columns) == set(self.columns):
            frame = frame[self.columns]
        if frame.shape[1] != self.size:
            raise DataError(f"c needs {self.size} columns; got {list(frame.columns)!r:.80}")
        rows = as_rows(coded(frame, self.labels, missing=True))
        rows.columns = list(frame.columns) if is_named else None
        return rows

    def fits(self, c: Any, length: int) -> bool:
        """Whether c is a tensor of the right shape: a batch, its values checked at the door."""
        plain = isinstance(c, Tensor) and c.is_floating_point() and c.dim() > 0 and len(c) == length
        return plain and c.shape[1:].numel() == self.size

    def encode(self, c: Tensor) -> Tensor:
        """Numbers ``(N, encoded_width)`` for c of shape ``(N,)`` or ``(N, size)``: its numbers, its
        classes one-hot, the logarithm of the exposure.
        """
        flat = c.reshape(len(c), -1)
        if len(self._numbers) == self.size:
            return flat
        pieces = [flat[:, self._numbers]]
        pieces += [
            one_hot(flat[:, place].long(), len(labels)).to(c.dtype)
            for place, labels in enumerate(self.labels)
            if labels is not None
        ]
        if self.exposure is not None:
            pieces.append(flat[:, self.exposure, None].log())
        return torch.cat(pieces, -1)

    def as_numbers(self, c: Rows) -> Rows | None:
        """The columns of c that are numbers, and the logarithm of the exposure; None for none."""
        if len(self._numbers) == self.size:
            return c
        places = self.places_of_numbers
        if not places:
            return None

        def fetch(index: Any) -> Tensor:
            return self.encode(c.take(index, torch.empty(0, dtype=torch.float64)))[:, places]

        return Rows(fetch, len(c), (len(places),))

    @property
    def places_of_numbers(self) -> list[int]:
        """Where in encoded c the numbers are."""
        first = list(range(len(self._numbers)))
        return first if self.exposure is None else [*first, self.encoded_width - 1]

    def exposure_in(self, encoded: Tensor | None) -> Tensor | None:
        """The exposure of each datum, ``(N,)``, if there is one."""
        if self.exposure is None or encoded is None:
            return None
        return encoded[..., -1].exp()

    def joined_shape(self, part: str, shape: torch.Size) -> torch.Size:
        """The shape of the context that `part` reads, `shape` being its shape without c."""
        if part not in self.seen_by:
            return shape
        width = self.encoded_width if part == "guide" else self.width
        return shape_beside(shape, width)

    def seen(self, part: str, encoded: Tensor) -> Tensor:
        """What a part sees of encoded c: only the guide sees the exposure."""
        return encoded if part == "guide" else encoded[..., : self.width]

    def join(self, part: str, context: Tensor, c: Tensor, event_dim: int) -> Tensor:
        """A context of shape ``(*, ...)`` beside encoded c, for the parts that see it."""
        if part not in self.seen_by:
            return context
        c = self.seen(part, c)
        batch = torch.broadcast_shapes(context.shape[: context.dim() - event_dim], c.shape[:-1])
        context = context.expand(batch + context.shape[context.dim() - event_dim :])
        return beside(context, c, event_dim)

    def _labels(self, categories: Classes | None, classes: Mapping[str, Classes]) -> list[Labels]:
        """The names of the classes of each column; None for numbers."""
        labels: list[Labels] = [None] * self.size
        if categories is not None:
            labels[0] = class_names("categories", categories)
        for column, some in classes.items():
            place = self._place("classes", column)
            if labels[place] is not None:
                raise ValueError(f"classes: column {column!r} is given twice")
            labels[place] = class_names("classes", some)
        return labels

    def _name(self, place: int) -> str:
        """A column as a spec writes it."""
        return str(place) if self.columns is None else self.columns[place]

    def _place(self, argument: str, column: Any) -> int:
        """The number of a column that was given by name or number."""
        names = [] if self.columns is None else self.columns
        if str(column) in names:
            return names.index(str(column))
        if str(column).isdigit() and int(column) < self.size:
            return int(column)
        known = ", ".join(map(repr, names)) if names else f"0 to {self.size - 1}"
        raise ValueError(f"{argument}: c has no column {column!r}; there are {known}")

    def _check_columns(self, x: Tensor, rows: Rows, chunk: slice) -> None:
        """Raise for a value that is no class or no exposure."""
        for place, labels in enumerate(self.labels):
            if labels is None and place != self.exposure:
                continue
            value, bad = x[:, place], torch.zeros_like(x, dtype=torch.bool)
            if labels is not None:
                known = (value == value.round()) & (value >= 0) & (value < len(labels))
                bad[:, place] = ~(known | value.isnan())
                needs = f"c needs classes from 0 to {len(labels) - 1}"
                remedy = "build the VAE with more categories, or recode"
            else:
                bad[:, place] = ~(value > 0)
                needs, remedy = "c needs exposures above 0", "drop these rows"
            shown = x.reshape(-1, *rows.event_shape)
            refuse(bad.reshape(shown.shape), shown, rows, chunk, needs, remedy)


def _checked_parts(seen_by: Any) -> tuple[str, ...]:
    if isinstance(seen_by, (list, tuple)) and seen_by and all(part in PARTS for part in seen_by):
        return tuple(seen_by)
    raise ValueError(
        f"Condition needs seen_by as a list of some of {', '.join(PARTS)}; got {seen_by!r}"
    )
