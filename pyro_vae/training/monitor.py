r"""Is the latent used at all? What the history of training says about posterior collapse.

.. math:: I(x; z) = \mathrm{E}_x\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
    - \mathrm{KL}(q(z) \,\|\, p(z))

(Hoffman & Johnson, 2016, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf), with
q(z) the average of the guide over the data that are looked at. A latent dimension is active where
the mean of the guide moves with x: where :math:`\mathrm{Var}_x\, \mathrm{E}_q z_j` exceeds 1 % of
the prior's variance (Burda et al., 2015, section 5).
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..density.terms import Batch
from ..guards import seeded
from ..recorded import Recorded
from ..vae import VAE
from .free_bits import element_of, kl_by_part
from .group import Group

ROWS = 128  # that are looked at
PAIRED = 50  # rows whose guides are averaged, for the mutual information
SCORED = 4  # draws of each guide, for the KL
DRAWS = 32  # draws of each guide, for the mean that moves
PRIOR_DRAWS = 8  # draws of the prior for each row, which ranks are among
QUANTILES = 256  # of these draws, which are enough for a rank
TIES = 0.01  # the share of repeated draws from which a prior is taken to have masses
ACTIVE = 0.01  # the share of the prior's variance by which the mean of an active unit moves


class Watched:
    """The rows that are looked at after each epoch, kept when the first epoch reads them.

    Arguments:
        num: How many rows there are.
    """

    def __init__(self, num: int) -> None:
        self.index = np.unique(np.linspace(0, num - 1, min(ROWS, num)).astype(int))
        self._kept: dict[int, Batch] = {}

    def take(self, index: np.ndarray, batch: Batch) -> None:
        """Keep those rows of a batch that are looked at; `index` says which rows they are."""
        for place in np.flatnonzero(np.isin(index, self.index)).tolist():
            self._kept[int(index[place])] = tuple(part[place : place + 1].clone() for part in batch)

    def join(self, group: Group, like: Tensor) -> None:
        """Keep what each process of a group has read, as `like`."""
        to_tell = {number: [part.cpu() for part in kept] for number, kept in self._kept.items()}
        for other in group.gathered(to_tell):
            for number, parts in other.items():
                if number not in self._kept:
                    self._kept[number] = tuple(part.to(like) for part in parts)

    def put_back(self, batch: Batch) -> None:
        """Keep what :attr:`batch` gave before."""
        self._kept = {
            int(number): tuple(part[place : place + 1] for part in batch)
            for place, number in enumerate(self.index)
        }

    @property
    def batch(self) -> Batch:
        """x, and c if there is one, in the order of the data."""
        kept = [self._kept[number] for number in sorted(self._kept)]
        return tuple(torch.cat(parts) for parts in zip(*kept, strict=True))


class Watch:
    """What the guide tells about some rows, after each epoch; the VAE is in eval mode.

    Arguments:
        vae: What is trained.
    """

    def __init__(self, vae: VAE) -> None:
        self.vae = vae
        self.figures = Recorded(functools.partial(_figures, vae), vae)

    def __call__(self, batch: Batch) -> dict[str, float]:
        """What the guide tells about a batch, in nats per datum; for an unknown class about the
        most probable one.

        Returns:
            ``kl``, its mean; ``kl_0``, ``kl_1``, ... for each latent dimension where prior and
            guide factorise; ``mutual_information``, at most log 50, NaN for a guide that scores its
            own draws only; ``active_units``.
        """
        with torch.no_grad(), seeded(0):
            kl, mutual_information, active_units = self.figures(*self.vae.likeliest(*batch))
        parts = kl.tolist() if len(kl) == self.vae.prior.event_shape.numel() else []
        by_part = {f"kl_{j}": part for j, part in enumerate(parts)}
        return {
            "kl": float(kl.sum()),
            **by_part,
            "mutual_information": float(mutual_information),
            "active_units": int(active_units) if len(batch[0]) > 1 else math.nan,
        }


def _figures(vae: VAE, x: Tensor, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL by part, mutual information, and how many units are active."""
    c = vae.encode_condition(len(x), *given)
    guide, prior = vae.guide_of(x, c), vae.prior_of(c).expand(torch.Size([len(x)]))
    z = guide.sample(torch.Size([SCORED]))
    kl = kl_by_part(guide.expand(z.shape[:2]), prior.expand(z.shape[:2]), z).mean(0)

    mutual_information = kl.new_full((), math.nan)
    if vae.posterior.scores_any_value:
        mutual_information = _mutual_information(guide, z[0])
    active_units = _active_units(guide.sample(torch.Size([DRAWS])), prior)
    return kl, mutual_information, active_units


def _mutual_information(guide: Any, z: Tensor) -> Tensor:
    """log q(z|x) less the log of the average of the guide, the mean over one draw a datum."""
    each = guide.log_prob(z[:PAIRED].unsqueeze(1))[:, :PAIRED]
    return (each.diagonal() - each.logsumexp(1) + math.log(len(each))).mean()


def _active_units(z: Tensor, prior: Any) -> Tensor:
    """From draws ``(K, N, *Z)``: the variance of the means, less what K draws for each add to it.

    In ranks under the prior, whose variance is 1/12: heavy tails have no variance to compare with.
    For a collapsed normal the share of 1 % is that of the reference.
    """
    ranks = _ranks(z, prior)
    ranks = ranks.reshape(*ranks.shape[:2], -1)
    mean = ranks.mean(0)
    within = (ranks.square().mean(0) - mean.square()) / (len(z) - 1)  # the variance of each mean
    moved = mean.var(0, correction=min(1, len(mean) - 1)) - within.mean(0)
    return (moved > ACTIVE / 12).sum()


def _ranks(z: Tensor, prior: Any) -> Tensor:
    """The probability that a draw of the prior lies below each element: known, or by draws."""
    element = element_of(prior)
    if element is not None:
        with contextlib.suppress(NotImplementedError):
            return element.cdf(z)
    drawn = prior.sample(torch.Size([PRIOR_DRAWS])).flatten(0, 1)
    elements = z.reshape(*z.shape[:2], -1).movedim(-1, 0)
    return _ranks_among(drawn.reshape(len(drawn), -1).T, elements).movedim(0, -1)


def _ranks_among(drawn: Tensor, z: Tensor) -> Tensor:
    """The share of draws ``(D, S)`` that lie below each of ``(D, K, N)``; of equal ones, half."""
    ordered = drawn.contiguous().sort(1).values
    step = max(1, ordered.shape[1] // QUANTILES)
    ordered, flat = ordered[:, step // 2 :: step].contiguous(), z.flatten(1).contiguous()

    below = torch.searchsorted(ordered, flat)
    repeated = (ordered[:, 1:] == ordered[:, :-1]).double().mean()
    upto = torch.where(repeated > TIES, torch.searchsorted(ordered, flat, right=True), below)
    return ((below + upto) / (2 * ordered.shape[1])).reshape(z.shape)


def warn_of_collapse(seen: dict[str, float], epochs: int) -> None:
    """Say so if after some training no latent dimension is used."""
    if epochs >= 10 and seen["active_units"] == 0:
        warnings.warn(
            f"posterior collapse: after {epochs} epochs no latent dimension moves with x (KL "
            f"{seen['kl']:.3f} nats per datum); try beta=pv.linear_warmup(20), free_bits=0.1, a "
            "weaker likelihood, or more epochs",
            stacklevel=4,
        )
