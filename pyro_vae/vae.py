r"""The variational autoencoder: a prior, a likelihood and a guide that fit together.

.. math::

    p_\theta(x) = \int p_\theta(x \mid z)\, p_\theta(z)\, dz, \qquad
    \log p_\theta(x) \ge \mathbb{E}_{q_\phi(z \mid x)} \big[ \log p_\theta(x \mid z) + \log p_\theta(z)
    - \log q_\phi(z \mid x) \big]

(Kingma & Welling, 2013, eq. 3). :meth:`VAE.model` and :meth:`VAE.guide` are ordinary Pyro functions: everything that
Pyro offers works on them, and everything in this package uses nothing else.

The guide lives in unconstrained space, and the VAE pushes it onto the support of the prior by ``biject_to``. So the
same normal guide serves a normal, a gamma, a beta and a Dirichlet prior; for a real-valued prior the map is absent.
"""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import biject_to

from .conditionals.base import Conditional
from .conditionals.links import InDouble, is_real
from .data import as_rows
from .guards import mode, seeded, whole_number
from .parts import check_parts, title
from .rows import DataError, Rows
from .support import check

_names = (f"vae_{number}" for number in itertools.count())


class VAE(nn.Module):
    r"""A variational autoencoder from three conditionals.

    Arguments:
        prior: :math:`p(z)`, over latents of shape ``Z``.
        likelihood: :math:`p(x \mid z)`, over data of shape ``X``, given latents of shape ``(*, *Z)``.
        guide: :math:`q(z \mid x)` in unconstrained space, given data of shape ``(*, *X)``.

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

    def __init__(self, prior: Conditional, likelihood: Conditional, guide: Conditional) -> None:
        super().__init__()
        for role, part in (("prior", prior), ("likelihood", likelihood), ("guide", guide)):
            if not isinstance(part, Conditional):
                got = f"{type(part).__name__} {part!r:.40}"
                raise TypeError(f"VAE needs its {role} as a Conditional; got {got}; pyro_vae.build takes names")
        self.prior, self.likelihood, self.posterior = prior, likelihood, guide
        self._name = next(_names)
        check_parts(self)

    # The model, as Pyro functions

    def model(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        r"""The Pyro model :math:`p(z)\,p(x \mid z)`: plate ``"data"`` at dim -1, sites ``"z"`` and ``"x"``.

        Arguments:
            x: Data of shape ``(N, *X)`` to observe; left out, `size` data are drawn.
            size: The number of data to draw.

        Returns:
            The data, observed or drawn, of shape ``(N, *X)``.
        """
        if (x is None) == (size is None):
            both = "neither" if x is None else "both"
            raise ValueError(f"model needs data x to observe, or size= to draw; got {both}")
        if size is not None:
            whole_number("size", size, at_least=1)
        x = None if x is None else self._fitting(x)
        self._register()
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self._decoded(z), obs=x)

    def guide(self, x: Tensor, *, observations: dict[str, Tensor] | None = None) -> Tensor:
        r"""The Pyro guide :math:`q(z \mid x)`: plate ``"data"`` at dim -1, site ``"z"`` of shape ``(N, *Z)``.

        Arguments:
            x: Data of shape ``(N, *X)``.
            observations: What ``pyro.infer.ReweightedWakeSleep`` has dreamt in place of x, of shape ``(*, N, *X)``.

        Returns:
            Latents of shape ``(N, *Z)``.
        """
        x = observations["x"].to(self.reference) if observations else self._fitting(x)
        self._register()
        with pyro.plate("data", x.shape[-1 - len(self.likelihood.event_shape)], dim=-1):
            return pyro.sample("z", self._encoded(x))

    # The model, as distributions and arrays

    def encode(self, x: Any) -> TorchDistribution:
        r""":math:`q(z \mid x)` on the support of the prior, with the VAE in eval mode.

        Arguments:
            x: Data of shape ``(N, *X)``.

        Returns:
            A distribution of batch shape ``(N,)`` and event shape ``Z``. Where the prior is not real-valued, its draws
            are in double precision.

        Raises:
            DataError: The data do not fit the likelihood.
        """
        x = self.check(x).take(slice(None), like=self.reference)
        with mode(self, training=False):
            return self._encoded(x)

    def decode(self, z: Any) -> TorchDistribution:
        r""":math:`p(x \mid z)`, with the VAE in eval mode.

        Arguments:
            z: Latents of shape ``(*, *Z)``.

        Returns:
            A distribution of batch shape ``*`` and event shape ``X``.

        Raises:
            DataError: The latents have another shape.
        """
        z = torch.as_tensor(z, dtype=self.reference.dtype, device=self.reference.device)
        shape = self.prior.event_shape
        if z.shape[z.dim() - len(shape) :] != shape:
            raise DataError(f"decode needs latents of shape {('*', *shape)}; got {tuple(z.shape)}")
        with mode(self, training=False):
            return self._decoded(z)

    def sample(self, size: int, *, seed: int = 0) -> Tensor:
        """Data drawn from the model, with the VAE in eval mode: the same for the same seed.

        Arguments:
            size: How many data.
            seed: The seed of the draws.

        Returns:
            A tensor of shape ``(size, *X)``.
        """
        whole_number("size", size, at_least=1)
        with torch.no_grad(), seeded(seed), mode(self, training=False):
            return self._decoded(self.prior().sample(torch.Size([size]))).sample()

    def reconstruct(self, x: Any, *, num_samples: int = 16, seed: int = 0) -> Tensor:
        r"""What the model keeps of x: :math:`\mathrm{E}\,p(x' \mid z)`, averaged over draws of z from the guide.

        Where the likelihood has no mean (classes, the heaviest tails), its mode stands in, for one draw of z.

        Arguments:
            x: Data of shape ``(N, *X)``.
            num_samples: How many z are drawn for each datum.
            seed: The seed of the draws.

        Returns:
            A tensor of shape ``(N, *X)``.

        Raises:
            DataError: The data do not fit the likelihood.
        """
        whole_number("num_samples", num_samples, at_least=1)
        with torch.no_grad(), seeded(seed), mode(self, training=False):
            decoded = self._decoded(self.encode(x).sample(torch.Size([num_samples])))
            mean = decoded.mean.mean(0)
            return torch.where(mean.isnan(), decoded.mode[0], mean) if mean.isnan().any() else mean

    def check(self, x: Any) -> Rows:
        """Data as rows that fit the likelihood: shape, finite values, support, finite density.

        Arguments:
            x: Data of shape ``(N, *X)``.

        Returns:
            The data as rows, unchanged.

        Raises:
            DataError: They do not fit; the message names row, column and value, and says what to do.
            ValueError: A parameter of the VAE is not finite.
        """
        for name, parameter in self.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise ValueError(f"the parameter {name} of the VAE is not finite; build or load it again")
        rows = as_rows(x, self.likelihood.event_shape)
        with torch.no_grad(), seeded(0), mode(self, training=False), pyro.validation_enabled(False):
            check(rows, self._decoded(self.prior().sample()), title(self.likelihood), self.reference)
        return rows

    @property
    def reference(self) -> Tensor:
        """A tensor with the dtype and device that the VAE computes in."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def is_mixed(self) -> bool:
        """Whether latents on a constrained support are in double precision and the rest in single (``InDouble``)."""
        return self.reference.dtype != torch.float64 and not is_real(self.prior().support)

    # How it works

    def _encoded(self, x: Tensor) -> TorchDistribution:
        unconstrained = self.posterior(x)
        support = self.prior().support
        if is_real(support):
            return unconstrained
        return dist.TransformedDistribution(unconstrained, [InDouble(), biject_to(support).with_cache()])

    def _decoded(self, z: Tensor) -> TorchDistribution:
        return self.likelihood(z.to(self.reference.dtype))

    def _fitting(self, x: Tensor) -> Tensor:
        """A batch of the right shape, where and as the VAE computes; the values are checked once, at the door."""
        plain = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_complex()
        if plain and x.dim() > 0 and len(x) > 0 and x.shape[1:] == self.likelihood.event_shape:
            return x.to(device=self.reference.device, dtype=self.reference.dtype)
        return as_rows(x, self.likelihood.event_shape).take(slice(None), like=self.reference)

    def _register(self) -> None:
        """Show the parameters to Pyro under a name that no other instance has.

        Unlike ``pyro.module`` this follows a part that was replaced, and is silent about frozen parameters.
        """
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                full_name = f"{self._name}$$${name}"
                if full_name in store and store[full_name] is not parameter:
                    del store[full_name]
                pyro.param(full_name, parameter)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference, which cannot be pickled
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy trains by itself: it gets a name of its own."""
        super().__setstate__(state)
        self._name = next(_names)
