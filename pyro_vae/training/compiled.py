"""One step of training as one call: loss, gradients, and the optimiser's update.

On a processor the call is compiled; on a GPU its kernels are recorded as a CUDA graph, and
replayed. The loss is the one that is had without, on the same draws: torch's generator makes them,
in the same order. The update of Adam (Kingma & Ba, 2015, algorithm 1) is part of the call. Any
other optimiser steps by itself, on gradients that the call has made. Where loss or gradient is not
finite, nothing moves.
"""

from __future__ import annotations

import textwrap
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..density.terms import Batch
from ..guards import random_states, set_random_states
from ..recorded import FixedParts, Recorder, recorder_of
from ..vae import VAE
from .adam import Adam, as_vector
from .adapters import OneOptimiser, norm_of
from .ledger import Ledger, NotFinite
from .objectives import Objective
from .step import Loss, step_of

STEPS = 50_000  # from which "auto" compiles: that takes up to half a minute, and saves 1 ms a step
RECORDED_STEPS = 100  # from which "auto" records: that takes a few steps
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


NOT_COMPILED = (
    "fit: the step is not compiled ({}); training goes on without, and compile=False leaves this "
    "warning out"
)
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NotCompiled(Exception):
    """Why a step cannot be compiled; nothing was moved."""


def why_not(elbo: object, is_direct: bool) -> str:
    """Why the step of a loss cannot be compiled; empty if it can."""
    if not is_direct or not isinstance(elbo, Objective):
        return f"{type(elbo).__name__}, or a part of the VAE, needs Pyro's traces"
    if not elbo.differentiates_its_value:
        return f"the gradient of {type(elbo).__name__} is not that of its value"
    return elbo.not_compiled


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
        if any(getattr(m, hooks) for m in vae.modules() for hooks in MODULE_HOOKS):
            raise NotCompiled("a module has hooks")
        self.adam = Adam(optim.optimiser, self.trained) if Adam.fits(optim.optimiser) else None
        self.seconds = 0.0  # that the first call took

        self.loss = Loss(elbo, vae, missing)
        self.fixed = FixedParts(vae)
        self.ledger = Ledger(like.device)
        self.counted = self.steps = 0  # by the optimiser; since the ledger was read
        self.total = 0.0  # that was read from it
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.numbers = torch.zeros(3, dtype=dtype, device=like.device)  # beta, and Adam's factors
        self.step = step_of(self.loss, self.trained, self.adam, optim.clip_norm, self.ledger)
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
        if changed := self.fixed.changed():
            raise NotCompiled(changed)
        factors: tuple[float, ...] = ()
        if self.adam is not None:
            self.counted = self.counted if self.steps else self.adam.counted()
            factors = self.adam.factors(self.counted + self.steps + 1)
        for entry, number in enumerate((beta, *factors)):
            self.numbers[entry].fill_(number)
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
            try:
                self.total += self.ledger.read()
            except NotFinite as error:
                steps = error.steps
                raise
            finally:
                self.adam.count(steps)
        total, self.total = self.total, 0.0
        return total

    def _update(self, gradients: list[Tensor]) -> None:
        """A step of an optimiser that is not part of the call."""
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            # fused optimisers take for granted that both lie in memory in the same order
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        self.optim.optimiser.step()
        for parameter in self.trained:
            parameter.grad = None

    def _first_call(self, numbers: Tensor, *batch: Tensor) -> list[Tensor]:
        """The call that compiles or records, held against the same step without."""
        moved = [self.ledger.page, *self.loss.buffers(), *map(as_vector, self.trained)]
        if self.adam is not None:
            moved += [*self.adam.means, *self.adam.squares]
        before = _State(moved, self.fixed)
        started = time.perf_counter()
        try:
            call = self._made(numbers, batch, before)
            gradients = _quietly(call, numbers, *batch)
        except BaseException as error:
            before.put_back()
            if not isinstance(error, RuntimeError):
                raise
            way = "torch.compile" if self.recorder is None else "a CUDA graph"
            raise NotCompiled(f"{way}: {textwrap.shorten(str(error), 160)}") from error
        self.seconds = time.perf_counter() - started

        values, wrong = self.ledger.page[2:4].clone(), self.fixed.changed()
        after = _State(moved, self.fixed)
        before.put_back()
        if wrong := wrong or self._difference(values, *batch):
            before.put_back()
            raise NotCompiled(wrong)
        after.put_back()
        self._call = call
        return gradients

    def _made(self, numbers: Tensor, batch: Batch, before: _State) -> Callable[..., list[Tensor]]:
        """The call, not yet made."""
        if self.recorder is None:
            return _compiled(self.step)
        call = _recorded(self.step, self.recorder, numbers, batch)
        changed = self.fixed.changed()
        before.put_back()
        if changed:
            raise NotCompiled(changed)
        return call

    def _difference(self, values: Tensor, *batch: Tensor) -> str:
        """How loss and norm of the gradient differ from those of a plain step; empty if little."""
        plain = self._plain_values(self.numbers[0], *batch).to(values)
        tolerance = torch.finfo(_coarsest(self.like)).eps ** (1 / 3)
        if torch.allclose(values, plain, rtol=tolerance, atol=0.0, equal_nan=True):
            return ""
        found = (
            f"loss and norm of the gradient are {values.tolist()} compiled, {plain.tolist()} not"
        )
        return f"{found}; is a parameter held outside of the VAE's modules?"

    def _plain_values(self, beta: Tensor, *batch: Tensor) -> Tensor:
        """Loss and norm of the gradient, without a compiler."""
        mean = self.loss(beta, *batch)
        gradients = torch.autograd.grad(mean, self.trained)
        return torch.stack([mean.detach() * len(batch[0]), norm_of(gradients)])


def _coarsest(like: Tensor) -> torch.dtype:
    """The precision in which the least precise part of a step is computed."""
    device = like.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return like.dtype


class _State:
    """All that a step moves, as it was.

    Arguments:
        moved: The tensors that it moves.
        fixed: What should stay.
    """

    def __init__(self, moved: list[Tensor], fixed: FixedParts) -> None:
        self.moved = moved
        self.fixed = fixed
        self.values = [tensor.clone() for tensor in moved]
        self.random_states = random_states()

    def put_back(self) -> None:
        """Make it again what it was."""
        self.fixed.put_back()
        for tensor, value in zip(self.moved, self.values, strict=True):
            tensor.copy_(value)
        set_random_states(self.random_states)


def _quietly(call: Callable[..., list[Tensor]], *inputs: Tensor) -> list[Tensor]:
    """A call without torch's warnings about its own compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*inputs)


def _compiled(step: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """The step by ``torch.compile``, which compiles it when it is first called."""
    options: dict[str, Any] = {
        "fallback_random": True,  # torch's own generator makes the draws
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # FixedParts are looked at
    }
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)


def _recorded(
    step: Callable[..., list[Tensor]], recorder: Recorder, numbers: Tensor, batch: Batch
) -> Callable[..., list[Tensor]]:
    """The step as a recording, on a copy of the batch; to record makes some steps."""
    kept = [part.clone() for part in batch]
    replay, gradients = recorder(lambda: tuple(step(numbers, *kept)))

    def call(_: Tensor, *batch: Tensor) -> list[Tensor]:
        for buffer, part in zip(kept, batch, strict=True):
            buffer.copy_(part)
        replay()
        return list(gradients)

    return call
