r"""Latents in units of their own prior, where the scale of that is a latent too.

A hierarchy written as :math:`\theta \sim N(\mu, \tau)` has a posterior that narrows to a neck where
:math:`\tau` is small. No normal or Student-t distribution fits both the neck and the rest, and
chains of HMC hardly come into it. Of :math:`v = (\theta - \mu) / \tau` there is no neck
(Papaspiliopoulos et al., 2007, https://doi.org/10.1214/088342307000000014; Betancourt & Girolami,
2015, https://arxiv.org/abs/1312.0906). Where each :math:`\theta` has many data it is the other way
round, so proposals are needed on both sides of this map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import ExpandedDistribution, constraints
from pyro.distributions.transforms import LowerCholeskyAffine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import AffineTransform, Transform

from ..distributions.supports import innermost
from ..guards import seeded
from .at_once import Mapped
from .target import Target
from .terms import Values
from .traced import sites

ELEMENTS = (dist.Normal, dist.StudentT, dist.Laplace, dist.Cauchy, dist.LogNormal)


class NonCentred(Transform):
    """The bijection from vectors in units of the prior, v, to unconstrained ones, u.

    Both have the shape ``(*, 1, D)``.

    Arguments:
        target: The joint density of all data, on u.
        model: The Pyro function that it is of.
        data: What the model is called with.
        names: The latents that are in units of their prior; the others stay as they are.
        dtypes: The precision that the model has each latent in.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(
        self,
        target: Target,
        model: Callable[..., Any],
        data: tuple[Any, ...],
        names: list[str],
        dtypes: dict[str, torch.dtype],
    ) -> None:
        super().__init__()
        self.latents, self.sizes = target.latents, target.sizes
        self.model, self.data, self.names, self.dtypes = model, data, names, dtypes
        self._last = torch.zeros(()), torch.zeros(())  # positions, and the logarithms there
        self._from_units = Mapped(lambda parts: self._run(parts, from_units=True))
        self._to_units = Mapped(lambda parts: self._run(parts, from_units=False))

    @classmethod
    def of(
        cls, target: Target, model: Callable[..., Any], data: tuple[Any, ...]
    ) -> NonCentred | None:
        """That of a model; None, if no scale of a prior depends on other latents."""
        with seeded(0), torch.no_grad():
            one, other = (
                sites(poutine.trace(model).get_trace(*data), observed=False) for _ in range(2)
            )
        names = [s["name"] for s, again in zip(one, other, strict=True) if _scale_moves(s, again)]
        dtypes = {site["name"]: site["value"].dtype for site in one}
        return cls(target, model, data, names, dtypes) if names else None

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the logarithms of the scales, of shape ``(*, 1)``."""
        last, log_scale = self._last
        return log_scale if y is last else self._moved(y, self._to_units)[1]

    def _call(self, x: Tensor) -> Tensor:
        self._last = self._moved(x, self._from_units)
        return self._last[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self._moved(y, self._to_units)[0]

    def _moved(self, position: Tensor, way: Mapped) -> tuple[Tensor, Tensor]:
        """Positions on the other side, and the sums of the logarithms of the scales."""
        rows = position.reshape(-1, position.shape[-1])
        names = [latent.name for latent in self.latents]
        moved, log_scale = way(dict(zip(names, rows.split(self.sizes, -1), strict=True)))
        return moved.reshape(position.shape), log_scale.reshape(position.shape[:-1]).to(position)

    def _run(self, parts: Values, *, from_units: bool) -> tuple[Tensor, Tensor]:
        """The same of one draw, by a run of the model."""
        moving = _Moving(self, parts, from_units)
        with moving:
            self.model(*self.data)
        like = parts[self.latents[0].name]
        flat = [moving.found[latent.name].flatten().to(like) for latent in self.latents]
        return torch.cat(flat), moving.log_scale


class _Moving(Messenger):
    """Each latent has a given value, from one side of the map, and is written down as it is on the
    other.
    """

    def __init__(self, way: NonCentred, parts: Values, from_units: bool) -> None:
        super().__init__()
        self.latents = {latent.name: latent for latent in way.latents}
        self.way, self.parts, self.from_units = way, parts, from_units
        self.found: Values = {}
        self.log_scale = torch.zeros(())

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.latents:
            return
        latent = self.latents[name]
        given = u = other = self.parts[name].reshape(latent.shape)
        units = _units(msg["fn"]) if name in self.way.names else None
        if units is not None:
            u = units(given) if self.from_units else given
            other = u if self.from_units else units.inv(given)
            self.log_scale = self.log_scale + units.log_abs_det_jacobian(given, given).sum()
        self.found[name] = other
        msg["value"] = latent.bijection(u).to(self.way.dtypes[name])
        msg["done"] = True


def _units(fn: Any) -> Transform | None:
    """From units of a prior to the values themselves, on the real numbers; None of a prior that
    has none.
    """
    prior = innermost(fn)
    while isinstance(prior, ExpandedDistribution):
        prior = innermost(prior.base_dist)
    if isinstance(prior, ELEMENTS):
        return AffineTransform(prior.loc, prior.scale)
    if isinstance(prior, dist.MultivariateNormal):
        return LowerCholeskyAffine(prior.loc, prior.scale_tril)
    return None


def _scale_moves(site: Any, again: Any) -> bool:
    """Whether the scale of a prior is another in another draw of the model."""
    units = _units(site["fn"]), _units(again["fn"])
    if units[0] is None or units[1] is None:
        return False
    zero = torch.zeros(site["fn"].shape())
    one, other = (each.log_abs_det_jacobian(zero, zero) for each in units if each is not None)
    return not torch.equal(one, other)
