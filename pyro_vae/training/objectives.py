r"""Training objectives that Pyro lacks: importance-weighted bounds with better gradients, and free
bits.

For M groups of K draws :math:`z_{mk} \sim q_\phi(z \mid x)`, the importance weights :math:`w_{mk}`
(see ``terms``) give

.. math:: \mathcal{L}_{M,K} = \frac{1}{M} \sum_m \log \frac{1}{K} \sum_k w_{mk}, \qquad
    \nabla \mathcal{L}_{M,K} = \frac{1}{M} \sum_{m,k} \tilde w_{mk} \nabla \log w_{mk}, \quad
    \tilde w_{mk} = w_{mk} \Big/ \sum_j w_{mj}.

M = 1 is the importance-weighted bound, K = 1 the ELBO. The bound tightens with K, while the
signal-to-noise ratio of its gradient for the guide falls as :math:`1/\sqrt{K}`. The guide's
parameters enter :math:`\log w` along the path of z, and directly in :math:`-\log q_\phi(z)`: this
part, the score, is noise even where the guide is exact. So there are four gradients for the guide:

========  ===========================================================================================================
pathwise  the gradient of the bound, score and all, as above
stl       sticking the landing: without the score; no noise where the guide is exact, biased for K > 1
dreg      doubly reparameterised: :math:`\frac{1}{M} \sum \tilde w_{mk}^2 \, \partial_z \log w_{mk} \, \partial_\phi z`,
          without the score and without bias, with a signal-to-noise ratio that rises with K
piwae     the gradient of :math:`\mathcal{L}_{M,K}`, while the model climbs the tighter :math:`\mathcal{L}_{1,MK}`
========  ===========================================================================================================

The score is taken out by adding :math:`\log q_\phi(\bar z)` less its value, with :math:`\bar z`
held constant: the encoder runs once, so that dropout and batch statistics are those of the draw.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import (
    Distribution,
    IndependentTransform,
    TransformedDistribution,
    kl_divergence,
)

from ..density.terms import log_density, names, sites, under_particles
from ..distributions.supports import innermost
from ..guards import owner_of, whole_number
from ..vae import VAE

GRADIENTS = ("pathwise", "stl", "dreg", "piwae")


class Objective(ELBO):
    """An ELBO on traces of guide and replayed model under one plate of particles, outside the data
    plate.
    """

    groups = 1

    def __init__(self, num_particles: int, one_latent: bool) -> None:
        whole_number("num_particles", num_particles, at_least=1)
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
        self.one_latent = one_latent

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """The model gets a view of each latent, so that a hook on it concerns the model only."""
        particles = self.num_particles * self.groups
        guide_trace = under_particles(partial(guide, **kwargs), args, particles)
        replayed = poutine.replay(model, trace=_mapped(guide_trace, lambda z: z.view_as(z)))
        model_trace = under_particles(partial(replayed, **kwargs), args, particles)
        latents, drawn = (
            sorted(names(trace, observed=False)) for trace in (model_trace, guide_trace)
        )
        if latents != drawn:
            raise ValueError(
                f"model and guide must have the same latent sites; got {latents} and {drawn}"
            )
        if not names(model_trace, observed=True):
            raise ValueError("the model observes nothing; give one of its sample sites obs=x")
        if self.one_latent and len(drawn) != 1:
            instead = (
                "use ImportanceWeighted(gradient='pathwise')"  # one latent may depend on another
            )
            raise ValueError(
                f"{type(self).__name__} needs a guide with one latent site; got {drawn}; {instead}"
            )
        fixed = [
            site["name"]
            for site in sites(guide_trace, observed=False)
            if not site["fn"].has_rsample
        ]
        if torch.is_grad_enabled() and fixed:
            raise ValueError(
                f"{type(self).__name__} needs a guide that can be reparameterised; site "
                f"{fixed[0]!r} has a distribution without rsample; use pyro.infer.RenyiELBO or "
                "Trace_ELBO"
            )
        return model_trace, guide_trace


class ImportanceWeighted(Objective):
    r"""The importance-weighted bound: weights per datum, in any number of groups, with a choice of
    gradients.

    The loss is minus :math:`\mathcal{L}_{M,K}`, for piwae minus :math:`\mathcal{L}_{1,MK}`. Masks
    count; scales do not: neither a KL weight nor a subsampled plate has a place inside the
    logarithm.

    See also:
        ``pyro.infer.RenyiELBO`` for guides without ``rsample``.

    References:
        | Importance weighted autoencoders (Burda et al., 2015)
        | https://arxiv.org/abs/1509.00519
        | Sticking the landing (Roeder et al., 2017)
        | https://arxiv.org/abs/1703.09194
        | Tighter variational bounds are not necessarily better (Rainforth et al., 2018)
        | https://arxiv.org/abs/1802.04537
        | Doubly reparameterized gradient estimators for Monte Carlo objectives (Tucker et al., 2018)
        | https://arxiv.org/abs/1810.04152

    Arguments:
        num_particles: The draws K of z in each group.
        groups: The number M of groups.
        gradient: The gradient for the guide's parameters: pathwise, stl, dreg or piwae.

    Raises:
        ValueError: An option makes no sense. Later: a latent has no ``rsample``, or stl and dreg
            meet several latents.

    Example:
        >>> ImportanceWeighted(8, gradient="dreg").num_particles
        8
    """

    def __init__(
        self, num_particles: int = 16, *, groups: int = 1, gradient: str = "pathwise"
    ) -> None:
        super().__init__(num_particles, one_latent=gradient in ("stl", "dreg"))
        whole_number("groups", groups, at_least=1)
        if gradient not in GRADIENTS:
            raise ValueError(f"no gradient is named {gradient!r}; there are {', '.join(GRADIENTS)}")
        if gradient == "piwae" and groups == 1:
            raise ValueError(
                "gradient='piwae' needs groups from 2; got 1, where gradient='pathwise' is the same"
            )
        self.groups, self.gradient = groups, gradient

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the data."""
        log_model, log_guide = self._log_densities(
            *self._get_trace(model, guide, args, kwargs), len(args[0])
        )
        return self._loss(log_model - log_guide).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the data; adds to the gradients of all parameters."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        log_model, log_guide = self._log_densities(model_trace, guide_trace, len(args[0]))
        loss = self._loss(log_model - log_guide)
        if self.gradient == "piwae":
            of_model, of_guide = _parameters(guide, model_trace, guide_trace)
            backward(loss, of_model)
            backward(-_bound(log_model - log_guide, self.groups), of_guide)
        elif self.gradient == "dreg":
            backward(
                self._doubly_reparameterised(
                    sites(model_trace, observed=False), log_model, log_guide
                )
            )
        else:
            backward(loss)
        return loss.item()

    def _log_densities(
        self, model_trace: Trace, guide_trace: Trace, data: int
    ) -> tuple[Tensor, Tensor]:
        """log p(x, z) and log q(z|x), each of shape ``(M K, N)``; without the score where the
        gradient is without.
        """
        shape = (self.groups * self.num_particles, data)
        log_model = log_density(model_trace, shape, observed=True) + log_density(
            model_trace, shape, observed=False
        )
        log_guide = log_density(guide_trace, shape, observed=False)
        if self.one_latent and log_guide.requires_grad:
            score = log_density(_mapped(guide_trace, Tensor.detach), shape, observed=False)
            log_guide = log_guide - score + score.detach()
        return log_model, log_guide

    def _loss(self, log_weight: Tensor) -> Tensor:
        return -_bound(log_weight, 1 if self.gradient == "piwae" else self.groups)

    def _doubly_reparameterised(
        self, latents: list[Any], log_model: Tensor, log_guide: Tensor
    ) -> Tensor:
        """A surrogate loss. Weights are squared along z: for p by a hook; log q without score has
        no other way.
        """
        weight = (
            (log_model - log_guide)
            .detach()
            .unflatten(0, (self.groups, -1))
            .softmax(1)
            .flatten(0, 1)
        )
        for z in (site["value"] for site in latents):
            if z.requires_grad:
                z.register_hook(
                    lambda grad: (
                        grad * weight.reshape(weight.shape + (1,) * (grad.dim() - 2)).to(grad)
                    )
                )
        return -(weight * log_model - weight.square() * log_guide).sum() / self.groups


class FreeBits(Objective):
    r"""The ELBO with free bits: the guide is not charged for the first nats of each latent
    dimension.

    .. math:: -\sum_n \mathrm{E}_q \log p(x_n \mid z) + \sum_j \max\Big(N \lambda, \sum_n \mathrm{KL}_{nj}\Big)

    It keeps a guide from collapsing onto the prior, where decoders are strong. KL is analytic where
    that is known, else estimated. Where prior or guide does not factorise over elements, a latent
    of D dimensions is one with :math:`D \lambda` nats. Masks count, and a scale of the latent
    weighs its term.

    References:
        | Improved variational inference with inverse autoregressive flow (Kingma et al., 2016), appendix C.8
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
        super().__init__(num_particles, one_latent=True)
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
        """The loss as a tensor, summed over the data."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        loss: Any = 0.0
        for site in sites(model_trace, observed=True):
            log_prob = site["fn"].log_prob(site["value"])
            loss = loss - scale_and_mask(log_prob, scale=site["scale"], mask=site["mask"]).sum()
        (latent,) = sites(guide_trace, observed=False)
        return (loss + self._charge(latent, model_trace.nodes[latent["name"]])) / self.num_particles

    def _charge(self, of_guide: Any, of_model: Any) -> Tensor:
        """What the guide pays for the latent, summed over particles and data."""
        given = [
            torch.as_tensor(site["scale"], dtype=torch.float64) for site in (of_guide, of_model)
        ]
        scales = sorted({scale for tensor in given for scale in tensor.flatten().tolist()})
        if len(scales) > 1:
            raise ValueError(
                f"FreeBits needs one scale for the latent of guide and model; got {scales}; scale "
                "both alike"
            )
        kl = kl_by_part(of_guide["fn"], of_model["fn"], of_guide["value"])
        counts = scale_and_mask(
            kl.new_ones(of_guide["fn"].batch_shape), mask=of_guide["mask"]
        ).reshape(-1, 1)
        free = self.free_bits * of_guide["fn"].event_shape.numel() / kl.shape[1] * counts.sum()
        return scales[0] * torch.where(counts > 0, kl, 0.0).sum(0).clamp(min=free).sum()


def kl_by_part(q: Any, p: Any, z: Tensor) -> Tensor:
    """KL of q from p, analytic or at z: a row for each element of the batch, a column for each
    independent part.
    """
    rows = q.batch_shape.numel()
    elements = _element(q), _element(p)
    q, p = (q, p) if None in elements else elements
    try:
        return kl_divergence(q, p).reshape(rows, -1)
    except NotImplementedError:
        return (q.log_prob(z) - p.log_prob(z)).reshape(rows, -1)


def _element(distribution: Any) -> Distribution | None:
    """The distribution of one element, also behind elementwise transforms; None where elements
    depend on another.
    """
    distribution = innermost(distribution)
    if not distribution.event_shape:
        return distribution
    if not isinstance(distribution, TransformedDistribution):
        return None
    base, transforms = _element(distribution.base_dist), []
    for transform in distribution.transforms:
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        transforms.append(transform)
    if base is None or any(t.domain.event_dim or t.codomain.event_dim for t in transforms):
        return None
    return TransformedDistribution(base, transforms)


def _mapped(trace: Trace, function: Callable[[Tensor], Tensor]) -> Trace:
    """The same trace with a function of its latents in their place."""
    copy = trace.copy()
    for site in sites(copy, observed=False):
        copy.nodes[site["name"]] = {**site, "value": function(site["value"])}
    return copy


def _bound(log_weight: Tensor, groups: int) -> Tensor:
    """The mean over groups of the log of the mean weight, summed over the data."""
    log_weight = log_weight.unflatten(0, (groups, -1))
    return (log_weight.logsumexp(1) - math.log(log_weight.shape[1])).mean(0).sum()


def _parameters(guide: Callable, *traces: Trace) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters in the traces: those of the model, and those of the guide (a VAE shows all in
    both).
    """
    shown = [
        {s["value"].unconstrained(): s for s in t.nodes.values() if s["type"] == "param"}
        for t in traces
    ]
    owner = owner_of(guide)
    of_guide = set(owner.posterior.parameters()) if isinstance(owner, VAE) else set(shown[-1])
    return [p for p in shown[0] if p not in of_guide], [p for p in shown[-1] if p in of_guide]


def backward(loss: Tensor, inputs: list[Tensor] | None = None) -> None:
    """Backward, where there is something to train; with `inputs` only for those, and the graph is
    kept.
    """
    if loss.requires_grad and inputs != []:
        loss.backward(inputs=inputs, retain_graph=inputs is not None)
