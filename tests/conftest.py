"""Every test runs in double precision from a fixed seed, and must leave Pyro and torch as it found
them.
"""

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("agg")
torch.set_num_threads(1)  # the tensors are small, and other processes may want the other core


@pytest.fixture(autouse=True)
def clean_room(request):
    """Double precision and a fixed seed inside; afterwards the parameter store is empty, no
    validation flag changed.
    """
    pyro.clear_param_store()
    flags = (pyro.infer.is_validation_enabled(), pyro.poutine.is_validation_enabled())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(20261121)
        yield
    torch.set_default_dtype(before)
    assert (pyro.infer.is_validation_enabled(), pyro.poutine.is_validation_enabled()) == flags
    if "uses_store" not in request.keywords:
        assert len(pyro.get_param_store()) == 0, "the test left parameters in Pyro's store"
    pyro.clear_param_store()
