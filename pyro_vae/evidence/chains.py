"""Short chains of HMC: where the posterior of a datum lies, and a proposal with its moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..density.memory import tile_rows
from ..density.target import Target
from ..posterior.adaptation import covariance_factor
from ..posterior.hmc import BatchedHMC, evaluate
from .proposals import StudentTMixture, with_shares

CHAINS = 16
MOST_STEPS = 16  # of their trajectories: moments need no more
WARMUP = 150
DRAWS = 100
SEPARATED = 4.0  # times their variance is that between chains which stay in different modes
NARROW = 50.0  # times the variance of a chain in a narrow mode is the mean variance of all
STUCK = 10.0  # nats for each dimension below most chains, where no chain ends that moves


class Chains(NamedTuple):
    """Draws ``(S, C, N, D)`` of C chains for those data that have a finite density somewhere, which
    are `alive`; the log density where each chain ends, ``(C, N)``, and the factor that they moved
    by, ``(N, D, D)``.
    """

    alive: Tensor
    draws: Tensor
    log_density: Tensor
    factor: Tensor


def chains_of(
    target: Target, start: Tensor | None, scale: Tensor, tick: Callable[[], None]
) -> Chains | None:
    """Short chains of HMC; none, if no datum has a finite density anywhere.

    Arguments:
        target: The joint density.
        start: Where the chains begin, ``(CHAINS, N, D)``; where there is no density, or without
            it, at draws of the guide.
        scale: How far they may step at first, in each dimension, ``(N, D)``.
        tick: Called at each step of the chains.
    """
    points = torch.cat([target.draw_guide(4 * CHAINS), target.draw_prior(4 * CHAINS)])
    points = points if start is None else torch.cat([start, points])
    blocks = points.split(max(1, tile_rows(points.device) // points.shape[1]))
    states = [evaluate(target, block) for block in blocks]
    inside = torch.cat([state.is_finite for state in states])
    alive = inside.any(0).nonzero()[:, 0].cpu()
    if len(alive) == 0:
        return None

    begin = _first(CHAINS, points, inside)[:, alive]
    kernel = BatchedHMC(
        target.select(alive),
        begin,
        scale=scale[alive],
        most_steps=MOST_STEPS,
        one_step_size=False,
    )
    kernel.setup(WARMUP)
    draws = []
    params = kernel.initial_params
    for step in range(WARMUP + DRAWS):
        tick()
        params = kernel.sample(params)
        if step >= WARMUP:
            draws.append(params["position"])
    return Chains(alive, torch.stack(draws), kernel.state.log_density, kernel.scale)


def of_posterior(
    target: Target, start: Tensor | None, scale: Tensor, tick: Callable[[], None]
) -> tuple[Tensor, StudentTMixture] | None:
    """Which data are alive, and a proposal with the moments of the posterior of each, from short
    chains of HMC: see :func:`chains_of`.

    Where chains stay in different modes, it has two parts about the mean of each chain, with the
    covariance within all and with its own, in shares that follow the weights of draws.
    """
    chains = chains_of(target, start, scale, tick)
    if chains is None:
        return None
    size = chains.draws.shape[-1]
    far_below = chains.log_density.median(0).values - STUCK * (1 + size)
    has_moved = chains.log_density > far_below
    draws = torch.stack([_first(CHAINS, draw, has_moved) for draw in chains.draws])

    mean, apart = draws.mean(0), _stay_apart(draws)
    centres = torch.where(apart[:, None], mean, mean.mean(0))
    factor = covariance_factor((draws - centres).flatten(0, 1), chains.factor)
    if not apart.any():
        return chains.alive, StudentTMixture.about(centres[0], factor)

    of_all = factor.expand(len(centres), *factor.shape)
    of_each = of_all.clone()
    own = covariance_factor(draws[:, :, apart].flatten(1, 2), of_all[:, apart].flatten(0, 1))
    of_each[:, apart] = own.view_as(of_each[:, apart])
    factors = torch.cat([of_all, of_each])
    equal = factors.new_full(factors.shape[:2], 1 / len(factors))
    mixture = StudentTMixture(torch.cat([centres, centres]), factors, equal)
    return chains.alive, with_shares(target.select(chains.alive), mixture)


def _stay_apart(draws: Tensor) -> Tensor:
    """Of which data the chains stay in different modes, by draws ``(S, C, N, D)``: ``(N,)``."""
    of_each = draws.var(0)
    within, between = of_each.mean(0), draws.mean(0).var(0)
    is_narrow = (of_each > 0) & (of_each < within / NARROW)
    return ((between > SEPARATED * within) | is_narrow.any(0)).any(-1)


def _first(num: int, draws: Tensor, good: Tensor) -> Tensor:
    """So many draws: of each datum the first that are good, repeated where they are too few."""
    order = (~good).byte().sort(dim=0, stable=True).indices
    number = torch.arange(num, device=order.device)[:, None]
    several = good.sum(0).clamp(min=1, max=num)[None]
    picked = order[number % several, torch.arange(draws.shape[1], device=order.device)]
    return draws.gather(0, picked[..., None].expand(-1, -1, draws.shape[-1]))
