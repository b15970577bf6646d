r"""Several layers of latents as one distribution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..distributions.links import is_real
from ..guards import whole_numbers
from .base import Amortised, Conditional, Shape, as_shape, declared
from .declared import at
from .networks import MLP


class Ladder(Conditional, name="ladder"):
    r"""L layers of latents, each given the one before, listed from the data upwards.

    .. math::

        p(z) = p(z_L)\, p(z_{L-1} \mid z_L) \cdots p(z_1 \mid z_2), \qquad
        q(z \mid x) = q(z_1 \mid x)\, q(z_2 \mid z_1) \cdots q(z_L \mid z_{L-1})

    With ``learned=True`` it is the prior, drawn from the top; its top layer has standard values,
    and the likelihood sees :math:`z_1` alone. Else it is the guide, drawn from the bottom. Two
    layers are the model of the reference. The guide does not meet the prior halfway, as that of the
    ladder VAE of Sønderby et al. (2016) does.

    Arguments:
        event_shape: The shape of one draw: the layers, one after the other.
        layers: The sizes of the layers, from the data upwards.
        hidden: The widths of the hidden layers of the networks between layers.
        activation: That of these networks.
        family: The family of each layer, over real numbers: a name or a table.
        learned: Whether it is a prior.

    References:
        | Importance weighted autoencoders (Burda et al., 2015), section 5
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> prior = Ladder((7,), layers=[5, 2], hidden=[16], learned=True)
        >>> prior().sample().shape, prior.shown_shape
        (torch.Size([7]), torch.Size([5]))
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        layers: Sequence[int],
        hidden: Sequence[int] = (100,),
        activation: str = "tanh",
        family: str | dict[str, Any] = "normal",
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape, self.sizes, self.learned = (
            as_shape(event_shape),
            whole_numbers("layers", layers),
            learned,
        )
        if len(self.event_shape) != 1 or sum(self.sizes) != self.event_shape[0]:
            raise ValueError(
                f"Ladder needs layers that add up to its size; got layers {self.sizes} and "
                f"{tuple(self.event_shape)}"
            )
        drawn = self.sizes[::-1] if learned else self.sizes
        with at("family"):
            self.first, *heads = [declared(family, (size,)) for size in drawn]
            if not is_real(self.first.support):
                raise ValueError(
                    f"{self.first.name} has support {self.first.support}; Ladder needs real numbers"
                )
            if learned:
                table = {"name": family} if isinstance(family, str) else family
                self.first = declared({**self.first.alone(table), **table}, (drawn[0],))
        self.rest = nn.ModuleList(
            Amortised(MLP(before, head.num_params, hidden=hidden, activation=activation), head)
            for before, head in zip(drawn, heads, strict=False)
        )

    @property
    def num_params(self) -> int:  # type: ignore[override]
        """How many numbers the first layer reads from the context."""
        return 0 if self.learned else self.first.num_params

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def scores_any_value(self) -> bool:  # type: ignore[override]
        return self.first.scores_any_value

    @property
    def shown_shape(self) -> torch.Size:
        return torch.Size(self.sizes[:1])

    def shown(self, z: Tensor) -> Tensor:
        return z[..., : self.sizes[0]]

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        return Chain(self.first(context), list(self.rest), upwards=not self.learned)

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), layers=[2, 1], hidden=[4])


class Chain(TorchDistribution):
    """Vectors whose pieces are drawn one after the other, each given the one before."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, first: TorchDistribution, rest: list[Any], upwards: bool) -> None:
        self.first, self.rest, self.upwards = first, rest, upwards
        sizes = [first.event_shape[0], *(part.event_shape[0] for part in rest)]
        self.sizes = sizes if upwards else sizes[::-1]
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a gradient."""
        return self.first.has_rsample

    def expand(self, batch_shape: Any, _instance: Any = None) -> Chain:
        """The same, of a larger batch shape."""
        return Chain(self.first.expand(torch.Size(batch_shape)), self.rest, self.upwards)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape ``sample_shape + batch_shape + event_shape``."""
        pieces = [self.first.rsample(torch.Size(sample_shape))]
        for part in self.rest:
            pieces.append(part(pieces[-1]).rsample())
        return torch.cat(pieces if self.upwards else pieces[::-1], -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without a gradient, where a layer has none."""
        with torch.no_grad():
            pieces = [self.first.sample(torch.Size(sample_shape))]
            for part in self.rest:
                pieces.append(part(pieces[-1]).sample())
            return torch.cat(pieces if self.upwards else pieces[::-1], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum over the pieces."""
        pieces = value.split(self.sizes, -1) if self.upwards else value.split(self.sizes, -1)[::-1]
        total = self.first.log_prob(pieces[0])
        for part, (before, piece) in zip(self.rest, itertools.pairwise(pieces), strict=True):
            total = total + part(before).log_prob(piece)
        return total


__all__ = ["Ladder"]
