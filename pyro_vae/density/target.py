"""What MCMC runs on: the joint density of data and latents as a function of one real vector for
each datum.

Read off traces of the Pyro model, so any prior, likelihood, condition or missing cell is in it, and
any Pyro function with one data plate serves. Latents on a constrained support are reached by a
bijection, whose log-determinant counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Transform

from ..distributions.supports import base_of, bijection_to, is_real
from ..guards import seeded
from .memory import TILE_ROWS
from .terms import Batch, log_density, sites, under_particles


@dataclass(frozen=True)
class _Latent:
    """One latent site: its name, the bijection onto its support, and its shape in unconstrained
    space.
    """

    name: str
    bijection: Transform
    shape: torch.Size
    is_real: bool


class Target:
    r"""log p(x, z) of latents given data, on unconstrained vectors u: :math:`\log p(x, z(u)) + \log
    |dz / du|`.

    Arguments:
        model: A Pyro function of the batch whose sites all lie in one data plate.
        batch: What it is called with: x, and c if there is one.
        through: A bijection that u passes through before everything else: that of a flow guide.

    Raises:
        TypeError: A latent is discrete.
        ValueError: The support of a latent depends on another.
    """

    def __init__(self, model: Callable, batch: Batch, through: Transform | None = None) -> None:
        self.model, self.batch, self.through = model, batch, through
        self.latents = [
            _latent(site) for site in sites(under_particles(model, batch, 1), observed=False)
        ]
        if len(self.latents) > 1:
            self._refuse_moving_supports()
        self.sizes = [latent.shape.numel() for latent in self.latents]
        self.size = sum(self.sizes)

    def _refuse_moving_supports(self) -> None:
        with seeded(0):
            latents = sites(under_particles(self.model, self.batch, 2), observed=False)
        for site in latents:
            support = base_of(site["fn"].support)
            for bound in (
                getattr(support, "lower_bound", None),
                getattr(support, "upper_bound", None),
            ):
                if not isinstance(bound, Tensor) or bound.dim() < 2 or len(bound) != 2:
                    continue  # the same for all
                if not torch.equal(bound[0], bound[1]):
                    raise ValueError(
                        f"the support of site {site['name']!r} depends on another latent, so no "
                        "one map from real numbers leads there; draw it on a fixed support and "
                        "scale it, as in z = s * Uniform(0, 1)"
                    )

    def __call__(self, position: Tensor) -> Tensor:
        """The log density, in nats, of shape ``(K, N)`` for positions of shape ``(K, N, size)``."""
        latent, rest = self.densities(self.model, position)
        return latent + rest

    def densities(self, function: Callable, position: Tensor) -> tuple[Tensor, Tensor]:
        """What a Pyro function of the batch, the model or its guide, says of these latents.

        Returns:
            The log density of the latents in unconstrained space, and that of the observed sites,
            each of shape ``(K, N)``, for positions of shape ``(K, N, size)``: of the model, log
            p(u) and log p(x | u).
        """
        values, log_abs_det = self._bent(position)
        conditioned = poutine.condition(function, values)
        trace = under_particles(conditioned, self.batch, len(position))
        if function is not self.model:
            self._refuse_without_density(trace)
        for latent in self.latents:
            trace.nodes[latent.name]["is_observed"] = False
        shape = len(position), position.shape[1]
        own, rest = (
            log_density(trace, shape, observed=observed).to(position) for observed in (False, True)
        )
        return own + log_abs_det, rest

    def _refuse_without_density(self, trace: Trace) -> None:
        for latent in self.latents:
            site = trace.nodes[latent.name]
            try:
                site["fn"].log_prob(site["value"])
            except (KeyError, NotImplementedError):
                raise TypeError(
                    f"the guide has no density at draws of others: {type(site['fn']).__name__} at "
                    f"site {latent.name!r} has no inverse, as planar flows have none; "
                    "start='prior', or take a guide such as 'spline_flow'"
                ) from None

    def draw(self, function: Callable, num: int) -> Tensor:
        """Positions ``(num, N, size)`` drawn from a Pyro function's latents: from the prior, if it
        is the model.
        """
        if function is self.model:  # which decodes what it draws
            step = max(1, TILE_ROWS // len(self.batch[0]))
            return torch.cat(
                [self._draw(function, min(step, num - done)) for done in range(0, num, step)]
            )
        return self._draw(function, num)

    def _draw(self, function: Callable, num: int) -> Tensor:
        trace = under_particles(function, self.batch, num)
        return self.unconstrain(
            {latent.name: trace.nodes[latent.name]["value"] for latent in self.latents}
        )

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """The latents by name, each of shape ``(*, N, *Z)``, for positions of shape ``(*, N,
        size)``.
        """
        return self._bent(position)[0]

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """The positions of shape ``(*, N, size)`` of latents by name."""
        flat = []
        for latent in self.latents:
            u = latent.bijection.inv(values[latent.name])
            flat.append(u.reshape(*u.shape[: u.dim() - len(latent.shape)], latent.shape.numel()))
        u = torch.cat(flat, -1).to(self.batch[0].dtype)
        return u if self.through is None else self.through.inv(u)

    def _bent(self, position: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The latents by name, and the log-determinant of the way there, of shape ``(*, N)``."""
        u, log_abs_det = position, torch.zeros_like(position[..., 0])
        if self.through is not None:
            u = self.through(position)
            log_abs_det = self.through.log_abs_det_jacobian(position, u)
        values = {}
        for latent, part in zip(self.latents, u.split(self.sizes, -1), strict=True):
            part = part.reshape(part.shape[:-1] + latent.shape)
            if latent.is_real:
                values[latent.name] = part
                continue
            part = part.double()  # the edge of a support is soon out of reach of single precision
            values[latent.name] = z = latent.bijection(part)
            log_abs_det = log_abs_det + latent.bijection.log_abs_det_jacobian(part, z).to(position)
        return values, log_abs_det


def _latent(site: dict) -> _Latent:
    support, event = site["fn"].support, site["fn"].event_shape
    if support.is_discrete:
        raise TypeError(
            f"MCMC needs continuous latents; site {site['name']!r} is discrete; log_evidence sums "
            "over it exactly"
        )
    bijection = bijection_to(support)
    shape = torch.Size(bijection.inverse_shape(event))
    return _Latent(site["name"], bijection, shape, is_real(support))
