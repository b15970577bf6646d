r"""Losses where some classes are unknown: the sum over classes, by the loss that was asked for.

A row of unknown class stands once for each class c, with the weight q(c|x), through which the
classifier has its gradient. The loss of these rows, weighed, is that of a conditional VAE; beside
it stand the terms of c alone (see :mod:`..assembly.classifier`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor

from ..density.direct import Direct, asked_directly
from ..density.problem import Problem
from ..density.terms import Densities
from ..vae import VAE
from .objectives import OwnELBO
from .schedules import Schedule
from .weighing import takes_weights


class Labelled(OwnELBO):
    """A loss, summed over the classes that are unknown.

    Arguments:
        base: The loss given classes.
    """

    takes_weights = True
    not_compiled = "how many rows a sum over unknown classes has differs from step to step"

    def __init__(self, base: Any) -> None:
        super().__init__(base.num_particles)
        self.base = base

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        if not isinstance(densities, Direct) or densities.vae.classifier is None:
            raise ValueError(
                "fit: a sum over unknown classes needs the VAE's own densities; got Pyro's traces; "
                "use loss=TraceEnum_ELBO(max_plate_nesting=1), or leave model, guide and handlers "
                "as they are"
            )
        classifier, (x, c) = densities.vae.classifier, densities.batch
        one_hot = densities.vae.encode_condition(len(x), c)
        assert one_hot is not None
        logits = classifier(x).logits
        log_guide = classifier.pinned(logits, one_hot)
        places = rows, classes = _summed(one_hot)
        weights = log_guide[places].exp()
        if densities.weights is not None:
            weights = weights * densities.weights[rows]

        each = Direct(densities.vae, (x[rows], classes.to(x)), missing=densities.missing)
        each.weights = weights
        of_classes = classifier.prior().logits[classes] - log_guide[places]
        known = densities.weighed(classifier.score(logits, one_hot))
        return self.base.evaluate(each, beta) - (weights * of_classes).sum() - known.sum()


def _summed(one_hot: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows stand for which classes: each for its own, or for all if it is unknown."""
    rows, classes = (one_hot.isnan() | (one_hot == 1)).nonzero(as_tuple=True)
    return rows, classes


def labelled(elbo: ELBO, beta: Schedule) -> ELBO:
    """The loss of a VAE with a classifier, by the loss that was asked for.

    Raises:
        ValueError: The loss is no sum of bounds of the data, or beta weighs a KL term that Pyro
            knows alone.
    """
    if isinstance(elbo, TraceEnum_ELBO):
        if beta != 1.0:
            raise ValueError(
                "fit: by Pyro's traces a sum over unknown classes has beta at 1; leave it there, "
                "or use continuous latents and loss='elbo'"
            )
        return elbo
    if not takes_weights(elbo):
        raise ValueError(
            "fit: a sum over unknown classes weighs each by q(c | x), in elbo, mean_field, iwae, "
            "renyi and, over discrete latents, enum, without free_bits; got "
            f"{type(elbo).__name__}; use one of these"
        )
    return Labelled(elbo)


def to_be_fitted(vae: VAE, x: Any, c: Any = None) -> Problem:
    """The problem of a VAE and data, of which some classes may be unknown if it has a classifier.

    Raises:
        DataError: The data do not fit.
    """
    if vae.classifier is None:
        return Problem.of(vae, x, c)
    rows = vae.check(x, c, unknown=True)
    problem = Problem(vae.model, vae.guide, rows, vae.reference)
    first = problem.batch(slice(0, 1))
    return replace(problem, vae=asked_directly(vae.model, vae.guide, first))
