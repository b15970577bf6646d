r"""log p(x) where the class is unknown: a sum over classes, of the evidence given each.

.. math:: \log p(x) = \log \sum_c p(c)\, p(x \mid c)

A row of unknown class is a row for each class. What is said of log p(x) is said by the classes that
matter, each with its share :math:`p(c \mid x)` of the sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.rows import Rows
from ..density.identity import describe
from ..vae import VAE
from .climb import RUNGS
from .flags import SAID, counted
from .results import means

if TYPE_CHECKING:
    import xarray

MATTERS = 0.01  # the share from which a class counts
SUMS = ("log_evidence", "elbo", "second_opinion")  # that have a term for each class
WORST: list[tuple[str, np.ufunc, float]] = [  # among the classes that matter
    ("khat", np.maximum, -np.inf),
    ("max_weight", np.maximum, 0.0),
    ("ess", np.minimum, np.inf),
]
FIGURES = (*SUMS, "se", "bias", "num_samples", *(name for name, _, _ in WORST))
KEPT = ("seconds", "draws", "measure", "precision", "unit")  # attributes


@dataclass(frozen=True)
class OverClasses:
    """Rows, of which some are of unknown class, and the rows that stand for them.

    Arguments:
        vae: A VAE with a classifier.
        rows: The rows as they were given, and beside them c.
        place: For each row that stands for one, which row that is.
        log_prior: log p(c) of its class, 0 where the class was given.
        each: The rows that stand for them, with all classes known.
    """

    vae: VAE
    rows: Rows
    place: np.ndarray
    log_prior: np.ndarray
    each: Rows

    @classmethod
    def of(cls, model: Any, x: Any, c: Any) -> OverClasses | None:
        """None where all classes are known, or the VAE has no classifier.

        Raises:
            DataError: The data do not fit.
        """
        if not isinstance(model, VAE) or model.classifier is None:
            return None
        vae, classifier = model, model.classifier
        rows = vae.check(x, c, unknown=True)
        assert rows.c is not None
        if not rows.c.has_missing:
            return None
        given = rows.c.take(slice(None), torch.empty(0, dtype=torch.float64)).reshape(-1, 1)
        classes = torch.arange(classifier.num_classes)
        place, known = (given.isnan() | (given == classes)).nonzero(as_tuple=True)
        with torch.no_grad():
            log_prior = classifier.prior().logits.double().cpu()[known]
        log_prior = torch.where(given[place, 0].isnan(), log_prior, 0.0)
        c_of_each = Rows(known.numpy().__getitem__, len(known), (), is_fixed=True)
        each = rows.given(None).only(place.numpy()).given(c_of_each)
        return cls(vae, rows, place.numpy(), log_prior.numpy(), each)

    def summed(self, found: xarray.Dataset) -> xarray.Dataset:
        """The evidence of the rows as they were given, from that of those that stand for them."""
        import xarray

        figures, matters = self._figures(found)
        words = {"flag": self._first(found.flag.to_numpy(), tuple(SAID), matters)}
        if "rung" in found.coords:
            words["rung"] = self._first(found.rung.to_numpy(), RUNGS[::-1], matters)
        attrs = {
            **{name: value for name, value in found.attrs.items() if name.startswith(KEPT)},
            **means(figures),
            "num_samples": int(figures["num_samples"].max()),
            **counted(words["flag"]),
            **describe(self.vae.model, self.vae.guide, self.rows),
        }
        coords = {name: ("datum", values) for name, values in words.items()}
        coords["datum"] = ("datum", np.arange(len(self.rows)))
        arrays = {name: ("datum", values) for name, values in figures.items()}
        return xarray.Dataset(arrays, coords, attrs)

    def _figures(self, found: xarray.Dataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The figures of each row, and which of those that stand for them matter."""
        of = {str(name): found[name].to_numpy() for name in FIGURES if name in found}
        sums = {
            name: np.logaddexp.reduceat(of[name] + self.log_prior, self._starts)
            for name in SUMS
            if name in of
        }
        share = np.exp(of["log_evidence"] + self.log_prior - sums["log_evidence"][self.place])
        matters = share > MATTERS
        figures = {
            **sums,
            "se": np.sqrt(np.add.reduceat((share * of["se"]) ** 2, self._starts)),
            "bias": np.add.reduceat(share * of["bias"], self._starts),
            "num_samples": np.add.reduceat(of["num_samples"], self._starts),
        }
        for name, way, other in WORST:
            figures[name] = way.reduceat(np.where(matters, of[name], other), self._starts)
        return figures, matters

    def _first(self, words: np.ndarray, order: Sequence[str], matters: np.ndarray) -> np.ndarray:
        """Of each row the word that comes first, among the classes that matter."""
        known = (*order, "")
        rank = np.array([known.index(word) for word in words.tolist()])
        rank = np.where(matters, rank, len(known) - 1)
        return np.array(known)[np.minimum.reduceat(rank, self._starts)]

    @property
    def _starts(self) -> np.ndarray:
        """The first of those that stand for a row."""
        return np.flatnonzero(np.diff(self.place, prepend=-1))


def over_classes(
    estimate: Callable[..., xarray.Dataset], model: Any, x: Any, c: Any, more: Any, **options: Any
) -> xarray.Dataset | None:
    """The evidence where some classes are unknown; None where none is.

    Arguments:
        estimate: The evidence given classes, a function of the VAE, x, c and `options`.
        model: Whose evidence it is: a VAE, or what has no classes.
        x: Data of shape ``(N, *X)``.
        c: Their classes, NaN where unknown.
        more: An earlier result; there must be none.
        options: How it is estimated.

    Raises:
        ValueError: There is an earlier result.
        DataError: The data do not fit.
    """
    over = OverClasses.of(model, x, c)
    if over is None:
        return None
    if more is not None:
        raise ValueError(
            "more adds draws to a result of known classes, and some are unknown; leave it out"
        )
    with warnings.catch_warnings():  # of classes that may not matter
        warnings.filterwarnings("ignore", ".*cannot be trusted", UserWarning)
        return over.summed(estimate(over.vae, over.each, over.each.c, **options))
