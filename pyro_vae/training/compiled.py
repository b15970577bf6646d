"""One step of training as one compiled call: loss, gradients, and the optimiser's update.

The loss is the one that is had without a compiler, on the same draws: torch's generator makes them,
in the same order. The update of Adam (Kingma & Ba, 2015, algorithm 1) is part of the call. Any
other optimiser steps by itself, on gradients that the call has made. Where loss or gradient is not
finite, nothing moves.
"""

from __future__ import annotations

import math
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from ..density.direct import Direct
from ..density.terms import Batch
from ..guards import random_states, set_random_states
from ..vae import VAE
from .adam import Adam, as_vector
from .adapters import OneOptimiser, norm_of
from .objectives import Objective

STEPS = 50_000  # from which "auto" compiles: that takes up to half a minute, and saves 1 ms a step
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class NotCompiled(Exception):
    """Why a step cannot be compiled; nothing was moved."""


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
        if any(getattr(p, hooks, None) for p in self.trained for hooks in PARAMETER_HOOKS):
            raise NotCompiled("a parameter has hooks")
        self.adam = Adam(optim.optimiser, self.trained) if Adam.fits(optim.optimiser) else None
        self.seconds = 0.0  # that the first call took

        self.loss = _Loss(elbo, vae, missing)
        self.constants = list(_constants(vae))
        step = _step(self.loss, self.trained, self.adam, optim.clip_norm)
        options: dict[str, Any] = {
            "fallback_random": True,  # torch's own generator makes the draws
            "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # _constants are looked at
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
            NotCompiled: A part cannot be compiled, or no longer.
        """
        self._check_constants()
        factors = self.adam.factors() if self.adam is not None else ()
        numbers = self.like.new_tensor([beta, *factors], dtype=_at_least_single(self.like.dtype))
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
            self._update(gradients)
        return loss

    def _check_constants(self) -> None:
        for module, name, value in self.constants:
            if getattr(module, name, None) != value:
                raise NotCompiled(f"{type(module).__name__} has changed its attribute {name}")

    def _update(self, gradients: list[Tensor]) -> None:
        """A step of an optimiser that is not part of the call."""
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            # fused optimisers take for granted that both lie in memory in the same order
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        self.optim.optimiser.step()
        for parameter in self.trained:
            parameter.grad = None

    def _first_call(self, numbers: Tensor, *batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The call that compiles, held against the same step without a compiler.

        Torch's warnings about its own compiler are not shown.
        """
        moved = [as_vector(parameter) for parameter in self.trained]
        if self.adam is not None:
            moved += [*self.adam.means, *self.adam.squares]
        before = [tensor.clone() for tensor in moved]
        state = random_states()

        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values, gradients = self._call(numbers, *batch)
        except RuntimeError as error:
            raise NotCompiled(textwrap.shorten(str(error), 200)) from error
        self.seconds = time.perf_counter() - started

        after = [tensor.clone() for tensor in moved]
        _restore(moved, before)
        state_after = random_states()
        set_random_states(state)
        self._check_constants()
        plain = self._plain_values(numbers[0], *batch)
        if not torch.allclose(values, plain, rtol=_tolerance(plain), atol=0.0, equal_nan=True):
            set_random_states(state)
            raise NotCompiled(
                f"loss and norm of the gradient are {values.tolist()} compiled, and "
                f"{plain.tolist()} not; is a parameter held outside of the VAE's modules?"
            )
        set_random_states(state_after)
        _restore(moved, after)
        return values, gradients

    def _plain_values(self, beta: Tensor, *batch: Tensor) -> Tensor:
        """Loss and norm of the gradient, without a compiler."""
        mean = self.loss(beta, *batch)
        gradients = torch.autograd.grad(mean, self.trained)
        return torch.stack([mean.detach() * len(batch[0]), norm_of(gradients)])


def _constants(vae: VAE) -> Iterator[tuple[nn.Module, str, Any]]:
    """The numbers and words among the attributes of all modules, which a call takes as fixed."""
    for module in vae.modules():
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)):
                yield module, name, value


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _tolerance(tensor: Tensor) -> float:
    """How far apart two ways to the same sums may be, of its size."""
    return torch.finfo(tensor.dtype).eps ** (1 / 3)


def _restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


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
    vectors = [as_vector(parameter) for parameter in trained]
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
        norm = norm_of(gradients)
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
