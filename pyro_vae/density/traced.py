"""Densities of any pair of Pyro functions, read off their traces.

Guide and replayed model are traced under one outer plate of K particles. So nothing here knows the
parts of a VAE, and nothing goes stale when one is swapped.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit, VonMises, constraints
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.constraints import Constraint

from ..assembly.classified import SITES
from ..distributions.supports import base_of, innermost, is_real
from ..guards import mode, owner_of, seeded
from ..vae import VAE
from .identity import measure_of
from .terms import Batch, Densities, Drawn, Latent, Values

Pair = tuple[Callable[..., Any], Callable[..., Any]]


class Traced(Densities):
    """The densities of a pair of Pyro functions for one batch.

    Arguments:
        model: A Pyro function of the batch whose sites all lie in one data plate.
        guide: Its guide.
        batch: What both are called with: x, and c if there is one.
    """

    def __init__(self, model: Callable, guide: Callable, batch: Batch) -> None:
        super().__init__(batch)
        self.model, self.guide = model, guide
        self._of_model: list[Tensor] = []  # the parameters that the last traces have shown
        self._of_guide: list[Tensor] = []
        self._measure: str | None = None
        self._guide_supports: dict[str, Any] | None = None

    @functools.cached_property
    def latents(self) -> dict[str, Latent]:
        found = sites(self._model_trace(), observed=False)
        self._refuse_other_latents(found, self.guide_supports)
        if len(found) > 1:
            with seeded(1), torch.no_grad():
                other = under_particles(self.model, self.batch, 1)
            refuse_moving_supports(found, sites(other, observed=False))
        return {s["name"]: Latent(support_of(s["fn"]), s["fn"].event_shape) for s in found}

    @property
    def measure(self) -> str:
        if self._measure is None:
            self._measure = measure_of_sites(self._observed(self._model_trace()))
        return self._measure

    def _observed(self, trace: Trace) -> list[Any]:
        """The observed sites; of a VAE whose classes are given, without those of the classifier."""
        owner, observed = owner_of(self.model), sites(trace, observed=True)
        if not isinstance(owner, VAE) or owner.classifier is None:
            return observed
        return [site for site in observed if site["name"] not in SITES]

    def _model_trace(self) -> Trace:
        """The model with latents of its own; no draw of the caller's is used up."""
        with seeded(0), torch.no_grad():
            return under_particles(self.model, self.batch, 1)

    @property
    def guide_supports(self) -> dict[str, Any]:
        """Where the guide draws each latent; if it has not drawn, one draw that is not counted."""
        if self._guide_supports is None:
            with seeded(0), torch.no_grad():
                self.draw(1)
        assert self._guide_supports is not None
        return self._guide_supports

    @property
    def is_discrete(self) -> bool:
        return any(support.is_discrete for support in self.guide_supports.values())

    @property
    def estimates(self) -> bool:
        owner = owner_of(self.model)
        return isinstance(owner, VAE) and owner.draws_missing

    def draw(self, num_samples: int) -> Drawn:
        trace = under_particles(self.guide, self.batch, num_samples)
        latents = sites(trace, observed=False)
        values = {site["name"]: site["value"] for site in latents}
        shape = num_samples, self.num_data

        def rescore(others: Values) -> Tensor:
            moved = [{**site, "value": others[site["name"]]} for site in latents]
            return log_density(moved, shape)

        self._of_guide = _parameters(trace)
        self._guide_supports = {site["name"]: site["fn"].support for site in latents}
        fixed = tuple(site["name"] for site in latents if not site["fn"].has_rsample)
        return Drawn(values, log_density(latents, shape), rescore, fixed)

    def draw_prior(self, num_samples: int) -> Values:
        trace = under_particles(self.model, self.batch, num_samples)
        return {site["name"]: site["value"] for site in sites(trace, observed=False)}

    def log_model(self, values: Values) -> tuple[Tensor, Tensor]:
        num = len(next(iter(values.values()))) if values else 1
        values = self.rounded(values)
        trace = under_particles(replay(self.model, values), self.batch, num)
        latents, observed = sites(trace, observed=False), self._observed(trace)
        self._refuse_other_latents(latents, values)
        if not observed:
            raise ValueError("the model observes nothing; give one of its sample sites obs=x")

        self._of_model = _parameters(trace)
        self._measure = self._measure or measure_of_sites(observed)
        shape = num, self.num_data
        log_likelihood, log_prior = log_density(observed, shape), log_density(latents, shape)
        return self._inside_support(latents, log_likelihood, log_prior)

    def log_guide(self, values: Values) -> Tensor:
        num = len(next(iter(values.values())))
        values = self.rounded(values)
        trace = under_particles(replay(self.guide, values), self.batch, num)
        latents = [site for site in sites(trace, observed=False) if site["name"] in values]
        for site in latents:
            refuse_without_density(site["fn"], site["name"], site["value"])
        return log_density(latents, (num, self.num_data))

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        owner = owner_of(self.guide)
        of_guide: set[Tensor]
        if isinstance(owner, VAE):  # which shows all of its parameters in both traces
            of_guide = set(owner.posterior.parameters())
        else:
            of_guide = set(self._of_guide)
        of_model = [parameter for parameter in self._of_model if parameter not in of_guide]
        return of_model, [parameter for parameter in self._of_guide if parameter in of_guide]

    def states(self) -> Values:
        (site,) = sites(under_particles(self.guide, self.batch, 1), observed=False)
        values = site["fn"].enumerate_support(expand=False)[:, 0]
        return {site["name"]: values.expand(-1, self.num_data, *site["fn"].event_shape)}

    def fresh(self) -> Traced:
        return Traced(self.model, self.guide, self.batch)

    def eval_mode(self) -> AbstractContextManager[None]:
        return mode(self.model, training=False)

    def select(self, index: Tensor) -> Traced:
        some = tuple(part[index.to(part.device)] for part in self.batch)
        return Traced(self.model, self.guide, some)

    def rounded(self, values: Values) -> Values:
        """Values in the precision of the data: that of the networks that read them. A VAE takes
        them in double near the edge of a support.
        """
        like = self.batch[0]
        if not like.is_floating_point() or isinstance(owner_of(self.model), VAE):
            return values
        return {n: z.to(like.dtype) if z.is_floating_point() else z for n, z in values.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Another process traces for itself."""
        kept = ("model", "guide", "batch", "num_data")
        seen: dict[str, Any] = {"_of_model": [], "_of_guide": [], "_measure": None}
        seen["_guide_supports"] = None
        return {name: self.__dict__[name] for name in kept} | seen

    def _refuse_other_latents(self, latents: list[Any], of_guide: Iterable[str]) -> None:
        ours, theirs = sorted(site["name"] for site in latents), sorted(of_guide)
        if ours != theirs:
            raise ValueError(
                f"model and guide must have the same latent sites; got {ours} and {theirs}; a site "
                "of the data needs obs="
            )

    def _inside_support(
        self, latents: list[Any], log_likelihood: Tensor, log_prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where a guide is wider than the prior, what lies outside has no density."""
        for site in latents:
            support = site["fn"].support
            if not is_real(support) and is_real(self.guide_supports[site["name"]]):
                inside = support.check(site["value"])
                log_prior = torch.where(inside, log_prior, -math.inf)
                log_likelihood = torch.where(inside, log_likelihood, 0.0)
        return log_likelihood, log_prior


def under_particles(function: Callable, batch: Batch, num_samples: int) -> Trace:
    """A trace under an outer plate of particles."""
    with pyro.plate("particles", num_samples, dim=-2):
        return poutine.trace(function).get_trace(*batch)


def replay(function: Callable, values: Values) -> Callable:
    """A Pyro function whose latents have given values."""
    trace = Trace()
    for name, value in values.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return poutine.replay(function, trace=trace)


def sites(trace: Trace, observed: bool) -> list[Any]:
    """The latent, or the observed, sample sites of a trace."""
    samples = [site for site in trace.nodes.values() if site["type"] == "sample"]
    return [s for s in samples if not site_is_subsample(s) and s["is_observed"] == observed]


def refuse_moving_supports(one: list[Any], other: list[Any]) -> None:
    """Raise where the support of a latent depends on another: the bounds in two draws tell."""
    for site, again in zip(one, other, strict=True):
        pairs = zip(_bounds(site), _bounds(again), strict=True)
        if not all(torch.equal(first, second) for first, second in pairs):
            raise ValueError(
                f"the support of site {site['name']!r} depends on another latent, so no one map "
                "from real numbers leads there; draw it on a fixed support and scale it, as in "
                "z = s * Uniform(0, 1)"
            )


def _bounds(site: Any) -> list[Tensor]:
    support = base_of(site["fn"].support)
    found = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return [torch.as_tensor(bound) for bound in found if bound is not None]


def log_density(chosen: list[Any], shape: tuple[int, int]) -> Tensor:
    """The summed log density of some sites, per particle and datum, of shape ``(K, N)``."""
    total: Any = 0.0
    for site in chosen:
        frames = {(f.dim, f.size) for f in site["cond_indep_stack"] if f.vectorized}
        if frames != {(-2, shape[0]), (-1, shape[1])}:
            raise ValueError(
                f"every site must lie in one data plate of size {shape[1]} at dim -1, and in no "
                f"other; site {site['name']!r} does not; put it inside pyro.plate('data', len(x), "
                "dim=-1); of a latent that all data share there is one log p(data), by log_evidence"
            )
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        total = total + scale_and_mask(log_prob, mask=site["mask"])
    return total.expand(shape) if isinstance(total, Tensor) else torch.zeros(shape)


def refuse_without_density(guide: Any, name: str, value: Tensor) -> None:
    """Raise for a guide that knows the density of its own draws only."""
    try:
        guide.log_prob(value)
    except (KeyError, NotImplementedError):
        raise TypeError(
            f"the guide has no density at draws of others: {type(guide).__name__} at site {name!r} "
            "has no inverse, as planar flows have none; start='prior', or take a guide such as "
            "'spline_flow'"
        ) from None


def support_of(fn: Any) -> Constraint:
    """Where a latent lies; one on a circle between -pi and pi, beyond which its density repeats."""
    if isinstance(innermost(fn), VonMises):
        circle = constraints.interval(-math.pi, math.pi)
        return constraints.independent(circle, len(fn.event_shape)) if fn.event_shape else circle
    return fn.support


def _parameters(trace: Trace) -> list[Tensor]:
    shown = [site["value"] for site in trace.nodes.values() if site["type"] == "param"]
    return list(dict.fromkeys(value.unconstrained() for value in shown))


def of_data(observed: list[Any]) -> list[Any]:
    """The observed sites, by name, but for deterministic values and factors."""
    found = [
        site
        for site in observed
        if not site["infer"].get("_deterministic") and not isinstance(site["fn"], Unit)
    ]
    return sorted(found, key=lambda site: site["name"])


def measure_of_sites(observed: list[Any]) -> str:
    """What the observed sites are with respect to."""
    return "; ".join(measure_of(site["fn"]) for site in of_data(observed))
