"""One step of training as one call: loss, gradients, and the optimiser's update.

On a processor the call is compiled; on a GPU its kernels are recorded as a CUDA graph, and
replayed. The loss is the one that is had without, on the same draws: torch's generator makes them,
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
from ..recorded import Recorder, recorder_of
from ..vae import VAE
from .adam import Adam, as_vector
from .adapters import OneOptimiser, norm_of
from .ledger import Ledger
from .objectives import Objective

STEPS = 50_000  # from which "auto" compiles: that takes up to half a minute, and saves 1 ms a step
RECORDED_STEPS = 100  # from which "auto" records: that takes a few steps
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


def repaid_from(device: torch.device) -> int:
    """How many steps repay what it takes to make one call of them."""
    return STEPS if recorder_of(device) is None else RECORDED_STEPS


class CompiledStep:
    """The step of a training run, compiled or recorded when it is first taken.

    Arguments:
        elbo: The loss; its gradient is that of its value.
        vae: What is trained.
        optim: The optimiser. It has made a step before, so that its state is there.
        missing: Whether cells of x may be missing.
    """

    def __init__(self, elbo: Objective, vae: VAE, optim: OneOptimiser, *, missing: bool) -> None:
        self.optim = optim
        self.like = like = vae.reference
        self.trained = optim.reached
        if any(getattr(p, hooks, None) for p in self.trained for hooks in PARAMETER_HOOKS):
            raise NotCompiled("a parameter has hooks")
        self.adam = Adam(optim.optimiser, self.trained) if Adam.fits(optim.optimiser) else None
        self.seconds = 0.0  # that the first call took

        self.loss = _Loss(elbo, vae, missing)
        self.constants = list(_constants(vae))
        self.ledger = Ledger(like.device)
        self.steps = 0  # since the ledger was read
        self.total = 0.0  # that was read from it
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.numbers = torch.zeros(3, dtype=dtype, device=like.device)  # beta, and Adam's factors
        self.step = _step(self.loss, self.trained, self.adam, optim.clip_norm, self.ledger)
        self.recorder = recorder_of(like.device)
        self._call = self._first_call

    @property
    def title(self) -> str:
        """What the call holds."""
        holds = "loss, gradients" if self.adam is None else "loss, gradients, update"
        return holds if self.recorder is None else f"as a CUDA graph: {holds}"

    def __call__(self, batch: Batch, beta: float) -> None:
        """Make one step. All batches are of one size.

        Raises:
            NotFinite: Loss or gradient is not finite; nothing was moved. With Adam in the call,
                it is :meth:`read` that says so.
            NotCompiled: A part cannot be compiled, or no longer.
        """
        self._check_constants()
        factors = self.adam.factors(self.steps) if self.adam is not None else ()
        for place, number in enumerate((beta, *factors)):
            self.numbers[place].fill_(number)
        gradients = self._call(self.numbers, *batch)
        self.steps += 1
        if self.adam is None:
            self.total += self.ledger.read()
            self._update(gradients)

    def read(self) -> float:
        """The loss of the steps since this was last asked, summed over their data, in nats.

        Raises:
            NotFinite: Loss or gradient of one was not finite; nothing has moved since.
        """
        if self.adam is not None:
            steps, self.steps = self.steps, 0
            self.total += self.ledger.read()
            self.adam.count(steps)
        total, self.total = self.total, 0.0
        return total

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

    def _first_call(self, numbers: Tensor, *batch: Tensor) -> list[Tensor]:
        """The call that compiles or records, held against the same step without.

        Torch's warnings about its own compiler are not shown.
        """
        moved = [as_vector(parameter) for parameter in self.trained]
        moved += [*self.loss.buffers(), self.ledger.page]
        if self.adam is not None:
            moved += [*self.adam.means, *self.adam.squares]
        before = [tensor.clone() for tensor in moved]
        state = random_states()

        def go_back() -> None:
            _restore(moved, before)
            set_random_states(state)

        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call = _compiled(self.step)
                if self.recorder is not None:
                    call = _recorded(self.step, self.recorder, numbers, batch)
                    go_back()
                gradients = call(numbers, *batch)
        except RuntimeError as error:
            go_back()
            raise NotCompiled(textwrap.shorten(str(error), 200)) from error
        self.seconds = time.perf_counter() - started

        after = [tensor.clone() for tensor in moved]
        state_after = random_states()
        values = self.ledger.page[2:4].clone()
        go_back()
        self._check_constants()
        plain = self._plain_values(numbers[0], *batch).to(values)
        tolerance = torch.finfo(_coarsest(numbers)).eps ** (1 / 3)
        if not torch.allclose(values, plain, rtol=tolerance, atol=0.0, equal_nan=True):
            go_back()
            raise NotCompiled(
                f"loss and norm of the gradient are {values.tolist()} compiled, and "
                f"{plain.tolist()} not; is a parameter held outside of the VAE's modules?"
            )
        set_random_states(state_after)
        _restore(moved, after)
        self._call = call
        return gradients

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


def _coarsest(like: Tensor) -> torch.dtype:
    """The precision in which the least precise part of a step is computed."""
    device = like.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return like.dtype


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
    loss: _Loss, trained: list[nn.Parameter], adam: Adam | None, clip: float, ledger: Ledger
) -> Callable[..., list[Tensor]]:
    """A step as a function, which gives those gradients that it does not use."""
    vectors = [as_vector(parameter) for parameter in trained]
    names: list[list[str]] = [[] for _ in trained]  # several where modules share a parameter
    places = {id(parameter): place for place, parameter in enumerate(trained)}
    for name, parameter in loss.named_parameters(remove_duplicate=False):
        if id(parameter) in places:
            names[places[id(parameter)]].append(name)

    def step(numbers: Tensor, *batch: Tensor) -> list[Tensor]:
        parameters = [v.view(p.shape) for v, p in zip(vectors, trained, strict=True)]

        def value(parameters: list[Tensor]) -> Tensor:
            named = {name: p for p, own in zip(parameters, names, strict=True) for name in own}
            return functional_call(loss, named, (numbers[0], *batch), tie_weights=False)

        gradients, mean = grad_and_value(value)(parameters)
        norm = norm_of(gradients)
        if clip < math.inf:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = [factor * gradient for gradient in gradients]
        with torch.no_grad():
            counts = ledger.note(mean * len(batch[0]), norm)
            if adam is None:
                return gradients
            adam.update(vectors, gradients, numbers[1:], counts)
        return []

    # the compiler keeps few entries for one code object: each run has its own
    return types.FunctionType(step.__code__.replace(), globals(), closure=step.__closure__)


def _compiled(step: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """The step by ``torch.compile``, which compiles it when it is first called."""
    options: dict[str, Any] = {
        "fallback_random": True,  # torch's own generator makes the draws
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # _constants are looked at
    }
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)


def _recorded(
    step: Callable[..., list[Tensor]], recorder: Recorder, numbers: Tensor, batch: Batch
) -> Callable[..., list[Tensor]]:
    """The step as a recording, on a batch that has a place of its own. It was made meanwhile."""
    kept = [part.clone() for part in batch]
    replay, gradients = recorder(lambda: tuple(step(numbers, *kept)))

    def call(_: Tensor, *batch: Tensor) -> list[Tensor]:
        for buffer, part in zip(kept, batch, strict=True):
            buffer.copy_(part)
        replay()
        return list(gradients)

    return call
