r"""A budget that follows the need: more draws where the error is large, better proposals where the
weights are wild.

Each datum climbs until its standard error is at most the tolerance and its k-hat at most 0.5, above
which the variance of the weights, and with it the standard error, need not exist:

1. ``guide``: draws of the guide, as many as it takes;
2. ``mixture``: draws of a wide Student-t with mean and covariance of the guide, mixed with the
   prior;
3. ``refined``: the same with the mean and covariance of the datum's own posterior, from short
   chains of HMC that begin at the guide;
4. ``annealed``: annealed importance sampling from there.

What a narrow guide never draws leaves no trace in its k-hat. So each datum gets a second opinion,
by a few draws of the mixture: where its estimate is higher by 4 standard errors, the guide's is
refuted.

The share of the prior is defensive: it bounds the weights by the likelihood (Hesterberg, 1995,
https://doi.org/10.1080/00401706.1995.10484303); it is drawn as a stratum of its own. All proposals
but the guide live in unconstrained space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data.rows import Rows
from ..density.memory import TILE_ROWS, Memory
from ..density.target import Target
from ..density.terms import Batch, sites, under_particles
from ..guards import evaluating, seed_of, seeded
from ..posterior.hmc import BatchedHMC, covariance_factor, evaluate
from .annealing import AnnealingPath, temperatures
from .importance import importance_weights
from .pareto import KHAT_LIMIT
from .weights import Weights, concatenate, from_blocks

RUNGS = ("guide", "mixture", "refined", "annealed")
FINITE_VARIANCE = 0.5  # the largest k-hat with it
SECOND_OPINION, REFUTED = 500, 4.0  # draws, standard errors
UNLIKELY = math.log(1000)  # by Markov's inequality, how far above log p(x) 1 estimate in 1000 is
MOMENT_DRAWS = 1000  # of the guide, for its mean and covariance
PRIOR_SHARE = 0.1
WIDTHS = {
    "mixture": (1.2, 2.5),
    "refined": (1.0, 1.5),
}  # of the Student-t components, in standard deviations
FREEDOM = 8.0
CHAINS, WARMUP, DRAWS = 16, 150, 100  # of HMC, for the moments of the posterior
ANNEALED_CHAINS, ANNEALED_STEPS = 64, 5
DISTRIBUTIONS = (100, 400)  # of annealing: the second where the first is not enough

Draw = Callable[
    [Tensor, int, int], Weights
]  # for the data that are indexed: so many draws, after so many


def escalate(
    weights: Weights,
    model: Callable,
    guide: Callable,
    rows: Rows,
    like: Tensor | None,
    tolerance: float,
    max_samples: int,
    seed: int,
    memory: Memory,
) -> tuple[Weights, np.ndarray]:
    """Weights that meet the tolerance where some rung does, and the name of the rung that they are
    of.

    `weights` are those of the first draws of the guide. A datum that no rung satisfies keeps the
    best it had; one with a weight that is NaN stays as it is.
    """

    def draw(index: Tensor, num: int, done: int) -> Weights:
        return importance_weights(
            model, guide, rows.only(index.numpy()), like, num, (seed, done), memory
        )

    num_samples = int(weights.num.min())
    weights = _lengthened(weights, draw, tolerance, max_samples)
    if _is_discrete(guide, rows, like):  # there is no unconstrained space to climb in
        return weights, np.full(len(rows), RUNGS[0])
    rung = torch.zeros(len(rows), dtype=torch.long)
    with evaluating(model, guide):
        for number, tile in enumerate(torch.arange(len(rows)).split(TILE_ROWS // CHAINS)):
            with seeded(seed_of(seed, number, 3)):
                batch = rows.batch(tile.numpy(), like=like)
                climber = _Escalation(
                    model, guide, batch, weights.select(tile), num_samples, tolerance, max_samples
                )
                climber.escalate()
                weights, rung[tile] = weights.replace(tile, climber.weights), climber.rung
    return weights, np.array(RUNGS)[rung.numpy()]


def _is_discrete(guide: Callable, rows: Rows, like: Tensor | None) -> bool:
    with seeded(0):
        trace = under_particles(guide, rows.batch(slice(0, 1), like=like), 1)
    return any(site["fn"].support.is_discrete for site in sites(trace, observed=False))


def _good(weights: Weights, tolerance: float) -> Tensor:
    return (
        weights.log_evidence.isfinite()
        & (weights.khat <= FINITE_VARIANCE)
        & (weights.se <= tolerance)
    )


def _needy(weights: Weights, tolerance: float) -> Tensor:
    """Which data must climb on; what is NaN or inf would only be hidden by another proposal."""
    broken = weights.log_evidence.isnan() | (weights.log_evidence == math.inf)
    return (~_good(weights, tolerance) & ~broken).nonzero()[:, 0]


def _lengthened(weights: Weights, draw: Draw, tolerance: float, max_samples: int) -> Weights:
    """With draws doubled, again and again, for the data whose error will then be small enough."""
    while True:
        done = int(weights.num.max())
        enough = weights.num * (weights.se / tolerance) ** 2 <= max_samples
        promising = (
            enough
            & (weights.khat <= FINITE_VARIANCE)
            & ~_good(weights, tolerance)
            & (weights.num == done)
        )
        index = promising.nonzero()[:, 0]
        if len(index) == 0 or done >= max_samples:
            return weights
        weights = weights.replace(
            index, weights.select(index).merge(draw(index, min(done, max_samples - done), done))
        )


@dataclass(frozen=True)
class StudentTMixture:
    """Equal shares of multivariate Student-t distributions of several widths about one centre, for
    each of N data.

    Arguments:
        mean: The centres, of shape ``(N, D)``.
        factor: Cholesky factors of what would be the covariance of a normal, of shape ``(N, D,
            D)``.
        widths: What the factor is multiplied by.
    """

    mean: Tensor
    factor: Tensor
    widths: tuple[float, ...] = (1.0,)

    def select(self, index: Tensor) -> StudentTMixture:
        """Those of some of the data."""
        return replace(self, mean=self.mean[index], factor=self.factor[index])

    def sample(self, shape: torch.Size) -> Tensor:
        """Draws of shape ``(*shape, N, D)``."""
        normal = torch.randn(*shape, *self.mean.shape).to(self.mean)
        widths = torch.tensor(self.widths).to(self.mean)[
            torch.randint(len(self.widths), normal.shape[:-1])
        ]
        chi = torch.distributions.Chi2(
            torch.full(normal.shape[:-1], FREEDOM).to(self.mean)
        ).sample()
        radius = widths * (FREEDOM / chi).sqrt()
        return self.mean + radius[..., None] * torch.einsum("nij,...nj->...ni", self.factor, normal)

    def log_prob(self, position: Tensor) -> Tensor:
        """Log densities of shape ``(K, N)`` for positions of shape ``(K, N, D)``."""
        size = self.mean.shape[-1]
        whitened = torch.linalg.solve_triangular(
            self.factor, (position - self.mean).permute(1, 2, 0), upper=False
        )
        square = whitened.square().sum(1).T
        constant = (
            math.lgamma((FREEDOM + size) / 2)
            - math.lgamma(FREEDOM / 2)
            - size / 2 * math.log(FREEDOM * math.pi)
        )
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        parts = [
            -size * math.log(width)
            - (FREEDOM + size) / 2 * torch.log1p(square / (FREEDOM * width**2))
            for width in self.widths
        ]
        return constant - log_det + torch.stack(parts).logsumexp(0) - math.log(len(parts))


class _Escalation:
    """A tile of data on its way up."""

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        batch: Batch,
        weights: Weights,
        num_samples: int,
        tolerance: float,
        max_samples: int,
    ) -> None:
        self.model, self.guide, self.batch = model, guide, batch
        self.weights, self.rung = weights, torch.zeros(len(batch[0]), dtype=torch.long)
        self.num_samples, self.tolerance, self.max_samples = num_samples, tolerance, max_samples
        self.precision = torch.finfo(batch[0].dtype).eps

    def escalate(self) -> None:
        """Rung by rung, with the data that still need it."""
        everyone = torch.arange(len(self.batch[0]))
        moments = _of_guide(self._target(everyone), self.guide)
        self._second_opinion(everyone, moments)
        left = _needy(self.weights, self.tolerance)
        if len(left):
            self._sampled(1, left, moments.select(left))
            left = _needy(self.weights, self.tolerance)
        found = (
            _of_posterior(self._target(left), self.guide, moments.select(left))
            if len(left)
            else None
        )
        if found is None:
            return
        alive, moments = found
        left = left[alive]
        self._sampled(2, left, moments)
        for number in DISTRIBUTIONS:
            still = torch.isin(left, _needy(self.weights, self.tolerance))
            left, moments = left[still], moments.select(still)
            if len(left):
                self._annealed(left, moments, number)

    def _target(self, index: Tensor) -> Target:
        return Target(self.model, tuple(part[index.to(part.device)] for part in self.batch))

    def _second_opinion(self, everyone: Tensor, moments: StudentTMixture) -> None:
        """Take the mixture's estimate where it refutes the guide's."""
        wide, guide = (
            self._drawn(1, everyone, moments, min(self.num_samples, SECOND_OPINION)),
            self.weights,
        )
        error = (wide.se.square() + guide.se.square()).sqrt()
        refuted = (wide.log_evidence - guide.log_evidence > REFUTED * error).nonzero()[:, 0]
        self.weights = guide.replace(refuted, wide.select(refuted))
        self.rung[refuted] = 1

    def _drawn(self, rung: int, index: Tensor, moments: StudentTMixture, num: int) -> Weights:
        """Weights of draws from wide distributions and the prior."""
        proposal = replace(moments, widths=WIDTHS[RUNGS[rung]])
        return from_blocks(_defended(self._target(index), proposal, num), self.precision)

    def _sampled(self, rung: int, index: Tensor, moments: StudentTMixture) -> None:
        """Importance sampling, as long as it takes."""

        def draw(some: Tensor, num: int, done: int) -> Weights:
            return self._drawn(rung, index[some], moments.select(some), num)

        first = draw(torch.arange(len(index)), self.num_samples, 0)
        self._keep(rung, index, _lengthened(first, draw, self.tolerance, self.max_samples))

    def _annealed(self, index: Tensor, moments: StudentTMixture, num_distributions: int) -> None:
        parts = []
        for some in torch.arange(len(index)).split(TILE_ROWS // ANNEALED_CHAINS):
            base = replace(moments.select(some), widths=WIDTHS["refined"])
            betas = temperatures(num_distributions, "sigmoidal")
            path = AnnealingPath(self._target(index[some]), base, betas, ANNEALED_STEPS)
            parts.append(from_blocks([path.forward(ANNEALED_CHAINS)[0]], self.precision))
        self._keep(3, index, concatenate(parts))

    def _keep(self, rung: int, index: Tensor, new: Weights) -> None:
        """Take what is better than before: a k-hat that holds, and of equals the smaller error or
        the higher rung.
        """
        old = self.weights.select(index)
        before, now = _trust(old), _trust(new)
        equal = (now == before) & ((new.se < old.se) | (now == 0))
        error = (old.se.square() + new.se.square()).sqrt()
        sure = torch.where(before > 0, REFUTED * error, (REFUTED * error).clamp(min=UNLIKELY))
        refuted = (
            old.log_evidence - new.log_evidence > sure
        )  # a mode that was found is not lost again
        better = ((now > before) | equal) & new.log_evidence.isfinite() & ~refuted
        self.weights = self.weights.replace(index[better], new.select(better.nonzero()[:, 0]))
        self.rung[index[better]] = rung


def _trust(weights: Weights) -> Tensor:
    """0, where k-hat says that an estimate is none; 2, where its error is one too."""
    return (weights.khat <= KHAT_LIMIT).long() + (weights.khat <= FINITE_VARIANCE).long()


def _of_guide(target: Target, guide: Callable) -> StudentTMixture:
    draws = target.draw(guide, MOMENT_DRAWS)
    draws = torch.where(
        draws.isfinite().all(-1, keepdim=True), draws, math.nan
    )  # a guide may draw what cannot be
    draws = torch.where(draws.isnan(), draws.nanmean(0).nan_to_num(0.0), draws)
    return StudentTMixture(draws.mean(0), covariance_factor(draws, torch.diag_embed(draws.std(0))))


def _of_posterior(
    target: Target, guide: Callable, moments: StudentTMixture
) -> tuple[Tensor, StudentTMixture] | None:
    """Which data have a finite density at some draw, and the moments of their posteriors; none, if
    no datum has.
    """
    draws = torch.cat([target.draw(guide, 4 * CHAINS), target.draw(target.model, 4 * CHAINS)])
    states = [evaluate(target, block) for block in draws.split(max(1, TILE_ROWS // draws.shape[1]))]
    inside = torch.cat(
        [at.log_density.isfinite() & at.gradient.isfinite().all(-1) for at in states]
    )
    alive = inside.any(0).nonzero()[:, 0].cpu()
    if len(alive) == 0:
        return None
    order = (~inside).byte().sort(dim=0, stable=True).indices  # those inside first
    order = order[
        torch.arange(CHAINS, device=order.device)[:, None]
        % inside.sum(0).clamp(min=1)[None].clamp(max=CHAINS),
        torch.arange(draws.shape[1], device=order.device),
    ]
    start = draws.gather(0, order[..., None].expand(-1, -1, draws.shape[-1]))[:, alive]
    alive_target = Target(target.model, tuple(part[alive.to(part.device)] for part in target.batch))
    scale = moments.factor[alive].square().sum(-1).sqrt()
    kernel = BatchedHMC(alive_target, start, scale=scale)
    kernel.setup(WARMUP)
    positions = []
    params = kernel.initial_params
    for step in range(WARMUP + DRAWS):
        params = kernel.sample(params)
        if step >= WARMUP:
            positions.append(params["position"])
    flat = torch.cat(positions)
    return alive, StudentTMixture(flat.mean(0), covariance_factor(flat, kernel.scale))


def _defended(target: Target, proposal: StudentTMixture, num: int) -> Iterator[Tensor]:
    """Log weights of `num` draws, in blocks ``(K', N)``: a share of the prior, the rest of the
    proposal.
    """
    size = max(10, TILE_ROWS // len(proposal.mean))
    for done in range(0, num, size):
        block = min(size, num - done)
        from_prior = round(PRIOR_SHARE * block)
        parts = [proposal.sample(torch.Size([block - from_prior]))]
        if from_prior:
            parts.append(target.draw(target.model, from_prior))
        u = torch.cat(parts)
        share = from_prior / block
        prior, likelihood = target.densities(target.model, u)
        log_proposal = math.log1p(-share) + proposal.log_prob(u)
        if from_prior:
            log_proposal = torch.logaddexp(log_proposal, math.log(share) + prior)
        yield (prior + likelihood - log_proposal)[
            torch.randperm(block, device=u.device)
        ]  # strata mixed
