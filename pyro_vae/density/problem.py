"""The door of every estimator: a model, a guide and the data they are about, checked once."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from ..data.annotated import named
from ..data.arrays import as_rows
from ..data.rows import DataError, Rereading, Rows
from ..guards import mode, own_store, owner_of, process_lock, seed_of, seeded, whole_number
from ..vae import VAE
from .direct import Direct, asked_directly
from .identity import describe
from .memory import Memory, default_bytes
from .target import Target
from .terms import Batch, Densities, Terms
from .traced import Pair, Traced


class Stream(enum.IntEnum):
    """What the draws of a tile are for; importance sampling from the guide has no such number."""

    ANNEALING = 2
    ESCALATION = 3
    BRIDGE = 4
    LENGTHENING = 5
    GUIDE = 6
    GAPS = 7
    CHAINS = 8
    EXPECTATION = 9
    OUTLIERS = 10


@dataclass(frozen=True)
class Problem:
    """A model, a guide, and the data they are about.

    Arguments:
        model: A Pyro function of x, and of c if there is one.
        guide: Its guide.
        rows: The data, and beside them c: checked, read a few at a time.
        like: A tensor with the dtype and device that the data are wanted in; none for torch's
            default dtype on the CPU.
        vae: The VAE whose densities can be had directly; none for traces.
        lost: What rounding takes of log p(x|z), in nats, where it was measured.

    Example:
        >>> vae = VAE(
        ...     prior=Normal((1,), loc=0.0, scale=1.0),
        ...     likelihood=Amortised(MLP(1, 2), Normal((2,), scale=1.0)),
        ...     guide=Amortised(MLP(2, 2), Normal((1,))),
        ... )
        >>> problem = Problem.of(vae, torch.zeros(5, 2))
        >>> len(problem), problem.is_discrete
        (5, False)
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    rows: Rows
    like: Tensor | None = None
    vae: VAE | None = None
    lost: float = 0.0

    @classmethod
    def of(cls, vae: VAE | Pair | Problem, x: Any = None, c: Any = None) -> Problem:
        """The problem of a VAE, or of a pair, and data. All data are read once, and checked.

        Arguments:
            vae: A VAE; any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in
                one data plate; or a problem, which is given back. What a pair closes over is taken
                as it is: its data are not checked against a support.
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What the model is conditional on, a row for each datum.

        Raises:
            DataError: There are no data, or they do not fit the likelihood.
            TypeError: `vae` is none of these, or there are data beside a problem.
        """
        if isinstance(vae, Problem):
            if x is not None or c is not None:
                raise TypeError(
                    "a Problem holds its data: give it without x and c, and name what follows "
                    "them, as in posterior=..."
                )
            with process_lock:
                return replace(vae, vae=None) if am_i_wrapped() else vae
        owner: VAE | None
        if isinstance(vae, VAE):
            owner = vae
            model = vae.model
            guide = vae.guide
        elif isinstance(vae, tuple) and len(vae) == 2 and all(callable(part) for part in vae):
            model, guide = vae
            owners = (part for part in map(owner_of, vae) if isinstance(part, VAE))
            owner = next(owners, None)
        else:
            needs = "log p(x) needs a VAE or a pair (model, guide) of Pyro functions"
            parts = vae if isinstance(vae, tuple) else (vae,)
            raise TypeError(f"{needs}; got {', '.join(type(part).__name__ for part in parts)}")

        if x is None:
            raise DataError("data need rows: give x of shape (N, ...); got None")
        if owner is not None:
            problem = cls(model, guide, owner.check(x, c), owner.reference)
            return replace(problem, vae=asked_directly(model, guide, problem._first))
        rows = as_rows(x).given(None if c is None else as_rows(named(x, c)))
        for part in (rows, rows.c):
            for _ in part.scan() if part is not None else ():
                pass
        return cls(model, guide, rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where model and guide compute."""
        return torch.device("cpu") if self.like is None else self.like.device

    @property
    def _first(self) -> Batch:
        """The first datum, which was kept when all were read."""
        parts = (part for part in (self.rows, self.rows.c) if part is not None)
        firsts = (part.summary.first for part in parts)
        return tuple(first if self.like is None else first.to(self.like) for first in firsts)

    @property
    def is_discrete(self) -> bool:
        """Whether a latent is discrete."""
        return self.densities(self._first).is_discrete

    @property
    def sums_exactly(self) -> bool:
        """Whether log p(x) is a sum over the values of a discrete latent: the guide is a VAE's."""
        owner = owner_of(self.guide)
        return isinstance(owner, VAE) and owner.is_discrete

    @property
    def about(self) -> dict[str, Any]:
        """What an estimate is of: digests of data and model, and how many cells are seen."""
        return describe(self.model, self.guide, self.rows)

    @property
    def measure(self) -> str:
        """Whether the likelihood gives densities, and on what space, or probabilities."""
        return self.densities(self._first).measure

    def batch(self, index: Any) -> Batch:
        """What model and guide are called with: some rows of x, and of c if there is one."""
        return self.rows.batch(index, like=self.like)

    def densities(self, batch: Batch) -> Densities:
        """What model and guide say of a batch: directly for a VAE, else by traces."""
        if self.vae is not None:
            return Direct(self.vae, batch, missing=self.rows.has_missing)
        return Traced(self.model, self.guide, batch)

    def tiles(self, size: int, stream: tuple[int, ...]) -> Iterator[Tile]:
        """The data in tiles of at most `size`, each with a seed of its own.

        The draws of a tile depend on its place and on nothing else: not on memory, and not on what
        happens in other tiles.

        Arguments:
            size: How many data make a tile.
            stream: The user's seed, and what the draws are for (:class:`Stream`).

        Raises:
            DataError: The data are others than when they were checked.
        """
        rereading = None if self.rows.is_fixed else Rereading(self.rows)
        for number, rows in enumerate(self.rows.chunks(size)):
            seed = seed_of(stream[0], number, *stream[1:])
            batch = self.batch(rows)
            if rereading is not None:
                rereading.take(rows, batch)
            yield Tile(self, number, rows, seed, batch)

    def only(self, index: np.ndarray) -> Problem:
        """The same for some of the data."""
        return replace(self, rows=self.rows.only(index))

    def in_memory(self) -> Problem:
        """The same with all data read now, and not again."""
        return replace(self, rows=self.rows.in_memory(self.like))

    def on_device(self) -> Problem:
        """The same with its data on a GPU, if model and guide are there and the data fit."""
        if self.like is None or self.device.type == "cpu":
            return self
        rows = self.rows.on_device(self.like, default_bytes(self.device))
        return replace(self, rows=rows)


@dataclass(frozen=True)
class Tile:
    """Some neighbouring data of a problem, read, with a seed of their own.

    Arguments:
        problem: What they are part of.
        number: Its place among the tiles, from 0.
        rows: Which rows.
        seed: The seed of all that is drawn for them.
        batch: x, and c if there is one.
    """

    problem: Problem
    number: int
    rows: slice
    seed: int
    batch: Batch

    def __len__(self) -> int:
        return len(self.batch[0])

    @property
    def precision(self) -> float:
        """The relative precision of a log density."""
        return torch.finfo(self.batch[0].dtype).eps

    @functools.cached_property
    def densities(self) -> Densities:
        """What model and guide say of these data."""
        return self.problem.densities(self.batch)

    def split(self, size: int, stream: tuple[int, ...]) -> Iterator[Tile]:
        """The tiles of `size` into which :meth:`Problem.tiles` would cut the same data."""
        for start in range(self.rows.start, self.rows.stop, size):
            rows = slice(start, min(start + size, self.rows.stop))
            own = slice(rows.start - self.rows.start, rows.stop - self.rows.start)
            batch = tuple(part[own] for part in self.batch)
            seed = seed_of(stream[0], start // size, *stream[1:])
            yield Tile(self.problem, start // size, rows, seed, batch)

    def select(self, index: Tensor, seed: int) -> Tile:
        """Some of the data, with another seed; the rows are still those of the whole tile."""
        some = tuple(part[index.to(part.device)] for part in self.batch)
        return replace(self, batch=some, seed=seed)

    def terms(self, num_samples: int, memory: Memory | None = None) -> Terms:
        """The terms of as many draws of the guide, from torch's current random state."""
        return self.densities.terms(num_samples, memory)

    def target(self) -> Target:
        """The joint density of the latents on real vectors, for MCMC and its kin.

        Raises:
            ValueError: The pair has sites outside the data plate, or model and guide have
                different latents.
        """
        with seeded(0), torch.no_grad():
            self.terms(1)  # says what is wrong with a pair
        return Target(self.densities, self.densities.noncentred)

    def seeded(self) -> AbstractContextManager[None]:
        """Torch draws from the tile's seed inside."""
        return seeded(self.seed)


def terms(
    vae: VAE | Pair | Problem, x: Any = None, c: Any = None, *, num_samples: int = 64, seed: int = 0
) -> Terms:
    """The log densities of `num_samples` draws from the guide for each datum.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate; or a :class:`Problem`, which holds the data too. What a pair closes over is
            taken as it is: its data are not checked against a support.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum: the second argument of model and
            guide.
        num_samples: The number of particles K.
        seed: The seed of the draws.

    Returns:
        :class:`Terms` of shape ``(num_samples, N)``, with gradients where gradients are on.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: The pair has sites outside the data plate, or model and guide have different
            latents.
    """
    whole_number("num_samples", num_samples, at_least=1)
    problem = Problem.of(vae, x, c)
    owners, no_validation = (problem.model, problem.guide), pyro.validation_enabled(False)
    with own_store(), seeded(seed), mode(*owners, training=False), no_validation:
        return problem.densities(problem.batch(slice(None))).terms(num_samples)
