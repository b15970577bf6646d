"""Semi-amortised inference: the guide, improved for given data."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..conditionals.base import Amortised
from ..guards import seeded, whole_number
from ..recorded import Recorded
from .base import Assembly
from .missing import is_missing


def refine(
    vae: Assembly, batch: tuple[Tensor, ...], steps: int, learning_rate: float, particles: int
) -> TorchDistribution:
    """The guide of a batch, with what its head reads optimised where that raises the ELBO."""
    whole_number("steps", steps, at_least=1)
    whole_number("particles", particles, at_least=1)
    if not isinstance(learning_rate, numbers.Real) or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a finite number above 0; got {learning_rate!r}")
    posterior = vae.posterior
    if not isinstance(posterior, Amortised) or vae.is_discrete:
        raise TypeError(
            "refine needs a guide Amortised(network, head) over continuous latents; got "
            f"{posterior.title}"
        )

    x, *given = batch
    c = vae.encode_condition(len(x), *given)
    missing = is_missing(x)

    def elbo(read: Tensor) -> Tensor:
        guide = vae.push_forward(posterior.head(read))
        z = guide.rsample(torch.Size([particles]))
        log_joint = vae.log_joint(x, z, c, missing=missing)
        return (log_joint - guide.log_prob(z)).mean(0)

    with torch.no_grad():
        start = posterior.read(vae.guide_input(x, c))

    def gradient(read: Tensor) -> tuple[Tensor]:
        read = read.detach().requires_grad_()
        return torch.autograd.grad(-elbo(read).sum(), read)

    recorded = Recorded(gradient)
    with torch.enable_grad():
        read = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([read], lr=learning_rate)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            (read.grad,) = recorded(read)
            optimiser.step()

    with torch.no_grad():
        better = _compared(elbo, read) > _compared(elbo, start)
        return vae.push_forward(posterior.head(torch.where(better[:, None], read, start)))


def _compared(elbo: Callable[[Tensor], Tensor], read: Tensor) -> Tensor:
    """The ELBO with many draws, the same ones at each call: two guides are told apart by them."""
    with seeded(0):
        return torch.stack([elbo(read) for _ in range(16)]).mean(0)
