r"""MCMC on the latents of given data, :math:`p(z \mid x)` under a fixed decoder: the judge of an
amortised guide.

``"hmc"`` runs :class:`.BatchedHMC`: every datum has its own chains, step size and divergences.
``"nuts"`` runs Pyro's NUTS on all data of a tile as one target, chain by chain: the reference,
slower by an order of magnitude. Both run on the same :class:`.Target`, which is read off the model,
and start at draws of the guide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, Transform, TransformedDistribution

from ..density.memory import tile_rows
from ..density.problem import Problem, Stream, Tile
from ..density.target import Target
from ..density.traced import Pair
from ..guards import evaluating, owner_of, seed_of, seeded, whole_number
from ..progress import Progress
from ..vae import VAE
from .diagnostics import diagnose
from .hmc import BatchedHMC, run_kernel
from .nuts import nuts_chains
from .trees import DRAWS, dataset, latents, model_of_draws, observed_groups

if TYPE_CHECKING:
    import xarray

NUTS_DATA = 256  # data in one target of NUTS
PILOT = 64  # draws of the guide that say where chains begin, and how far they may step at first

Draws = dict[str, np.ndarray]


def sample_posterior(
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    kernel: str = "hmc",
    num_samples: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    neutra: bool = False,
    processes: int = 1,
    seed: int = 0,
    progress: bool = True,
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
        progress: Whether a terminal shows a progress bar, after two seconds.

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
    counts = {"num_samples": num_samples, "warmup": warmup, "chains": chains}
    _check(kernel, processes, counts)
    whole_number("seed", seed, at_least=0)

    problem = Problem.of(vae, x, c)
    run, size = KERNELS[kernel](chains, processes, problem.device)
    bar = Progress("MCMC, data", len(problem), shown=progress)
    parts = []
    with evaluating(problem.model, problem.guide), torch.enable_grad(), bar:
        for tile in problem.tiles(size, (seed,)):
            bar.update(tile.rows.start, f"{kernel}, {chains} chains")
            each = len(tile) / (warmup + num_samples) / (1 if kernel == "hmc" else chains)
            with tile.seeded():
                target = tile.target()
                if neutra:
                    target = Target(tile.densities, _flow(problem.guide, tile))
                start, scale = _start(target, chains)
            tick = functools.partial(bar.advance, each)
            parts.append(run(target, start, scale, warmup, num_samples, (seed, tile.number), tick))

    tree = _tree(parts, problem)
    tree.attrs["model_digest"] = model_of_draws(problem)
    return tree


def _check(kernel: Any, processes: Any, counts: dict[str, Any]) -> None:
    """Raise where an option makes no sense."""
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"no kernel is named {kernel!r}; there are {', '.join(KERNELS)}")
    for name, value in (counts | {"processes": processes}).items():
        whole_number(name, value, at_least=1)
    if processes > 1 and kernel != "nuts":
        raise ValueError(
            f"processes share the chains of kernel='nuts'; {kernel!r} runs all chains as one "
            "program"
        )


def _flow(function: Callable, tile: Tile) -> Transform:
    """The bijection of a flow guide, for these data."""
    vae, guide = owner_of(function), None
    if isinstance(vae, VAE):
        x, *given = tile.batch
        with torch.no_grad():
            guide = vae.unconstrained_guide_of(x, vae.encode_condition(len(x), *given))
    if not isinstance(guide, TransformedDistribution):
        needs = "neutra needs a VAE whose guide is a flow, such as 'spline_flow'"
        raise TypeError(f"{needs}; leave it out")
    return ComposeTransform(list(guide.transforms))


def _start(target: Target, chains: int) -> tuple[Tensor, Tensor]:
    """Draws of the guide: where the chains begin, and the spread of each datum's."""
    if target.through is not None:
        x = target.densities.batch[0]
        drawn = torch.randn(chains, len(x), target.size).to(x)
        return drawn, torch.ones_like(drawn[0])
    with torch.no_grad():
        drawn = target.draw_guide(chains + PILOT)
    return drawn[:chains], drawn[chains:].std(0)


def _hmc(
    target: Target,
    start: Tensor,
    scale: Tensor,
    warmup: int,
    num_samples: int,
    seed: tuple[int, int],
    tick: Callable[[], None],
) -> tuple[Draws, Draws]:
    """All chains at once."""
    positions = []
    stats: dict[str, list[Tensor]] = {}
    with seeded(seed_of(*seed, 1)):
        kernel = BatchedHMC(target, start, scale=scale)
        for position in run_kernel(kernel, start, warmup, num_samples, tick):
            positions.append(position)
            stats.setdefault("acceptance_rate", []).append(kernel.last.acceptance)
            stats.setdefault("diverging", []).append(kernel.last.diverging)
            stats.setdefault("energy", []).append(kernel.last.energy)
            stats.setdefault("lp", []).append(kernel.state.log_density)
    by_name = {name: torch.stack(values, 1) for name, values in stats.items()}
    by_name["step_size"] = kernel.step_size[:, None].expand_as(by_name["lp"])
    return _arrays(target.constrain(torch.stack(positions, 1))), _arrays(by_name)


def _nuts(
    processes: int,
    target: Target,
    start: Tensor,
    scale: Tensor,
    warmup: int,
    num_samples: int,
    seed: tuple[int, int],
    tick: Callable[[], None],
) -> tuple[Draws, Draws]:
    """Chain by chain, each with a seed of its own; NUTS finds its own scale."""
    seeds = [seed_of(*seed, Stream.CHAINS, number) for number in range(len(start))]
    positions, stats = nuts_chains(target, start, warmup, num_samples, seeds, processes, tick)
    with torch.no_grad():
        rows = tile_rows(positions.device)
        blocks = positions.flatten(0, 1).split(max(1, rows // positions.shape[2]))
        log_density = torch.cat([target(block) for block in blocks])
    stats["lp"] = log_density.reshape(positions.shape[:3]).numpy(force=True)
    return _arrays(target.constrain(positions)), stats


# For each kernel, of chains, processes and device: how to run it, and how many data at once.
KERNELS: dict[str, Callable[[int, int, torch.device], tuple[Callable, int]]] = {
    "hmc": lambda chains, _, device: (_hmc, max(1, tile_rows(device) // chains)),
    "nuts": lambda _, processes, __: (functools.partial(_nuts, processes), NUTS_DATA),
}


def _arrays(tensors: dict[str, Tensor]) -> Draws:
    return {name: tensor.numpy(force=True) for name, tensor in tensors.items()}


def _tree(parts: list[tuple[Draws, Draws]], problem: Problem) -> xarray.DataTree:
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
        "diagnostics": diagnose(posterior, each, problem.device),
    }
    return xarray.DataTree.from_dict(groups | observed_groups(problem.rows, problem.like))
