"""In place of a GPU: a recorder that runs a function again, on the same buffers, and refuses what a
CUDA graph cannot hold.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae import recorded
from pyro_vae.training import compiled

LOOKS = {  # at a value, for which a GPU must be waited for
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


class FromProcessor(TorchFunctionMode):
    """To make a tensor of numbers is an error inside: a GPU would be waited for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        return function(*args, **(kwargs or {}))


class Strict(TorchDispatchMode):
    """To look at a value is an error inside."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in LOOKS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        return function(*args, **(kwargs or {}))


def rerun(function):
    """What :func:`pyro_vae.recorded.cuda_graph` does, but for the graph.

    The results of a recording are of no use before the first replay, as there.
    """
    function()
    with Strict(), FromProcessor():
        outputs = tuple(torch.full_like(output, 7) for output in function())

    def replay():
        for output, new in zip(outputs, function(), strict=True):
            output.copy_(new)

    return replay, outputs


@pytest.fixture
def recordings(monkeypatch):
    """What was recorded, where everything is: on a GPU by its own recorder."""
    made = []
    own = recorded.recorder_of

    def recorder_of(device):
        record = own(device) or rerun

        def recorder(function):
            recording = record(function)
            made.append(function)
            return recording

        return recorder

    for module in (recorded, compiled):
        monkeypatch.setattr(module, "recorder_of", recorder_of)
    return made
