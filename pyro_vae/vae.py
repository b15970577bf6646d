r"""The variational autoencoder: a prior, a likelihood and a guide that fit together.

.. math::

    p_\theta(x) = \int p_\theta(x \mid z)\, p_\theta(z)\, dz, \qquad \log p_\theta(x) \ge
    \mathbb{E}_{q_\phi(z \mid x)} \big[ \log p_\theta(x \mid z) + \log p_\theta(z)
    - \log q_\phi(z \mid x) \big]

(Kingma & Welling, 2013, eq. 3). :meth:`VAE.model` and :meth:`VAE.guide` are ordinary Pyro
functions: everything that Pyro offers works on them. How the parts are put together stands in
:mod:`.assembly`; how their densities are had without traces, in :mod:`.density.direct`.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from .assembly import streams
from .assembly.card import card
from .assembly.classified import Classified
from .assembly.classifier import Classifier
from .assembly.compatibility import check_parts
from .assembly.condition import Condition
from .assembly.imputation import impute
from .assembly.missing import is_missing
from .assembly.refinement import refine
from .conditionals.base import Conditional
from .conditionals.missingness import Missingness
from .data.columns import is_table
from .data.rows import DataError
from .guards import mode, seeded, whole_number


class VAE(Classified):
    r"""A variational autoencoder from three conditionals.

    Arguments:
        prior: :math:`p(z)`, over latents of shape ``Z``.
        likelihood: :math:`p(x \mid z)`, over data of shape ``X``, given latents ``(*, *Z)``.
        guide: :math:`q(z \mid x)` in unconstrained space, given data of shape ``(*, *X)``.
        condition: For a conditional VAE: what c is, and which parts see it.
        missingness: :math:`p(s \mid x)`, where cells are missing for a reason.
        classifier: Where c is one column of classes, of which some may be unknown: q(c|x).

    Raises:
        ValueError: The parts do not fit; the message gives the shapes.
        TypeError: A part is no conditional.

    Example:
        >>> vae = VAE(
        ...     prior=Normal((2,), loc=0.0, scale=1.0),
        ...     likelihood=Amortised(MLP(2, 5, hidden=[16]), Poisson((5,))),
        ...     guide=Amortised(MLP(5, 4, hidden=[16]), Normal((2,))),
        ... )
        >>> vae.sample(7).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        prior: Conditional,
        likelihood: Conditional,
        guide: Conditional,
        *,
        condition: Condition | None = None,
        classifier: Classifier | None = None,
        missingness: Missingness | None = None,
    ) -> None:
        super().__init__(prior, likelihood, guide, condition, classifier, missingness)
        check_parts(self)

    # The model, as Pyro functions

    def model(
        self, x: Tensor | None = None, c: Tensor | None = None, *, size: int | None = None
    ) -> Tensor:
        r"""The Pyro model :math:`p(z)\,p(x \mid z)`: plate ``"data"`` at dim -1, sites ``"z"`` and
        ``"x"``; with a classifier also ``"c"``, and what known classes teach it, ``"classified"``.

        Arguments:
            x: Data ``(N, *X)`` to observe, NaN where missing; left out, `size` data are drawn.
            c: What a conditional VAE is conditional on, a row for each datum.
            size: The number of data to draw.

        Returns:
            The data, observed or drawn, of shape ``(N, *X)``.
        """
        if (x is None) == (size is None):
            both = "neither" if x is None else "both"
            raise ValueError(f"model needs data x to observe, or size= to draw; got {both}")
        if size is not None:
            whole_number("size", size, at_least=1)

        x = None if x is None else self.as_batch(x)
        num = len(x) if x is not None else size or 0
        c = self.encode_condition(num, c)
        self.register_parameters()
        with pyro.plate("data", num, dim=-1):
            c = self.model_class(x, c)
            z = pyro.sample("z", self.prior_of(c), infer=self.infer)
            observed = self.observation_of(z, c)
            if x is not None:
                observed, x = self.observed_by(observed, x, missing=is_missing(x))
            return pyro.sample("x", observed, obs=x)

    def guide(
        self, x: Tensor, c: Tensor | None = None, *, observations: dict[str, Tensor] | None = None
    ) -> Tensor:
        r"""The Pyro guide :math:`q(z \mid x)`: plate ``"data"`` at dim -1, site ``"z"`` of shape
        ``(N, *Z)``.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.
            observations: What ``ReweightedWakeSleep`` dreams in place of x, ``(*, N, *X)``.

        Returns:
            Latents of shape ``(N, *Z)``.
        """
        x = observations["x"].to(self.reference) if observations else self.as_batch(x)
        num = x.shape[-1 - len(self.likelihood.event_shape)]
        c = self.encode_condition(num, c)
        self.register_parameters()
        with pyro.plate("data", num, dim=-1):
            c = self.guide_class(x, c)
            return pyro.sample("z", self.guide_of(x, c), infer=self.infer)

    # The model, as distributions and arrays

    def encode(self, x: Any, c: Any = None) -> TorchDistribution:
        r""":math:`q(z \mid x)` on the prior's support, in eval mode; without gradients
        (``torch.no_grad()``) a few rows at a time, else with the graph of all.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.

        Returns:
            A distribution of batch shape ``(N,)`` and event shape ``Z``. Off the real line its
            draws are in double precision, and its mean is that of 1,000 of them.

        Raises:
            DataError: The data do not fit the likelihood.
        """
        rows = self.check(x, c)
        with mode(self, training=False):
            return streams.encode(self, rows)

    def decode(self, z: Any, c: Any = None) -> TorchDistribution:
        r""":math:`p(x \mid z)`, with the VAE in eval mode.

        Arguments:
            z: Latents of shape ``(*, *Z)``.
            c: What a conditional VAE is conditional on: a row for each of the last dimension of
                ``*``.

        Returns:
            A distribution of batch shape ``*`` and event shape ``X``.

        Raises:
            DataError: The latents have another shape, or c does not fit.
        """
        z = torch.as_tensor(z, dtype=self.reference.dtype, device=self.reference.device)
        shape = self.prior.event_shape
        if z.shape[z.dim() - len(shape) :] != shape:
            raise DataError(f"decode needs latents of shape {('*', *shape)}; got {tuple(z.shape)}")
        num = z.shape[-1 - len(shape)] if z.dim() > len(shape) else 1
        with mode(self, training=False):
            return self.likelihood_of(z, self.check_condition(num, c))

    def sample(self, size: int, c: Any = None, *, seed: int = 0) -> Any:
        """Data drawn from the model, with the VAE in eval mode: the same for the same seed.

        Arguments:
            size: How many data.
            c: What a conditional VAE is conditional on, a row for each datum.
            seed: The seed of the draws.

        Returns:
            A tensor of shape ``(size, *X)``; a frame, if the VAE knows the names of its columns.
        """
        whole_number("size", size, at_least=1)
        with torch.no_grad(), seeded(seed), mode(self, training=False):
            drawn = streams.sample(self, size, self.check_condition(size, c))
        return self.named(drawn)

    def reconstruct(self, x: Any, c: Any = None, *, num_samples: int = 16, seed: int = 0) -> Any:
        r"""What the model keeps of x: :math:`\mathrm{E}\,p(x' \mid z)`, with z from the guide.

        Where the likelihood has no mean (classes, heaviest tails), the mode for one z stands in.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.
            num_samples: How many z are drawn for each datum.
            seed: The seed of the draws.

        Returns:
            A tensor of shape ``(N, *X)``; of a frame or an AnnData, a frame with its names.

        Raises:
            DataError: The data do not fit the likelihood.
        """
        whole_number("num_samples", num_samples, at_least=1)
        rows = self.check(x, c)
        with torch.no_grad(), seeded(seed), mode(self, training=False):
            return self.as_given(streams.reconstruct(self, rows, num_samples), x)

    def impute(
        self,
        x: Any,
        c: Any = None,
        *,
        num_samples: int = 1000,
        draws: int | None = None,
        seed: int = 0,
    ) -> Any:
        r"""Missing cells filled in: the mean of :math:`p(x_{missing} \mid x_{seen})`, or draws from
        it.

        By self-normalised importance sampling from the guide (Mattei & Frellsen, 2019, eq. 12,
        https://arxiv.org/abs/1812.02633). Where the likelihood has no mean, the class with most
        weight stands in, of ordered classes too; :class:`VAEImputer` gives their mean, median or
        mode.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.
            num_samples: How many z are drawn for each datum.
            draws: How many imputed data sets to draw; left out, the mean is given.
            seed: The seed of the draws.

        Returns:
            A tensor ``(N, *X)``, or ``(draws, N, *X)``; of what has names a frame, or a list.

        Raises:
            DataError: The data do not fit the likelihood, or it does not factorise over cells.
        """
        whole_number("num_samples", num_samples, at_least=1)
        if draws is not None:
            whole_number("draws", draws, at_least=1)
        rows = self.check(x, c)
        with torch.no_grad(), seeded(seed), mode(self, training=False):
            filled = impute(self, rows, num_samples, draws)
        if not is_table(x):
            return self.as_given(filled.to(self.reference.dtype), x)
        if draws is None:
            return self.as_given(filled, x)
        return [self.as_given(each, x) for each in filled]

    def refine(
        self,
        x: Any,
        c: Any = None,
        *,
        steps: int = 100,
        learning_rate: float = 0.05,
        particles: int = 8,
        seed: int = 0,
    ) -> TorchDistribution:
        r""":math:`q(z \mid x)` improved for given data: what its head reads is optimised for each.

        Adam climbs the ELBO from the amortised guide (Kim et al., 2018,
        https://arxiv.org/abs/1802.02550). A datum that this does not help keeps the amortised
        guide. No parameter of the VAE is touched.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.
            steps: How many steps are made.
            learning_rate: The learning rate of Adam at the start; it falls to 0.
            particles: The samples of z for each datum and step.
            seed: The seed of the draws.

        Returns:
            A distribution like that of :meth:`encode`: batch shape ``(N,)``, event shape ``Z``.

        Raises:
            DataError: The data do not fit the likelihood.
            TypeError: The guide is no :class:`Amortised`, or is discrete.
        """
        rows = self.check(x, c)
        no_validation = pyro.validation_enabled(False)
        with seeded(seed), mode(self, training=False), torch.inference_mode(False), no_validation:
            batch = rows.batch(slice(None), like=self.reference)
            return refine(self, batch, steps, learning_rate, particles)

    def _repr_html_(self) -> str:
        """What a notebook shows: parts, shapes, parameters, the plate diagram."""
        return card(self)
