"""Missing cells filled in, given those that are seen."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..data.rows import Rows
from ..distributions.summaries import mean_of, mode_of
from .base import Assembly
from .streams import joined, rows_at_once


def impute(vae: Assembly, rows: Rows, num_samples: int, draws: int | None) -> Tensor:
    """Data with their missing cells filled in: by the mean given what is seen, or by draws.

    Draws of the guide stand for the posterior, each with its self-normalised importance weight.
    """

    def filled(chunk: slice) -> Tensor:
        x, *given = rows.batch(chunk, like=vae.reference)
        c = vae.encode_condition(len(x), *given)
        guide = vae.guide_of(x, c)
        z = guide.sample(torch.Size([num_samples]))
        weight = (vae.log_joint(x, z, c) - guide.log_prob(z)).softmax(0)
        if draws is None:
            guess = _mean(vae.likelihood_of(z, c), weight)
        else:
            particle = torch.multinomial(weight.T, draws, replacement=True).T
            drawn = z[particle, torch.arange(len(x), device=x.device)]
            guess = vae.likelihood_of(drawn, c).sample()
        return torch.where(x.isnan(), guess.to(x), x)

    chunks = rows.chunks(rows_at_once(vae, num_samples))
    pieces = ((chunk, filled(chunk)) for chunk in chunks)
    return joined(pieces, len(rows), dim=0 if draws is None else 1)


def _mean(decoded: TorchDistribution, weight: Tensor) -> Tensor:
    """The weighted mean of each cell.

    A cell without a mean gets the weighted mean of its modes; of classes, the one with most weight.
    """
    weight = weight.reshape(weight.shape + (1,) * decoded.event_dim)
    mean = (weight * mean_of(decoded)).sum(0)
    none = ~mean.isfinite()
    if not bool(none.any()):
        return mean

    modes = mode_of(decoded)
    classes = none & (modes == modes.round()).all(0)
    mean = torch.where(none, (weight * modes).sum(0), mean)
    if not bool(classes.any()):
        return mean

    values = modes[:, classes].unique()
    votes = torch.stack([(weight * (modes == value)).sum(0) for value in values])
    return torch.where(classes, values[votes.argmax(0)].to(mean), mean)
