"""Every test runs in double precision from a fixed seed, and must leave Pyro and torch as it found
them. A test that is not marked slow has five seconds.
"""

import os
import signal

import matplotlib
import pyro
import pytest
import torch
from setting import on, setting

import pyro_vae as pv

matplotlib.use("agg")
# Ctrl-C as in the foreground: a shell starts jobs in the background without it
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the tensors are small, and other processes may want the other core

SEEDS = int(os.environ.get("PYRO_VAE_SEEDS", 10))
FAST = 5.0 * max(1.0, SEEDS / 10)  # seconds of processor time for a test that is not marked slow


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="where contract, truth and evidence are tested, and gpu"
    )
    parser.addoption(
        "--dtype", default="float64", choices=("float32", "float64"), help="their precision"
    )


@pytest.fixture(autouse=True)
def clean_room(request):
    """Double precision and a fixed seed inside; afterwards the parameter store is empty, no
    validation flag changed, and a name has been given to no class that did not have it.
    """
    pyro.clear_param_store()
    flags = (pyro.infer.is_validation_enabled(), pyro.poutine.is_validation_enabled())
    registries = [(cls.registry, dict(cls.registry)) for cls in (pv.Conditional, pv.Network)]
    with setting():
        yield
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    assert (pyro.infer.is_validation_enabled(), pyro.poutine.is_validation_enabled()) == flags
    if "uses_store" not in request.keywords:
        assert len(pyro.get_param_store()) == 0, "the test left parameters in Pyro's store"
    pyro.clear_param_store()


@pytest.fixture
def device(clean_room, pytestconfig):
    """The device of ``--device``, on which ``setting.place`` places, in the precision of
    ``--dtype``.
    """
    wanted = torch.device(pytestconfig.getoption("device"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"--device {wanted}: torch sees no GPU")
    with on(wanted, getattr(torch, pytestconfig.getoption("dtype"))):
        yield wanted


def pytest_collection_modifyitems(config, items):
    if config.getoption("device") == "cpu":
        skip = pytest.mark.skip(reason="for a GPU: pytest -m gpu --device cuda")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


def processor_time():
    """Seconds that this process and its children that have ended have had of a processor: a busy
    machine makes no test slower by this clock.
    """
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    begun = processor_time()
    result = yield
    took = processor_time() - begun
    on_cpu = item.config.getoption("device") == "cpu"  # a GPU takes seconds to begin
    if took > FAST and on_cpu and "slow" not in item.keywords:
        pytest.fail(
            f"it took {took:.1f} s of processor time, and a test of the fast lane has {FAST:g} s: "
            "make it smaller, or mark it slow",
            pytrace=False,
        )
    return result
