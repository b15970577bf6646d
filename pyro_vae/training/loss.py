"""The loss of a VAE as a module, for a training loop of one's own."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ..assembly.missing import is_missing
from ..density.direct import Direct
from ..guards import own_store
from ..vae import VAE
from .losses import objective, record_of
from .objectives import Objective


class Loss(nn.Module):
    r"""The loss that ``fit`` minimises, as a module whose parameters are those of the VAE.

    For those who drive the training themselves: a plain loop, Lightning, Fabric, Accelerate,
    ``DistributedDataParallel``. Data are taken as they are, without the checks of ``fit``:
    ``vae.check(x)`` makes them.

    Arguments:
        vae: The VAE.
        loss: A Pyro ELBO, or the name of one, as in ``fit``; none with a gradient of its own, as
            wake_sleep, dreg, piwae and mcem have.
        particles: The samples of z for each datum (default: the loss's own).
        beta: The weight of the KL term; of elbo and mean_field it may be changed later, as the
            attribute ``beta``.
        free_bits: The nats of KL in each latent dimension that cost nothing; for loss "elbo" of
            continuous latents only.

    Raises:
        ValueError: The loss is unknown, or an option has no place in it.
        TypeError: `vae` is no VAE; or the loss has a gradient of its own, and trains by ``fit``
            alone.

    References:
        | Auto-encoding variational Bayes (Kingma & Welling, 2013), eq. 3
        | https://arxiv.org/abs/1312.6114

    Example:
        >>> vae = build({"event": [2], "latent": [1]}, hidden=[3])
        >>> loss = Loss(vae, "iwae", particles=5)
        >>> optimiser = torch.optim.Adam(loss.parameters())
        >>> loss(torch.randn(10, 2)).backward()
        >>> optimiser.step()
    """

    def __init__(
        self,
        vae: VAE,
        loss: str | ELBO = "elbo",
        *,
        particles: int | None = None,
        beta: float = 1.0,
        free_bits: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(vae, VAE):
            raise TypeError(f"Loss needs a VAE; got {type(vae).__name__}")
        self.vae = vae
        self.elbo: Any = objective(vae, loss, particles, 1.0, free_bits)
        self.is_direct = isinstance(self.elbo, Objective) and self.elbo.is_direct
        own_gradient = self.is_direct and not self.elbo.differentiates_its_value
        if own_gradient or not (self.is_direct or hasattr(self.elbo, "differentiable_loss")):
            raise TypeError(
                f"Loss needs a loss whose gradient is that of its value; got {loss!r}, which has "
                "one of its own; fit trains by it, and elbo, mean_field, iwae, renyi, stl and "
                "miwae can stand here"
            )
        self.beta = beta

    @property
    def beta(self) -> float:
        """The weight of the KL term."""
        return self._beta

    @beta.setter
    def beta(self, beta: float) -> None:
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not beta >= 0:
            raise ValueError(f"Loss needs beta as a number from 0; got {beta!r:.60}")
        if beta != 1.0 and not (self.is_direct and record_of(self.elbo).has_kl):
            raise ValueError("Loss: beta weighs the KL term of elbo and mean_field; leave it at 1")
        self._beta = beta

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """The loss per datum of a batch, in nats: its mean over the rows of x.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What a conditional VAE is conditional on, a row for each datum.
        """
        x = self.vae.as_batch(x)
        batch = (x,) if c is None else (x, c)
        with pyro.validation_enabled(False):
            if self.is_direct:
                densities = Direct(self.vae, batch, missing=is_missing(x))
                return self.elbo.evaluate(densities, self.beta) / len(x)
            with own_store():
                total = self.elbo.differentiable_loss(self.vae.model, self.vae.guide, *batch)
                return torch.as_tensor(total) / len(x)
