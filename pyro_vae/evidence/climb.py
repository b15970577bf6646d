"""The way of a tile of data from rung to rung, as far as each datum needs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..density.memory import tile_rows
from ..density.problem import Tile
from ..density.target import Target
from .annealing_path import PILOTS, AnnealingPath, Base, Prior, temperatures
from .budget import Budget, lengthened, trust
from .chains import of_posterior
from .defence import MOST_DIMENSIONS
from .heaviest import Heaviest
from .proposals import (
    Both,
    Moved,
    Proposal,
    StudentTMixture,
    adapted,
    log_with_prior,
    of_draws,
    of_guide,
    with_prior,
)
from .record import Record
from .search import Places, probe, search
from .watch import Watch
from .weights import Summing, Weights, concatenate, from_blocks

RUNGS = ("guide", "refined", "annealed")
REFUTED = 4.0  # standard errors
UNLIKELY = math.log(1000)  # Markov: 1 estimate in 1000 is so far above log p(x)
WIDTHS = (1.0, 1.5)  # of the refined proposal, in standard deviations
ANNEALED_CHAINS = 64
ANNEALED_STEPS = 5


class Climb:
    """A tile of data, the best weights so far, and the rung they are of.

    Arguments:
        tile: The data.
        weights: Those of the first rung, all draws as one mixture.
        heaviest: The draws of the largest; None if only the guide was drawn from.
        budget: What is asked of the estimate.
        watch: The clock.
        record: Where the draws of the best estimates are kept, if they are.
    """

    def __init__(
        self,
        tile: Tile,
        weights: Weights,
        heaviest: Heaviest | None,
        budget: Budget,
        watch: Watch,
        record: Record | None = None,
    ) -> None:
        self.tile, self.budget, self.watch, self.record = tile, budget, watch, record
        self.weights, self.rung = weights, torch.zeros(len(tile), dtype=torch.long)
        self.heaviest = heaviest
        self.ends: Places | None = None  # of the search
        self.explained = torch.ones(len(tile), dtype=torch.bool)  # these, by the best weights

    @property
    def needy(self) -> Tensor:
        """Which data need the next rung, of shape ``(N,)``."""
        broken = self.weights.log_evidence.isnan()
        return self.budget.needs_more(self.weights) | (~self.explained & ~broken)

    def run(self) -> None:
        """Rung by rung, with the data that still need it."""
        self.watch.tick()
        self._search()
        left = self.needy.nonzero()[:, 0]
        if len(left) == 0:
            return
        self.watch.tick()
        with self.watch.on(RUNGS[1], len(left)):
            left, refined = self._refined(left)
        for number in self.budget.distributions:
            still = self.needy[left].nonzero()[:, 0]
            left, refined = left[still], refined.select(still)
            self._annealed(left, refined, number)
        for number in self.budget.distributions:
            self._annealed((self.needy & ~self.explained).nonzero()[:, 0], None, number)

    def _search(self) -> None:
        """Look for modes that the draws have missed."""
        target = self._target(torch.arange(len(self.tile)))
        if target.size > MOST_DIMENSIONS:
            return
        self.explained[:] = False  # while it is not known
        with self.watch.on("search", len(self.tile)):
            self.ends, log_mixture = search(target, self.budget.halves, self.watch.tick)
            self.explained = self.ends.explained(log_mixture, self.weights)
            probes = probe(target, self.budget.halves, self.watch.tick)
        whole = self.weights.log_evidence + self.weights.num.log()
        self.explained &= ~(probes.largest.cpu() > whole)
        self._remember(torch.arange(len(self.tile)), probes.position, probes.log_weight)

    def _refined(self, left: Tensor) -> tuple[Tensor, Proposal]:
        """By better and better moments; the data that need more, and the proposal for these."""
        proposal, spreads = self._from_moments(left)
        self._about_ends(left, proposal)
        still = self.needy[left].nonzero()[:, 0]
        left, proposal = left[still], proposal.select(still)
        if len(left) == 0:
            return left, proposal
        found = self._from_chains(left, [spread[still] for spread in spreads])
        return (left[:0], proposal.select(still[:0])) if found is None else found

    def _from_moments(self, left: Tensor) -> tuple[Proposal, list[Tensor]]:
        """By moments of weighted draws; the proposal, and its spread on each side."""
        sides = both_sides(self._target(left))
        moments, heaviest = zip(*(adapted(side, of_guide(side)) for side in sides), strict=True)
        self._remember(left, heaviest[0].position, heaviest[0].log_weight)
        through = sides[0].through
        if through is not None:
            self._remember(left, through.inv(heaviest[1].position), heaviest[1].log_weight)
        self.watch.tick()
        proposal = of_sides(sides, moments)
        self._sampled(left, proposal)
        return proposal, [about.spread for about in moments]

    def _about_ends(self, left: Tensor, proposal: Proposal) -> None:
        """By a Student-t about the ends of the search too, where these are not explained."""
        lost = (~self.explained[left]).nonzero()[:, 0]
        if self.ends is not None and len(lost):
            there = of_draws(self.ends.select(left[lost]).position)
            self._sampled(left[lost], Both(proposal.select(lost), wider(there)))

    def _from_chains(self, left: Tensor, spreads: list[Tensor]) -> tuple[Tensor, Proposal] | None:
        """By short chains of HMC on each side; for the data that have a density, if any has."""
        sides = both_sides(self._target(left))
        known = self._known(left)
        starts = [None if known is None else known.position, None][: len(sides)]
        found = [
            of_posterior(side, start, spread, self.watch.tick)
            for side, start, spread in zip(sides, starts, spreads, strict=True)
        ]
        settled = [each for each in found if each is not None]
        if len(settled) < len(sides):
            return None
        left = left[settled[0][0]]
        moments = [about for _, about in settled]
        self._search_again(left[moments[0].has_several_centres.nonzero()[:, 0].cpu()])
        proposal = of_sides(sides, moments)
        self._sampled(left, proposal)
        return left, proposal

    def _search_again(self, index: Tensor) -> None:
        """By chains of their own: the ends that a proposal was made from do not tell what it has
        missed.
        """
        if self.ends is not None and len(index):
            ends, _ = search(self._target(index), self.budget.halves, self.watch.tick)
            self.ends = self.ends.replace(index, ends)
            self.explained[index] = False  # nobody has asked the estimates so far

    def _target(self, index: Tensor) -> Target:
        densities = self.tile.densities.select(index)
        return Target(densities, densities.noncentred)

    def _sampled(self, index: Tensor, proposal: Proposal) -> None:
        """Importance sampling, as long as it takes."""

        def draw(some: Tensor, num: int, done: int) -> Weights:
            summing = Summing(self.tile.precision)
            parts = proposal.select(some)
            for position, log_weight in with_prior(self._target(index[some]), parts, num):
                self._remember(index[some], position, log_weight)
                self._record(index[some], position, log_weight)
                summing.add(log_weight)
            return summing.result()

        first = draw(torch.arange(len(index)), self.budget.num_samples, 0)
        weights = lengthened(first, draw, self.budget, self.watch)
        self.watch.draws[RUNGS[1]] += int(weights.num.sum())
        explained = torch.ones(len(index), dtype=torch.bool)
        known = self._known(index)
        if known is not None:
            there = log_with_prior(self._target(index), proposal, known.position)
            explained = known.explained(there, weights)
        self._keep(1, index, weights, explained)

    def _annealed(self, index: Tensor, proposal: Proposal | None, number: int) -> None:
        """Annealed importance sampling by so many distributions, from a proposal or the prior."""
        if len(index) == 0:
            return
        parts, explained = [], []
        size = tile_rows(self.tile.problem.device) // (ANNEALED_CHAINS + PILOTS)
        with self.watch.on(RUNGS[2], len(index)):
            for some in torch.arange(len(index)).split(size):
                target = self._target(index[some])
                base: Base = Prior(target) if proposal is None else proposal.select(some)
                betas = temperatures(number, "sigmoidal")
                path = AnnealingPath.of(target, base, betas, ANNEALED_STEPS, self.watch.tick)
                ahead = path.forward(ANNEALED_CHAINS)
                parts.append(from_blocks([ahead.log_weight], self.tile.precision))
                self._record(index[some], ahead.position, ahead.log_weight)
                explained.append(self._reached(index[some], target, base, ahead.position))
        self.watch.draws[RUNGS[2]] += ANNEALED_CHAINS * len(index)
        self._keep(2, index, concatenate(parts), torch.cat(explained))

    def _reached(self, index: Tensor, target: Target, base: Base, position: Tensor) -> Tensor:
        """Which data annealed chains explain what is known of, ``(N,)``. Those from the prior come
        wherever the search has ended: so did its own.
        """
        known = self._known(index)
        if known is None:
            return torch.ones(len(index), dtype=torch.bool)
        log_joint = target(position).double().cpu()
        if isinstance(base, Prior):
            return known.as_high(log_joint)
        at = known.position, position
        log_base, of_annealed = (base.log_prob(each).double().cpu() for each in at)
        return known.reached(log_base, of_annealed, log_joint)

    def _known(self, index: Tensor) -> Places | None:
        """Places that an estimate of some of the data must explain: where the heaviest draws were,
        and where the search has ended.
        """
        if self.ends is None or self.heaviest is None:
            return None
        position = self.heaviest.position[:, index]
        was_drawn = self.heaviest.log_weight[:, index] > -math.inf
        log_joint = torch.where(was_drawn, self._target(index)(position).double(), -math.inf)
        return self.ends.select(index).preceded_by(Places(position, log_joint.cpu()))

    def _remember(self, index: Tensor, position: Tensor, log_weight: Tensor) -> None:
        if self.heaviest is not None:
            self.heaviest.add(index, position, log_weight)

    def _record(self, index: Tensor, position: Tensor, log_weight: Tensor) -> None:
        if self.record is not None:
            self.record.add(index.tolist(), position, log_weight)

    def _keep(self, rung: int, index: Tensor, new: Weights, explained: Tensor) -> None:
        """Take what is better than before.

        That is what explains the places that are known by now, a k-hat that holds and, of equals,
        the smaller error or the higher rung. What was kept is not asked again about later places.
        """
        old = self.weights.select(index)
        before, now = self.explained[index] * trust(old), explained * trust(new)
        preferred = torch.where(now == 0, trust(new) >= trust(old), new.se < old.se)
        equal = (now == before) & preferred

        error = REFUTED * (old.se.square() + new.se.square()).sqrt()
        sure = torch.where(trust(old) > 0, error, error.clamp(min=UNLIKELY))
        refuted = old.log_evidence - new.log_evidence > sure  # a mode once found is not lost again

        better = ((now > before) | equal) & new.log_evidence.isfinite() & ~refuted
        self.weights = self.weights.replace(index[better], new.select(better.nonzero()[:, 0]))
        self.rung[index[better]] = rung
        self.explained[index[better]] = explained[better]
        if self.record is not None:
            self.record.keep(index[better].tolist())


def both_sides(target: Target) -> list[Target]:
    """A joint density, and where it lies beyond a bijection, that without it."""
    return [target] if target.through is None else [target, Target(target.densities)]


def of_sides(sides: list[Target], moments: Sequence[StudentTMixture]) -> Proposal:
    """A proposal over the first side, from the moments of each."""
    first, *others = map(wider, moments)
    through = sides[0].through
    return first if through is None else Both(first, Moved(others[0], through))


def wider(moments: StudentTMixture) -> StudentTMixture:
    """A proposal a little wider than its moments."""
    return replace(moments, widths=WIDTHS)
