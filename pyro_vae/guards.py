"""Checks of arguments, and context managers that put back what belongs to the caller: random state,
train or eval mode, gradients, Pyro's parameter store.
"""

from __future__ import annotations

import inspect
import math
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import unwrap
from torch import nn

# Random state, mode and store are the process's: one thread at a time.
process_lock = threading.RLock()


def above_zero(name: str, what: str, value: Any, example: str) -> None:
    """Raise unless a number is one, finite and above 0.

    Raises:
        ValueError: It is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"{name} must be {what} above 0, such as {example}; got {value!r}")


def whole_number(name: str, value: Any, at_least: int, at_most: int | None = None) -> None:
    """Raise unless `value` is a whole number; a boolean is not one.

    Raises:
        ValueError: Which argument, what it must be, what it was.
    """
    is_one = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_one or value < at_least or (at_most is not None and value > at_most):
        upto = "" if at_most is None else f" to {at_most}"
        raise ValueError(f"{name} must be a whole number from {at_least}{upto}; got {value!r}")


def whole_numbers(name: str, values: Any) -> list[int]:
    """A list of whole numbers from 1: the widths of layers, the sizes of a shape.

    Raises:
        ValueError: It is no list, or an entry is no whole number from 1.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(
            f"{name} must be a list of whole numbers; got {values!r}; one is [{values!r}]"
        )
    for value in values:
        whole_number(f"every number in {name}", value, at_least=1)
    return list(values)


def device_of(name: Any) -> torch.device:
    """The device of a name; "auto" is a GPU where torch sees one, and else the CPU.

    Raises:
        ValueError: Torch has no such device.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = textwrap.shorten(str(error).partition("\n")[0], 100)
        seen = "'cpu' or 'cuda'" if torch.cuda.is_available() else "'cpu'; torch sees no GPU"
        raise ValueError(
            f"device must be 'auto' or one that torch sees, such as {seen}; got {name!r} ({reason})"
        ) from None


def seed_of(*words: int) -> int:
    """A seed made of several numbers, such as a user's seed and the number of a tile. Different
    numbers give independent draws.
    """
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from `seed` inside; the caller's random state is restored afterwards."""
    whole_number("seed", seed, at_least=0, at_most=2**63 - 1)
    with process_lock:
        before = random_states()
        try:
            seed_all(int(seed))
            yield
        finally:
            set_random_states(before)


def seed_all(seed: int) -> None:
    """Have torch draw from `seed`, where :func:`seeded` puts back what was before."""
    for generator in _generators():
        generator.manual_seed(seed)


def random_states() -> list[torch.Tensor]:
    """The states of torch's random generators: the CPU's, and those of GPUs in use."""
    return [generator.get_state() for generator in _generators()]


def set_random_states(states: list[torch.Tensor]) -> None:
    """Put back what :func:`random_states` gave."""
    for generator, state in zip(_generators(), states, strict=False):
        generator.set_state(state)


def _generators() -> list[torch.Generator]:
    of_cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return [torch.default_generator, *of_cuda]


def owner_of(function: Any) -> Any:
    """The object whose method `function` is, through any handlers wrapped around it; else
    `function` itself.
    """
    function = inspect.unwrap(unwrap(function))
    return getattr(function, "__self__", function)


@contextmanager
def mode(*owners: object, training: bool) -> Iterator[None]:
    """Train or eval mode for the modules among `owners`, or the modules whose methods they are;
    restored afterwards.
    """
    modules = [owner for owner in map(owner_of, owners) if isinstance(owner, nn.Module)]
    with process_lock:
        before = [(part, part.training) for module in modules for part in module.modules()]
        try:
            for module in modules:
                module.train(training)
            yield
        finally:
            for part, was_training in before:
                part.training = was_training


@contextmanager
def frozen(*owners: object) -> Iterator[None]:
    """Parameters of the modules among `owners` need no gradient inside; restored afterwards."""
    modules = [owner for owner in map(owner_of, owners) if isinstance(owner, nn.Module)]
    with process_lock:
        asked = [
            parameter
            for module in modules
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        try:
            for parameter in asked:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in asked:
                parameter.requires_grad_(True)


@contextmanager
def evaluating(*owners: object) -> Iterator[None]:
    """Eval mode, no gradients for parameters, a copy of the parameter store, no validation; all
    restored afterwards.

    Raises:
        ValueError: The store has other parameters under the names of those of an owner.
    """
    _refuse_names_of_others(*owners)
    ordinary_tensors, no_validation = torch.inference_mode(False), pyro.validation_enabled(False)
    in_eval_mode, as_before = mode(*owners, training=False), torch.is_grad_enabled()
    with own_store(), in_eval_mode, frozen(*owners), no_validation, ordinary_tensors:
        torch.set_grad_enabled(as_before)  # which ordinary tensors have changed
        yield


def _refuse_names_of_others(*owners: object) -> None:
    """Raise where Pyro would put the parameters of another module in place of an owner's own: it
    knows them by name, and two guides ``AutoNormal`` have the same names.
    """
    in_store = dict(pyro.get_param_store().named_parameters())
    for owner in map(owner_of, owners):
        if not isinstance(owner, PyroModule):
            continue
        prefix = getattr(owner, "_pyro_name", "")
        for name, parameter in owner.named_parameters():
            if not name.endswith("_unconstrained"):
                continue  # of others Pyro takes the module's own
            shown = f"{prefix}.{name}" if prefix else name
            shown = shown.removesuffix("_unconstrained")
            other = in_store.get(shown)
            if isinstance(other, nn.Parameter) and other is not parameter:
                raise ValueError(
                    f"{type(owner).__name__} has other parameters than Pyro's store has as "
                    f"{shown!r}; if those are of a second guide of this type, call "
                    "pyro.clear_param_store(): each goes on with its own; if the store was loaded, "
                    "call the guide once: it takes them over"
                )


@contextmanager
def no_kept_casts() -> Iterator[None]:
    """Under ``torch.autocast``, parameters are cast whenever they are used inside; what it keeps of
    them would not move as they do.
    """
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def own_store() -> Iterator[None]:
    """A copy of Pyro's parameter store inside. Afterwards the store is as it was before."""
    store = pyro.get_param_store()
    with process_lock, store.scope(store.get_state()):
        yield
