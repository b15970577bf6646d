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
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from ..density.direct import Direct
from ..density.terms import Batch
from ..vae import VAE
from .adapters import OneOptimiser
from .objectives import Objective

STEPS = 50_000  # from which "auto" compiles: that takes up to half a minute, and saves 1 ms a step
OTHER_RULES = ("amsgrad", "maximize", "weight_decay", "differentiable", "decoupled_weight_decay")


def why_not(elbo: object, is_direct: bool) -> str:
    """Why the step of a loss cannot be compiled; empty if it can."""
    if not is_direct or not isinstance(elbo, Objective):
        return f"{type(elbo).__name__}, or a part of the VAE, needs Pyro's traces"
    if not elbo.differentiates_its_value:
        return f"the gradient of {type(elbo).__name__} is not that of its value"
    return ""


class CompiledStep:
    """The step of a training run, compiled when it is first taken.

    Arguments:
        elbo: The loss; its gradient is that of its value.
        vae: What is trained.
        optim: The optimiser. It has made a step before, so that its state is there.
        missing: Whether cells of x may be missing.
    """

    def __init__(self, elbo: Objective, vae: VAE, optim: OneOptimiser, *, missing: bool) -> None:
        self.optim = optim
        self.like = vae.reference
        self.trained = optim.reached
        self.adam = Adam(optim.optimiser, self.trained) if Adam.fits(optim.optimiser) else None
        self.seconds = 0.0  # that the first call took

        loss = _Loss(elbo, vae, missing)
        step = _step(loss, self.trained, self.adam, optim.clip_norm)
        options: dict[str, Any] = {
            "fallback_random": True,  # torch's own generator makes the draws
            "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # nothing changes in a run
        }
        self._call = torch.compile(step, fullgraph=True, dynamic=False, options=options)

    @property
    def title(self) -> str:
        """What the call holds."""
        return "loss, gradients" if self.adam is None else "loss, gradients, update"

    def __call__(self, batch: Batch, beta: float) -> float:
        """Make one step. All batches are of one size.

        Returns:
            The loss, summed over the data, in nats.

        Raises:
            FloatingPointError: Loss or gradient is not finite; nothing was moved.
            RuntimeError: A part cannot be compiled; nothing was moved.
        """
        numbers = self.like.new_tensor([beta, *(self.adam.factors() if self.adam else ())])
        call = self._call if self.seconds else self._first_call
        values, gradients = call(numbers, *batch)
        loss, norm = values.tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss ({loss})")
        if not math.isfinite(norm):
            raise FloatingPointError("gradient")

        if self.adam is not None:
            self.adam.count()
        else:
            for parameter, gradient in zip(self.trained, gradients, strict=True):
                parameter.grad = gradient
            self.optim.optimiser.step()
            for parameter in self.trained:
                parameter.grad = None
        return loss

    def _first_call(self, *arguments: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The call that compiles. What torch warns of meanwhile is its own affair."""
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            called = self._call(*arguments)
        self.seconds = time.perf_counter() - started
        return called


class Adam:
    """What ``torch.optim.Adam`` does, in operations that a compiler can fuse.

    It works on the state of the optimiser, which may make steps of its own in between.

    Arguments:
        optimiser: The optimiser, after its first step.
        trained: The parameters that it moves.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
        (self.group,) = optimiser.param_groups
        states = [optimiser.state[parameter] for parameter in trained]
        self.steps = [state["step"] for state in states]
        self.means = [_vector(state["exp_avg"]) for state in states]
        self.squares = [_vector(state["exp_avg_sq"]) for state in states]

    @staticmethod
    def fits(optimiser: torch.optim.Optimizer) -> bool:
        """Whether an optimiser is Adam without variations."""
        group, *others = optimiser.param_groups
        varied = others or any(group.get(rule) for rule in OTHER_RULES)
        return type(optimiser) is torch.optim.Adam and not varied

    def factors(self) -> tuple[float, float]:
        """How far the next step goes, and by what it divides the root of the second moment."""
        first, second = self.group["betas"]
        count = float(self.steps[0]) + 1
        return self.group["lr"] / (1 - first**count), math.sqrt(1 - second**count)

    def count(self) -> None:
        """Note that a step was made."""
        for step in self.steps:
            step += 1

    def update(
        self, parameters: list[Tensor], gradients: list[Tensor], factors: Tensor, is_finite: Tensor
    ) -> None:
        """Move parameters and moments, if loss and gradient are finite."""
        first, second = self.group["betas"]
        size, correction = factors[0], factors[1]
        for parameter, gradient, mean, square in zip(
            parameters, gradients, self.means, self.squares, strict=True
        ):
            gradient = gradient.view_as(parameter)
            new_mean = mean.lerp(gradient, 1 - first)
            new_square = second * square + (1 - second) * gradient.square()
            root = new_square.sqrt() / correction + self.group["eps"]
            moved = parameter - size * new_mean / root

            parameter.copy_(torch.where(is_finite, moved, parameter))
            mean.copy_(torch.where(is_finite, new_mean, mean))
            square.copy_(torch.where(is_finite, new_square, square))


def _vector(tensor: Tensor) -> Tensor:
    """The same memory, of at least one dimension.

    A number in double precision, captured as such, is a constant to the compiler: it would never
    move.
    """
    return torch.atleast_1d(tensor.detach())


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
    loss: _Loss, trained: list[nn.Parameter], adam: Adam | None, clip: float
) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """The function that is compiled: loss and norm of the gradient, and gradients not yet used."""
    vectors = [_vector(parameter) for parameter in trained]
    names: list[list[str]] = [[] for _ in trained]  # several where modules share a parameter
    places = {id(parameter): place for place, parameter in enumerate(trained)}
    for name, parameter in loss.named_parameters(remove_duplicate=False):
        if id(parameter) in places:
            names[places[id(parameter)]].append(name)

    def step(numbers: Tensor, *batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        parameters = [v.view(p.shape) for v, p in zip(vectors, trained, strict=True)]

        def value(parameters: list[Tensor]) -> Tensor:
            named = {name: p for p, own in zip(parameters, names, strict=True) for name in own}
            return functional_call(loss, named, (numbers[0], *batch), tie_weights=False)

        gradients, mean = grad_and_value(value)(parameters)
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if clip < math.inf:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = [factor * gradient for gradient in gradients]

        values = torch.stack([mean * len(batch[0]), norm])
        if adam is None:
            return values, gradients
        with torch.no_grad():
            adam.update(vectors, gradients, numbers[1:], values.isfinite().all())
        return values, []

    # the compiler keeps few entries for one code object: each run has its own
    return types.FunctionType(step.__code__.replace(), globals(), closure=step.__closure__)
