"""A VAE whose c may be unknown for some rows, by a :class:`.Classifier`: the site of c, and the
check at the door.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..conditionals.base import Conditional
from ..conditionals.classes import OneHot
from ..conditionals.missingness import Missingness
from ..data.rows import Rows
from ..guards import mode
from .base import Assembly
from .classifier import Classifier
from .condition import Condition
from .data_checks import check
from .streams import joined, rows_at_once

SITES = frozenset({"c", "classified"})  # that a classifier adds to model and guide


class Classified(Assembly):
    """An assembly, and the part that knows classes if there is one."""

    def __init__(
        self,
        prior: Conditional,
        likelihood: Conditional,
        guide: Conditional,
        condition: Condition | None,
        classifier: Classifier | None,
        missingness: Missingness | None,
    ) -> None:
        super().__init__(prior, likelihood, guide, condition, missingness)
        if not isinstance(classifier, Classifier | None):
            raise TypeError(f"VAE needs classifier as a Classifier; got {classifier!r:.40}")
        if classifier is not None:
            _check_classes(classifier, condition)
        self.classifier = classifier

    def classify(self, x: Any) -> TorchDistribution:
        r""":math:`q(c \mid x)`, in eval mode; without gradients a few rows at a time.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.

        Returns:
            A one-hot distribution of batch shape ``(N,)``: its ``probs`` are of shape ``(N, C)``,
            in the order of ``vae.condition.labels[0]``. The numbers of the most probable classes,
            ``vae.classify(x).probs.argmax(-1)``, can stand as c.

        Raises:
            DataError: The data do not fit the likelihood.
            ValueError: The VAE has no classifier.
        """
        if self.classifier is None:
            raise ValueError(
                "classify needs q(c | x), and this VAE has none; build(x, c, "
                "classifier='one_hot') makes one that does"
            )
        rows = self.rows_of(x)
        rows = self.check(rows, torch.full((len(rows),), torch.nan), unknown=True)
        size = len(rows) if torch.is_grad_enabled() else rows_at_once(self)
        with mode(self, training=False):
            read = (
                (place, self.classifier(rows.take(place, like=self.reference)).logits)
                for place in rows.chunks(size)
            )
            return OneHot((self.classifier.num_classes,))(joined(read, len(rows)))

    def check(self, x: Any, c: Any = None, *, unknown: bool = False) -> Rows:
        """Data as rows that fit the likelihood, and c as rows that fit the condition.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.
            unknown: Whether classes may be unknown (NaN, or missing labels), as in `fit` of a VAE
                with a classifier.

        Returns:
            The data as rows, unchanged, and beside them c.

        Raises:
            DataError: Shape or values do not fit, or a density is not finite; the message names
                row, column and value, and says what to do.
            ValueError: A parameter of the VAE is not finite.
        """
        return check(self, x, c, unknown=unknown and self.classifier is not None)

    def encode_condition(self, num: int, c: Any = None) -> Tensor | None:
        """A batch of c as the parts read it, of shape ``(num, width)``; unknown classes as NaN."""
        if self.classifier is None or self.condition is None or not self.condition.fits(c, num):
            return super().encode_condition(num, c)
        encoded = super().encode_condition(num, c.nan_to_num(0.0))
        assert encoded is not None
        return encoded.masked_fill(c.reshape(num, 1).isnan().to(encoded.device), torch.nan)

    def guide_input(self, x: Tensor, c: Tensor | None, *, missing: bool = True) -> Tensor:
        """What the guide reads: all NaN where it sees c, and the class is unknown."""
        read = super().guide_input(x, c, missing=missing)
        condition = self.condition
        if self.classifier is None or c is None or condition is None or not missing:
            return read
        if "guide" not in condition.seen_by:
            return read
        unknown = c.isnan().any(-1)
        ones = (1,) * (read.dim() - unknown.dim())
        return read.masked_fill(unknown.reshape(*unknown.shape, *ones), torch.nan)

    def likeliest(self, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """A batch with the most probable class where none is known: x, and c if there is one."""
        if self.classifier is None:
            return (x, *given)
        (c,) = given
        found = self.classifier(x).logits.argmax(-1).to(c)
        return x, torch.where(c.isnan(), found.reshape(c.shape), c)

    def model_class(self, x: Tensor | None, c: Tensor | None) -> Tensor | None:
        """Site "c" of the model, of p(c): observed, unless some classes are unknown; and what the
        known ones teach the classifier. Without a classifier, c as it is.
        """
        if self.classifier is None or c is None:
            return c
        if x is not None:
            pyro.factor("classified", self.classifier.score(self.classifier(x).logits, c))
        observed = None if bool(c.isnan().any()) else c
        return pyro.sample("c", self.classifier.prior(), obs=observed)

    def guide_class(self, x: Tensor, c: Tensor | None) -> Tensor | None:
        """Site "c" of the guide, which Pyro may sum over, if some classes are unknown."""
        if self.classifier is None or c is None or not bool(c.isnan().any()):
            return c
        logits = self.classifier.pinned(self.classifier(x).logits, c)
        found = OneHot(c.shape[-1:])(logits)
        return pyro.sample("c", found, infer={"enumerate": "parallel"})


def _check_classes(classifier: Classifier, condition: Condition | None) -> None:
    """Raise unless both are over the same classes."""
    if condition is None or not condition.is_one_of_classes:
        got = "no condition" if condition is None else condition.describe()
        raise ValueError(
            f"VAE: a classifier needs c as one column of classes; got {got}; give "
            "condition=Condition(categories=...)"
        )
    if classifier.num_classes != condition.width:
        raise ValueError(
            f"VAE: a classifier must be over the {condition.width} classes of the condition; got "
            f"{classifier.num_classes}"
        )
