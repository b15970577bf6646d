"""Missing cells filled in, given those that are seen, and why the others are not."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..data.rows import Rows
from ..distributions.summaries import mean_of, mode_of
from .base import Assembly
from .missing import masked
from .streams import joined, rows_at_once

CANDIDATES = 64  # for one draw of a cell that is missing by its own value


def impute(vae: Assembly, rows: Rows, num_samples: int, draws: int | None) -> Tensor:
    """Data with their missing cells filled in: by the mean given what is seen, or by draws.

    Draws of the guide stand for the posterior, each with its self-normalised importance weight.
    """

    def filled(chunk: slice) -> Tensor:
        x, *given = rows.batch(chunk, like=vae.reference)
        c = vae.encode_condition(len(x), *given)
        guide = vae.guide_of(x, c)
        z = guide.sample(torch.Size([num_samples]))
        if vae.missingness is None:
            weight = (vae.log_joint(x, z, c) - guide.log_prob(z)).softmax(0)
            guess = _guess(vae, z, c, weight, draws)
        else:
            log_prior = vae.prior_of(c).log_prob(z) - guide.log_prob(z)
            guess = _guess_selected(vae, x, z, c, log_prior, draws)
        return torch.where(x.isnan(), guess.to(x), x)

    chunks = rows.chunks(rows_at_once(vae, num_samples))
    pieces = ((chunk, filled(chunk)) for chunk in chunks)
    return joined(pieces, len(rows), dim=0 if draws is None else 1)


def _guess(vae: Assembly, z: Tensor, c: Tensor | None, weight: Tensor, draws: int | None) -> Tensor:
    """Mean or draws of all cells, by latents ``(K, N, *Z)`` of given weight ``(K, N)``."""
    if draws is not None:
        return vae.likelihood_of(_chosen(z, weight, draws), c).sample()
    decoded = vae.likelihood_of(z, c)
    return _mean(weight.reshape(weight.shape + (1,) * decoded.event_dim), decoded)


def _guess_selected(
    vae: Assembly,
    x: Tensor,
    z: Tensor,
    c: Tensor | None,
    log_prior: Tensor,
    draws: int | None,
) -> Tensor:
    """The same where cells are missing for a reason: draws of them are weighed by p(s | x).

    Where the integral over a missing cell is known, each cell has weights of its own.
    """
    part = vae.missingness
    assert part is not None
    decoded, missing = vae.likelihood_of(z, c), x.isnan()
    drawn = decoded.sample().to(x)
    log_chance = part.log_chance(torch.where(missing, drawn, x), missing)
    event = tuple(range(-decoded.event_dim, 0))
    of_seen, filled = masked(decoded, x, vae.likelihood.title)
    log_weight = log_prior + of_seen.log_prob(filled)
    if part.draws(decoded):  # all cells together
        log_weight = log_weight + log_chance.sum(event)
        if draws is not None:
            return _chosen(drawn, log_weight.softmax(0), draws)
        log_cell = torch.zeros_like(log_chance)
    else:
        of_s = part.log_missingness(decoded, filled, missing)
        log_weight = log_weight + of_s.sum(event)
        if draws is not None:
            decoded = vae.likelihood_of(_chosen(z, log_weight.softmax(0), draws), c)
            several = decoded.sample(torch.Size([CANDIDATES])).to(x)
            chance = part.log_chance(several, missing.expand_as(several)).softmax(0)
            return _one_of(several, chance)
        log_cell = log_chance - of_s
    weight = (log_weight.reshape(log_weight.shape + (1,) * len(event)) + log_cell).softmax(0)
    return _mean(weight, decoded, drawn)


def _chosen(values: Tensor, weight: Tensor, num: int) -> Tensor:
    """As many of the particles ``(K, N, ...)``, with replacement, by their weight ``(K, N)``."""
    particle = torch.multinomial(weight.T, num, replacement=True).T
    return values[particle, torch.arange(weight.shape[1], device=weight.device)]


def _one_of(candidates: Tensor, weight: Tensor) -> Tensor:
    """For each cell one of the candidates, by weights of the same shape."""
    flat = weight.movedim(0, -1)
    index = torch.multinomial(flat.reshape(-1, len(weight)), 1).reshape(1, *flat.shape[:-1])
    return candidates.gather(0, index)[0]


def _mean(weight: Tensor, decoded: TorchDistribution, drawn: Tensor | None = None) -> Tensor:
    """The weighted mean of each cell: of its mean given z, or of draws.

    A cell without a mean gets the weighted mean of its modes, or of draws; of classes, the one with
    most weight.
    """
    means = mean_of(decoded)
    none = ~means.isfinite().all(0)
    mean = (weight * (means if drawn is None else drawn)).sum(0)
    if not bool(none.any()):
        return mean

    modes = mode_of(decoded) if drawn is None else drawn
    classes = none & (modes == modes.round()).all(0)
    mean = torch.where(none, (weight * modes).sum(0), mean)
    if not bool(classes.any()):
        return mean

    values = modes[:, classes].unique()
    votes = torch.stack([(weight * (modes == value)).sum(0) for value in values])
    return torch.where(classes, values[votes.argmax(0)].to(mean), mean)
