"""Distributions that Pyro lacks, or has in a form that does not serve here."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from .links import StickBreaking, innermost


class ZeroInflatedNegativeBinomial(dist.ZeroInflatedNegativeBinomial):
    """Without a domain for probs: Pyro works them out from the logits, rounds one to 1, and then
    refuses it.
    """

    arg_constraints = {
        "total_count": dist.NegativeBinomial.arg_constraints["total_count"],
        "logits": constraints.real,
        "gate_logits": constraints.real,
    }


class LogisticNormal(dist.LogisticNormal):
    """With sticks that are broken by logarithms: Pyro's density is off by thousands of nats where a
    part is tiny.
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.transforms = [StickBreaking()]

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticNormal:
        """The same, of a larger batch shape."""
        return super().expand(batch_shape, _instance or self._get_checked_instance(LogisticNormal))


class Multinomial(dist.Multinomial):
    """The density given the total of each datum: `total_count` only says how many draws ``sample``
    makes.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, total_count: Any, logits: Tensor, validate_args: bool | None = None) -> None:
        total = torch.as_tensor(total_count)
        if bool((total != total.max().round()).any()):
            raise ValueError(
                "Multinomial needs total_count as one whole number for all draws; got "
                f"{total.tolist()}"
            )
        super().__init__(int(total.max()), logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Multinomial:
        """The same, of a larger batch shape."""
        return super().expand(batch_shape, _instance or self._get_checked_instance(Multinomial))


class Joint(dist.Independent):
    """Independent discrete elements, whose joint values can be enumerated: the product of those of
    each.
    """

    has_enumerate_support = True

    @property
    def num_states(self) -> int:
        """How many joint values there are."""
        num = self.base_dist.batch_shape[len(self.batch_shape) :].numel()
        return len(self.base_dist.enumerate_support(expand=False)) ** num

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All joint values, of shape ``(S, *batch_shape, *event_shape)``, or with ones for the
        batch shape.
        """
        values = self.base_dist.enumerate_support(expand=False).reshape(
            -1, *self.base_dist.event_shape
        )
        num = self.base_dist.batch_shape[len(self.batch_shape) :].numel()
        index = torch.cartesian_prod(*[torch.arange(len(values))] * num).reshape(-1, num)
        joint = values[index].reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return joint.expand(-1, *self.batch_shape, *self.event_shape) if expand else joint


def enumerable(distribution: Any) -> Any:
    """The same distribution, with joint values that can be enumerated if it is discrete."""
    if isinstance(distribution, dist.Independent) and distribution.base_dist.has_enumerate_support:
        return Joint(distribution.base_dist, distribution.reinterpreted_batch_ndims)
    return distribution


class Mixture(dist.MixtureSameFamily):
    """Components of one family; draws of normal components have a gradient, by implicit
    reparameterisation.

    One element after the other is the inverse of its distribution function given those before
    (Graves, 2016, https://arxiv.org/abs/1607.05690), whose derivative needs no inverse."""

    @property
    def support(self) -> Any:
        """That of the first component."""
        return self._of_one(self.component_distribution.support)

    def _of_one(self, support: Any) -> Any:
        """A support without the dimension of the components, which its bounds may have."""
        if isinstance(support, constraints.independent):
            return constraints.independent(
                self._of_one(support.base_constraint), support.reinterpreted_batch_ndims
            )
        bounds = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
        where = len(self.batch_shape)
        if not any(isinstance(bound, Tensor) and bound.dim() > where for bound in bounds):
            return support
        one = [
            b.select(where, 0) if isinstance(b, Tensor) and b.dim() > where else b for b in bounds
        ]
        return type(support)(*(bound for bound in one if bound is not None))

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a gradient."""
        return isinstance(innermost(self.component_distribution), dist.Normal)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``."""
        drawn = self.sample(torch.Size(sample_shape))
        normal = innermost(self.component_distribution)
        shape = (*self.mixture_distribution.logits.shape, self.event_shape.numel())
        loc, scale = normal.loc.reshape(shape), normal.scale.reshape(shape)
        log_weight, moving = self.mixture_distribution.logits, []
        for i, x in enumerate(
            drawn.reshape(*drawn.shape[: drawn.dim() - len(self.event_shape)], -1).unbind(-1)
        ):
            element = dist.Normal(loc[..., i], scale[..., i])
            weight = log_weight.softmax(-1)
            below = (weight * element.cdf(x[..., None])).sum(-1)
            density = (weight * element.log_prob(x[..., None]).exp()).sum(-1).detach()
            x = x - (below - below.detach()) / density.clamp(min=torch.finfo(x.dtype).tiny)
            log_weight = log_weight + element.log_prob(x[..., None])
            moving.append(x)
        return torch.stack(moving, -1).reshape(drawn.shape)


class DiscretizedLogistic(TorchDistribution):
    r"""A logistic on the scale from -1 to 1, rounded to the nearest of n levels; the end levels
    take the tails.
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "levels": constraints.positive_integer,
    }

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: Any, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = torch.as_tensor(levels).to(self.loc)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, int(self.levels.max()) - 1)

    @property
    def mean(self) -> Tensor:
        """The mean over all levels."""
        levels = torch.arange(int(self.levels.max()), dtype=self.loc.dtype, device=self.loc.device)
        levels = levels.reshape(-1, *[1] * self.loc.dim())
        return (self.log_prob(levels).exp() * levels).sum(0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """The same, of a larger batch shape."""
        return DiscretizedLogistic(
            self.loc.expand(batch_shape),
            self.scale.expand(batch_shape),
            self.levels.expand(batch_shape),
            False,
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Levels of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            x = dist.Logistic(self.loc, self.scale).sample(torch.Size(sample_shape))
            return (x + 1).mul((self.levels - 1) / 2).round().clamp(min=0).minimum(self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """With a = upper and b = lower edge: log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 -
        exp(b - a)).
        """
        if self._validate_args:
            self._validate_sample(value)
        step = 2 / (self.levels - 1)
        middle = (value * step - 1 - self.loc) / self.scale
        half = step / (2 * self.scale)
        last = value >= self.levels - 1
        below_upper = torch.nn.functional.logsigmoid(middle + half).masked_fill(last, 0.0)
        above_lower = torch.nn.functional.logsigmoid(half - middle).masked_fill(value <= 0, 0.0)
        both = (value > 0) & ~last
        return (
            below_upper + above_lower + torch.where(both, torch.log(-torch.expm1(-2 * half)), 0.0)
        )


class HorseshoeLike(TorchDistribution):
    r"""A Cauchy whose scale is uniform on (0, scale): :math:`p(z) = \log(1 + s^2 / z^2) / (2 \pi
    s)`.
    """

    arg_constraints = {"scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        self.scale = torch.as_tensor(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """None: its tails are those of a Cauchy."""
        return torch.full_like(self.scale, math.nan)

    @property
    def mode(self) -> Tensor:
        """The pole at zero."""
        return torch.zeros_like(self.scale)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HorseshoeLike:
        """The same, of a larger batch shape."""
        return HorseshoeLike(self.scale.expand(batch_shape), False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape``."""
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.scale.dtype, device=self.scale.device)
        return (
            self.scale
            * uniform
            * dist.Cauchy(torch.zeros_like(self.scale), 1.0).sample(torch.Size(sample_shape))
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """log(log1p(s² / z²)) - log(2 pi s), with the pole at zero held back at the smallest
        number.
        """
        if self._validate_args:
            self._validate_sample(value)
        square = (value / self.scale).square().clamp(min=torch.finfo(value.dtype).tiny)
        return torch.log(torch.log1p(1 / square)) - torch.log(2 * math.pi * self.scale)
