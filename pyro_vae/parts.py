"""Do prior, likelihood and guide fit together? Found out before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import biject_to

from .conditionals.base import Conditional
from .conditionals.links import is_real
from .guards import mode, seeded


def title(part: Conditional) -> str:
    """How messages name a part: by its head and event shape."""
    head = getattr(part, "head", part)
    return f"{type(head).__name__}{tuple(head.event_shape)}"


def check_parts(vae: Any) -> None:
    """Draw from the prior, decode, encode: parts that do not fit are refused here, with their shapes."""
    dtypes = {tensor.dtype for tensor in vae.state_dict().values() if tensor.is_floating_point()}
    if len(dtypes) > 1:
        raise ValueError(
            f"VAE: the parts must share one dtype; got {sorted(map(str, dtypes))}; convert with part.to(dtype)"
        )
    with torch.no_grad(), seeded(0), mode(vae, training=False):
        prior, needs = _run("prior", vae.prior, None), "make its parameters fixed or learned"
        if prior.batch_shape:
            raise ValueError(f"VAE: the prior must have batch shape (); got {tuple(prior.batch_shape)}; {needs}")
        try:
            unconstrained = torch.Size(biject_to(prior.support).inverse_shape(prior.event_shape))
        except NotImplementedError:
            why = "is discrete" if prior.support.is_discrete else f"has support {prior.support}, which has no map to it"
            raise ValueError(f"VAE: the prior {title(vae.prior)} {why}; use a prior over real numbers") from None
        if vae.posterior.event_shape != unconstrained:
            raise ValueError(_different_latents(vae, unconstrained))
        z = prior.sample(torch.Size([2, 3]))
        x = _run("likelihood", vae.likelihood, z).sample().to(z.dtype)
        guide = _run("guide", vae.posterior, x)
        if not is_real(guide.support):
            raise ValueError(
                f"VAE: the guide lives in unconstrained space; {title(vae.posterior)} has support {guide.support}; "
                f"use a guide over real numbers such as Normal({tuple(unconstrained)}): it follows the prior's support"
            )


def _run(role: str, part: Conditional, context: Tensor | None) -> TorchDistribution:
    given = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
    try:
        built = part() if context is None else part(context)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        hint = "" if isinstance(error, ValueError) else "; a network must take any leading shape: see pyro_vae.fold"
        raise ValueError(f"VAE: the {role} {title(part)} cannot take {given}: {error}{hint}") from error
    if not isinstance(built, TorchDistributionMixin):
        raise ValueError(f"VAE: the {role} must give a Pyro distribution; its forward gave {type(built).__name__}")
    batch = torch.Size([]) if context is None else context.shape[:2]
    if built.event_shape != part.event_shape or (context is not None and built.batch_shape != batch):
        got = f"batch shape {tuple(built.batch_shape)} and event shape {tuple(built.event_shape)}"
        expected = f"batch shape {tuple(batch)} and event shape {tuple(part.event_shape)}"
        raise ValueError(f"VAE: the {role} must give {expected} for {given}; got {got}; see pyro_vae.fold")
    return built


def _different_latents(vae: Any, unconstrained: torch.Size) -> str:
    latent, guide = tuple(vae.prior.event_shape), tuple(vae.posterior.event_shape)
    if tuple(unconstrained) == latent:
        return f"prior and guide describe different latents: {latent} and {guide}"
    return (
        f"prior and guide describe different latents: {title(vae.prior)} has shape {tuple(unconstrained)} in "
        f"unconstrained space, where the guide lives, and the guide has shape {guide}"
    )
