r"""Data ranked among draws of the model: p-values of how odd they are.

The score of a datum is ranked among those of data that the model makes with the same c and the
same cells seen, unless it says itself which are missing. With b of B draws as odd as the datum, or
odder,

.. math:: p = \frac{1 + b}{1 + B}

is a p-value, whatever the score: datum and draws are exchangeable if the model made the datum. So
an error of the score, by a bad guide or few samples, costs power and nothing else. A draw of the
same score counts as odder, without a die: p is never too small, and the same at each call.

Where all patterns of missing cells differ, each datum needs draws of its own. They are made in
rounds, and a datum that ``ENOUGH`` draws are odder than needs no more: the p-values stay valid, as
those of Besag & Clifford (1991, https://doi.org/10.1093/biomet/78.2.301) do, and only outliers see
all draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.arrays import as_rows
from ..density.memory import Memory, tile_data, tile_rows
from ..density.problem import Problem, Stream, Tile
from ..density.terms import iwae
from ..guards import seed_of, seeded
from ..progress import Progress
from .draws import draws_holes, made_by, with_holes_of
from .gaps import log_weights

Score = Callable[[Problem, int, int], np.ndarray]

FIRST = 50  # draws of the first round, for each datum of a pattern
GROWTH = 4  # times as many draws after each round
ENOUGH = 10  # draws as odd as a datum: its p-value is known to a third
STEPS = 100  # of the search for the best guide
TOGETHER = 8  # tiles whose best guides are found at once: a step costs as much for one


@dataclass(frozen=True)
class Trial:
    """Data and what they are ranked among, scored in the same way: large is ordinary.

    Arguments:
        problem: The data.
        ordinary: What stands in for draws of the model, if anything does.
        score: Of a problem, a number of samples and a seed, the scores ``(N,)``.
        num_samples: The samples for each score.
        seed: The user's.
    """

    problem: Problem
    ordinary: Problem | None
    score: Score
    num_samples: int
    seed: int

    def score_data(self) -> np.ndarray:
        """The scores of the data."""
        return self.score(self.problem, self.num_samples, seed_of(self.seed, 0))

    def score_draws(self, data: np.ndarray, numbers: np.ndarray, stream: int) -> np.ndarray:
        """The scores of a draw for each of `data`; `numbers` count the draws of a datum."""
        size = tile_rows(self.problem.device)
        found = []
        for block, start in enumerate(range(0, len(data), size)):
            own, some = seed_of(self.seed, stream, block), slice(start, start + size)
            made = self._made(data[some], numbers[some], seed_of(own, 0))
            found.append(self.score(made, self.num_samples, seed_of(own, 1)))
        return np.concatenate(found)

    def _made(self, data: np.ndarray, numbers: np.ndarray, seed: int) -> Problem:
        """A draw for each of `data`, with its c and the same cells seen."""
        like = self.problem.only(data)
        batch = like.batch(slice(None))
        if self.ordinary is None:
            with seeded(seed):
                _, made = made_by("outliers", like, batch, 1, {})
            x, given = made[0].to(batch[0]), batch[1:]
        else:
            order = np.random.default_rng(self.seed).permutation(len(self.ordinary))
            comparable = self.ordinary.batch(order[numbers])
            x, given = comparable[0], comparable[1:]
        x = with_holes_of(self.problem, x, batch[0])
        rows = as_rows(x).given(as_rows(given[0]) if given else None)  # not checked: draws are ours
        return replace(self.problem, rows=rows)


def p_values(trial: Trial, own: np.ndarray, most: int, bar: Progress) -> np.ndarray:
    """The p-value of each datum, from rounds of draws for each pattern among the data."""
    first, pattern, size = _patterns(trial.problem, with_c=trial.ordinary is None)
    beyond = np.zeros(len(own), dtype=int)
    drawn = beyond.copy()
    undecided = np.ones(len(own), dtype=bool)
    before, until = np.zeros_like(size), np.minimum(FIRST * size, most)  # draws of each pattern
    stream = 0
    while undecided.any():
        stream += 1
        wanted = np.unique(pattern[undecided])
        num = (until - before)[wanted]
        numbers = [np.arange(before[each], until[each]) for each in wanted]
        data = np.repeat(first[wanted], num)
        scores = trial.score_draws(data, np.concatenate(numbers), stream)
        parts = map(np.sort, np.split(scores, np.cumsum(num)[:-1]))
        by_pattern = dict(zip(wanted, parts, strict=True))
        for datum in np.flatnonzero(undecided):
            beyond[datum] += _as_odd(by_pattern[pattern[datum]], own[datum])
        drawn[undecided] = until[pattern[undecided]]
        undecided &= (beyond < ENOUGH) & (drawn < most)
        before, until = until, np.minimum(GROWTH * until, most)
        bar.update(int((~undecided).sum()))
    return (1 + beyond) / (1 + drawn)


def _as_odd(ordered: np.ndarray, own: float) -> int:
    """How many scores are at most `own`, those that are NaN, at the end, counted among them."""
    return int(np.searchsorted(ordered, own, side="right") + np.isnan(ordered).sum())


class _Patterns(NamedTuple):
    """Which data are alike: one datum of each pattern, the pattern of each, and how many it has."""

    first: np.ndarray
    pattern: np.ndarray
    size: np.ndarray


def _patterns(problem: Problem, *, with_c: bool) -> _Patterns:
    """Data with the same cells seen, and the same c if draws depend on it."""
    keys = []
    for chunk in problem.rows.chunks():
        x, *c = (part.reshape(len(part), -1).numpy(force=True) for part in problem.batch(chunk))
        seen = np.isnan(x) if not draws_holes(problem) else np.zeros((len(x), 1), dtype=bool)
        key = [np.packbits(seen, axis=1)]
        key += [np.ascontiguousarray(part).view(np.uint8) for part in c if with_c]
        keys.append(np.concatenate(key, 1))
    _, first, pattern, size = np.unique(
        np.concatenate(keys), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return _Patterns(first, pattern.reshape(-1), size)


def _log_evidence(problem: Problem, num_samples: int, seed: int) -> np.ndarray:
    """log p(x) of each datum, by importance sampling; over discrete latents exact."""

    def of_tile(tile: Tile) -> Tensor:
        memory = Memory(problem.device)
        with tile.seeded():
            if problem.sums_exactly:
                terms = tile.densities.enumerated(memory)
                found = (terms.log_likelihood + terms.log_prior).logsumexp(0)
            else:
                found = iwae(tile.terms(num_samples, memory))
        if draws_holes(problem):
            return found
        is_empty = tile.batch[0].reshape(len(tile), -1).isnan().all(1)
        return torch.where(is_empty, 0.0, found)  # known, so that a row of nothing is not odd

    size = max(tile_data(problem.device), tile_rows(problem.device) // num_samples)
    tiles = problem.tiles(size, (seed, Stream.OUTLIERS))
    return torch.cat([of_tile(tile) for tile in tiles]).double().numpy(force=True)


def _negative_regret(problem: Problem, num_samples: int, seed: int) -> np.ndarray:
    """The ELBO of each datum less that of its best guide."""
    found = []
    for tile in problem.tiles(TOGETHER * tile_data(problem.device), (seed, Stream.OUTLIERS)):
        best, amortised = log_weights(tile, STEPS, num_samples)
        found.append(amortised.double().mean(0) - best.double().mean(0))
    return torch.cat(found).numpy(force=True)


SCORES: dict[str, Score] = {"log_evidence": _log_evidence, "regret": _negative_regret}
