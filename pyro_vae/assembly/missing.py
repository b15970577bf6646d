r"""Missing data: NaN means missing.

What is missing has no term in the likelihood: for one that factorises over cells, :math:`\log
p(x_{\mathrm{seen}} \mid z) = \sum_{i\ \mathrm{seen}} \log p(x_i \mid z)`, and the bounds of what is
seen follow (MIWAE: Mattei & Frellsen, 2019, https://arxiv.org/abs/1812.02633). Cells are filled
inside the support *before* the density is evaluated and masked on the distribution of one cell: a
mask alone leaves NaN in the gradient."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..data.rows import DataError, Rows
from ..distributions.links import innermost

ROWS = 2**16  # decoder rows at once


def factorises(likelihood: Any) -> bool:
    """Whether the cells of a datum are independent given z."""
    return innermost(likelihood).event_shape == ()


def observed(
    likelihood: TorchDistribution, x: Tensor, who: str
) -> tuple[TorchDistribution, Tensor]:
    """The distribution of the cells of x that are seen, and x with the others filled.

    Raises:
        DataError: Cells are missing, and the likelihood does not factorise over cells.
    """
    seen = ~x.isnan()
    if bool(seen.all()):
        return likelihood, x
    if not factorises(likelihood):
        raise DataError(
            f"{who} cannot leave out missing cells, as its cells depend on each other; drop these "
            "rows"
        )
    cell = innermost(likelihood)
    masked = cell.mask(seen).to_event(likelihood.event_dim)
    return masked, torch.where(seen, x, inside(cell.support, x))


def inside(support: Any, like: Tensor) -> Tensor:
    """A value inside a support."""
    if hasattr(support, "blocks"):
        return _inside_blocks(support, like)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None:
        return torch.zeros_like(like)
    low = torch.as_tensor(low).to(like)
    if support.is_discrete:
        return low.expand_as(like)
    return (low + 1 if high is None else (low + torch.as_tensor(high).to(like)) / 2).expand_as(like)


def _inside_blocks(support: Any, like: Tensor) -> Tensor:
    whole = torch.zeros_like(like)
    for columns, part in support.blocks:
        whole[..., columns] = inside(part, like[..., columns])
    return whole


def impute(vae: Any, rows: Rows, num_samples: int, draws: int | None) -> Tensor:
    """Data with their missing cells filled in, by self-normalised importance sampling: the mean, or
    draws.
    """
    filled = []
    for chunk in rows.chunks(max(1, ROWS // num_samples)):
        x, *given = rows.batch(chunk, like=vae.reference)
        c = vae._given(len(x), *given)
        guide = vae._encoded(x, c)
        z = guide.sample(torch.Size([num_samples]))
        weight = (vae._log_joint(x, z, c) - guide.log_prob(z)).softmax(0)
        if draws is None:
            guess = _mean(vae._decoded(z, c), weight)
        else:
            particle = torch.multinomial(weight.T, draws, replacement=True).T
            guess = vae._decoded(z[particle, torch.arange(len(x), device=x.device)], c).sample()
        filled.append(torch.where(x.isnan(), guess.to(x), x))
    return torch.cat(filled, dim=0 if draws is None else 1)


def _mean(decoded: TorchDistribution, weight: Tensor) -> Tensor:
    """The weighted mean of cells; where cells have none, that of their modes, or of classes the
    weightiest mode.
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


def mean_of(distribution: TorchDistribution) -> Tensor:
    """The mean; of a distribution that does not know it a draw, which has that mean."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample()


def mode_of(distribution: TorchDistribution) -> Tensor:
    """The mode; of a distribution that does not know it a draw."""
    try:
        return distribution.mode
    except NotImplementedError:
        return distribution.sample()
