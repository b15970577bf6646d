"""Densities of a VAE, from its three distributions and without traces.

They equal those of :mod:`.traced` draw for draw, and cost a fraction of the time where networks are
small. Nothing here looks at a value: whether cells are missing is decided before, at the door. So
torch can trace it, as ``torch.compile(fullgraph=True)`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from ..assembly.classified import SITES
from ..distributions.joint import enumerable
from ..distributions.univariate import Normal
from ..guards import mode, own_store, seeded
from ..vae import VAE
from .identity import measure_of
from .terms import Batch, Densities, Drawn, Latent, Values
from .traced import refuse_without_density, sites


class Direct(Densities):
    """The densities of a VAE for one batch.

    Arguments:
        vae: The VAE.
        batch: x, NaN where missing, and c if there is one.
        missing: Whether cells of x may be missing.
    """

    def __init__(self, vae: VAE, batch: Batch, *, missing: bool) -> None:
        super().__init__(batch)
        self.vae, self.missing = vae, missing
        self.x = batch[0]
        self.c = vae.encode_condition(self.num_data, *batch[1:])

        self.bijection = vae.bijection
        self._unconstrained: TorchDistribution | None = None
        self._prior: TorchDistribution | None = None
        self._has_gradient = False  # whether these two were made where gradients are on

    @property
    def unconstrained_guide(self) -> TorchDistribution:
        """q(u | x); u is z for real-valued and for discrete latents. The encoder runs once."""
        self._forget_without_gradient()
        if self._unconstrained is None:  # no cached_property: its lock is not for torch.compile
            guide = self.vae.unconstrained_guide_of(self.x, self.c, missing=self.missing)
            self._unconstrained = enumerable(guide)
        return self._unconstrained

    @property
    def guide(self) -> TorchDistribution:
        """q(z | x), on the support of the prior."""
        guide = self.unconstrained_guide
        return guide if self.bijection is None else self.vae.push_forward(guide)

    @property
    def prior(self) -> TorchDistribution:
        """p(z), of batch shape ``()``, or ``(N,)`` where it sees c."""
        self._forget_without_gradient()
        if self._prior is None:
            self._prior = self.vae.prior_of(self.c)
        return self._prior

    def _forget_without_gradient(self) -> None:
        """What was kept under ``no_grad`` is made again where gradients are on."""
        if torch.is_grad_enabled() and not self._has_gradient:
            self._unconstrained = None
            self._prior = None
            self._has_gradient = True

    @property
    def latents(self) -> dict[str, Latent]:
        return {"z": Latent(self.prior.support, self.prior.event_shape)}

    @property
    def measure(self) -> str:
        with seeded(0), torch.no_grad():
            z = self.fresh().draw_prior(1)["z"]
            return measure_of(self.vae.observation_of(z, self.c))

    @property
    def is_discrete(self) -> bool:
        return self.vae.is_discrete

    @property
    def estimates(self) -> bool:
        return self.vae.draws_missing

    def draw(self, num_samples: int) -> Drawn:
        guide = self.unconstrained_guide
        # one draw needs no copies, and no dimension until it is made
        u, log_guide = _draw(guide, (num_samples,) if num_samples > 1 else ())
        if num_samples == 1:
            u, log_guide = u[None], log_guide[None]

        fixed = () if guide.has_rsample else ("z",)
        if self.bijection is None:
            return Drawn({"z": u}, log_guide, self.log_guide, fixed)
        u = u.double()  # the edge of a support is soon out of reach of single precision
        z = self.bijection(u)
        log_guide = log_guide - self.bijection.log_abs_det_jacobian(u, z)
        return Drawn({"z": z}, log_guide, self.log_guide, fixed)

    def draw_prior(self, num_samples: int) -> Values:
        prior = self.prior.expand(torch.Size([num_samples, self.num_data]))
        return {"z": prior.rsample() if prior.has_rsample else prior.sample()}

    def log_model(self, values: Values) -> tuple[Tensor, Tensor]:
        z = values["z"]
        x = self.x
        vae = self.vae
        prior = self.prior  # before the decoder, as in a trace: with dropout the order counts
        observation = vae.observation_of(z, self.c, like=x)
        observed, x = vae.observed_by(observation, x, missing=self.missing)
        return observed.log_prob(x), prior.log_prob(z)

    def log_guide(self, values: Values) -> Tensor:
        z = values["z"]
        guide = self.unconstrained_guide.expand(z.shape[:2])
        if self.bijection is None:
            return self._log_guide(guide, z)
        u = self.bijection.inv(z)
        slope = self.bijection.log_abs_det_jacobian(u, z)
        return self._log_guide(guide, u.to(self.x.dtype)) - slope

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        of_guide: set[Tensor] = set(self.vae.posterior.parameters())
        trained: list[Tensor] = [p for p in self.vae.parameters() if p.requires_grad]
        of_model = [parameter for parameter in trained if parameter not in of_guide]
        return of_model, [parameter for parameter in trained if parameter in of_guide]

    def states(self) -> Values:
        values = self.unconstrained_guide.enumerate_support(expand=False)
        return {"z": values.expand(-1, self.num_data, *self.unconstrained_guide.event_shape)}

    def fresh(self) -> Direct:
        return Direct(self.vae, self.batch, missing=self.missing)

    def eval_mode(self) -> AbstractContextManager[None]:
        return mode(self.vae, training=False)

    def select(self, index: Tensor) -> Direct:
        some = tuple(part[index.to(part.device)] for part in self.batch)
        return Direct(self.vae, some, missing=self.missing)

    def _log_guide(self, guide: TorchDistribution, u: Tensor) -> Tensor:
        if not self.vae.posterior.scores_any_value:
            refuse_without_density(guide, "z", u)
        return guide.log_prob(u)

    def __getstate__(self) -> dict[str, Any]:
        """Another process makes its own distributions."""
        return self.__dict__ | {"_unconstrained": None, "_prior": None, "_has_gradient": False}


def _draw(guide: Any, sample_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Draws and their log density, of shape ``sample_shape + batch_shape``."""
    if isinstance(guide, dist.Independent) and type(guide.base_dist) is Normal:
        u, log_prob = guide.base_dist.rsample_and_log_prob(sample_shape)
        return u, log_prob.sum(tuple(range(-len(guide.event_shape), 0)))
    guide = guide.expand(torch.Size(sample_shape) + guide.batch_shape) if sample_shape else guide
    u = guide.rsample() if guide.has_rsample else guide.sample()
    return u, guide.log_prob(u)


def asked_directly(model: Callable, guide: Callable, batch: Batch) -> VAE | None:
    """The VAE whose own model and guide two functions are, if its densities can be had directly.

    They cannot where a subclass writes a method of its own, where a handler is around, or where a
    part draws or observes a site of its own: a trace of `batch` tells.
    """
    vae = plain_vae(model, guide)
    if vae is None:
        return None
    no_validation = pyro.validation_enabled(False)
    with torch.no_grad(), own_store(), seeded(0), mode(vae, training=False), no_validation:
        if am_i_wrapped():  # by a handler of this thread: the others wait for the store
            return None
        found = [
            sorted({site["name"] for site in _sites_of_data(function, batch)} - SITES)
            for function in (vae.guide, vae.model)
        ]
    return vae if found == [["z"], ["x", "z"]] else None


def plain_vae(model: Callable, guide: Callable) -> VAE | None:
    """The VAE whose own methods two functions are, if nobody has replaced one of them."""
    vae = getattr(model, "__self__", None)
    if not isinstance(vae, VAE) or getattr(guide, "__self__", None) is not vae:
        return None
    if (getattr(model, "__func__", None), getattr(guide, "__func__", None)) != (
        VAE.model,
        VAE.guide,
    ):
        return None
    subclasses = type(vae).__mro__[: type(vae).__mro__.index(VAE)]
    written = {name for part in (*subclasses, vae) for name in vars(part)}
    classes = VAE.__mro__[: VAE.__mro__.index(nn.Module)]
    ours = {name for cls in classes for name in vars(cls) if not name.startswith("__")}
    return None if written & ours else vae


def _sites_of_data(function: Callable, batch: Batch) -> list[Any]:
    """The sample sites of a Pyro function, but for deterministic values."""
    trace = poutine.trace(function).get_trace(*batch)
    both = sites(trace, observed=False) + sites(trace, observed=True)
    return [site for site in both if not site["infer"].get("_deterministic")]
