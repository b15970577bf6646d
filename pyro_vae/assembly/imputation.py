"""Missing cells filled in, given those that are seen, and why the others are not."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..data.rows import Rows
from ..distributions.summaries import mean_of, mode_of
from .base import Assembly
from .missing import masked
from .streams import joined, rows_at_once


def impute(vae: Assembly, rows: Rows, num_samples: int, draws: int | None) -> Tensor:
    """Data with their missing cells filled in: by the mean given what is seen, or by draws. In
    double precision, so that what is seen is as it was.

    Draws of the guide stand for the posterior, each with its self-normalised importance weight.
    """

    def filled(chunk: slice) -> Tensor:
        exact, *given = rows.batch(chunk, like=vae.reference.double())
        x = exact.to(vae.reference)
        c = vae.encode_condition(len(x), *given)
        guide = vae.guide_of(x, c)
        z = guide.sample(torch.Size([num_samples]))
        log_prior = vae.prior_of(c).log_prob(z) - guide.log_prob(z)
        if vae.draws_missing:
            guess = _guess_drawn(vae, x, z, c, log_prior, draws)
        else:
            log_weight = log_prior + vae.log_likelihood(x, z, c)
            guess = _guess(vae, z, c, log_weight.softmax(0), draws)
        return torch.where(x.isnan(), guess.double(), exact)

    chunks = rows.chunks(rows_at_once(vae, num_samples))
    pieces = ((chunk, filled(chunk)) for chunk in chunks)
    return joined(pieces, len(rows), dim=0 if draws is None else 1)


def _guess(vae: Assembly, z: Tensor, c: Tensor | None, weight: Tensor, draws: int | None) -> Tensor:
    """Mean or draws of all cells, by latents ``(K, N, *Z)`` of given weight ``(K, N)``."""
    hidden = _missing_of(vae, z if draws is None else _chosen(z, weight, draws), c)
    if draws is not None:
        return hidden.sample()
    means = mean_of(hidden)
    modes = means if bool(means.isfinite().all()) else mode_of(hidden)
    return _mean(weight.reshape(weight.shape + (1,) * hidden.event_dim), means, modes)


def _missing_of(vae: Assembly, z: Tensor, c: Tensor | None) -> TorchDistribution:
    """p(x | z, c) of missing cells: where they are so for a reason, given that they are."""
    likelihood = vae.likelihood_of(z, c)
    if vae.missingness is None:
        return likelihood
    return vae.missingness.given_missing(likelihood)


def _guess_drawn(
    vae: Assembly,
    x: Tensor,
    z: Tensor,
    c: Tensor | None,
    log_prior: Tensor,
    draws: int | None,
) -> Tensor:
    """The same where only draws of missing cells have a p(s | x): a row of them for each z."""
    part = vae.missingness
    assert part is not None
    likelihood, missing = vae.likelihood_of(z, c), x.isnan()
    drawn = likelihood.sample().to(x)
    log_chance = part.log_chance(torch.where(missing, drawn, x), missing)
    of_seen, filled = masked(likelihood, x, vae.likelihood.title)
    event = tuple(range(-likelihood.event_dim, 0))
    weight = (log_prior + of_seen.log_prob(filled) + log_chance.sum(event)).softmax(0)
    if draws is not None:
        return _chosen(drawn, weight, draws)
    known = mean_of(likelihood).isfinite()
    means = torch.where(known, drawn, math.nan)
    return _mean(weight.reshape(weight.shape + (1,) * len(event)), means, drawn)


def _chosen(values: Tensor, weight: Tensor, num: int) -> Tensor:
    """As many of the particles ``(K, N, ...)``, with replacement, by their weight ``(K, N)``."""
    particle = torch.multinomial(weight.T, num, replacement=True).T
    return values[particle, torch.arange(weight.shape[1], device=weight.device)]


def _mean(weight: Tensor, means: Tensor, modes: Tensor) -> Tensor:
    """The weighted mean of each cell.

    A cell without a mean gets the weighted mean of its modes; of classes, the one with most weight.
    """
    mean = (weight * means).sum(0)
    none = ~mean.isfinite()
    if not bool(none.any()):
        return mean

    classes = none & (modes == modes.round()).all(0)
    mean = torch.where(none, (weight * modes).sum(0), mean)
    if not bool(classes.any()):
        return mean

    values = modes[:, classes].unique()
    votes = torch.stack([(weight * (modes == value)).sum(0) for value in values])
    return torch.where(classes, values[votes.argmax(0)].to(mean), mean)
