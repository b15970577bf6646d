"""Arguments are checked at the door; what the library touches and does not own is put back on the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn


def whole_number(name: str, value: Any, at_least: int) -> None:
    """Raise unless `value` is a whole number; booleans are none.

    Raises:
        ValueError: Which argument, what it must be, what it was.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{name} must be a whole number from {at_least}; got {value!r}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from `seed` inside; the caller's random state is afterwards as it was before."""
    whole_number("seed", seed, at_least=0)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(seed))
        yield


@contextmanager
def mode(*owners: object, training: bool) -> Iterator[None]:
    """Train or eval mode for the modules among `owners` (and for those whose methods they are), then as before."""
    modules = [m for m in (getattr(o, "__self__", o) for o in owners) if isinstance(m, nn.Module)]
    before = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.train(training)
        yield
    finally:
        for part, was_training in before:
            part.training = was_training


@contextmanager
def own_store() -> Iterator[None]:
    """A copy of Pyro's parameter store inside: what is registered there is gone afterwards, what was there stays."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        yield
