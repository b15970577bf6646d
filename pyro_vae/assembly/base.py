"""How prior, likelihood and guide work together: one reads what another gives.

The guide lives in unconstrained space, and is pushed onto the support of the prior by a bijection.
So the same normal guide serves a normal, a gamma, a beta and a Dirichlet prior; for a real-valued
prior the map is absent. Over discrete latents the guide is discrete too, and they are marked for
Pyro's enumeration. In these methods c is encoded (:class:`.Condition`), and x may have NaN where it
is missing.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Transform

from ..conditionals.base import Conditional
from ..conditionals.missingness import Missingness
from ..conditionals.networks import filled
from ..data.arrays import as_rows
from ..data.columns import as_given, framed, in_order
from ..data.labels import Labels, recoded
from ..data.rows import Rows
from ..distributions.joint import enumerable
from ..distributions.pushed import Pushed
from ..distributions.selected import Selected
from ..distributions.supports import ToDouble, bijection_to, is_real, to_single
from .condition import Condition
from .missing import is_missing, masked
from .registered import Registered

UNCONDITIONAL = (
    "this VAE has no condition, so it takes no c; build(x, c=...) and VAE(..., "
    "condition=Condition(...)) make one that does"
)


class Assembly(Registered):
    """The parts of a VAE, and what passes between them."""

    def __init__(
        self,
        prior: Conditional,
        likelihood: Conditional,
        guide: Conditional,
        condition: Condition | None,
        missingness: Missingness | None = None,
    ) -> None:
        super().__init__()
        for role, part in (("prior", prior), ("likelihood", likelihood), ("guide", guide)):
            if not isinstance(part, Conditional):
                got = f"{type(part).__name__} {part!r:.40}"
                raise TypeError(
                    f"VAE needs its {role} as a Conditional; got {got}; pyro_vae.build takes names"
                )
        if not isinstance(condition, Condition | None):
            raise TypeError(f"VAE needs condition as a Condition; got {condition!r:.40}")
        if not isinstance(missingness, Missingness | None):
            raise TypeError(f"VAE needs missingness as a Missingness; got {missingness!r:.40}")

        self.prior = prior
        self.likelihood = likelihood
        self.posterior = guide
        self.condition = condition
        self.missingness = missingness
        self.columns: list[str] | None = None  # their names, if it was made for a frame
        self.classes: dict[str, list[Any]] | None = None  # of columns of labels, by their names
        self.times_fitted = 0  # each time with other noise

    @property
    def reference(self) -> Tensor:
        """A tensor with the dtype and device that the VAE computes in."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    @property
    def is_discrete(self) -> bool:
        """Whether the latents are discrete, so that sums over them are exact."""
        return self.prior.support.is_discrete

    @property
    def infer(self) -> dict[str, str]:
        """How Pyro is to treat the latent site: discrete latents are enumerated."""
        return {"enumerate": "parallel"} if self.is_discrete else {}

    @property
    def draws_missing(self) -> bool:
        """Whether log p(x, s | z) is an estimate, from fresh draws of what is missing."""
        if self.missingness is None:
            return False
        head = getattr(self.likelihood, "head", self.likelihood)
        reads = getattr(head, "num_params", 0)
        return self.missingness.draws(head(self.reference.new_zeros(reads)) if reads else head())

    @property
    def mixes_precisions(self) -> bool:
        """Whether latents are in double precision and the rest in single (:class:`.ToDouble`)."""
        return self.bijection is not None and self.reference.dtype != torch.float64

    @property
    def bijection(self) -> Transform | None:
        """The map from unconstrained space to the prior's support, if they differ."""
        support = self.prior.support
        return None if support.is_discrete or is_real(support) else bijection_to(support)

    # Each part, given what it reads

    def prior_of(self, c: Tensor | None) -> TorchDistribution:
        """p(z | c): of batch shape ``()``, or ``(N,)`` where the prior sees c."""
        if self.prior.reads_guide:
            return self.prior(self.posterior)
        return enumerable(self.prior(self._seen_by_prior(c)))

    def likelihood_of(
        self, z: Tensor, c: Tensor | None, *, like: Tensor | None = None
    ) -> TorchDistribution:
        """p(x | z, c), of batch shape ``*`` for latents of shape ``(*, *Z)``.

        Latents in double precision are rounded to that of `like` (default: of the parameters).
        """
        like = self.reference if like is None else like
        z = z if z.dtype == like.dtype else to_single(z, self.prior.support, like)
        visible = self.prior.visible(z)
        context = self.join("likelihood", visible, c, len(self.prior.visible_shape))
        exposure = None if self.condition is None else self.condition.exposure_in(c)
        if exposure is None:
            return self.likelihood(context)
        return self.likelihood.exposed(context, exposure)

    def observation_of(
        self, z: Tensor, c: Tensor | None, *, like: Tensor | None = None
    ) -> TorchDistribution:
        """p(x, s | z, c) of data with holes, where the VAE has a model of s; else p(x | z, c)."""
        precision = {} if like is None else {"like": like}  # a subclass may not know it
        likelihood = self.likelihood_of(z, c, **precision)
        return likelihood if self.missingness is None else Selected(likelihood, self.missingness)

    def observed_by(
        self, observation: TorchDistribution, x: Tensor, *, missing: bool
    ) -> tuple[TorchDistribution, Tensor]:
        """The distribution of what is observed of x, and x as its ``log_prob`` takes it.

        Arguments:
            observation: That of :meth:`observation_of`.
            x: Data, NaN where missing.
            missing: Whether cells may be missing. It is known at the door: no value is looked at.
        """
        if self.missingness is None and missing:
            return masked(observation, x, self.likelihood.title)
        return observation, x

    def guide_of(self, x: Tensor, c: Tensor | None) -> TorchDistribution:
        """q(z | x, c) on the support of the prior, of batch shape ``(N,)``."""
        return self.push_forward(self.unconstrained_guide_of(x, c))

    def unconstrained_guide_of(
        self, x: Tensor, c: Tensor | None, *, missing: bool = True
    ) -> TorchDistribution:
        """The guide as it was given, in unconstrained space."""
        return self.posterior(self.guide_input(x, c, missing=missing))

    def guide_input(self, x: Tensor, c: Tensor | None, *, missing: bool = True) -> Tensor:
        """What the guide reads: x beside c, missing cells at what is typical for its network, or
        as NaN for one that ``reads_missing``.

        Where it is known that none is missing, ``missing=False`` saves a look at all of them.
        """
        x = self.join("guide", x, c, len(self.likelihood.event_shape))
        return filled(x, getattr(self.posterior, "network", None)) if missing else x

    def push_forward(self, unconstrained: TorchDistribution) -> TorchDistribution:
        """The guide on the support of the prior."""
        if self.is_discrete:
            return enumerable(unconstrained)
        bijection = self.bijection
        if bijection is None:
            return unconstrained
        to_support = [ToDouble(self.reference.dtype), bijection.with_cache()]
        return Pushed(unconstrained, to_support)

    def join(self, part: str, context: Tensor, c: Tensor | None, event_dim: int) -> Tensor:
        """A context beside c, for the parts that see c."""
        if c is None or self.condition is None:
            return context
        return self.condition.join(part, context, c, event_dim)

    # Densities

    def log_joint(
        self, x: Tensor, z: Tensor, c: Tensor | None, *, missing: bool | None = None
    ) -> Tensor:
        """log p(z) + log p(x|z) of what is seen of x, ``(K, N)`` for z of shape ``(K, N, *Z)``."""
        return self.prior_of(c).log_prob(z) + self.log_likelihood(x, z, c, missing=missing)

    def log_likelihood(
        self, x: Tensor, z: Tensor, c: Tensor | None, *, missing: bool | None = None
    ) -> Tensor:
        """log p(x|z) of what is seen of x, of shape ``(K, N)`` for z of shape ``(K, N, *Z)``.

        Whether cells are `missing`, where it is known, saves a look at all of them.
        """
        missing = is_missing(x) if missing is None else missing
        observed, x = self.observed_by(self.observation_of(z, c), x, missing=missing)
        return observed.log_prob(x)

    # What is given, as the parts read it

    def as_batch(self, x: Tensor) -> Tensor:
        """A batch of the right shape, where and as the VAE computes.

        Its values are checked once, at the door.
        """
        plain = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_complex()
        if plain and x.dim() > 0 and len(x) > 0 and x.shape[1:] == self.likelihood.event_shape:
            return x.to(device=self.reference.device, dtype=self.reference.dtype)
        return self.rows_of(x).take(slice(None), like=self.reference)

    def rows_of(self, x: Any) -> Rows:
        """Data as rows of the right columns and classes.

        Raises:
            DataError: Columns or their number are others, or a label is none of the classes.
        """
        rows = as_rows(in_order(as_rows(x, labels=True), self.columns), self.likelihood.event_shape)
        return recoded(rows, self.labels, places=isinstance(x, Tensor))

    @property
    def labels(self) -> list[Labels]:
        """The classes of each column of the data; None for numbers."""
        if self.classes is None:
            return [None] * self.likelihood.event_shape[-1:].numel()
        return [self.classes.get(name) for name in self.columns or ()]

    def named(self, values: Tensor) -> Any:
        """Data as a frame, if the names of their columns are known."""
        if self.columns is None:
            return values
        return framed(values.numpy(force=True), self.columns, classes=self.classes)

    def as_given(self, values: Tensor, x: Any) -> Any:
        """Data as a frame with the rows and columns of x, if x is a frame."""
        return as_given(values, x, self.columns, self.classes)

    def encode_condition(self, num: int, c: Any = None) -> Tensor | None:
        """A batch of c as the parts read it, of shape ``(num, width)``."""
        if self.condition is None:
            if c is not None:
                raise ValueError(UNCONDITIONAL)
            return None
        if not self.condition.fits(c, num):
            c = self.condition.check(c, num).take(slice(None), like=self.reference)
        return self.condition.encode(c.to(self.reference))

    def check_condition(self, num: int, c: Any) -> Tensor | None:
        """What a user has given as c, checked, as the parts read it."""
        if self.condition is None or c is None:
            return self.encode_condition(num, c)
        return self.encode_condition(num, self.condition.rows_of(c))

    def encoded_zeros(self) -> Tensor | None:
        """Some c for one datum, as the parts read it."""
        return (
            None
            if self.condition is None
            else self.reference.new_zeros(self.condition.encoded_width)
        )

    def prior_context(self) -> Tensor | None:
        """Some context of the prior, if it sees c."""
        return self._seen_by_prior(self.encoded_zeros())

    def _seen_by_prior(self, c: Tensor | None) -> Tensor | None:
        if c is None or self.condition is None or "prior" not in self.condition.seen_by:
            return None
        return self.condition.seen("prior", c)
