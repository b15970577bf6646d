r"""MCMC on the latents of given data, :math:`p(z \mid x)` under a fixed decoder: the judge of an
amortised guide.

``"hmc"`` runs :class:`.BatchedHMC`: every datum has its own chains, step size and divergences.
``"nuts"`` runs Pyro's NUTS on all data of a tile as one target, chain by chain: the reference,
slower by an order of magnitude. Both run on the same :class:`.Target`, which is read off the model,
and start at draws of the guide.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro.infer import NUTS
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import ComposeTransform, Transform, TransformedDistribution

from ..data.rows import Rows
from ..density.memory import TILE_ROWS
from ..density.target import Target
from ..density.terms import Batch, Pair, entrance, trace_terms
from ..evidence.results import fingerprint
from ..guards import evaluating, seed_of, seeded, whole_number
from ..vae import VAE
from .diagnostics import diagnose
from .hmc import BatchedHMC
from .trees import DRAWS, dataset, latents, observed_groups

if TYPE_CHECKING:
    import xarray

NUTS_DATA = 256  # data in one target of NUTS
PILOT = 64  # draws of the guide that say where chains begin, and how far they may step at first

Draws = dict[str, np.ndarray]


def sample_posterior(
    vae: VAE | Pair,
    x: Any,
    c: Any = None,
    *,
    kernel: str = "hmc",
    num_samples: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    neutra: bool = False,
    processes: int = 1,
    seed: int = 0,
) -> xarray.DataTree:
    """Draws from the posterior of the latents of each datum, by MCMC.

    Chains begin at draws of the guide. If these all lie in one mode of several, no diagnostic can
    know of the others.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        kernel: ``"hmc"``, batched, or ``"nuts"``, Pyro's.
        num_samples: The draws of each chain after warm-up.
        warmup: The steps of each chain in which step size and mass matrix are found.
        chains: The number of chains.
        neutra: Whether to run in the base space of a flow guide, where the posterior is rounder
            (NeuTra, Hoffman et al., 2019, https://arxiv.org/abs/1903.03704).
        processes: How many processes share the chains of NUTS; a chain is the same in any of them.
        seed: The seed of all draws; chain i of NUTS is the same however many chains there are, for
            a guide that draws once for each datum.

    Returns:
        A tree with the groups ``posterior`` (the latents, by site: chain, draw, datum, latent),
        ``sample_stats`` (acceptance_rate, diverging, lp and step_size by chain, draw and datum,
        with NUTS all but lp of up to 256 data at once; energy, the total over data),
        ``diagnostics`` (of each datum: rhat, the largest of its latents; ess_bulk and ess_tail, the
        smallest; divergences, acceptance_rate, step_size, bfmi), ``observed_data`` and, where there
        is a c, ``constant_data``.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: An option makes no sense, or a chain begins where the density is not finite.
        TypeError: The latents are discrete, or `neutra` meets a guide that is no flow.

    Warns:
        UserWarning: Chains of some data have not mixed.
    """
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"no kernel is named {kernel!r}; there are {', '.join(KERNELS)}")
    counts = {
        "num_samples": num_samples,
        "warmup": warmup,
        "chains": chains,
        "processes": processes,
    }
    for name, value in counts.items():
        whole_number(name, value, at_least=1)
    if processes > 1 and kernel != "nuts":
        raise ValueError(
            f"processes share the chains of kernel='nuts'; {kernel!r} runs all chains as one "
            "program"
        )
    whole_number("seed", seed, at_least=0)
    model, guide, rows, like = entrance(vae, x, c, chains)
    run, tile = KERNELS[kernel](chains, processes)
    parts = []
    with evaluating(model, guide), torch.enable_grad():
        for number, part in enumerate(rows.chunks(tile)):
            with seeded(seed_of(seed, number)):
                batch = rows.batch(part, like=like)
                with torch.no_grad():
                    trace_terms(model, guide, batch, 1)  # says what is wrong with a pair
                target = Target(model, batch, _flow(vae, batch) if neutra else None)
                start, scale = _start(guide, batch, target, chains)
            parts.append(run(target, start, scale, warmup, num_samples, (seed, number)))
    tree = _tree(parts, rows, like)
    tree.attrs["model"] = fingerprint(model, without="posterior")
    return tree


def _flow(vae: Any, batch: Batch) -> Transform:
    """The bijection of a flow guide, for these data."""
    with torch.no_grad():
        x, *given = batch
        unconstrained = (
            vae.posterior(vae.guide_input(x, vae.encode_condition(len(x), *given)))
            if isinstance(vae, VAE)
            else None
        )
    if not isinstance(unconstrained, TransformedDistribution):
        raise TypeError(
            "neutra needs a VAE whose guide is a flow, such as 'spline_flow'; leave it out"
        )
    return ComposeTransform(list(unconstrained.transforms))


def _start(guide: Callable, batch: Batch, target: Target, chains: int) -> tuple[Tensor, Tensor]:
    """Draws of the guide: where the chains begin, and the spread of each datum's."""
    if target.through is not None:
        drawn = torch.randn(chains, len(batch[0]), target.size).to(batch[0])
        return drawn, torch.ones_like(drawn[0])
    with torch.no_grad():
        drawn = target.draw(guide, chains + PILOT)
    return drawn[:chains], drawn[chains:].std(0)


def _steps(kernel: MCMCKernel, start: Tensor, warmup: int, num_samples: int) -> Iterator[Tensor]:
    """Run a kernel by Pyro's protocol, and give its positions after warm-up."""
    kernel.initial_params = params = {"position": start}
    kernel.setup(warmup)
    for step in range(warmup + num_samples):
        if step == warmup:
            kernel.end_warmup()
        params = kernel.sample(params)
        if step >= warmup:
            yield params["position"]
    kernel.cleanup()


def _hmc(
    target: Target,
    start: Tensor,
    scale: Tensor,
    warmup: int,
    num_samples: int,
    seed: tuple[int, int],
) -> tuple[Draws, Draws]:
    """All chains at once."""
    positions, stats = [], []
    with seeded(seed_of(*seed, 1)):
        kernel = BatchedHMC(target, start, scale=scale)
        for position in _steps(kernel, start, warmup, num_samples):
            positions.append(position)
            stats.append(
                (
                    kernel.last.acceptance,
                    kernel.last.diverging,
                    kernel.last.energy,
                    kernel.state.log_density,
                )
            )
    names = ("acceptance_rate", "diverging", "energy", "lp")
    by_name = dict(
        zip(names, (torch.stack(stat, 1) for stat in zip(*stats, strict=True)), strict=True)
    )
    by_name["step_size"] = kernel.step_size.expand_as(by_name["lp"])
    return _arrays(target.constrain(torch.stack(positions, 1))), _arrays(by_name)


class _Nuts(NUTS):
    """Pyro's, which keeps the energy with which its last transition began, and that transition's
    acceptance.
    """

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


def _nuts(
    processes: int,
    target: Target,
    start: Tensor,
    scale: Tensor,
    warmup: int,
    num_samples: int,
    seed: tuple[int, int],
) -> tuple[Draws, Draws]:
    """Chain by chain, each with a seed of its own, here or in other processes."""
    tasks = [
        (target, begin, warmup, num_samples, seed_of(*seed, number + 1))
        for number, begin in enumerate(start)
    ]
    if processes == 1:
        chains = [_nuts_chain(*task) for task in tasks]
    else:
        setting = (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            pyro.get_param_store().get_state(),
        )
        with ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _as_here, setting
        ) as pool:
            chains = list(pool.map(_nuts_chain, *zip(*tasks, strict=True)))
    positions = torch.stack([position for position, _ in chains])
    stats = {
        name: np.stack([np.asarray(stat[name]) for _, stat in chains]) for name in chains[0][1]
    }
    with torch.no_grad():
        blocks = positions.flatten(0, 1).split(max(1, TILE_ROWS // positions.shape[2]))
        stats["lp"] = (
            torch.cat([target(block) for block in blocks])
            .reshape(positions.shape[:3])
            .numpy(force=True)
        )
    return _arrays(target.constrain(positions)), stats


def _as_here(dtype: torch.dtype, threads: int, store: Any) -> None:
    """In a new process: the parameters, and what decides the last bits of a result."""
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    pyro.get_param_store().set_state(store)
    pyro.enable_validation(False)


def _nuts_chain(
    target: Target, start: Tensor, warmup: int, num_samples: int, seed: int
) -> tuple[Tensor, Any]:
    positions = []
    stats: dict[str, list] = {
        name: [] for name in ("acceptance_rate", "diverging", "energy", "step_size")
    }
    with seeded(seed):
        kernel = _Nuts(potential_fn=functools.partial(_potential, target))
        for position in _steps(kernel, start, warmup, num_samples):
            positions.append(position)
            diverging = kernel._t - 1 - warmup in kernel._divergences[-1:]
            last = kernel.acceptance, diverging, kernel.energy, kernel.step_size
            for name, value in zip(stats, last, strict=True):
                stats[name].append(value)
    return torch.stack(positions), stats


def _potential(target: Target, params: dict[str, Tensor]) -> Tensor:
    return -target(params["position"][None]).sum()


KERNELS: dict[
    str, Callable[[int, int], tuple[Callable, int]]
] = {  # how to run it, and how many data at once
    "hmc": lambda chains, _: (_hmc, max(1, TILE_ROWS // chains)),
    "nuts": lambda _, processes: (functools.partial(_nuts, processes), NUTS_DATA),
}


def _arrays(tensors: dict[str, Tensor]) -> Draws:
    return {name: tensor.numpy(force=True) for name, tensor in tensors.items()}


def _tree(parts: list[tuple[Draws, Draws]], rows: Rows, like: Tensor | None) -> xarray.DataTree:
    """The groups of the result, data beside each other."""
    import xarray

    drawn: dict[str, list] = {name: [] for name in parts[0][0]}
    stats: dict[str, list] = {name: [] for name in parts[0][1]}
    for draws, stat in parts:
        num = next(iter(draws.values())).shape[2]
        for name, values in draws.items():
            drawn[name].append(values)
        for name, values in stat.items():  # those of NUTS are of all data at once
            stats[name].append(values if values.ndim == 3 else np.repeat(values[..., None], num, 2))
    posterior = latents({name: np.concatenate(values, 2) for name, values in drawn.items()})
    each = dataset({name: np.concatenate(values, 2) for name, values in stats.items()}, DRAWS, "")
    energy = sum(stat["energy"].reshape(*each.energy.shape[:2], -1).sum(2) for _, stat in parts)
    sample_stats = each.assign(energy=(DRAWS[:2], energy))  # ArviZ knows one energy for each draw
    groups = {
        "posterior": posterior,
        "sample_stats": sample_stats,
        "diagnostics": diagnose(posterior, each),
    }
    return xarray.DataTree.from_dict(groups | observed_groups(rows, like))
