r"""Monte Carlo EM: learning from draws of the posterior itself, by MCMC, in place of the guide's.

.. math:: \nabla_\theta \log p_\theta(x) =
    \mathbb{E}_{p_\theta(z \mid x)} \nabla_\theta \log p_\theta(x, z)

(Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114, appendix E). It is the baseline for the
guide as a way of *learning*: no family of guides, no bound. Here the chains of each step begin at
draws of the guide, which is trained beside the model, to give the draws of MCMC a high density:
they need few transitions, and the guide is there afterwards.
"""

from __future__ import annotations

import functools

import pyro
import torch
from torch import Tensor

from ..density.target import Target
from ..density.terms import Densities, Values
from ..guards import whole_number
from ..posterior.hmc import evaluate, transition
from .objectives import OwnELBO, backward

TARGET = 0.9  # the acceptance of the reference
RATE = 0.1  # how fast the step size follows it
JITTER = 0.2  # of the step size


class MonteCarloEM(OwnELBO):
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
        super().__init__(num_particles)
        whole_number("transitions", transitions, at_least=1)
        whole_number("num_steps", num_steps, at_least=1)
        self.transitions = transitions
        self.num_steps = num_steps
        self.step_size = 0.2

    def evaluate(self, densities: Densities, beta: float = 1.0) -> Tensor:
        return -densities.terms(self.num_particles).log_weight.mean(0).sum()

    def backward(self, densities: Densities, beta: float = 1.0, scale: float = 1.0) -> float:
        with torch.no_grad():
            fixed = densities.fresh()
            drawn = fixed.draw(self.num_particles)
            elbo = fixed.weigh(drawn).log_weight.mean(0).sum()

        no_validation = pyro.validation_enabled(False)  # impossible proposals are rejected
        with no_validation, densities.eval_mode():
            found = self._expectation(Target(densities.fresh()), drawn.values)

        log_likelihood, log_prior = densities.log_model(found)
        log_density = log_likelihood + log_prior + densities.log_guide(found)
        backward(-scale * log_density.sum() / self.num_particles)
        return -elbo.item()

    def _expectation(self, target: Target, values: Values) -> Values:
        """Latents after some transitions, from draws of the guide.

        The step size is in units of the spread of these draws.
        """
        start = target.unconstrain(values)
        spread = start.std(0).clamp(min=1e-3) if len(start) > 1 else torch.ones_like(start[0])
        state_at = functools.partial(evaluate, target)
        state, scale = state_at(start), torch.diag_embed(spread)
        for _ in range(self.transitions):
            step_size = self.step_size * torch.ones_like(state.log_density)
            state, info = transition(
                state_at, state, step_size, self.num_steps, scale, jitter=JITTER
            )
            self.step_size *= float((RATE * (info.acceptance.mean() - TARGET)).exp())
        return target.constrain(state.position)
