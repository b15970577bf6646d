r"""What MCMC runs on: the joint density of data and latents, as a function of real vectors.

One vector u belongs to each datum. Latents on a constrained support are reached by a bijection,
whose log-determinant counts: :math:`\log p(x, z(u)) + \log |dz / du|`. Any prior, likelihood,
condition or missing cell is in it, since it asks :class:`.Densities`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Transform

from ..distributions.supports import base_of, bijection_to, is_real
from .memory import tile_rows
from .terms import Densities, Latent, Values

NEARBY = 1 / 128  # between positions: within 64 roundings of 1 they have the same value


@dataclass(frozen=True)
class Coordinates:
    """One latent site, the bijection onto its support, and its shape in unconstrained space."""

    name: str
    bijection: Transform
    shape: torch.Size
    is_real: bool
    of_elements: bool  # whether each element of it has a support of its own


class Target:
    r"""The joint density of the latents of a batch, on unconstrained vectors.

    Arguments:
        densities: What model and guide say of the batch.
        through: A bijection that u passes through before everything else: that of a flow guide, or
            from latents in units of their prior.

    Raises:
        TypeError: A latent is discrete, or missing cells are drawn afresh.
        ValueError: The support of a latent depends on another.
    """

    def __init__(self, densities: Densities, through: Transform | None = None) -> None:
        if densities.estimates:
            raise TypeError(
                "MCMC, annealing, bridges and tolerances need p(x, z), and this VAE's "
                "missingness draws missing cells afresh; use 'self_masking' with a likelihood that "
                "is normal or of few values; or log_evidence and expect without a tolerance"
            )
        self.densities, self.through = densities, through
        self.latents = [_coordinates(*item) for item in densities.latents.items()]
        self.sizes = [latent.shape.numel() for latent in self.latents]
        self.size = sum(self.sizes)

    def __call__(self, position: Tensor) -> Tensor:
        """The log density, in nats, of shape ``(K, N)`` for positions of shape ``(K, N, size)``."""
        prior, likelihood = self.log_model(position)
        return prior + likelihood

    def log_model(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """log p(u) and log p(x | u), each of shape ``(K, N)``."""
        values, log_abs_det = self._bent(position)
        log_likelihood, log_prior = self.densities.log_model(values)
        return log_prior.to(position) + log_abs_det, log_likelihood.to(position)

    def log_guide(self, position: Tensor) -> Tensor:
        """log q(u | x), of shape ``(K, N)``.

        Raises:
            TypeError: The guide knows the density of its own draws only.
        """
        values, log_abs_det = self._bent(position)
        return self.densities.log_guide(values).to(position) + log_abs_det

    def draw_guide(self, num: int) -> Tensor:
        """Positions ``(num, N, size)`` drawn from the guide."""
        return self.unconstrain(self.densities.draw(num).values)

    def draw_prior(self, num: int) -> Tensor:
        """Positions ``(num, N, size)`` drawn from the prior, in blocks: a model may decode them."""
        rows = tile_rows(self.densities.batch[0].device)
        step = max(1, rows // self.densities.num_data)
        blocks = [min(step, num - done) for done in range(0, num, step)]
        return torch.cat([self.unconstrain(self.densities.draw_prior(size)) for size in blocks])

    def constrain(self, position: Tensor) -> Values:
        """The latents by name, each ``(*, N, *Z)``, for positions of shape ``(*, N, size)``."""
        return self._bent(position)[0]

    def log_abs_det(self, position: Tensor) -> Tensor:
        """log |dz / du| of the way from positions to latents, of shape ``(*, N)``."""
        return self._bent(position)[1]

    def unconstrain(self, values: Values) -> Tensor:
        """The positions of shape ``(*, N, size)`` of latents by name."""
        flat = []
        for latent in self.latents:
            u = latent.bijection.inv(values[latent.name])
            flat.append(u.reshape(*u.shape[: u.dim() - len(latent.shape)], latent.shape.numel()))
        u = torch.cat(flat, -1).to(self.densities.batch[0].dtype)
        return u if self.through is None else self.through.inv(u)

    def at_edge(self, position: Tensor) -> Tensor:
        """Where a latent is as near to the edge of its support as numbers can tell: it has the same
        value a little further out, ``(K, N)``.
        """
        found = torch.zeros(position.shape[:-1], dtype=torch.bool, device=position.device)
        if all(latent.is_real for latent in self.latents):
            return found
        both = position, position + NEARBY
        here, there = (self.densities.rounded(self.constrain(each)) for each in both)
        for latent in self.latents:
            if latent.is_real:
                continue
            same = (here[latent.name] == there[latent.name]).reshape(*found.shape, -1)
            found |= same.any(-1) if latent.of_elements else same.all(-1)
        return found

    def select(self, index: Tensor) -> Target:
        """The same for some of the data."""
        return Target(self.densities.select(index), self.through)

    def _bent(self, position: Tensor) -> tuple[Values, Tensor]:
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
            slope = latent.bijection.log_abs_det_jacobian(part, z)
            log_abs_det = log_abs_det + slope.to(position)
        return values, log_abs_det


def _coordinates(name: str, latent: Latent) -> Coordinates:
    if latent.support.is_discrete:
        raise TypeError(
            f"MCMC needs continuous latents; site {name!r} is discrete; log_evidence sums over it "
            "exactly"
        )
    bijection = bijection_to(latent.support)
    shape = torch.Size(bijection.inverse_shape(latent.event_shape))
    of_elements = base_of(latent.support).event_dim == 0
    return Coordinates(name, bijection, shape, is_real(latent.support), of_elements)
