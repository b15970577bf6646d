r"""Importance-weighted bounds, with a choice of gradients for the guide.

For M groups of K draws :math:`z_{mk} \sim q_\phi(z \mid x)`, the importance weights :math:`w_{mk}`
(see :mod:`.terms`) give

.. math:: \mathcal{L}_{M,K} = \frac{1}{M} \sum_m \log \frac{1}{K} \sum_k w_{mk}, \qquad
    \nabla \mathcal{L}_{M,K} = \frac{1}{M} \sum_{m,k} \tilde w_{mk} \nabla \log w_{mk}, \quad
    \tilde w_{mk} = w_{mk} \Big/ \sum_j w_{mj}.

M = 1 is the importance-weighted bound, K = 1 the ELBO. The bound tightens with K, while the
signal-to-noise ratio of its gradient for the guide falls as :math:`1/\sqrt{K}`. The guide's
parameters enter :math:`\log w` along the path of z, and directly in :math:`-\log q_\phi(z)`. This
second part, the score, is noise even where the guide is exact. So there are four gradients:

========  ==========================================================================================
pathwise  the gradient of the bound, score and all, as above
stl       sticking the landing: without the score; no noise where the guide is exact, biased for
          K > 1
dreg      doubly reparameterised: without the score and without bias; its signal-to-noise ratio
          rises with K:
          :math:`\frac{1}{M} \sum \tilde w_{mk}^2 \, \partial_z \log w_{mk} \, \partial_\phi z`
piwae     the gradient of :math:`\mathcal{L}_{M,K}`, while the model climbs the tighter
          :math:`\mathcal{L}_{1,MK}`
========  ==========================================================================================

The score is taken out by adding :math:`\log q_\phi(\bar z)` less its value, with :math:`\bar z`
held constant. The encoder runs once, so that dropout and batch statistics are those of the draw.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..density.terms import Densities, Drawn, Values
from ..guards import whole_number
from .objectives import OwnELBO, backward

GRADIENTS = ("pathwise", "stl", "dreg", "piwae")


class ImportanceWeighted(OwnELBO):
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
        | Doubly reparameterized gradient estimators (Tucker et al., 2018)
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
        super().__init__(num_particles)
        whole_number("groups", groups, at_least=1)
        if gradient not in GRADIENTS:
            raise ValueError(f"no gradient is named {gradient!r}; there are {', '.join(GRADIENTS)}")
        if gradient == "piwae" and groups == 1:
            raise ValueError(
                "gradient='piwae' needs groups from 2; got 1, where gradient='pathwise' is the same"
            )
        self.groups = groups
        self.gradient = gradient

    @property
    def differentiates_its_value(self) -> bool:
        own = type(self).backward is not ImportanceWeighted.backward
        return self.gradient in ("pathwise", "stl") and not own

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        log_model, log_guide, _ = self._log_densities(densities)
        return self._loss(log_model - log_guide)

    def backward(self, densities: Densities, beta: float = 1.0, scale: float = 1.0) -> float:
        log_model, log_guide, views = self._log_densities(densities)
        loss = self._loss(log_model - log_guide)
        if self.gradient == "piwae":
            of_model, of_guide = densities.parameters()
            backward(scale * loss, of_model)
            backward(-scale * _bound(log_model - log_guide, self.groups), of_guide)
        elif self.gradient == "dreg":
            backward(scale * self._doubly_reparameterised(views, log_model, log_guide))
        else:
            backward(scale * loss)
        return loss.item()

    def _log_densities(self, densities: Densities) -> tuple[Tensor, Tensor, Values]:
        """log p(x, z) and log q(z|x), ``(M K, N)``, and the latents as the model sees them.

        The model gets a view of each latent, so that a hook on it concerns the model only.
        """
        drawn = densities.draw(self.num_particles * self.groups)
        self._refuse(drawn)
        views = {name: z.view_as(z) for name, z in drawn.values.items()}
        log_likelihood, log_prior = densities.log_model(views)

        log_guide = drawn.log_guide
        if self._without_score and log_guide.requires_grad:
            score = drawn.rescore({name: z.detach() for name, z in drawn.values.items()})
            log_guide = log_guide - score + score.detach()
        return log_likelihood + log_prior, log_guide, views

    @property
    def _without_score(self) -> bool:
        return self.gradient in ("stl", "dreg")

    def _refuse(self, drawn: Drawn) -> None:
        if self._without_score and len(drawn.values) != 1:
            raise ValueError(  # one latent may depend on another
                f"ImportanceWeighted needs a guide with one latent site; got "
                f"{sorted(drawn.values)}; use ImportanceWeighted(gradient='pathwise')"
            )
        if torch.is_grad_enabled() and drawn.fixed:
            raise ValueError(
                "ImportanceWeighted needs a guide that can be reparameterised; site "
                f"{drawn.fixed[0]!r} has a distribution without rsample; use "
                "pyro.infer.RenyiELBO or Trace_ELBO"
            )

    def _loss(self, log_weight: Tensor) -> Tensor:
        return -_bound(log_weight, 1 if self.gradient == "piwae" else self.groups)

    def _doubly_reparameterised(
        self, views: Values, log_model: Tensor, log_guide: Tensor
    ) -> Tensor:
        """A surrogate loss, whose gradient for the guide has the weights squared.

        Of the model they are squared by a hook on z, so that its parameters see plain weights.
        log q, its score removed, depends on the guide through z alone.
        """
        log_weight = (log_model - log_guide).detach()
        weight = log_weight.unflatten(0, (self.groups, -1)).softmax(1).flatten(0, 1)

        def squared(gradient: Tensor) -> Tensor:
            own = weight.reshape(weight.shape + (1,) * (gradient.dim() - 2))
            return gradient * own.to(gradient)

        for z in views.values():
            if z.requires_grad:
                z.register_hook(squared)
        return -(weight * log_model - weight.square() * log_guide).sum() / self.groups


def _bound(log_weight: Tensor, groups: int) -> Tensor:
    """The mean over groups of the log of the mean weight, summed over the data."""
    log_weight = log_weight.unflatten(0, (groups, -1))
    return (log_weight.logsumexp(1) - math.log(log_weight.shape[1])).mean(0).sum()
