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
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..guards import own_store, seeded
from .traced import replay

AGREE = 1e-6  # relative, of a density by all draws at once and one by one


@dataclass(frozen=True)
class Site:
    """One latent: the bijection to the real numbers, its shape there, and its own batch shape."""

    name: str
    transform: Any
    shape: torch.Size
    batch_dim: int


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
            try:
                trace = poutine.trace(model).get_trace(*data)
            except NotImplementedError as error:  # such as ImproperUniform's
                raise ValueError(
                    "the evidence needs priors that integrate to 1, else log p(data) is not "
                    f"defined; one of this model cannot be drawn from ({error}); give it a proper "
                    "prior"
                ) from error
            self._refuse(trace)
            with torch.enable_grad():  # which looks for a place with a gradient
                found = initialize_model(model, data)
        initial, self._potential, transforms, _ = found
        self.sites = []
        for name in sorted(initial):
            batch_dim = len(trace.nodes[name]["fn"].batch_shape)
            self.sites.append(Site(name, transforms[name], initial[name].shape, batch_dim))
        self.sizes = [site.shape.numel() for site in self.sites]
        self.nesting = max(
            (frame.dim for node in trace.nodes.values() for frame in _frames(node)),
            key=abs,
            default=0,
        )
        self._at_once: bool | None = None

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
        if self._at_once is None:
            self._at_once = self._can_do_all_at_once(position[:2].detach())
        if self._at_once:
            return self._all_at_once(position)
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
            try:
                u = site.transform(values)
                parts.append(u.reshape(*values.shape[:2], site.shape.numel()))
            except (RuntimeError, ValueError):
                raise ValueError(
                    f"posterior needs draws of {site.name!r} of shape (chain, draw, "
                    f"*{tuple(self._constrained(site, u=None).shape)}); got "
                    f"{tuple(values.shape)}; draw from the posterior of this very model and data"
                ) from None
        return torch.cat(parts, -1)

    def _constrained(self, site: Site, u: Tensor | None) -> Tensor:
        u = torch.zeros(site.shape) if u is None else u
        return site.transform.inv(u)

    def _one(self, u: Tensor) -> Tensor:
        parts = u.split(self.sizes)
        shaped = {s.name: p.reshape(s.shape) for s, p in zip(self.sites, parts, strict=True)}
        return -self._potential(shaped)

    def _can_do_all_at_once(self, position: Tensor) -> bool:
        """Whether the model broadcasts over draws: two of them tell."""
        one_by_one = torch.stack([self._one(u) for u in position])
        try:
            together = self._all_at_once(position)
        except Exception:
            return False  # whatever a model says that does not broadcast
        return together.shape == one_by_one.shape and torch.allclose(
            together, one_by_one, rtol=AGREE, atol=AGREE, equal_nan=True
        )

    def _all_at_once(self, position: Tensor) -> Tensor:
        num, dim = len(position), self.nesting - 1
        values, total = {}, torch.zeros(num, dtype=position.dtype)
        for site, part in zip(self.sites, position.split(self.sizes, -1), strict=True):
            u = part.reshape(num, *site.shape)
            z = site.transform.inv(u)
            log_abs_det = site.transform.inv.log_abs_det_jacobian(u, z)
            total = total + log_abs_det.reshape(num, -1).sum(-1)
            apart = (1,) * (-self.nesting - site.batch_dim)
            values[site.name] = z.reshape(num, *apart, *z.shape[1:])
        with pyro.plate("_draws", num, dim=dim):
            trace = poutine.trace(replay(self.model, values)).get_trace(*self.data)
        trace.compute_log_prob(lambda name, site: not site_is_subsample(site))
        for site in trace.nodes.values():
            if site["type"] == "sample" and "log_prob" in site:
                each = site["log_prob"]
                if each.dim() < -dim or each.shape[dim] != num:
                    raise RuntimeError("a site does not broadcast over draws")
                total = total + each.movedim(dim, 0).reshape(num, -1).sum(-1)
        return total

    def _refuse(self, trace: Any) -> None:
        latents = 0
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            if site_is_subsample(site):
                some, size = site["fn"].subsample_size, site["fn"].size
                if some is not None and some < size:
                    raise ValueError(
                        f"the evidence needs all data: plate {name!r} takes {some} of {size}; drop "
                        "its subsample_size"
                    )
                continue
            latents += 1
        if not latents:
            raise ValueError("the model has no latent sites; its log p(data) is a sum of densities")


def _frames(site: Any) -> list[Any]:
    return [frame for frame in site.get("cond_indep_stack", ()) if frame.vectorized]
