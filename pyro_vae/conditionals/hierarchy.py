r"""Several layers of latents as one distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from .. import distributions as dists
from ..distributions.supports import is_real
from ..guards import whole_numbers
from .base import Amortised, Conditional, Shape, as_shape, declared
from .declared import at
from .networks import MLP


class Hierarchy(Conditional, name="hierarchy", formerly="ladder"):
    r"""Several layers of latents, each given the one before, listed from the data upwards.

    .. math::

        p(z) = p(z_L)\, p(z_{L-1} \mid z_L) \cdots p(z_1 \mid z_2), \qquad
        q(z \mid x) = q(z_1 \mid x)\, q(z_2 \mid z_1) \cdots q(z_L \mid z_{L-1})

    With ``learned=True`` it is the prior. It is drawn from the top layer down; the top layer has
    standard values. The likelihood sees :math:`z_1` alone. Without, it is the guide, and is drawn
    from the bottom up. With two layers this is the model of the reference. The guide of the ladder
    VAE (Sønderby et al., 2016) depends on the prior; this one does not.

    Arguments:
        event_shape: The shape of one draw: the layers, one after the other.
        layers: The sizes of the layers, from the data upwards.
        hidden: The widths of the hidden layers of the networks between layers.
        activation: The activation of these networks.
        family: The family of each layer, over real numbers: a name or a table.
        learned: Whether it is a prior.

    References:
        | Importance weighted autoencoders (Burda et al., 2015), section 5
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> prior = Hierarchy((7,), layers=[5, 2], hidden=[16], learned=True)
        >>> prior().sample().shape, prior.visible_shape
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
        self.event_shape = as_shape(event_shape)
        self.sizes = whole_numbers("layers", layers)
        self.learned = learned
        if len(self.event_shape) != 1 or sum(self.sizes) != self.event_shape[0]:
            raise ValueError(
                f"Hierarchy needs layers that add up to its size; got layers {self.sizes} and "
                f"{tuple(self.event_shape)}"
            )

        drawn = self.sizes[::-1] if learned else self.sizes
        with at("family"):
            self.first, *heads = [declared(family, (size,)) for size in drawn]
            if not is_real(self.first.support):
                has = f"{self.first.name} has support {self.first.support}"
                raise ValueError(f"{has}; Hierarchy needs real numbers")
            if learned:
                table = {"name": family} if isinstance(family, str) else family
                self.first = declared({**self.first.standalone(table), **table}, (drawn[0],))
        self.rest = nn.ModuleList(
            Amortised(MLP(before, head.num_params, hidden=hidden, activation=activation), head)
            for before, head in zip(drawn, heads, strict=False)
        )
        self.num_params = 0 if learned else self.first.num_params
        self.scores_any_value = self.first.scores_any_value

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def visible_shape(self) -> torch.Size:
        return torch.Size(self.sizes[:1])

    def visible(self, z: Tensor) -> Tensor:
        return z[..., : self.sizes[0]]

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        return dists.Chain(self.first(read), list(self.rest), upwards=not self.learned)

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), layers=[2, 1], hidden=[4])


__all__ = ["Hierarchy"]
