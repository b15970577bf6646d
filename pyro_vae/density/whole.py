"""Pairs of Pyro functions whose latents belong to no single datum: all data are one datum.

Latents may be global, in any plates, or both. There is one log p(data), and everything that asks
:class:`.Densities` for log p(x) of a datum finds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ..data.arrays import as_rows
from ..guards import evaluating, mode, owner_of, seeded
from ..vae import VAE
from .at_once import CLOSE, Mapped, Sampler, total, traced_once
from .autoguides import auxiliary_draws
from .identity import digest_of, fingerprint
from .noncentred import NonCentred
from .problem import Problem
from .target import Target
from .terms import Batch, Densities, Drawn, Latent, Values
from .traced import (
    Pair,
    measure_of_sites,
    of_data,
    refuse_moving_supports,
    replay,
    sites,
    support_of,
)


class Whole(Densities):
    """The densities of a pair of Pyro functions for all data at once, as one datum.

    Arguments:
        model: A Pyro function of the data.
        guide: Its guide; or an AutoGuide.
        data: What both are called with.
        batch: A tensor with one row, in the precision of the latents.

    Raises:
        TypeError: The guide is a single point.
        ValueError: A prior is improper, a plate takes a subsample, there is no latent, or model and
            guide have different ones.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        data: tuple[Any, ...],
        batch: Batch,
    ) -> None:
        super().__init__(batch)
        self.model, self.guide, self.data = model, guide, data
        self.trace = traced_once(model, data)
        self._latents = {site["name"]: site for site in sites(self.trace, observed=False)}
        self._of_model = Mapped(self._log_model)
        self._drawn_by_guide = Sampler(guide, data)
        self._drawn_by_model = Sampler(model, data)
        self._refuse_other_latents()

    @functools.cached_property
    def latents(self) -> dict[str, Latent]:
        if len(self._latents) > 1:
            with seeded(1), torch.no_grad():
                other = poutine.trace(self.model).get_trace(*self.data)
            refuse_moving_supports([*self._latents.values()], sites(other, observed=False))
        return {name: _latent(site["fn"]) for name, site in self._latents.items()}

    @functools.cached_property
    def noncentred(self) -> NonCentred | None:
        return NonCentred.of(Target(self), self.model, self.data)

    @property
    def measure(self) -> str:
        return measure_of_sites(sites(self.trace, observed=True))

    @property
    def is_discrete(self) -> bool:
        return any(latent.support.is_discrete for latent in self.latents.values())

    def draw(self, num_samples: int) -> Drawn:
        values, log_guide = self._drawn_by_guide(num_samples)
        own = {name: values[name][:, None] for name in self._latents}
        return Drawn(own, log_guide[:, None], self.log_guide)

    def draw_prior(self, num_samples: int) -> Values:
        values, _ = self._drawn_by_model(num_samples)
        return {name: values[name][:, None] for name in self._latents}

    def log_model(self, values: Values) -> tuple[Tensor, Tensor]:
        log_likelihood, log_prior = self._of_model(self._as_drawn(values))
        return log_likelihood[:, None], log_prior[:, None]

    def log_guide(self, values: Values) -> Tensor:
        if not self._scores_others:
            raise TypeError(
                f"the guide, {_name(self.guide)}, has no density at draws of others; "
                "start='prior', or take AutoNormal or AutoMultivariateNormal"
            )
        values = self._with_auxiliary(self._as_drawn(values))
        return self._drawn_by_guide.log_density(values)[:, None]

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        raise NotImplementedError("a pair with latents of no single datum is fitted by Pyro's SVI")

    def states(self) -> Values:
        raise NotImplementedError("the states of latents of no single datum are not summed over")

    def select(self, index: Tensor) -> Whole:
        return self

    def fresh(self) -> Whole:
        return self

    def eval_mode(self) -> AbstractContextManager[None]:
        return mode(self.model, training=False)

    def _log_model(self, values: Values) -> tuple[Tensor, ...]:
        trace = poutine.trace(replay(self.model, values)).get_trace(*self.data)
        return tuple(total(sites(trace, observed=flag)) for flag in (True, False))

    def rounded(self, values: Values) -> Values:
        return {name: values[name].to(s["value"].dtype) for name, s in self._latents.items()}

    def _as_drawn(self, values: Values) -> Values:
        """One draw of all data has no dimension for a datum, and the precision of the model."""
        return {name: value.squeeze(1) for name, value in self.rounded(values).items()}

    def _with_auxiliary(self, values: Values) -> Values:
        """What an AutoGuide draws in place of the latents that follow from it.

        Raises:
            KeyError: It is not known how they follow.
        """
        drawn = self._drawn_by_guide.sites
        needed = [name for name, site in drawn.items() if site.is_auxiliary]
        found = auxiliary_draws(owner_of(self.guide), needed, values) if needed else {}
        own = {name: z for name, z in values.items() if not drawn[name].follows}
        return own | {name: found[name] for name in needed}

    def _refuse_other_latents(self) -> None:
        theirs = self._drawn_by_guide.sites
        ours = sorted(self._latents)
        names = sorted(name for name, site in theirs.items() if not site.is_auxiliary)
        if ours != names:
            raise ValueError(
                f"model and guide must have the same latent sites; got {ours} and {names}"
            )
        for name, site in self._latents.items():
            shapes = tuple(site["value"].shape), tuple(theirs[name].shape)
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"model and guide must draw latents of one shape; of site {name!r} they draw "
                    f"{shapes[0]} and {shapes[1]}: a guide of other data? make it for these"
                )
        with seeded(2), torch.no_grad():
            values, log_guide = self._drawn_by_guide(2)
        for name, latent in self.latents.items():
            if torch.equal(*values[name]) and not latent.support.is_discrete:
                raise TypeError(
                    f"log p(data) needs a guide with a density; {_name(self.guide)} draws a single "
                    f"point at site {name!r}; take AutoNormal or AutoMultivariateNormal, or of "
                    "AutoLaplaceApproximation its laplace_approximation(...)"
                )
        with seeded(2), torch.no_grad():
            self._scores_others = self._agrees(values, log_guide)

    def _agrees(self, values: Values, log_guide: Tensor) -> bool:
        """Whether draws have the same density when they are given as those of others."""
        try:
            again = self._drawn_by_guide.log_density(self._with_auxiliary(values))
        except (KeyError, NotImplementedError):
            return False
        return torch.allclose(again, log_guide, rtol=CLOSE, atol=CLOSE, equal_nan=True)


def _latent(fn: Any) -> Latent:
    support, several = support_of(fn), len(fn.batch_shape)
    if several:
        support = constraints.independent(support, several)
    return Latent(support, fn.batch_shape + fn.event_shape)


def _name(guide: Any) -> str:
    return getattr(guide, "__name__", type(guide).__name__)


@dataclass(frozen=True)
class WholeProblem(Problem):
    """A pair of Pyro functions, and all data as one datum.

    Arguments:
        data: What model and guide are called with.
    """

    data: tuple[Any, ...] = ()

    @classmethod
    def of_all(
        cls, model: Callable[..., Any], guide: Callable[..., Any], data: Any
    ) -> WholeProblem:
        """A pair and all its data, checked; for what it raises see :class:`Whole`."""
        one = as_rows(torch.zeros(1, 1))
        problem = cls(model, guide, one, torch.zeros(()), data=data)
        with evaluating(model, guide):
            latents = problem.densities((torch.zeros(1, 1),)).trace
        real = [s["value"] for s in sites(latents, observed=False)]
        like = next((value for value in real if value.is_floating_point()), torch.zeros(()))
        return replace(problem, like=like.new_zeros(()))

    @property
    def about(self) -> dict[str, Any]:
        return about(self.model, self.data, self.guide)

    def densities(self, batch: Batch) -> Whole:
        return Whole(self.model, self.guide, self.data, batch)


def about(model: Callable[..., Any], data: tuple[Any, ...], *guide: Callable) -> dict[str, Any]:
    """What log p(data) is of: what is observed, how many numbers that are, the model with all that
    it is called with, and the scale.
    """
    with evaluating(model, *guide), seeded(0), torch.no_grad():
        traces = [traced_once(model, data), *(poutine.trace(g).get_trace(*data) for g in guide)]
    observed = sites(traces[0], observed=True)
    values = [torch.as_tensor(site["value"]).double() for site in of_data(observed)]
    nodes = [node for trace in traces for node in trace.nodes.values()]
    params = [node["value"] for node in nodes if node["type"] == "param"]
    return {
        "cells": sum(value.numel() for value in values),
        "data_digest": digest_of(*sorted(map(digest_of, values))),  # whatever the sites are named
        "model_digest": digest_of(fingerprint(model, *guide), *params, *data),
        "measure": measure_of_sites(observed),
        "num_data": 1,
    }


def problem_of(vae: VAE | Pair | Problem, x: Any = None, c: Any = None) -> Problem:
    """A problem of each datum, as of :meth:`.Problem.of`; of a pair that has latents of no datum,
    of all data as one.

    The latter are: a pair whose data are a tuple of arguments, one with an AutoGuide, and one with
    a latent outside the data plate.
    """
    if x is None or not _is_pair_of_functions(vae):
        return Problem.of(vae, x, c)
    model, guide = cast("Pair", vae)
    _refuse_other_pairs(model, guide, x)
    data = x if isinstance(x, tuple) else (x,)
    data += () if c is None else (c,)
    data = tuple(torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in data)
    of_no_rows = isinstance(x, tuple) or (isinstance(x, Tensor) and x.dim() == 0)
    if of_no_rows or isinstance(guide, AutoGuide):
        return WholeProblem.of_all(model, guide, data)
    problem = Problem.of(vae, x, c)
    return problem if _is_local(problem) else WholeProblem.of_all(model, guide, data)


def _refuse_other_pairs(model: Callable[..., Any], guide: Callable[..., Any], x: Any) -> None:
    if isinstance(guide, type):
        raise TypeError(
            f"the guide must be a function or an instance, such as {guide.__name__}(model); got "
            f"the class {guide.__name__}"
        )
    if isinstance(model, AutoGuide):
        raise TypeError(f"a pair is (model, guide); got {type(model).__name__} as the model")
    if isinstance(x, Mapping) or (isinstance(x, list) and any(isinstance(v, Tensor) for v in x)):
        raise TypeError(
            "data of a pair of Pyro functions are an array with a row for each datum, or a tuple "
            f"of the arguments of both, x=(y,); got a {type(x).__name__}"
        )


def _is_pair_of_functions(vae: VAE | Pair | Problem) -> bool:
    if not isinstance(vae, tuple) or len(vae) != 2 or not all(map(callable, vae)):
        return False
    return not any(isinstance(owner_of(part), VAE) for part in vae)


def _is_local(problem: Problem) -> bool:
    """Whether every latent belongs to a datum: for one datum the guide draws one of it."""
    with evaluating(problem.guide), seeded(0), torch.no_grad():
        try:
            trace = poutine.trace(problem.guide).get_trace(*problem.batch(slice(0, 1)))
        except Exception:  # a guide that needs all data
            return False
    return all(site["fn"].batch_shape == (1,) for site in sites(trace, observed=False))
