r"""The guide beside wide distributions: what it never draws, they do.

A part of the posterior that the guide misses leaves no trace in the weights of its own draws,
whatever their k-hat. So some draws come from a Student-t distribution about the guide, wider than
it, and some from the prior, and all are weighed as one mixture (the balance heuristic: Veach &
Guibas, 1995, https://doi.org/10.1145/218380.218498; Owen & Zhou, 2000,
https://doi.org/10.1080/01621459.2000.10473909):

.. math:: w = \frac{p(x, u)}{a_1\, q(u \mid x) + a_2\, t(u) + a_3\, p(u)}

with the share :math:`a` of the draws from each. Where the guide is right, it stands in the sum with
the others and they cost little; what it misses is estimated from the others alone, with an error in
proportion to what is missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..density.memory import Memory
from ..density.problem import Tile
from ..density.target import Target
from ..density.terms import Drawn, Terms
from ..guards import seed_of, seeded
from .controls import CONTROLS
from .heaviest import Heaviest
from .importance import blocks, importance_weights
from .proposals import StudentTMixture, of_guide
from .watch import Watch
from .weights import Summing, Weights

WIDTHS = (1.2, 2.5)  # of the Student-t, in standard deviations of the guide
PRIOR_SHARE = 0.2  # of the draws beside those of the guide
ALLOWED = (3.0, 3.5)  # standard errors of guide and mixture: chosen with benchmarks/light.py
SAME = 1e-8  # in proportion: standard errors of weights that are equal are no smaller
EDGE = 0.03  # of the mass, within 64 roundings of an edge, beyond which as much may be lost
EQUAL = 0.9  # the share of effective draws above which the tail of the weights does not matter
FINITE_VARIANCE = 0.5  # the largest k-hat of weights with a finite variance
MOST_DIMENSIONS = 100  # of the latents: a Student-t of more hardly meets the posterior
WIDE = 1  # the stream of these draws: those of the guide are what they are without


@dataclass(frozen=True)
class Defended:
    """What is known of the weights of a tile: of the guide's own draws, and of all draws as one
    mixture; the draws of the largest of these, and the log of their sum at the edge of a support,
    ``(N,)``; None if only the guide was drawn from.
    """

    guide: Weights
    mixture: Weights
    heaviest: Heaviest | None = None
    at_edge: Tensor | None = None

    @property
    def ends_early(self) -> Tensor:
        """Of which data mass may lie beyond what numbers can tell from the edge of a support,
        ``(N,)``.
        """
        if self.at_edge is None:
            return torch.zeros(len(self.mixture.num), dtype=torch.bool)
        return torch.exp(self.at_edge - self.mixture.log_sum) > EDGE


@dataclass(frozen=True)
class Opinion:
    """What the mixture says beside the guide: log p(x), its error, and whether its own weights are
    wild; each of shape ``(N,)``.
    """

    log_evidence: Tensor
    se: Tensor
    is_wild: Tensor

    @classmethod
    def of(cls, mixture: Weights) -> Opinion:
        """That of the weights of a tile."""
        wild = (mixture.khat > FINITE_VARIANCE) & (mixture.ess < EQUAL * mixture.num)
        wild |= ~mixture.log_evidence.isfinite()
        return cls(mixture.log_evidence, mixture.se, wild)

    @classmethod
    def joined(cls, parts: Sequence[Opinion]) -> Opinion:
        """Those of all tiles."""
        each = [(part.log_evidence, part.se, part.is_wild) for part in parts]
        return cls(*map(torch.cat, zip(*each, strict=True)))


def refuted(guide: Weights, second: Opinion) -> dict[str, np.ndarray]:
    """By reason, the data whose estimate by the guide alone is not to be trusted.

    It is refuted where the two estimates are apart by more than the errors of both allow. Where the
    weights of the mixture are wild themselves, nothing confirms the guide.
    """
    rounding = (SAME + 100 * guide.precision) * guide.log_evidence.abs().clamp(min=1)
    allowed = torch.maximum(ALLOWED[0] * guide.se, ALLOWED[1] * second.se) + rounding
    apart = (guide.log_evidence - second.log_evidence).abs() > allowed
    return {"refuted": apart.numpy(), "heavy_tail": second.is_wild.numpy()}


def defended_weights(
    tile: Tile,
    num_guide: int,
    num_wide: int,
    memory: Memory,
    watch: Watch,
    record: Callable[[Tensor, Tensor], None] = lambda position, log_weight: None,
) -> Defended:
    """Draws of the guide, and others beside them; fewer, if the time of the tile is over.

    `record` is told the positions and log weights of all draws as one mixture. Where there are no
    others, as of discrete latents or of more than 100 dimensions, the mixture is the guide alone.
    """
    target = _target(tile) if num_wide else None
    if target is None:
        alone = importance_weights(tile, num_guide, memory, watch)
        return Defended(alone, alone)

    guide, mixture = Summing(tile.precision), Summing(tile.precision)
    with seeded(seed_of(tile.seed, WIDE)):
        defence = Defence.about(target, num_guide, num_wide)
        wide = defence.wide_draws()
    heaviest = Heaviest.none(wide)
    at_edge = torch.full((len(tile),), -math.inf).double()
    done = 0
    with tile.seeded():
        for begin, end in watch.until_over(blocks(tile, num_guide)):
            terms, weighed = defence.of_guide(end - begin, memory)
            guide.add(terms.log_weight)
            parts = [weighed]
            until = max(1, num_wide * end // num_guide)
            if until > done:
                parts.append(defence.of_others(wide[done:until], memory))
            done = until
            drawn = _shuffled(parts)
            mixture.add(drawn.log_weight, drawn.controls)
            record(drawn.position, drawn.log_weight)
            heaviest.add(slice(None), drawn.position, drawn.log_weight)
            outermost = torch.where(target.at_edge(drawn.position), drawn.log_weight, -math.inf)
            at_edge = torch.logaddexp(at_edge, outermost.double().logsumexp(0).cpu())
    return Defended(guide.result(), mixture.result(), heaviest, at_edge)


def has_wide_draws(tile: Tile) -> bool:
    """Whether there is anything to draw from beside the guide."""
    return _target(tile) is not None


def _target(tile: Tile) -> Target | None:
    """The joint density, if wide draws are of use: none of discrete latents, of supports without a
    map from the real numbers or that move with other latents, and of very many dimensions.
    """
    try:
        target = Target(tile.densities, tile.densities.noncentred)
    except (TypeError, ValueError, NotImplementedError):
        return None
    return target if target.size <= MOST_DIMENSIONS else None


class Weighed(NamedTuple):
    """Log weights ``(K, N)`` under a mixture, the density of guide and prior over it, less 1, as
    control variates ``(K, 2, N)``, and the positions of the draws, ``(K, N, D)``.
    """

    log_weight: Tensor
    controls: Tensor
    position: Tensor


@dataclass(frozen=True)
class Defence:
    """The mixture about the guide of some data.

    Arguments:
        target: The joint density.
        wide: The Student-t distributions.
        counts: How many draws come from the guide, from these, and from the prior.
        guide_scores: Whether the guide knows the density of draws of others. If not, its own are no
            part of the mixture.
    """

    target: Target
    wide: StudentTMixture
    counts: tuple[int, int, int]
    guide_scores: bool

    @classmethod
    def about(cls, target: Target, num_guide: int, num_wide: int) -> Defence:
        from_prior = round(PRIOR_SHARE * num_wide)
        wide = replace(of_guide(target), widths=WIDTHS)
        try:
            target.densities.log_guide(target.constrain(wide.sample(torch.Size([1]))))
        except TypeError:
            guide_scores = False
        else:
            guide_scores = True
        return cls(target, wide, (num_guide, num_wide - from_prior, from_prior), guide_scores)

    def wide_draws(self) -> Tensor:
        """Positions ``(K, N, D)`` of all draws that are not the guide's, in random order."""
        _, num_wide, num_prior = self.counts
        parts = [self.wide.sample(torch.Size([num_wide]))]
        if num_prior:
            parts.append(self.target.draw_prior(num_prior))
        positions = torch.cat(parts)
        return positions[torch.randperm(len(positions), device=positions.device)]

    def of_guide(self, num: int, memory: Memory) -> tuple[Terms, Weighed]:
        """The terms of draws of the guide, and what they weigh in the mixture."""
        drawn = self.target.densities.draw(num)
        terms = self.target.densities.weigh(drawn, memory)
        weighed = self._weighed(terms, self.target.unconstrain(drawn.values))
        return terms, weighed if self.guide_scores else Weighed(*(part[:0] for part in weighed))

    def of_others(self, position: Tensor, memory: Memory | None) -> Weighed:
        """What other draws weigh in the mixture."""
        densities = self.target.densities
        values = self.target.constrain(position)
        if self.guide_scores:
            log_guide = densities.log_guide(values)
        else:
            log_guide = position.new_full(position.shape[:2], -math.inf)
        terms = densities.weigh(Drawn(values, log_guide, densities.log_guide), memory)
        return self._weighed(terms, position)

    def _weighed(self, terms: Terms, position: Tensor) -> Weighed:
        """Draws whose densities are known, all as densities of real vectors u."""
        num_guide, num_wide, num_prior = self.counts
        counts = torch.tensor([num_guide * self.guide_scores, num_prior, num_wide])
        log_abs_det = self.target.log_abs_det(position)
        log_prior = terms.log_prior + log_abs_det
        log_guide = terms.log_guide + log_abs_det
        wide = self.wide.log_prob(position)

        # on, or beyond, the edge of the support only the guide has a known density
        inside = position.isfinite().all(-1)
        log_prior = torch.where(inside, log_prior, -math.inf)
        log_guide = torch.where(inside, log_guide, terms.log_guide)
        wide = torch.where(inside, wide, -math.inf)
        log_joint = torch.where(inside, log_prior, terms.log_prior) + terms.log_likelihood

        parts = torch.broadcast_tensors(log_guide, log_prior, wide)
        # NaN: outside of what a guide can draw
        densities = torch.stack(parts, 1).double().nan_to_num(-math.inf, math.inf, -math.inf)
        log_shares = (counts / counts.sum()).log().to(densities)[:, None]
        log_mixture = (log_shares + densities).logsumexp(1)
        ratios = torch.exp(densities[:, :CONTROLS] - log_mixture[:, None])
        controls = torch.where(log_shares[:CONTROLS] > -math.inf, ratios - 1, 0.0)
        log_weight = log_joint - log_mixture
        at_edge = log_weight.isnan() & ~terms.log_likelihood.isnan()  # inf over inf: of no mass
        log_weight = torch.where(at_edge, -math.inf, log_weight)
        return Weighed(log_weight, controls.nan_to_num(0.0, 0.0, 0.0), position)


def _shuffled(parts: list[Weighed]) -> Weighed:
    """All in random order, whatever torch's random state: a part of the draws is a mixture too."""
    together = [torch.cat(part) for part in zip(*parts, strict=True)]
    generator = torch.Generator().manual_seed(len(together[0]))
    order = torch.randperm(len(together[0]), generator=generator).to(together[0].device)
    return Weighed(*(part[order] for part in together))
