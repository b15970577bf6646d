"""One step of training as one compiled call: loss, gradients, and the optimiser's update.

The loss is the one that is had without a compiler, on the same draws: torch's generator makes them,
in the same order. The update of Adam (Kingma & Ba, 2015, algorithm 1) is part of the call. Any
other optimiser steps by itself, on gradients that the call has made. Where loss or gradient is not
finite, nothing moves.
"""

from __future__ import annotations

import math
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from ..density.direct import Direct
from ..density.problem import Problem
from ..vae import VAE
from .adapters import OneOptimiser
from .objectives import Objective

STEPS = 50_000  # from which "auto" compiles: that takes up to half a minute, and saves 1 ms a step
OTHER_RULES = ("amsgrad", "maximize", "weight_decay", "differentiable", "decoupled_weight_decay")


def why_not(elbo: object, is_direct: bool) -> str:
    """Why the step of a loss cannot be compiled; empty if it can."""
    if not is_direct or not isinstance(elbo, Objective):
        return f"{type(elbo).__name__} or a part of the VAE needs Pyro's traces"
    if not elbo.differentiates_its_value:
        return f"the gradient of {type(elbo).__name__} is not that of its value"
    return ""


class CompiledStep:
    """The step of a training run, compiled when it is first taken.

    Arguments:
        elbo: The loss; its gradient is that of its value.
        vae: What is trained.
        problem: The data. All steps are on batches of one size.
        optim: The optimiser. It has made a step before, so that its state is there.
    """

    def __init__(self, elbo: Objective, vae: VAE, problem: Problem, optim: OneOptimiser) -> None:
        self.problem = problem
        self.optim = optim
        self.like = vae.reference
        self.adam = Adam(optim.optimiser) if Adam.fits(optim.optimiser) else None
        self.seconds = 0.0  # that the first call took

        loss = _Loss(elbo, vae, problem.rows.has_missing)
        optimised = {id(parameter) for parameter in optim.parameters}
        named = {name: p for name, p in loss.named_parameters() if id(p) in optimised}
        self.trained = list(named.values())
        step = _step(loss, named, self.adam, optim.clip_norm)
        options: dict[str, Any] = {
            "fallback_random": True,  # torch's own generator makes the draws
            "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # nothing changes in a run
        }
        self._call = torch.compile(step, fullgraph=True, dynamic=False, options=options)

    @property
    def title(self) -> str:
        """What the call holds."""
        return "loss, gradients" if self.adam is None else "loss, gradients, update"

    def __call__(self, index: np.ndarray, beta: float) -> float:
        """Make one step on some rows.

        Returns:
            The loss, summed over the rows, in nats.

        Raises:
            FloatingPointError: Loss or gradient is not finite; nothing was moved.
            RuntimeError: A part cannot be compiled; nothing was moved.
        """
        numbers = self.like.new_tensor([beta, *(self.adam.factors() if self.adam else ())])
        batch = self.problem.batch(index)

        started = time.perf_counter()
        values, gradients = self._call(numbers, *batch)
        loss, norm = values.tolist()
        self.seconds = self.seconds or time.perf_counter() - started
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss ({loss})")
        if not math.isfinite(norm):
            raise FloatingPointError("gradient")

        if self.adam is None:
            for parameter, gradient in zip(self.trained, gradients, strict=True):
                parameter.grad = gradient
            self.optim.optimiser.step()
        return loss


class Adam:
    """What ``torch.optim.Adam`` does, in operations that a compiler can fuse.

    It works on the state of the optimiser, which may make steps of its own in between.

    Arguments:
        optimiser: The optimiser, after its first step.
    """

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        (self.group,) = optimiser.param_groups
        self.state = optimiser.state

    @staticmethod
    def fits(optimiser: torch.optim.Optimizer) -> bool:
        """Whether an optimiser is Adam without variations."""
        group, *others = optimiser.param_groups
        varied = others or any(group.get(rule) for rule in OTHER_RULES)
        return type(optimiser) is torch.optim.Adam and not varied

    def factors(self) -> tuple[float, float]:
        """How far the next step goes, and by what it divides the root of the second moment."""
        first, second = self.group["betas"]
        count = float(next(iter(self.state.values()))["step"]) + 1
        return self.group["lr"] / (1 - first**count), math.sqrt(1 - second**count)

    def update(
        self, parameter: Tensor, gradient: Tensor, factors: Tensor, is_finite: Tensor
    ) -> None:
        """Move a parameter and its moments, if loss and gradient are finite."""
        first, second = self.group["betas"]
        size, correction = factors[0], factors[1]
        state = self.state[parameter]
        mean = state["exp_avg"].lerp(gradient, 1 - first)
        square = second * state["exp_avg_sq"] + (1 - second) * gradient.square()
        moved = parameter - size * mean / (square.sqrt() / correction + self.group["eps"])

        before = (parameter, state["exp_avg"], state["exp_avg_sq"])
        for tensor, value in zip(before, (moved, mean, square), strict=True):
            tensor.copy_(torch.where(is_finite, value, tensor))
        state["step"].add_(is_finite)


class _Loss(nn.Module):
    """The loss per datum of a batch, in nats, as a module of the parameters of a VAE."""

    def __init__(self, elbo: Objective, vae: VAE, missing: bool) -> None:
        super().__init__()
        self.vae = vae
        self.missing = missing
        self.evaluate = elbo.evaluate

    def forward(self, beta: Any, *batch: Tensor) -> Tensor:
        densities = Direct(self.vae, batch, missing=self.missing)
        return self.evaluate(densities, beta) / len(batch[0])


def _step(
    loss: _Loss, named: dict[str, nn.Parameter], adam: Adam | None, clip: float
) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """The function that is compiled: loss and norm of the gradient, and gradients not yet used."""

    def step(numbers: Tensor, *batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        parameters = {name: parameter.detach() for name, parameter in named.items()}

        def value(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(loss, parameters, (numbers[0], *batch))

        by_name, mean = grad_and_value(value)(parameters)
        gradients = list(by_name.values())
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        )
        if clip < math.inf:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = [factor * gradient for gradient in gradients]

        values = torch.stack([mean * len(batch[0]), norm])
        if adam is None:
            return values, gradients
        with torch.no_grad():
            for parameter, gradient in zip(named.values(), gradients, strict=True):
                adam.update(parameter, gradient, numbers[1:], values.isfinite().all())
        return values, []

    # the compiler keeps few entries for one code object: each run has its own
    return types.FunctionType(step.__code__.replace(), globals(), closure=step.__closure__)
