r"""Objectives: what training minimises, as a function of the densities of a batch.

An :class:`Objective` is an ELBO of Pyro's that can also be had from :class:`.Densities`::

    loss = objective.evaluate(densities, beta)  # minus the bound, summed over the data, in nats
    value = objective.backward(densities, beta)  # adds its gradient to those of the parameters

with :math:`\beta` the weight of its KL term, if it has one. For a VAE ``fit`` evaluates it
directly, without traces. As an ELBO it goes on working on any pair of Pyro functions, read off
their traces, in which :math:`\beta` is the scale of the latent sites.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from ..density.direct import Direct
from ..density.terms import Densities
from ..density.traced import Traced
from ..guards import whole_number

WAYS_OF_PYRO = ("loss", "loss_and_grads", "differentiable_loss")


class Objective(abc.ABC):
    """An ELBO that can be had from densities: what is mixed into one of Pyro's."""

    takes_weights: ClassVar[bool] = False  # of the data
    not_compiled: ClassVar[str] = ""  # why a step with it cannot be

    @property
    def is_direct(self) -> bool:
        """Whether it may be evaluated from densities: no caller has written another way."""
        ways = (getattr(type(self), name, None) for name in WAYS_OF_PYRO)
        written = {way.__module__.partition(".")[0] for way in ways if way is not None}
        return written <= {"pyro", __name__.partition(".")[0]}

    @property
    def differentiates_its_value(self) -> bool:
        """Whether the gradient is that of :meth:`evaluate`."""
        return type(self).backward is Objective.backward

    @abc.abstractmethod
    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        """The loss, summed over the data, in nats."""

    def backward(self, densities: Densities, beta: float = 1.0, scale: float = 1.0) -> float:
        """The loss; its gradient, times `scale`, is added to those of the parameters."""
        loss = self.evaluate(densities, beta)
        backward(scale * loss)
        return loss.item()


class OwnELBO(Objective, ELBO):
    """An ELBO that Pyro does not have. On a pair of Pyro functions it reads their traces.

    Arguments:
        num_particles: The draws of z for each datum.
    """

    def __init__(self, num_particles: int) -> None:
        whole_number("num_particles", num_particles, at_least=1)
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the data."""
        return self.evaluate(_traced(model, guide, args, kwargs)).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the data; adds to the gradients of all parameters."""
        return self.backward(_traced(model, guide, args, kwargs))

    def _get_trace(self, *args: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} reads its traces through densities")


class Elbo(Objective, Trace_ELBO):
    """The ELBO, :math:`\\mathrm{E}_q [\\log p(x, z) - \\log q(z)]`, by draws."""

    takes_weights = True

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        terms = densities.terms(self.num_particles)
        kl = beta * (terms.log_guide - terms.log_prior)
        return densities.weighed(terms.log_likelihood - kl).sum() * (-1 / self.num_particles)


class MeanField(Objective, TraceMeanField_ELBO):
    """The ELBO with an analytic KL of the guide from the prior, where it is known."""

    takes_weights = True

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        terms = densities.terms(self.num_particles)
        kl = _analytic_kl(densities)
        if kl is None:
            kl = densities.weighed(terms.log_guide - terms.log_prior).sum() / self.num_particles
        log_likelihood = densities.weighed(terms.log_likelihood).sum() / self.num_particles
        return beta * kl - log_likelihood


class Renyi(Objective, RenyiELBO):
    """The Rényi bound, and for alpha = 0 the importance-weighted bound (Li & Turner, 2016)."""

    takes_weights = True

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        log_weight = (1 - self.alpha) * densities.terms(self.num_particles).log_weight
        log_mean = log_weight.logsumexp(0) - math.log(self.num_particles)
        return -densities.weighed(log_mean).sum() / (1 - self.alpha)


def _analytic_kl(densities: Densities) -> Tensor | None:
    if not isinstance(densities, Direct):
        return None
    guide = densities.guide
    try:
        kl = kl_divergence(guide, densities.prior.expand(guide.batch_shape))
        return densities.weighed(kl).sum()
    except NotImplementedError:
        return None


def backward(loss: Tensor, inputs: list[Tensor] | None = None) -> None:
    """Backward, where there is something to train.

    With `inputs` only for those, and the graph is kept.
    """
    if loss.requires_grad and inputs != []:
        loss.backward(inputs=inputs, retain_graph=inputs is not None)


def with_keywords(function: Callable, keywords: dict[str, Any]) -> Callable:
    """A Pyro function with some of its arguments given."""
    if not keywords:
        return function
    return lambda *args: function(*args, **keywords)


def _traced(model: Callable, guide: Callable, args: tuple, keywords: dict[str, Any]) -> Traced:
    """The densities of Pyro functions that are called with these arguments."""
    return Traced(with_keywords(model, keywords), with_keywords(guide, keywords), args)
