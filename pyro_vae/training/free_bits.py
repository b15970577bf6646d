"""The ELBO with free bits, and the KL of a guide from a prior part by part."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import (
    Distribution,
    IndependentTransform,
    TransformedDistribution,
    kl_divergence,
)

from ..density.direct import Direct
from ..density.terms import Densities
from ..density.traced import replay, sites, under_particles
from ..distributions.supports import innermost
from .objectives import OwnELBO, backward, with_keywords


class FreeBits(OwnELBO):
    r"""The ELBO with free bits: the first nats of each latent dimension cost the guide nothing.

    .. math:: -\sum_n \mathrm{E}_q \log p(x_n \mid z) +
        \sum_j \max\Big(N \lambda, \sum_n \mathrm{KL}_{nj}\Big)

    It keeps a guide from collapsing onto the prior, where decoders are strong. KL is analytic where
    that is known, else estimated. Where prior or guide does not factorise over elements, a latent
    of D dimensions is one with :math:`D \lambda` nats. Masks count, and a scale of the latent
    weighs its term.

    References:
        | Improved variational inference with inverse autoregressive flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934

    Arguments:
        free_bits: The nats :math:`\lambda` that are free in each dimension, in the mean over a
            batch.
        num_particles: The draws of z for each datum.

    Raises:
        ValueError: An option makes no sense. Later: there are several latents, or one without
            ``rsample``.

    Example:
        >>> FreeBits(0.25).free_bits
        0.25
    """

    def __init__(self, free_bits: float, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        if not isinstance(free_bits, numbers.Real) or not 0 < free_bits < math.inf:
            raise ValueError(f"free_bits must be a finite number above 0; got {free_bits!r}")
        self.free_bits: float = free_bits

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the data."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the data; adds to the gradients of all parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        backward(loss)
        return loss.item()

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss as a tensor, summed over the data; masks count, and scales weigh."""
        of_guide, of_model, observed = self._sites(
            with_keywords(model, kwargs), with_keywords(guide, kwargs), args
        )
        loss: Any = 0.0
        for site in observed:
            log_prob = site["fn"].log_prob(site["value"])
            loss = loss - scale_and_mask(log_prob, scale=site["scale"], mask=site["mask"]).sum()

        kl = kl_by_part(of_guide["fn"], of_model["fn"], of_guide["value"])
        ones = kl.new_ones(of_guide["fn"].batch_shape)
        counts = scale_and_mask(ones, mask=of_guide["mask"]).reshape(-1, 1)
        kl = torch.where(counts > 0, kl, 0.0)
        size = of_guide["fn"].event_shape.numel()
        scale = _one_scale(of_guide, of_model)
        return (loss + scale * self._charge(kl, counts.sum(), size)) / self.num_particles

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        if not isinstance(densities, Direct):
            raise TypeError("FreeBits has its own way to traces: differentiable_loss(model, guide)")
        shape = torch.Size([self.num_particles, densities.num_data])
        guide, prior = densities.guide.expand(shape), densities.prior.expand(shape)
        z = guide.rsample()
        log_likelihood, _ = densities.log_model({"z": z})

        kl = kl_by_part(guide, prior, z)
        charge = self._charge(kl, shape.numel(), guide.event_shape.numel())
        return (beta * charge - log_likelihood.sum()) / self.num_particles

    def _charge(self, kl: Tensor, num: Any, size: int) -> Tensor:
        """What the guide pays for a latent of `size` numbers, summed over `num` draws."""
        free = self.free_bits * size / kl.shape[1] * num
        return kl.sum(0).clamp(min=free).sum()

    def _sites(self, model: Callable, guide: Callable, args: tuple) -> tuple[Any, Any, list[Any]]:
        """The latent site of the guide and of the model, and what the model observes."""
        guide_trace = under_particles(guide, args, self.num_particles)
        drawn = {site["name"]: site for site in sites(guide_trace, observed=False)}
        if len(drawn) != 1:
            raise ValueError(
                f"FreeBits needs a guide with one latent site; got {sorted(drawn)}; use "
                "ImportanceWeighted(gradient='pathwise')"
            )
        ((name, of_guide),) = drawn.items()
        if torch.is_grad_enabled() and not of_guide["fn"].has_rsample:
            raise ValueError(
                f"FreeBits needs a guide that can be reparameterised; site {name!r} has a "
                "distribution without rsample; use pyro.infer.RenyiELBO or Trace_ELBO"
            )

        replayed = replay(model, {name: of_guide["value"]})
        model_trace = under_particles(replayed, args, self.num_particles)
        latents = sorted(site["name"] for site in sites(model_trace, observed=False))
        if latents != [name]:
            raise ValueError(
                f"model and guide must have the same latent sites; got {latents} and {[name]}"
            )
        observed = sites(model_trace, observed=True)
        if not observed:
            raise ValueError("the model observes nothing; give one of its sample sites obs=x")
        return of_guide, model_trace.nodes[name], observed


def _one_scale(*latents: Any) -> float:
    """The scale of a latent, which must be the same in guide and model."""
    given = [torch.as_tensor(site["scale"], dtype=torch.float64) for site in latents]
    scales = sorted({scale for tensor in given for scale in tensor.flatten().tolist()})
    if len(scales) > 1:
        raise ValueError(
            f"FreeBits needs one scale for the latent of guide and model; got {scales}; scale "
            "both alike"
        )
    return scales[0]


def kl_by_part(q: Any, p: Any, z: Tensor) -> Tensor:
    """KL of q from p, analytic where that is known, else at z.

    Returns:
        A row for each element of the batch, a column for each independent part of an event.
    """
    rows = q.batch_shape.numel()
    elements = element_of(q), element_of(p)
    q, p = (q, p) if None in elements else elements
    try:
        return kl_divergence(q, p).reshape(rows, -1)
    except NotImplementedError:
        return (q.log_prob(z) - p.log_prob(z)).reshape(rows, -1)


def element_of(distribution: Any) -> Distribution | None:
    """The distribution of one element, also behind elementwise transforms.

    None where elements depend on each other.
    """
    distribution = innermost(distribution)
    if not distribution.event_shape:
        return distribution
    if not isinstance(distribution, TransformedDistribution):
        return None

    base, transforms = element_of(distribution.base_dist), []
    for transform in distribution.transforms:
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        transforms.append(transform)
    if base is None or any(t.domain.event_dim or t.codomain.event_dim for t in transforms):
        return None
    return TransformedDistribution(base, transforms)
