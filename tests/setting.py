"""The setting in which a test runs: precision, seed, and the device of the tests that ask for one.

``--device`` and ``--dtype`` are for the modules that use the fixture ``device``: the contract, the
truth and the evidence. All others run on the CPU in double precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SEED = 20261121
CPU = torch.device("cpu")
_device = CPU


@contextmanager
def setting(dtype: torch.dtype = torch.float64, seed: int = SEED) -> Iterator[None]:
    """Default dtype and random state as a test has them, for what several tests share; then as
    before.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """What :func:`place` places goes there inside, in the precision that is the default there."""
    global _device
    before, _device = (_device, torch.get_default_dtype()), device
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        _device = before[0]
        torch.set_default_dtype(before[1])


def place(thing):
    """A module or a tensor on the device of the test, its real numbers in the default precision."""
    if isinstance(thing, torch.Tensor) and not thing.is_floating_point():
        return thing.to(_device)
    return thing.to(device=_device, dtype=torch.get_default_dtype())


def rounding(double: float, single: float) -> float:
    """How far a result may be off by rounding alone: in double, and in single precision."""
    return single if torch.get_default_dtype() == torch.float32 else double
