"""What the library touches and does not own is put back: random state, train/eval mode, parameter store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import nn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from `seed` inside; the caller's random state is afterwards as it was before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
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
