r"""Monte Carlo EM: learning from draws of the posterior itself, by MCMC, in place of the guide's.

.. math:: \nabla_\theta \log p_\theta(x) = \mathbb{E}_{p_\theta(z \mid x)} \nabla_\theta \log p_\theta(x, z)

(Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114, appendix E). It is the baseline for the
guide as a way of *learning*: no family of guides, no bound. Here the chains of each step begin at
draws of the guide, which is trained beside the model, to give the draws of MCMC a high density:
they need few transitions, and the guide is there afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..density.target import Target
from ..density.terms import log_density, replayed_terms, sites, under_particles
from ..guards import mode, whole_number
from ..posterior.hmc import evaluate, transition
from .objectives import Objective, backward

TARGET, RATE = 0.9, 0.1  # the acceptance of the reference, and how the step size follows it


class MonteCarloEM(Objective):
    r"""Monte Carlo EM: a step of HMC-EM for each batch.

    The E-step makes some transitions of 10 leapfrog steps from draws of the guide, the M-step
    raises :math:`\log p(x, z)` of model, and :math:`\log q(z \mid x)` of guide, at the draws found.
    The step size is adapted to an acceptance of 0.9. The loss that is reported is minus the ELBO,
    to be compared with that of other losses.

    Arguments:
        num_particles: The chains for each datum.
        transitions: The transitions of each chain in each step.
        num_steps: The leapfrog steps of each transition.

    Raises:
        ValueError: An option makes no sense.
        TypeError: Later: a latent is discrete.

    References:
        | Auto-encoding variational Bayes (Kingma & Welling, 2013), appendix E
        | https://arxiv.org/abs/1312.6114

    Example:
        >>> MonteCarloEM(4).transitions
        2
    """

    def __init__(
        self, num_particles: int = 4, *, transitions: int = 2, num_steps: int = 10
    ) -> None:
        super().__init__(num_particles, one_latent=False)
        whole_number("transitions", transitions, at_least=1)
        whole_number("num_steps", num_steps, at_least=1)
        self.transitions, self.num_steps, self.step_size = transitions, num_steps, 0.2

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, summed over the data."""
        drawn = under_particles(guide, args, self.num_particles)
        return -float(
            replayed_terms(model, drawn, args, self.num_particles, None).log_weight.mean(0).sum()
        )

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, summed over the data; adds to the gradients of all parameters."""
        with torch.no_grad():
            drawn = under_particles(guide, args, self.num_particles)
            terms = replayed_terms(model, drawn, args, self.num_particles, None)
        values = {site["name"]: site["value"] for site in sites(drawn, observed=False)}
        with (
            pyro.validation_enabled(False),
            mode(model, training=False),
        ):  # proposals that make no sense are rejected
            found = self._expectation(Target(model, args), values)
        backward(-self._log_densities(model, guide, args, found).sum() / self.num_particles)
        return -float(terms.log_weight.mean(0).sum())

    def _expectation(self, target: Target, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Latents after some transitions; the step size is in units of the spread of the guide's
        draws.
        """
        start = target.unconstrain(values)
        spread = start.std(0).clamp(min=1e-3) if len(start) > 1 else torch.ones_like(start[0])
        state, scale = evaluate(target, start), torch.diag_embed(spread)
        for _ in range(self.transitions):
            step_size = self.step_size * (0.8 + 0.4 * torch.rand_like(state.log_density))
            state, seen = transition(target, state, step_size, self.num_steps, scale)
            self.step_size *= float((RATE * (seen.acceptance.mean() - TARGET)).exp())
        return target.constrain(state.position)

    def _log_densities(
        self, model: Callable, guide: Callable, args: Any, values: dict[str, Tensor]
    ) -> Tensor:
        """log p(x, z) + log q(z|x) of given latents, of shape ``(K, N)``."""
        shape = (self.num_particles, len(args[0]))
        of_model = under_particles(poutine.condition(model, values), args, self.num_particles)
        of_guide = under_particles(poutine.condition(guide, values), args, self.num_particles)
        return log_density(of_model, shape, observed=True) + log_density(
            of_guide, shape, observed=True
        )
