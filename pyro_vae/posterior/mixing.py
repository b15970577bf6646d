r"""Rank-normalised split R-hat and effective sample sizes (Vehtari et al., 2021,
https://arxiv.org/abs/1903.08008) of many latents at once.

ArviZ has them latent by latent, in 3 ms each: minutes for some thousand data. Here they are one
program of tensors; tests hold it to ArviZ.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

BLOCK = {"cpu": 2**20, "cuda": 2**26}  # draws that are looked at together
TAILS = (0.05, 0.95)
LEAST_DRAWS = 4  # of a chain


def mixing_by_datum(
    latents: list[np.ndarray], device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest R-hat, smallest bulk ESS and smallest tail ESS of each datum.

    Arguments:
        latents: Draws of shape ``(chain, draw, N, *)``.
        device: Where they are looked at.

    Returns:
        Each of shape ``(N,)``.
    """
    found = []
    size = BLOCK.get(device.type, BLOCK["cpu"])
    for values in latents:
        chains, length, num = values.shape[:3]
        flat = torch.as_tensor(values.reshape(chains, length, -1))
        blocks = flat.split(max(1, size // (chains * length)), -1)
        mixed = [
            mixing(block.to(device, torch.float64).permute(2, 0, 1).contiguous())
            for block in blocks
        ]
        found.append([torch.cat(parts).view(num, -1) for parts in zip(*mixed, strict=True)])
    rhat, bulk, tail = (torch.cat(parts, 1).numpy(force=True) for parts in zip(*found, strict=True))
    return rhat.max(1), bulk.min(1), tail.min(1)


def mixing(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How well chains have mixed.

    Arguments:
        draws: Of shape ``(S, chain, draw)``, in double precision, for S latents.

    Returns:
        R-hat, bulk ESS and tail ESS, each of shape ``(S,)``; NaN where a draw is, for fewer than 4
        draws and, of R-hat, for one chain.
    """
    num, chains, length = draws.shape
    unknown = draws.new_full((num,), math.nan)
    if length < LEAST_DRAWS:
        return unknown, unknown, unknown

    split = _split(draws)
    ordered, order = split.flatten(1).sort(1)
    normal = _normal_scores(ordered, order).view_as(split)
    rhat = unknown
    if chains > 1:
        middle = ordered.shape[1] // 2
        median = ordered[:, middle - 1 : middle + 1].mean(1)
        folded = (split - median[:, None, None]).abs()
        scores = _normal_scores(*folded.flatten(1).sort(1)).view_as(split)
        rhat = torch.maximum(_rhat(normal), _rhat(scores))

    whole = ordered if length % 2 == 0 else draws.flatten(1).sort(1).values
    tails = [_split((draws <= quantile).double()) for quantile in _quantiles(whole)]
    tail = torch.minimum(*map(_ess, tails))
    known = ~draws.isnan().flatten(1).any(1)
    rhat, bulk, tail = (torch.where(known, x, math.nan) for x in (rhat, _ess(normal), tail))
    return rhat, bulk, tail


def _split(draws: Tensor) -> Tensor:
    """The halves of chains, as chains."""
    half = draws.shape[2] // 2
    return torch.cat([draws[..., :half], draws[..., -half:]], 1)


def _quantiles(ordered: Tensor) -> list[Tensor]:
    """Those of the tails, of shape ``(S, 1, 1)``, by linear interpolation."""
    found = []
    for share in TAILS:
        place = share * (ordered.shape[1] - 1)
        low, high = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
        found.append((low + (place - math.floor(place)) * (high - low))[:, None, None])
    return found


def _normal_scores(ordered: Tensor, order: Tensor) -> Tensor:
    """Normal quantiles of the ranks of numbers that were put in order; equal ones share theirs."""
    size = ordered.shape[1]
    place = torch.arange(size, device=ordered.device).expand_as(ordered)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = begins.roll(-1, 1)
    first = torch.where(begins, place, 0).cummax(1).values
    last = torch.where(ends, place, size - 1).flip(1).cummin(1).values.flip(1)

    rank = torch.empty_like(ordered).scatter_(1, order, (first + last).to(ordered) / 2 + 1)
    return torch.special.ndtri((rank - 3 / 8) / (size + 1 / 4))


def _rhat(draws: Tensor) -> Tensor:
    length = draws.shape[2]
    between, within = draws.mean(2).var(1), draws.var(2).mean(1)
    return (between / within + (length - 1) / length).sqrt()


def _ess(draws: Tensor) -> Tensor:
    """By Geyer's initial positive and monotone sequence of pairs of autocorrelations."""
    _, chains, length = draws.shape
    covariance = _autocovariance(draws)
    variance = covariance[:, :1] * length / (length - 1)
    pooled = covariance[:, :1] + (draws.mean(2).var(1)[:, None] if chains > 1 else 0.0)
    rho = 1 - (variance - covariance) / pooled
    rho[:, 0] = 1.0

    pairs = rho[:, : length // 2 * 2].unflatten(1, (-1, 2)).sum(2)
    most = max(0, math.ceil((length - 4) / 2))
    num = (pairs[:, :most] > 0).cumprod(1).sum(1, keepdim=True)  # of pairs that are positive
    counted = torch.arange(pairs.shape[1], device=pairs.device) < num
    total = torch.where(counted, pairs.cummin(1).values, 0.0).sum(1)

    even, pair = rho.gather(1, 2 * num)[:, 0], pairs.gather(1, num)[:, 0]
    rest = torch.where((even > 0) | (pair >= 0), even, 0.0)
    size = chains * length
    ess = size / (2 * total - 1 + rest).clamp(min=1 / math.log10(size))
    flat = draws.flatten(1)
    constant = flat.amax(1) - flat.amin(1) < 1e-15
    return torch.where(constant, float(size), ess)


def _autocovariance(draws: Tensor) -> Tensor:
    """At each lag, the mean over chains, of shape ``(S, draw)``."""
    length = draws.shape[2]
    size = 2 ** math.ceil(math.log2(2 * length))
    spectrum = torch.fft.rfft(draws - draws.mean(2, keepdim=True), n=size).abs().square().mean(1)
    return torch.fft.irfft(spectrum, n=size)[:, :length] / length
