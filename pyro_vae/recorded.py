"""Many small kernels as one launch: on a GPU the work of a function is recorded once, and replayed.

To launch the hundred kernels of a density one by one takes longer than their arithmetic. A CUDA
graph launches all of them at once. Whatever a recorded function reads and writes stays where it was
in memory; what it would decide by looking at a value, it cannot.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .guards import random_states, set_random_states

Outputs = tuple[Tensor, ...]
Recorder = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]


def recorder_of(device: torch.device) -> Recorder | None:
    """What records on a device; none where nothing can, or need, be recorded."""
    return functools.partial(cuda_graph, device) if device.type == "cuda" else None


def cuda_graph(
    device: torch.device, function: Callable[[], Outputs]
) -> tuple[Callable[[], None], Outputs]:
    """Record a function: how to replay it, and the tensors that then hold its results.

    Before, the function is called twice, so what it changes has changed twice. In the first call
    libraries allocate what they keep; in the second, whatever waits for the GPU is an error, so
    that few recordings break off.

    Raises:
        RuntimeError: The function looks at a value, or cannot be recorded otherwise.
    """
    aside = torch.cuda.Stream(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            function()
            with _waiting_is_an_error():
                function()
            with (
                _no_collection(),
                _generator_kept(),
                torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"),
            ):
                outputs = function()
        torch.cuda.current_stream().wait_stream(aside)
    return graph.replay, outputs


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected inside: the end of an old graph would break a new recording off."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _generator_kept() -> Iterator[None]:
    """A recording that breaks off would leave the GPU's generator recording: every later draw is
    an error. Its state is then that of before.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(before)
        raise


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set_sync_debug_mode("error")
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    """As torch does, but without its warning that this is a prototype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)


class Recorded:
    """A function of tensors that is replayed from the third call for a shape on.

    The first call is made as it is, the second records. A function that cannot be recorded goes on
    being called as it is, and so does every function where :func:`recorder_of` knows no way. The
    results are the same.

    Arguments:
        function: Maps tensors on one device to tensors. It changes none, and looks at no value.
        owner: The module that it reads, if that may change otherwise than in its parameters'
            values: then what was recorded before is not replayed.
    """

    def __init__(self, function: Callable[..., Outputs], owner: nn.Module | None = None) -> None:
        self.function = function
        self.owner = owner
        self.fixed: FixedParts | None = None  # in what was recorded
        self.calls: dict[tuple[torch.Size, ...], Callable[..., Outputs] | None] = {}

    def __call__(self, *inputs: Tensor) -> Outputs:
        recorder = recorder_of(inputs[0].device)
        if recorder is None:
            return self.function(*inputs)

        if self.owner is not None and (self.fixed is None or self.fixed.changed()):
            self.fixed = FixedParts(self.owner)
            self.calls.clear()
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.calls:
            self.calls[shapes] = None
            return self.function(*inputs)
        call = self.calls[shapes]
        if call is None:
            call = self.calls[shapes] = self._recorded(recorder, inputs)
        return call(*inputs)

    def _recorded(self, recorder: Recorder, inputs: Outputs) -> Callable[..., Outputs]:
        kept = [tensor.detach().clone() for tensor in inputs]
        state = random_states()
        try:
            replay, outputs = recorder(lambda: self.function(*kept))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return self.function
        finally:
            set_random_states(state)
        if self.fixed is not None and self.fixed.changed():
            self.fixed.put_back()
            return self.function

        def replayed(*inputs: Tensor) -> Outputs:
            for buffer, given in zip(kept, inputs, strict=True):
                buffer.copy_(given)
            replay()
            return tuple(output.clone() for output in outputs)

        return replayed


class FixedParts:
    """What a recording takes as it was: numbers, words and the lengths of lists among the
    attributes of modules, and tensors, each in its place and its memory; their values may change.

    Arguments:
        owner: The module that is read, with all modules in it.
    """

    def __init__(self, owner: nn.Module) -> None:
        self.constants: list[tuple[nn.Module, str, Any]] = []
        self.lists: list[tuple[nn.Module, str, list, int]] = []
        self.tensors: list[tuple[dict[str, Any], str, Tensor, int]] = []
        for module in owner.modules():
            attributes: dict[str, Any] = vars(module)
            for name, value in attributes.items():
                if isinstance(value, (bool, int, float, str)):
                    self.constants.append((module, name, value))
                elif isinstance(value, list):
                    self.lists.append((module, name, value, len(value)))
            for holder in (attributes, module._parameters, module._buffers):
                for name, value in holder.items():
                    if isinstance(value, Tensor):
                        self.tensors.append((holder, name, value, value.data_ptr()))

    def changed(self) -> str:
        """What has changed since; empty if nothing has."""
        for module, name, value in self.constants:
            if getattr(module, name, None) != value:
                return f"{type(module).__name__} has changed its attribute {name}"
        for module, name, value, length in self.lists:
            if len(value) != length:
                return f"{type(module).__name__} has changed its list {name}"
        for holder, name, tensor, address in self.tensors:
            if holder.get(name) is not tensor or tensor.data_ptr() != address:
                return f"{name} is another tensor, or in other memory, than before"
        return ""

    def put_back(self) -> None:
        """Make attributes and tensors those of before; values of tensors stay."""
        for module, name, value in self.constants:
            setattr(module, name, value)
        for _, _, value, length in self.lists:
            del value[length:]
        for holder, name, tensor, _ in self.tensors:
            holder[name] = tensor
