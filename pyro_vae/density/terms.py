r"""The three log densities behind every statement about log p(x).

For K draws :math:`z_k \sim q(z \mid x)` the importance weights are

.. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x).

The ELBO is their mean (Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114, eq. 3), the
importance-weighted bound the log of the mean of w (Burda et al., 2015,
https://arxiv.org/abs/1509.00519, eq. 8).

There are two ways to these densities, with one protocol, :class:`Densities`. :mod:`.traced` reads
them off Pyro traces, so any pair of Pyro functions with one data plate will do. :mod:`.direct` asks
the three distributions of a VAE, which is faster. A test holds the two equal.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint

from .memory import Memory

Batch = tuple[Tensor, ...]  # what model and guide are called with: x, and c if there is one
Values = dict[str, Tensor]  # latents by site, each of shape (K, N, *Z)


@dataclass(frozen=True)
class Terms:
    """Log densities of K particles for N data, in nats, each of shape ``(K, N)``."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Importance weights, log scale, of shape ``(K, N)``."""
        return self.log_likelihood + self.log_prior - self.log_guide


def elbo(terms: Terms) -> Tensor:
    """The evidence lower bound from `terms`: nats per datum, shape ``(N,)``."""
    return terms.log_weight.mean(0)


def iwae(terms: Terms) -> Tensor:
    """The importance-weighted bound from `terms` of K particles: nats per datum, shape ``(N,)``."""
    return terms.log_weight.logsumexp(0) - math.log(len(terms.log_weight))


def ess(terms: Terms) -> Tensor:
    """The effective sample size (Kish) of the importance weights of `terms`: shape ``(N,)``.

    It lies between 1 and K.
    """
    return torch.exp(2 * terms.log_weight.logsumexp(0) - (2 * terms.log_weight).logsumexp(0))


@dataclass(frozen=True)
class Latent:
    """One latent site of a model: where its draws lie, and the shape of one."""

    support: Constraint
    event_shape: torch.Size


@dataclass(frozen=True)
class Drawn:
    """K draws of a guide for N data.

    Arguments:
        values: The latents.
        log_guide: Their log density, of shape ``(K, N)``.
        rescore: The log density of other values under the guide as it was at these draws: its
            network is not run again.
        fixed: The sites whose draws cannot have a gradient.
    """

    values: Values
    log_guide: Tensor
    rescore: Callable[[Values], Tensor]
    fixed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.log_guide)


class Densities(abc.ABC):
    """What a model and its guide say of one batch of N data: nats, per particle and datum.

    Draws come from torch's current random state. Masks count; scales do not: a subsampled plate
    weighs data for training, and a log density per datum has no weight.

    Arguments:
        batch: What model and guide are called with: x, and c if there is one.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.num_data = len(batch[0])
        self.weights: Tensor | None = None  # of the data, in a loss; none for 1 each

    def weighed(self, values: Tensor) -> Tensor:
        """Values of shape ``(*, N)``, each times the weight of its datum."""
        return values if self.weights is None else values * self.weights

    @property
    @abc.abstractmethod
    def latents(self) -> dict[str, Latent]:
        """The latent sites of the model."""

    @property
    @abc.abstractmethod
    def measure(self) -> str:
        """Whether the likelihood gives densities, and on what space, or probabilities."""

    @property
    @abc.abstractmethod
    def is_discrete(self) -> bool:
        """Whether the guide draws a discrete latent."""

    @property
    def estimates(self) -> bool:
        """Whether :meth:`log_model` draws missing cells afresh, so that it differs from call to
        call: the mean of its exponential is right.
        """
        return False

    @property
    def noncentred(self) -> Transform | None:
        """The bijection to unconstrained latents from those in units of their prior, if the scale
        of a prior depends on other latents.
        """
        return None

    @abc.abstractmethod
    def draw(self, num_samples: int) -> Drawn:
        """Draws of the guide, with a gradient where they can have one."""

    @abc.abstractmethod
    def draw_prior(self, num_samples: int) -> Values:
        """Draws of the model's latents."""

    def rounded(self, values: Values) -> Values:
        """Latents in the precision that their densities are computed in."""
        return values

    @abc.abstractmethod
    def log_model(self, values: Values) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z) of given latents."""

    @abc.abstractmethod
    def log_guide(self, values: Values) -> Tensor:
        """log q(z|x) of given latents.

        Raises:
            TypeError: The guide knows the density of its own draws only.
        """

    @abc.abstractmethod
    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """What is learned: the parameters of the model, and those of the guide."""

    @abc.abstractmethod
    def states(self) -> Values:
        """All values of the one discrete latent of the guide, in place of draws."""

    @abc.abstractmethod
    def select(self, index: Tensor) -> Densities:
        """The same for some of the data."""

    @abc.abstractmethod
    def fresh(self) -> Densities:
        """The same, with nothing kept: networks run again, in the mode that they are in now."""

    @abc.abstractmethod
    def eval_mode(self) -> AbstractContextManager[None]:
        """The model is in eval mode inside."""

    def terms(self, num_samples: int, memory: Memory | None = None) -> Terms:
        """The terms of as many draws of the guide."""
        return self.weigh(self.draw(num_samples), memory)

    def enumerated(self, memory: Memory | None = None) -> Terms:
        """The terms of all values of the one discrete latent."""
        values = self.states()
        return self.weigh(Drawn(values, self.log_guide(values), self.log_guide), memory)

    def weigh(self, drawn: Drawn, memory: Memory | None = None) -> Terms:
        """The terms of given draws.

        The model is evaluated in blocks of particles that `memory` allows (at least one particle).
        All draws are made before, so this saves memory and changes nothing else.
        """
        if memory is None:
            return Terms(*self.log_model(drawn.values), drawn.log_guide)
        num = len(drawn)
        blocks = []
        done = 0
        while done < num:
            last = min(done + memory.particles(self.num_data), num)
            with memory.watched((last - done) * self.num_data):
                part = {name: z[done:last] for name, z in drawn.values.items()}
                blocks.append(self.log_model(part))
            done = last
        log_likelihood, log_prior = (torch.cat(block) for block in zip(*blocks, strict=True))
        return Terms(log_likelihood, log_prior, drawn.log_guide)
