"""Pyro's NUTS, chain by chain, here or in other processes."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import NUTS
from torch import Tensor

from ..density.target import Target
from ..guards import seeded
from .hmc import run_kernel

STATISTICS = ("acceptance_rate", "diverging", "energy", "step_size")


def nuts_chains(
    target: Target,
    start: Tensor,
    warmup: int,
    num_samples: int,
    seeds: list[int],
    processes: int,
    tick: Callable[[], None],
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Chains from positions ``(K, N, D)``, each with a seed of its own. Those of this process tick.

    Returns:
        Positions of shape ``(K, draw, N, D)``, and the statistics by name, each ``(K, draw)``.
    """
    tasks = [(target, begin, warmup, num_samples, s) for begin, s in zip(start, seeds, strict=True)]
    if processes == 1:
        chains = [_chain(*task, tick) for task in tasks]
    else:
        store = pyro.get_param_store().get_state()
        setting = torch.get_default_dtype(), torch.get_num_threads(), store
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, spawn, _as_here, setting) as pool:
            chains = list(pool.map(_chain, *zip(*tasks, strict=True)))
    positions = torch.stack([position for position, _ in chains])
    stats = {name: np.stack([np.asarray(own[name]) for _, own in chains]) for name in STATISTICS}
    return positions, stats


class _Nuts(NUTS):
    """Pyro's NUTS, which keeps acceptance and first energy of its last transition."""

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        before, count = self._mean_accept_prob, self._t + 1
        moved = super().sample(params)
        count = count - self._warmup_steps if count > self._warmup_steps else count
        self.acceptance = before + (self._mean_accept_prob - before) * count
        return moved

    def _sample_r(self, name: str) -> Any:
        r, unscaled = super()._sample_r(name)
        self.energy = float(self._kinetic_energy(unscaled) + (self._potential_energy_last or 0.0))
        return r, unscaled


def _as_here(dtype: torch.dtype, threads: int, store: Any) -> None:
    """In a new process: the parameters, and what decides the last bits of a result."""
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    pyro.get_param_store().set_state(store)
    pyro.enable_validation(False)


def _chain(
    target: Target,
    start: Tensor,
    warmup: int,
    num_samples: int,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Any]:
    positions = []
    stats: dict[str, list] = {name: [] for name in STATISTICS}
    with seeded(seed):
        kernel = _Nuts(potential_fn=functools.partial(_potential, target))
        for position in run_kernel(kernel, start, warmup, num_samples, tick):
            positions.append(position)
            diverging = kernel._t - 1 - warmup in kernel._divergences[-1:]
            last = kernel.acceptance, diverging, kernel.energy, kernel.step_size
            for name, value in zip(stats, last, strict=True):
                stats[name].append(value)
    return torch.stack(positions), stats


def _potential(target: Target, params: dict[str, Tensor]) -> Tensor:
    return -target(params["position"][None]).sum()
