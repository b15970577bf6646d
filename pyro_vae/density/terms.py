r"""The three log densities behind every statement about log p(x), read off Pyro traces.

For K draws :math:`z_k \sim q(z \mid x)` the importance weights are

.. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x).

The ELBO is their mean (Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114, eq. 3), the
importance-weighted bound the log of the mean of w (Burda et al., 2015,
https://arxiv.org/abs/1509.00519, eq. 8). The traces are of guide and replayed model under one outer
plate of K particles, so nothing here knows the parts of a VAE and nothing can go stale when one is
swapped: any pair of Pyro functions with one data plate will do.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.arrays import as_rows
from ..data.rows import Rows
from ..distributions.supports import is_real
from ..guards import mode, own_store, owner_of, seeded, whole_number
from ..vae import VAE
from .memory import Memory

Pair = tuple[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True)
class Terms:
    """Log densities of K particles for N data, in nats, each of shape ``(K, N)``."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Importance weights, log scale, of shape ``(K, N)``."""
        return self.log_likelihood + self.log_prior - self.log_guide


def elbo(terms: Terms) -> Tensor:
    """The evidence lower bound from `terms`: nats per datum, shape ``(N,)``."""
    return terms.log_weight.mean(0)


def iwae(terms: Terms) -> Tensor:
    """The importance-weighted bound from `terms` of K particles: nats per datum, shape ``(N,)``."""
    return terms.log_weight.logsumexp(0) - math.log(len(terms.log_weight))


def ess(terms: Terms) -> Tensor:
    """The effective sample size (Kish) of the importance weights of `terms`: between 1 and K, shape
    ``(N,)``.
    """
    return torch.exp(2 * terms.log_weight.logsumexp(0) - (2 * terms.log_weight).logsumexp(0))


def terms(vae: VAE | Pair, x: Any, c: Any = None, *, num_samples: int = 64, seed: int = 0) -> Terms:
    """The log densities of `num_samples` draws from the guide for each datum.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate. What a pair closes over is taken as it is: its data are not checked against
            a support.
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
    model, guide, rows, like = entrance(vae, x, c, num_samples)
    with (
        own_store(),
        seeded(seed),
        mode(model, guide, training=False),
        pyro.validation_enabled(False),
    ):
        return trace_terms(model, guide, rows.batch(slice(None), like=like), num_samples)


def entrance(
    vae: VAE | Pair, x: Any, c: Any, num_samples: int
) -> tuple[Callable, Callable, Rows, Tensor | None]:
    """Model, guide, checked rows, and a tensor with the dtype and device they are wanted in."""
    whole_number("num_samples", num_samples, at_least=1)
    if isinstance(vae, VAE):
        return vae.model, vae.guide, vae.check(x, c), vae.reference
    if isinstance(vae, tuple) and len(vae) == 2 and all(callable(part) for part in vae):
        owner = next((owner for owner in map(owner_of, vae) if isinstance(owner, VAE)), None)
        model, guide = vae
        if owner is None:
            rows = copy.copy(as_rows(x))
            rows.c = None if c is None else as_rows(c)
            return model, guide, rows, None
        return model, guide, owner.check(x, c), owner.reference
    raise TypeError(
        f"log p(x) needs a VAE or a pair (model, guide) of Pyro functions; got {type(vae).__name__}"
    )


Batch = tuple[Tensor, ...]  # what model and guide are called with: x, and c if there is one


def trace_terms(
    model: Callable, guide: Callable, batch: Batch, num_samples: int, memory: Memory | None = None
) -> Terms:
    """Trace guide and replayed model under a plate of particles. Draws from torch's current random
    state.

    The model may be replayed in blocks of particles that `memory` allows (at least one particle):
    all draws are made before, so this saves memory and changes nothing else.
    """
    guide_trace = under_particles(guide, batch, num_samples)
    return replayed_terms(model, guide_trace, batch, num_samples, memory)


def enumerated_terms(
    model: Callable, guide: Callable, batch: Batch, memory: Memory | None = None
) -> Terms:
    """Terms of all values of the one discrete latent of a guide, in place of draws."""
    (latent,) = sites(under_particles(guide, batch, 1), observed=False)
    values = latent["fn"].enumerate_support(expand=False)[:, 0]
    values = values.expand(-1, len(batch[0]), *latent["fn"].event_shape)
    drawn = under_particles(poutine.condition(guide, {latent["name"]: values}), batch, len(values))
    for site in drawn.nodes.values():
        site["is_observed"] = False
    return replayed_terms(model, drawn, batch, len(values), memory)


def replayed_terms(
    model: Callable, guide_trace: Trace, batch: Batch, num_samples: int, memory: Memory | None
) -> Terms:
    """The terms of draws that were made: the model is replayed in blocks of particles."""
    rows = len(batch[0])
    blocks, done = [], 0
    while done < num_samples:
        last = num_samples if memory is None else min(done + memory.particles(rows), num_samples)
        with contextlib.nullcontext() if memory is None else memory.watched((last - done) * rows):
            blocks.append(_model_terms(model, guide_trace, batch, done, last))
        done = last
    log_likelihood, log_prior = (torch.cat(block) for block in zip(*blocks, strict=True))
    return Terms(
        log_likelihood, log_prior, log_density(guide_trace, (num_samples, rows), observed=False)
    )


def under_particles(function: Callable, batch: Batch, num_samples: int) -> Trace:
    """A trace under an outer plate of particles."""
    with pyro.plate("particles", num_samples, dim=-2):
        return poutine.trace(function).get_trace(*batch)


def _model_terms(
    model: Callable, guide_trace: Trace, batch: Batch, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) of particles first..last, each of shape ``(last - first, N)``."""
    replayed = poutine.replay(model, trace=_particles(guide_trace, first, last))
    trace = under_particles(replayed, batch, last - first)
    latents, drawn = names(trace, observed=False), names(guide_trace, observed=False)
    if latents != drawn:
        raise ValueError(
            f"model and guide must have the same latent sites; got {sorted(latents)} and "
            f"{sorted(drawn)}"
        )
    if not names(trace, observed=True):
        raise ValueError("the model observes nothing; give one of its sample sites obs=x")
    shape = (last - first, len(batch[0]))
    log_likelihood, log_prior = (
        log_density(trace, shape, observed=observed) for observed in (True, False)
    )
    for name in latents:
        if is_real(guide_trace.nodes[name]["fn"].support) and not is_real(
            trace.nodes[name]["fn"].support
        ):
            inside = trace.nodes[name]["fn"].support.check(
                trace.nodes[name]["value"]
            )  # a guide wider than the prior
            log_prior = torch.where(inside, log_prior, -math.inf)
            log_likelihood = torch.where(inside, log_likelihood, 0.0)
    return log_likelihood, log_prior


def _particles(trace: Trace, first: int, last: int) -> Trace:
    """The same trace with only some of its particles."""
    part = trace.copy()
    for site in sites(part, observed=False):
        part.nodes[site["name"]] = {**site, "value": site["value"][first:last]}
    return part


def sites(trace: Trace, observed: bool) -> list[Any]:
    """The latent, or the observed, sample sites of a trace."""
    samples = [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]
    return [site for site in samples if site["is_observed"] == observed]


def names(trace: Trace, observed: bool) -> set[str]:
    """The names of :func:`sites`."""
    return {site["name"] for site in sites(trace, observed)}


def log_density(trace: Trace, shape: tuple[int, int], observed: bool) -> Tensor:
    """The summed log density of the latent or of the observed sites, per particle and datum.

    Masks count; scales do not: a subsampled plate weighs data for training, and a log density per
    datum has no weight.
    """
    total: Any = 0.0
    for site in sites(trace, observed):
        frames = {(frame.dim, frame.size) for frame in site["cond_indep_stack"] if frame.vectorized}
        if frames != {(-2, shape[0]), (-1, shape[1])}:
            raise ValueError(
                f"every site must lie in one data plate of size {shape[1]} at dim -1, and in no "
                f"other; site {site['name']!r} does not; put it inside pyro.plate('data', len(x), "
                "dim=-1)"
            )
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        total = total + scale_and_mask(log_prob, mask=site["mask"])
    return total.expand(shape) if isinstance(total, Tensor) else torch.zeros(shape)
