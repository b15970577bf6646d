"""Many small kernels as one launch: on a GPU the work of a function is recorded once, and replayed.

To launch the hundred kernels of a density one by one takes longer than their arithmetic. A CUDA
graph launches all of them at once. Whatever a recorded function reads and writes stays where it was
in memory; what it would decide by looking at a value, it cannot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .guards import random_states, set_random_states

Outputs = tuple[Tensor, ...]
Recorder = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]
WARM_UPS = 2  # calls before the recording, in which libraries allocate what they keep


def recorder_of(device: torch.device) -> Recorder | None:
    """What records on a device; none where nothing can, or need, be recorded."""
    return functools.partial(cuda_graph, device) if device.type == "cuda" else None


def cuda_graph(
    device: torch.device, function: Callable[[], Outputs]
) -> tuple[Callable[[], None], Outputs]:
    """Record a function: how to replay it, and the tensors that then hold its results.

    The function runs a few times before. What it changes, it has changed then.

    Raises:
        RuntimeError: It looks at a value, or does something else that cannot be recorded.
    """
    with torch.cuda.device(device):
        return _cuda_graph(function)


def _cuda_graph(function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(aside)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function()
    return graph.replay, outputs


class Recorded:
    """A function of tensors that is replayed from the third call for a shape on.

    The first call is made as it is, the second records. A function that cannot be recorded goes on
    being called as it is, and so does every function where :func:`recorder_of` knows no way. The
    results are the same.

    Arguments:
        function: Maps tensors on one device to tensors. It changes none, and looks at no value.
    """

    def __init__(self, function: Callable[..., Outputs]) -> None:
        self.function = function
        self.ways: dict[tuple[torch.Size, ...], Callable[..., Outputs] | None] = {}

    def __call__(self, *inputs: Tensor) -> Outputs:
        recorder = recorder_of(inputs[0].device)
        if recorder is None:
            return self.function(*inputs)

        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.ways:
            self.ways[shapes] = None
            return self.function(*inputs)
        way = self.ways[shapes]
        if way is None:
            way = self.ways[shapes] = self._recorded(recorder, inputs)
        return way(*inputs)

    def _recorded(self, recorder: Recorder, inputs: Outputs) -> Callable[..., Outputs]:
        kept = [tensor.detach().clone() for tensor in inputs]
        state = random_states()
        try:
            replay, outputs = recorder(lambda: self.function(*kept))
        except RuntimeError:
            return self.function
        finally:
            set_random_states(state)

        def replayed(*inputs: Tensor) -> Outputs:
            for buffer, given in zip(kept, inputs, strict=True):
                buffer.copy_(given)
            replay()
            return tuple(output.clone() for output in outputs)

        return replayed
