"""In place of a CUDA graph: a tape of operations, replayed on the same memory without the function.

As with a graph, attributes, branches and new tensors are those of the recording, and what looks at
a value, or makes a tensor of numbers, cannot be recorded.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae import recorded
from pyro_vae.training import compiled

REFUSED = "operation not permitted when stream is capturing"
LOOKS = {  # at a value, for which a GPU must be waited for
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten._linalg_check_errors.default,
    torch.ops.aten.multinomial.default,
}


class FromProcessor(TorchFunctionMode):
    """To make a tensor of numbers is an error inside: a GPU would be waited for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            raise RuntimeError(f"{REFUSED}: {function}")
        return function(*args, **(kwargs or {}))


def picks_by_mask(function, args):
    """Whether a mask says how many numbers are read or written; one number for all is a fill."""
    if function not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return False
    masks = any(index is not None and index.dtype == torch.bool for index in args[1])
    return masks and not (len(args) > 2 and args[2].numel() == 1)


class Tape(TorchDispatchMode):
    """Notes every operation inside, with the tensors that it took and gave."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in LOOKS or picks_by_mask(function, args):
            raise RuntimeError(f"{REFUSED}: {function}")
        results = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, results))
        return results

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, results in self.operations:
            again = function(*args, **kwargs)
            for kept, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.detach().copy_(new)


def taped(function):
    """What :func:`pyro_vae.recorded.cuda_graph` does, but for the graph."""
    for _ in range(2):
        function()
    tape = Tape()
    with tape, FromProcessor():
        outputs = function()
    return tape.replay, outputs


@pytest.fixture
def recordings(monkeypatch):
    """What was recorded, where everything is: on a GPU by its own recorder."""
    made = []
    own = recorded.recorder_of

    def recorder_of(device):
        record = own(device) or taped

        def recorder(function):
            recording = record(function)
            made.append(function)
            return recording

        return recorder

    for module in (recorded, compiled):
        monkeypatch.setattr(module, "recorder_of", recorder_of)
    return made
