r"""The joint density of any Pyro model, as a function of one real vector for all its latents.

Nothing belongs to a datum here: latents may be global, in plates, or both. Those on a constrained
support are reached by the bijections of ``pyro.infer.mcmc``, whose log-determinants count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from ..distributions.supports import base_of, is_real
from ..guards import own_store, seeded
from .at_once import Mapped, total, traced_once
from .target import NEARBY
from .terms import Values
from .traced import replay, sites

AGREE = 1e-6  # relative, of a density by all draws at once and one by one


@dataclass(frozen=True)
class Site:
    """One latent: the bijection to the real numbers, and its shape there."""

    name: str
    transform: Any
    shape: torch.Size


class Joint:
    """log p(data, u) of a Pyro model.

    Arguments:
        model: A Pyro function, or a module.
        data: The arguments that it is called with.

    Raises:
        ValueError: A prior is improper, a plate takes a subsample, or there is no latent.
    """

    def __init__(self, model: Callable[..., Any], data: tuple[Any, ...]) -> None:
        self.model, self.data = model, data
        with own_store(), seeded(0), torch.no_grad(), pyro.validation_enabled(False):
            traced_once(model, data)
            with torch.enable_grad():  # which looks for a place with a gradient
                found = initialize_model(model, data)
        initial, self._potential, transforms, _ = found
        self.sites = [Site(n, transforms[n], initial[n].shape) for n in sorted(initial)]
        self.sizes = [site.shape.numel() for site in self.sites]
        self._mapped = Mapped(self._log_density_of)
        self._is_its_potential: bool | None = None

    def __call__(self, position: Tensor) -> Tensor:
        """Log densities ``(K,)`` of positions ``(K, D)``."""
        with own_store(), torch.no_grad(), pyro.validation_enabled(False):
            return self._log_density(position)

    def score(self, position: Tensor) -> Tensor:
        """The gradient of the log density, ``(K, D)``, at positions ``(K, D)``."""
        with own_store(), torch.enable_grad(), pyro.validation_enabled(False):
            u = position.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._log_density(u).sum(), u)
        return gradient

    def _log_density(self, position: Tensor) -> Tensor:
        if self._is_its_potential is None:
            self._is_its_potential = self._agrees(position[:2].detach())
        if self._is_its_potential:
            return self._together(position)
        return torch.stack([self._one(u) for u in position])

    def unconstrain(self, draws: Mapping[str, np.ndarray]) -> Tensor:
        """Positions ``(chain, draw, D)`` of draws ``(chain, draw, ...)`` by site.

        Raises:
            ValueError: The sites are others than the model's, or of another shape.
        """
        names = [site.name for site in self.sites]
        if missing := [name for name in names if name not in draws]:
            raise ValueError(
                f"posterior needs draws of all latents of the model, {names}; {missing} are not "
                f"among {sorted(draws)}; draw from the posterior of this very model"
            )
        parts = []
        for site in self.sites:
            values = torch.as_tensor(np.array(draws[site.name])).to(torch.get_default_dtype())
            own = self._constrained(site, u=None).shape
            needs = f"posterior needs draws of {site.name!r} of shape {_shape(own)}"
            if values.shape[1:] == own:
                raise ValueError(
                    f"{needs}; got {tuple(values.shape)}, without chains; of Pyro's MCMC ask "
                    "get_samples(group_by_chain=True), of one chain give draws[None]"
                )
            try:
                u = site.transform(values)
                parts.append(u.reshape(*values.shape[:2], site.shape.numel()))
            except (RuntimeError, ValueError):
                raise ValueError(
                    f"{needs}; got {tuple(values.shape)}; draw from the posterior of this very "
                    "model and data"
                ) from None
        return torch.cat(parts, -1)

    def at_edge(self, position: Tensor) -> Tensor:
        """As of :meth:`.Target.at_edge`, for positions ``(K, D)``: ``(K,)``."""
        found = torch.zeros(len(position), dtype=torch.bool)
        for site, u in zip(self.sites, position.split(self.sizes, -1), strict=True):
            support = site.transform.domain
            if is_real(support):
                continue
            u = u.reshape(len(u), *site.shape)
            same = (site.transform.inv(u) == site.transform.inv(u + NEARBY)).reshape(len(u), -1)
            found |= same.any(-1) if base_of(support).event_dim == 0 else same.all(-1)
        return found

    def _constrained(self, site: Site, u: Tensor | None) -> Tensor:
        u = torch.zeros(site.shape) if u is None else u
        return site.transform.inv(u)

    def _one(self, u: Tensor) -> Tensor:
        parts = u.split(self.sizes)
        shaped = {s.name: p.reshape(s.shape) for s, p in zip(self.sites, parts, strict=True)}
        return -self._potential(shaped)

    def _agrees(self, position: Tensor) -> bool:
        """Whether it is the density of Pyro's own potential: of two draws."""
        one_by_one = torch.stack([self._one(u) for u in position])
        try:
            together = self._together(position)
        except Exception:  # whatever a model says whose latents are enumerated
            return False
        return torch.allclose(together, one_by_one, rtol=AGREE, atol=AGREE, equal_nan=True)

    def _together(self, position: Tensor) -> Tensor:
        parts = zip(self.sites, position.split(self.sizes, -1), strict=True)
        return self._mapped({s.name: u.reshape(len(position), *s.shape) for s, u in parts})[0]

    def _log_density_of(self, u: Values) -> tuple[Tensor, ...]:
        """Of one draw on the real numbers."""
        values, log_abs_det = {}, torch.zeros(())
        for site in self.sites:
            map_to = site.transform.inv
            values[site.name] = z = map_to(u[site.name])
            log_abs_det = log_abs_det + map_to.log_abs_det_jacobian(u[site.name], z).sum()
        trace = poutine.trace(replay(self.model, values)).get_trace(*self.data)
        both = sites(trace, observed=False) + sites(trace, observed=True)
        return (total(both) + log_abs_det,)


def _shape(own: torch.Size) -> str:
    return f"({', '.join(['chain', 'draw', *map(str, own)])})"
