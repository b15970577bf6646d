"""The loss of a step, as Pyro's SVI asks for it: over the data of all processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ..density.problem import Problem
from .adapters import Tempered
from .group import Group
from .objectives import Objective


class StepLoss:
    """The loss of a run, with its gradients.

    Arguments:
        elbo: The loss.
        tempered: Holds beta.
        group: The processes that train together.
        problem: The data that are trained on.
        trained: The parameters, whose gradients the processes sum.
    """

    def __init__(
        self,
        elbo: ELBO,
        tempered: Tempered,
        group: Group,
        problem: Problem,
        trained: list[nn.Parameter],
    ) -> None:
        self.elbo = elbo
        self.tempered = tempered
        self.group = group
        self.problem = problem  # that batches are of: trained on, or held out
        self.trained = trained
        self.is_direct = isinstance(elbo, Objective) and elbo.is_direct and problem.vae is not None
        self.weights: Tensor | None = None  # of the data of a step
        self.rows = 0  # of a step, in all processes

    def evaluate(self, beta: Any, *batch: Tensor) -> tuple[Tensor]:
        """The loss of a batch, summed over its data, had directly."""
        assert isinstance(self.elbo, Objective)
        return (self.elbo.evaluate(self.problem.densities(batch), beta),)

    def loss(self, model: Callable, guide: Callable, *batch: Tensor) -> Any:
        """The loss of a batch, by traces."""
        return self.elbo.loss(model, guide, *batch)

    def loss_and_grads(self, model: Callable, guide: Callable, *batch: Tensor) -> float:
        """The loss of a step, summed over its data, and its gradients.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        if self.group.is_one:
            loss = self._own(model, guide, *batch)
        else:
            own = self.group.attempt(self._own_if_any, model, guide, *batch)
            loss = self.group.sum_gradients(self.trained, own or 0.0)
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss ({loss})")
        return loss

    def _own_if_any(self, model: Callable, guide: Callable, *batch: Tensor) -> float:
        """What this process adds to the loss, NaN where a site has none."""
        try:
            return self._own(model, guide, *batch) if batch else 0.0
        except FloatingPointError:
            return math.nan

    def _own(self, model: Callable, guide: Callable, *batch: Tensor) -> float:
        try:
            if isinstance(self.elbo, Objective) and self.is_direct:
                densities = self.problem.densities(batch)
                densities.weights = self.weights
                return self.elbo.backward(densities, self.tempered.beta, 1 / self.rows)
            return scalar(self.elbo.loss_and_grads(model, guide, *batch))
        except ValueError as error:  # of Pyro's validation
            if "invalid values" not in str(error):
                raise
            raise FloatingPointError(f"first step ({str(error).splitlines()[0]})") from None


def scalar(loss: Any) -> float:
    """Wake-sleep gives a loss for the model and one for the guide: the model's counts."""
    return float(loss[0] if isinstance(loss, tuple) else loss)


def of_batches(
    evaluate: Callable[..., tuple[Tensor, ...]], beta: Tensor, batches: Any
) -> list[float]:
    """The losses of some batches; a GPU is waited for once."""
    with torch.no_grad():
        losses = [evaluate(beta, *batch)[0] for batch in batches]
        return torch.stack(losses).tolist() if losses else []
