"""Proposals for importance sampling that are better than the guide, in unconstrained space.

Each is a mixture of multivariate Student-t distributions: about the centre of the guide, or that of
the datum's own posterior, or, where this has several modes, about the centre of each chain of HMC
(:mod:`.chains`), in shares that follow the weights. A tenth of the draws comes from the prior. It
bounds the weights by the likelihood (a defensive mixture: Hesterberg, 1995,
https://doi.org/10.1080/00401706.1995.10484303), and it is drawn as a stratum of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Transform

from ..density.memory import tile_rows
from ..density.target import Target
from ..posterior.adaptation import covariance_factor
from .heaviest import Heaviest

FREEDOM = 8.0  # degrees of freedom of the Student-t distributions
MOMENT_DRAWS = 1000  # of the guide, for its mean and covariance
PRIOR_SHARE = 0.1  # of the draws
ADAPTING = ((1.2, 2.5), (1.0, 2.0), (1.0, 1.5))  # the widths of rounds of adaptation
ADAPTING_DRAWS = 1000
EFFECTIVE = 3.0  # draws for each dimension, at least, that moments are taken of


@dataclass(frozen=True)
class StudentTMixture:
    """Student-t distributions about each of M centres, in equal parts of each width, for N data.

    Arguments:
        centres: Of shape ``(M, N, D)``.
        factors: Cholesky factors of the scale matrices, of shape ``(M, N, D, D)``.
        shares: The probability of each centre, of shape ``(M, N)``.
        widths: What the factors are multiplied by.
    """

    centres: Tensor
    factors: Tensor
    shares: Tensor
    widths: tuple[float, ...] = (1.0,)

    @classmethod
    def about(cls, centre: Tensor, factor: Tensor) -> StudentTMixture:
        """About one centre ``(N, D)``, with factors ``(N, D, D)``."""
        return cls(centre[None], factor[None], torch.ones_like(centre[None, :, 0]))

    @property
    def spread(self) -> Tensor:
        """Of each dimension about the first centre, of shape ``(N, D)``."""
        return self.factors[0].square().sum(-1).sqrt()

    @property
    def has_several_centres(self) -> Tensor:
        """Of which data the centres differ, of shape ``(N,)``."""
        return (self.centres != self.centres[0]).any(-1).any(0)

    def select(self, index: Tensor) -> StudentTMixture:
        """Those of some of the data."""
        centres, factors = self.centres[:, index], self.factors[:, index]
        return StudentTMixture(centres, factors, self.shares[:, index], self.widths)

    def sample(self, shape: torch.Size) -> Tensor:
        """Draws of shape ``(*shape, N, D)``."""
        like = self.centres
        normal = torch.randn(*shape, *like.shape[1:], dtype=like.dtype, device=like.device)
        width = torch.randint(len(self.widths), normal.shape[:-1], device=like.device)

        freedom = like.new_full(normal.shape[:-1], FREEDOM)
        chi = torch.distributions.Chi2(freedom).sample()
        radius = like.new_tensor(self.widths)[width] * (FREEDOM / chi).sqrt()
        away = radius[..., None] * normal
        if len(like) == 1:
            return like[0] + torch.einsum("nij,...nj->...ni", self.factors[0], away)
        return self._about_centres(away.flatten(0, -3)).reshape(away.shape)

    def _about_centres(self, away: Tensor) -> Tensor:
        """Draws ``(K, N, D)`` from what they are away from a centre, in its units."""
        centre = torch.multinomial(self.shares.T, len(away), replacement=True).T
        position = torch.empty_like(away)
        for number, (about, factor) in enumerate(zip(self.centres, self.factors, strict=True)):
            k, n = (centre == number).nonzero(as_tuple=True)
            position[k, n] = about[n] + torch.einsum("kij,kj->ki", factor[n], away[k, n])
        return position

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)`` for positions of shape ``(K, N, D)``."""
        return self.log_parts(position).logsumexp(0)

    def log_parts(self, position: Tensor) -> Tensor:
        """The log of the share of each centre times its density, of shape ``(M, K, N)``."""
        size = self.centres.shape[-1]
        rows = len(position) * position.shape[1]
        at_once = max(1, tile_rows(position.device) // rows)
        parts = zip(self.centres.split(at_once), self.factors.split(at_once), strict=True)
        square = torch.cat([_squares(position, *part) for part in parts])

        half = (FREEDOM + size) / 2
        constant = math.lgamma(half) - math.lgamma(FREEDOM / 2)
        constant -= size / 2 * math.log(FREEDOM * math.pi)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
        of_widths = [
            -size * math.log(width) - half * torch.log1p(square / (FREEDOM * width**2))
            for width in self.widths
        ]
        of_width = torch.stack(of_widths).logsumexp(0) - math.log(len(self.widths))
        return self.shares.log()[:, None] + constant - log_det + of_width


def _squares(position: Tensor, centres: Tensor, factors: Tensor) -> Tensor:
    """Squared distances of positions ``(K, N, D)`` from centres, in their units, ``(M, K, N)``."""
    centred = (position - centres[:, None]).permute(0, 2, 3, 1)
    whitened = torch.linalg.solve_triangular(factors, centred, upper=False)
    return whitened.square().sum(2).mT


@dataclass(frozen=True)
class Moved:
    """A mixture over the far side of a bijection, as one over this side."""

    beyond: StudentTMixture
    through: Transform

    def select(self, index: Tensor) -> Moved:
        """Those of some of the data."""
        return Moved(self.beyond.select(index), self.through)

    def sample(self, shape: torch.Size) -> Tensor:
        """Draws of shape ``(*shape, N, D)``."""
        return self.through.inv(self.beyond.sample(shape))

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)`` for positions of shape ``(K, N, D)``."""
        beyond = self.through(position)
        slope = self.through.log_abs_det_jacobian(position, beyond)
        return self.beyond.log_prob(beyond) + slope


@dataclass(frozen=True)
class Both:
    """Equal shares of two proposals, for N data."""

    first: Proposal
    second: Proposal

    def select(self, index: Tensor) -> Both:
        """Those of some of the data."""
        return Both(self.first.select(index), self.second.select(index))

    def sample(self, shape: torch.Size) -> Tensor:
        """Draws of shape ``(*shape, N, D)``."""
        of_first, of_second = self.first.sample(shape), self.second.sample(shape)
        half = torch.rand(of_first.shape[:-1], device=of_first.device) < 0.5
        return torch.where(half[..., None], of_first, of_second)

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)`` for positions of shape ``(K, N, D)``."""
        both = self.first.log_prob(position), self.second.log_prob(position)
        return torch.logaddexp(*both) - math.log(2)


Proposal = StudentTMixture | Moved | Both


def of_guide(target: Target) -> StudentTMixture:
    """A proposal with the mean and the covariance of the guide."""
    draws = target.draw_guide(MOMENT_DRAWS)
    impossible = ~draws.isfinite().all(-1, keepdim=True)
    draws = draws.masked_fill(impossible, math.nan)
    draws = torch.where(draws.isnan(), draws.nanmean(0).nan_to_num(0.0), draws)
    return of_draws(draws)


def of_draws(draws: Tensor) -> StudentTMixture:
    """A proposal with the mean and the covariance of draws ``(S, N, D)``."""
    factor = covariance_factor(draws, torch.diag_embed(draws.std(0)))
    return StudentTMixture.about(draws.mean(0), factor)


def adapted(target: Target, guide: StudentTMixture) -> tuple[StudentTMixture, Heaviest]:
    """A proposal with the mean and the covariance of each posterior, from weighted draws, round
    after round, without a gradient (Cappé et al., 2004, https://doi.org/10.1198/106186004X12803).

    Weights are truncated at the square root of the number of draws times their mean (Ionides, 2008,
    https://doi.org/10.1198/106186008X320456). A datum with too few effective draws stays as it was.

    Returns:
        The proposal, and the draws of the largest weights.
    """
    proposal = guide
    size = guide.centres.shape[-1]
    heaviest = Heaviest.none(guide.centres)
    for widths in ADAPTING:
        blocks = list(with_prior(target, replace(proposal, widths=widths), ADAPTING_DRAWS))
        position, log_weight = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        heaviest.add(slice(None), position, log_weight)
        share = _shares(log_weight)
        ess = 1 / share.square().sum(0)
        mean, factor = _moments(position, share.to(position), ess.to(position), proposal)
        enough = ess >= EFFECTIVE * size
        proposal = StudentTMixture.about(
            torch.where(enough[:, None], mean, proposal.centres[0]),
            torch.where(enough[:, None, None], factor, proposal.factors[0]),
        )
    return proposal, heaviest


def with_shares(target: Target, proposal: StudentTMixture) -> StudentTMixture:
    """With shares that are half in equal parts, and half those of the weights of draws about each
    centre (Cappé et al., 2008, https://doi.org/10.1007/s11222-008-9059-x).
    """
    blocks = list(with_prior(target, proposal, ADAPTING_DRAWS))
    share = _shares(torch.cat([log_weight for _, log_weight in blocks])).nan_to_num()
    found = torch.zeros_like(proposal.shares)
    parts = share.split([len(position) for position, _ in blocks])
    for (position, _), of_block in zip(blocks, parts, strict=True):
        of_each = proposal.log_parts(position).softmax(0).nan_to_num()
        found += torch.einsum("kn,mkn->mn", of_block.to(of_each), of_each)
    shares = found + 1 / len(found)
    return replace(proposal, shares=shares / shares.sum(0))


def _shares(log_weight: Tensor) -> Tensor:
    """Truncated weights, normalised to sum to 1, ``(K, N)``."""
    log_weight = log_weight.nan_to_num(-math.inf, posinf=-math.inf)
    most = log_weight.logsumexp(0) - math.log(len(log_weight)) / 2
    return torch.minimum(log_weight, most).softmax(0)


def _moments(
    position: Tensor, share: Tensor, ess: Tensor, before: StudentTMixture
) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of the covariance of weighted draws; where they have no spread, that
    of before.
    """
    mean = torch.einsum("kn,kni->ni", share, position)
    centred = position - mean
    covariance = torch.einsum("kn,kni,knj->nij", share, centred, centred)
    diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    kept = (ess / (ess + 5.0 * mean.shape[-1]))[:, None, None]
    factor, failed = torch.linalg.cholesky_ex(kept * covariance + (1 - kept) * diagonal)
    good = (failed == 0) & factor.isfinite().all(-1).all(-1)
    return mean, torch.where(good[:, None, None], factor, before.factors[0])


def log_with_prior(target: Target, proposal: Proposal, position: Tensor) -> Tensor:
    """The log density of what :func:`with_prior` draws from, ``(K, N)``."""
    log_prior = math.log(PRIOR_SHARE) + target.log_model(position)[0]
    return torch.logaddexp(math.log1p(-PRIOR_SHARE) + proposal.log_prob(position), log_prior)


def with_prior(target: Target, proposal: Proposal, num: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions ``(K', N, D)`` and log weights ``(K', N)`` of `num` draws, in blocks: some of the
    prior, the rest proposed.
    """
    densities = target.densities
    size = max(10, tile_rows(densities.batch[0].device) // densities.num_data)
    for done in range(0, num, size):
        block = min(size, num - done)
        from_prior = round(PRIOR_SHARE * block)
        parts = [proposal.sample(torch.Size([block - from_prior]))]
        if from_prior:
            parts.append(target.draw_prior(from_prior))
        u = torch.cat(parts)

        share = from_prior / block
        prior, likelihood = target.log_model(u)
        log_proposal = math.log1p(-share) + proposal.log_prob(u)
        if from_prior:
            log_proposal = torch.logaddexp(log_proposal, math.log(share) + prior)
        mixed_strata = torch.randperm(block, device=u.device)
        yield u[mixed_strata], (prior + likelihood - log_proposal)[mixed_strata]
