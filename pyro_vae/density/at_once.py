"""Pyro functions of all data: their densities and draws, for many draws at once.

Densities are mapped over draws by ``torch.func.vmap``; draws are made under an outer plate. What
cannot be done so, such as a branch on a value, is done one by one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..distributions.supports import innermost
from ..guards import seeded
from .terms import Values
from .traced import replay, sites

CLOSE = 1e-4  # relative, of the density of the same draws in two ways


class Mapped:
    """A function of one draw, for all draws.

    Arguments:
        function: Of latents by name, each of its own shape; it gives tensors.
    """

    def __init__(self, function: Callable[[Values], tuple[Tensor, ...]]) -> None:
        self.function = function
        self.one_by_one = False

    def __call__(self, draws: Values) -> tuple[Tensor, ...]:
        """What it gives for latents of shape ``(K, *Z)``: tensors of shape ``(K, ...)``.

        They are NaN where a matrix has no factor, as a covariance whose entries overflow has none.

        Raises:
            LinAlgError: It has none for any draw.
        """
        if not self.one_by_one:
            try:
                return torch.func.vmap(self.function)(draws)
            except torch.linalg.LinAlgError:  # of some draws, which others may not share
                pass
            except Exception:  # whatever a model says that cannot be mapped
                self.one_by_one = True
        num = len(next(iter(draws.values())))
        found: dict[int, tuple[Tensor, ...]] = {}
        for k in range(num):
            try:
                found[k] = self.function({name: z[k] for name, z in draws.items()})
            except torch.linalg.LinAlgError:
                if k == num - 1 and not found:
                    raise
        nothing = tuple(torch.full_like(part, math.nan) for part in next(iter(found.values())))
        each = [found.get(k, nothing) for k in range(num)]
        return tuple(torch.stack(part) for part in zip(*each, strict=True))


@dataclass(frozen=True)
class Site:
    """One latent of a Pyro function: the shape of a draw; whether it follows from others; whether
    it is an auxiliary one of an AutoGuide.
    """

    shape: torch.Size
    follows: bool
    is_auxiliary: bool


class Sampler:
    """Draws of the latents of a Pyro function of all data.

    Arguments:
        function: A model or a guide.
        data: What it is called with.
    """

    def __init__(self, function: Callable[..., Any], data: tuple[Any, ...]) -> None:
        self.function, self.data = function, data
        with seeded(0), torch.no_grad():
            found = sites(poutine.trace(function).get_trace(*data), observed=False)
        self.sites = {
            site["name"]: Site(
                site["value"].shape,
                isinstance(site["fn"], Delta),
                bool(site["infer"].get("is_auxiliary")),
            )
            for site in found
        }
        self.outside = -1 - max((len(site["fn"].batch_shape) for site in found), default=0)
        self.together: bool | None = None  # whether it broadcasts, once that is known
        self._mapped = Mapped(self._log_density)

    def __call__(self, num: int) -> tuple[Values, Tensor]:
        """So many draws of all sites, ``(num, *Z)``, and their log densities ``(num,)``."""
        if self.together is not False:
            try:
                values, log_density = self._under_a_plate(num)
                if self.together is None:
                    self.together = self._agrees(values, log_density)
                if self.together:
                    return values, log_density
            except Exception:  # whatever a function says that does not broadcast
                self.together = False
        each = [self._one() for _ in range(num)]
        values = {name: torch.stack([one[name] for one, _ in each]) for name in self.sites}
        return values, torch.stack([log_density for _, log_density in each])

    def _one(self) -> tuple[Values, Tensor]:
        """One draw, scored at once: some transforms know the density of their last draw only."""
        found = sites(poutine.trace(self.function).get_trace(*self.data), observed=False)
        return {site["name"]: site["value"] for site in found}, total(found)

    def log_density(self, values: Values) -> Tensor:
        """Log densities ``(K,)`` of draws ``(K, *Z)``; of those that follow from others, none."""
        free = {name: z for name, z in values.items() if not self.sites[name].follows}
        return self._mapped(free)[0]

    def _log_density(self, values: Values) -> tuple[Tensor, ...]:
        trace = poutine.trace(replay(self.function, values)).get_trace(*self.data)
        found = sites(trace, observed=False)
        for site in found:
            if site["name"] not in values and not self.sites[site["name"]].follows:
                raise KeyError(site["name"])  # it would be drawn anew
        return (total(found),)

    def _agrees(self, values: Values, log_density: Tensor) -> bool:
        """Whether draws under a plate are as likely one by one."""
        one_by_one = self.log_density(values)
        return torch.allclose(log_density, one_by_one, rtol=CLOSE, atol=CLOSE, equal_nan=True)

    def _under_a_plate(self, num: int) -> tuple[Values, Tensor]:
        with pyro.plate("_draws", num, dim=self.outside):
            trace = poutine.trace(self.function).get_trace(*self.data)
        values, log_density = {}, torch.zeros(num)
        for site in sites(trace, observed=False):
            name = site["name"]
            values[name] = site["value"].reshape(num, *self.sites[name].shape)
            each = _log_prob(site)
            if each.shape[self.outside] != num:
                raise RuntimeError("a site does not broadcast over draws")
            log_density = log_density + each.movedim(self.outside, 0).reshape(num, -1).sum(-1)
        return values, log_density


def total(chosen: Any) -> Tensor:
    """The log density of some sites together, a scalar; masks and scales count."""
    return sum((_log_prob(site).sum() for site in chosen), torch.zeros(()))


def _log_prob(site: Any) -> Tensor:
    found = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return torch.as_tensor(scale_and_mask(found, scale=site["scale"], mask=site["mask"]))


def traced_once(model: Callable[..., Any], data: tuple[Any, ...]) -> Trace:
    """A model of all data, with latents of its own.

    Raises:
        ValueError: A prior is improper, masked or scaled, a plate takes a subsample, an observed
            value does not fit its distribution or is scaled, nothing is observed of the data, or
            there is no latent.
    """
    _refuse_other_arguments(model, data)
    try:
        with seeded(0), torch.no_grad():
            trace = poutine.trace(model).get_trace(*data)
            _refuse_what_is_no_density(trace)
    except NotImplementedError as error:  # such as ImproperUniform's
        raise ValueError(
            "the evidence needs priors that integrate to 1, else log p(data) is not defined; one "
            f"of this model cannot be drawn from ({error}); give it a proper prior"
        ) from error

    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site_is_subsample(site):
            some, size = site["fn"].subsample_size, site["fn"].size
            if some is not None and some < size:
                raise ValueError(
                    f"the evidence needs all data: plate {name!r} takes {some} of {size}; drop its "
                    "subsample_size"
                )
    if not sites(trace, observed=False):
        raise ValueError("the model has no latent sites; its log p(data) is a sum of densities")
    _refuse_what_does_not_score_the_data(trace, data)
    return trace


def _refuse_other_arguments(model: Callable[..., Any], data: tuple[Any, ...]) -> None:
    try:
        inspect.signature(model, follow_wrapped=False).bind(*data)
    except TypeError as error:
        raise TypeError(
            f"the model needs other arguments than it is given: {error}; got {len(data)}; give "
            "all as one tuple, x=(first, second)"
        ) from None
    except ValueError:  # a callable without a signature
        return


def _refuse_what_is_no_density(trace: Trace) -> None:
    for site in sites(trace, observed=False):
        if _is_masked(site) or site["scale"] != 1:
            raise ValueError(
                "the evidence needs priors that integrate to 1, else log p(data) is not defined; "
                f"that of site {site['name']!r} is masked or scaled; leave that out"
            )
    for site in sites(trace, observed=True):
        observed = torch.as_tensor(site["value"])
        if observed.isnan().any() and _log_prob(site).isnan().any():
            raise ValueError(
                f"site {site['name']!r} has NaN among its observed values; leave these data out, "
                "or mask them by poutine.mask with numbers in their place"
            )
        shape, value = site["fn"].batch_shape + site["fn"].event_shape, observed.shape
        if torch.broadcast_shapes(value, shape) not in (value, shape):
            raise ValueError(
                f"site {site['name']!r} needs observed values of the shape of its distribution, "
                f"{tuple(shape)}; got {tuple(value)}, which would be counted again and again; "
                "reshape the data"
            )


def _refuse_what_does_not_score_the_data(trace: Trace, data: tuple[Any, ...]) -> None:
    observed = sites(trace, observed=True)
    if data and not any(_log_prob(site).numel() for site in observed):
        raise ValueError(
            f"the model takes {len(data)} arguments and observes none of them, so that log p(data) "
            "would be 0; give one of its sample sites obs=, or make it a pyro.factor"
        )
    for site in observed:
        if bool((torch.as_tensor(site["scale"]) != 1).any()):
            raise ValueError(
                f"the evidence needs likelihoods that are densities; that of site {site['name']!r} "
                f"is scaled by {site['scale']}; leave poutine.scale out, or, if log p(data) of "
                "that power is wanted, write it as a pyro.factor"
            )


def _is_masked(site: Any) -> bool:
    """Whether some of a density is taken as 1, by a handler or by the distribution itself."""
    mask, inner = site["mask"], innermost(site["fn"])
    if mask is not None and not bool(torch.as_tensor(mask).all()):
        return True
    if not isinstance(inner, MaskedDistribution):
        return False
    value = site["value"]
    return not torch.equal(inner.log_prob(value), inner.base_dist.log_prob(value))
