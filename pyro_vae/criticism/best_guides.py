r"""The best guide of each datum, for any Pyro guide.

Each parameter of the distributions at its sites is moved by a number of its own in unconstrained
space, :math:`\theta_n = b(b^{-1}(\theta(x_n)) + \delta_n)`, with :math:`b` the map to what the
parameter may be. So the family stays, and so does what one latent makes of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to

from ..density.problem import Tile
from ..density.traced import Traced
from ..guards import seeded


class Moved(Messenger):
    """Moves the distributions at latent sites inside.

    Arguments:
        offsets: By site and parameter, each of shape ``(N, ...)``; those that are not there yet are
            added, as zeros.
    """

    def __init__(self, offsets: dict[tuple[str, str], Tensor]) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["fn"] = self._moved(msg["fn"], msg["name"], len(msg["fn"].batch_shape))

    def _moved(self, fn: Any, site: str, batch_dim: int) -> Any:
        if isinstance(fn, dist.Independent):
            inner = self._moved(fn.base_dist, site, batch_dim)
            return inner.to_event(fn.reinterpreted_batch_ndims)
        names = [name for name in fn.arg_constraints if name in fn.__dict__]
        try:
            if not fn.has_rsample or not fn.arg_constraints:
                raise NotImplementedError
            own = names or fn.arg_constraints  # such as a log-normal's, which are its base's
            return type(fn)(**{name: self._parameter(fn, site, name, batch_dim) for name in own})
        except (NotImplementedError, TypeError):
            raise TypeError(
                "gaps needs a guide whose draws have a gradient, of distributions whose parameters "
                f"can be moved; got {type(fn).__name__} at site {site!r}; take one such as "
                "Normal, MultivariateNormal, LogNormal, Gamma or Beta"
            ) from None

    def _parameter(self, fn: Any, site: str, name: str, batch_dim: int) -> Tensor:
        map_to = transform_to(fn.arg_constraints[name])
        free = map_to.inv(getattr(fn, name))
        shape = free.shape[batch_dim - 1 :]
        return map_to(free + self.offsets.setdefault((site, name), free.new_zeros(shape)))


def best_guide(tile: Tile, steps: int, learning_rate: float, particles: int) -> Callable[..., None]:
    """The guide of a tile with offsets that raise the ELBO of a datum, or none where they do not.

    Raises:
        TypeError: A distribution of the guide cannot be moved.
    """
    offsets: dict[tuple[str, str], Tensor] = {}

    def moved(*batch: Tensor) -> None:
        with Moved(offsets):
            tile.problem.guide(*batch)

    densities = Traced(tile.problem.model, moved, tile.batch)

    def elbo() -> Tensor:
        return densities.terms(particles).log_weight.mean(0)

    with torch.no_grad():
        before = _compared(elbo)  # the offsets are there from now on, as zeros
    free = [offset.requires_grad_() for offset in offsets.values()]
    optimiser = torch.optim.Adam(free, lr=learning_rate)
    with torch.enable_grad():
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            slopes = torch.autograd.grad(-elbo().sum(), free)
            for offset, slope in zip(free, slopes, strict=True):
                offset.grad = slope
            optimiser.step()

    with torch.no_grad():
        worse = ~(_compared(elbo) > before)
        for offset in free:
            offset[worse] = 0.0
            offset.requires_grad_(False)
    return moved


def _compared(elbo: Callable[[], Tensor]) -> Tensor:
    """The ELBO with many draws, the same ones at each call: two guides are told apart by them."""
    with seeded(0):
        return torch.stack([elbo() for _ in range(16)]).mean(0)
