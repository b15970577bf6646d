"""Networks between a context and the parameters of a conditional.

They take any leading batch shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..guards import whole_number, whole_numbers
from .base import Shape, as_shape
from .declared import Declared

activations: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}


def activation_of(name: str) -> type[nn.Module]:
    """The activation of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in activations:
        raise ValueError(f"no activation is named {name!r}; there are {', '.join(activations)}")
    return activations[name]


def fold(function: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> Tensor:
    """Apply to ``(*, ...)`` a function of ``(batch, ...)``: flatten ``*`` before, restore it after.

    Convolutions and batch normalisation take exactly one batch dimension. Importance samples and
    plates bring more.

    Arguments:
        function: Maps ``(batch, ...)`` to ``(batch, ...)``.
        x: The input; its last `event_dim` dimensions belong to one datum.
        event_dim: How many dimensions one datum has.

    Returns:
        The output with the leading shape of `x`.

    Example:
        >>> fold(torch.nn.Conv2d(1, 2, 3), torch.zeros(5, 7, 1, 8, 8), event_dim=3).shape
        torch.Size([5, 7, 2, 6, 6])
    """
    batch = x.shape[: x.dim() - event_dim]
    if len(batch) == 1:
        return function(x)
    y = function(x.reshape(batch.numel(), *x.shape[len(batch) :]))
    return y.reshape(batch + y.shape[1:])


def filled(x: Tensor, network: Any) -> Tensor:
    """A context as a network reads it: its missing cells at what is typical, or NaN for a network
    that ``reads_missing``.
    """
    if getattr(network, "reads_missing", False):
        return x
    typical = getattr(network, "typical", getattr(network, "mean", None))
    return torch.where(x.isnan(), torch.zeros_like(x) if typical is None else typical, x)


def beside(context: Tensor, c: Tensor, event_dim: int) -> Tensor:
    """A context beside c, for the same leading ``*``: an image gets a constant channel for each
    number of c, anything else is flattened, and c stands behind it.

    Arguments:
        context: Of shape ``(*, ...)``.
        c: Of shape ``(*, width)``.
        event_dim: How many dimensions the context of one datum has.
    """
    batch = context.shape[: context.dim() - event_dim]
    if event_dim == 3:
        channels = c[..., None, None].expand(*batch, c.shape[-1], *context.shape[-2:])
        return torch.cat([context, channels], -3)
    return torch.cat([context.reshape(*batch, -1), c.expand(*batch, c.shape[-1])], -1)


def shape_beside(shape: torch.Size, width: int) -> torch.Size:
    """The shape of a context of this shape :func:`beside` so many numbers."""
    joined = (shape[0] + width, *shape[1:]) if len(shape) == 3 else (shape.numel() + width,)
    return torch.Size(joined)


class Network(Declared):
    """A network that a spec can name.

    Its first arguments are the shape of the context and the number of outputs.
    """

    registry: ClassVar[dict[str, type[Network]]] = {}
    kind = "network"
    num_sizes = 2
    reads_missing: bool = False  # whether it wants NaN where cells are missing

    @classmethod
    def implied(cls, event_shape: Sequence[int]) -> dict[str, Any]:
        """Arguments that follow from the event shape of the head. A spec may leave them out."""
        return {}

    def standardize(self, mean: Tensor, sd: Tensor) -> None:
        """Take mean and standard deviation of what it sees, if the network has a use for them."""


class Standardized(Network):
    """A network on standardised inputs.

    A subclass sets ``layers``, which map ``(batch, numel)`` to the outputs. The inputs are taken to
    have mean 0 and standard deviation 1 until :meth:`standardize` is called. Counts and unscaled
    columns would otherwise drive the links of the head to extremes before training has begun.

    Arguments:
        in_shape: The shape of the context of one datum.
        log1p: Whether it sees ``sign(x) log(1 + |x|)`` for x, standardised after that.
        mask: Whether it sees, beside the inputs, which of them are missing.
    """

    mean: Tensor
    sd: Tensor
    layers: nn.Module

    def __init__(self, in_shape: Shape, *, log1p: bool = False, mask: bool = False) -> None:
        super().__init__()
        for name, value in (("log1p", log1p), ("mask", mask)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false; got {value!r}")
        self.in_shape = as_shape(in_shape)
        self.log1p = log1p
        self.reads_missing = mask
        self.register_buffer("mean", torch.zeros(self.in_shape))
        self.register_buffer("sd", torch.ones(self.in_shape))

    def forward(self, x: Tensor) -> Tensor:
        event_dim = len(self.in_shape)
        if x.shape[x.dim() - event_dim :] != self.in_shape:
            who = type(self).__name__
            raise ValueError(
                f"{who} reads a context of shape {('*', *self.in_shape)}; got {tuple(x.shape)}"
            )
        standardized = (self.seen(x) - self.mean).div_(self.sd)
        return fold(self._rows, standardized, event_dim)

    def seen(self, x: Tensor) -> Tensor:
        """The inputs as they are standardised."""
        return x.sign() * x.abs().log1p() if self.log1p else x

    @property
    def in_features(self) -> int:
        """How many numbers the layers read: with a mask, two for each input."""
        return self.in_shape.numel() * (2 if self.reads_missing else 1)

    @property
    def typical(self) -> Tensor:
        """The input whose every number is 0 when standardised."""
        return self.mean.sign() * self.mean.abs().expm1() if self.log1p else self.mean

    def standardize(self, mean: Tensor, sd: Tensor) -> None:
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))

    def _rows(self, x: Tensor) -> Tensor:
        x = x if x.dim() == 2 else x.reshape(len(x), self.in_shape.numel())
        if self.reads_missing:
            missing = x.isnan()
            x = torch.cat([x.masked_fill(missing, 0.0), missing.to(x)], -1)
        return self.layers(x)


class MLP(Standardized, name="mlp"):
    """A multilayer perceptron on standardised inputs; without hidden layers, an affine map.

    Arguments:
        in_shape: The shape of the context of one datum; it is flattened.
        out_features: How many numbers come out for each datum: the head's ``num_params``.
        hidden: The widths of the hidden layers.
        activation: One of relu, tanh, silu, gelu, elu, softplus.
        log1p: Whether it sees ``sign(x) log(1 + |x|)`` for x; guides of counts do.
        mask: Whether it sees, beside the inputs, which of them are missing, as the network of a
            guide; else these are at their mean.

    Example:
        >>> MLP((28, 28), 10, hidden=[100])(torch.zeros(5, 7, 28, 28)).shape
        torch.Size([5, 7, 10])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_features: int,
        *,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        log1p: bool = False,
        mask: bool = False,
    ) -> None:
        super().__init__(in_shape, log1p=log1p, mask=mask)
        make = activation_of(activation)
        whole_numbers("hidden", hidden)
        widths = (self.in_features, *hidden, out_features)
        layers = [(nn.Linear(a, b), make()) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*itertools.chain(*layers))[:-1]


class _Residual(nn.Sequential):
    """The layers' output is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class ResidualMLP(Standardized, name="residual_mlp"):
    r"""A deep perceptron on standardised inputs: blocks that each add to what came before.

    .. math:: h \leftarrow h + W_2\, a(W_1 \mathrm{LayerNorm}(h) + b_1) + b_2

    The affine maps in and out are outside the blocks. Prefer it to :class:`MLP` from about three
    hidden layers: the sum carries the gradient past each block. The norm is over the numbers of one
    datum, so data do not see each other.

    References:
        | On Layer Normalization in the Transformer Architecture (Xiong et al., 2020)
        | https://arxiv.org/abs/2002.04745

    Arguments:
        in_shape: The shape of the context of one datum; it is flattened.
        out_features: How many numbers come out for each datum: the head's ``num_params``.
        width: The width of every layer.
        blocks: How many blocks there are, of two layers each.
        activation: One of relu, tanh, silu, gelu, elu, softplus.
        log1p: Whether it sees ``sign(x) log(1 + |x|)`` for x; guides of counts do.
        mask: Whether it sees, beside the inputs, which of them are missing, as the network of a
            guide; else these are at their mean.

    Example:
        >>> ResidualMLP((28, 28), 10, width=100, blocks=3)(torch.zeros(5, 7, 28, 28)).shape
        torch.Size([5, 7, 10])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_features: int,
        *,
        width: int = 256,
        blocks: int = 2,
        activation: str = "relu",
        log1p: bool = False,
        mask: bool = False,
    ) -> None:
        super().__init__(in_shape, log1p=log1p, mask=mask)
        make = activation_of(activation)
        whole_number("width", width, at_least=1)
        whole_number("blocks", blocks, at_least=0)
        middle = [
            _Residual(nn.LayerNorm(width), nn.Linear(width, width), make(), nn.Linear(width, width))
            for _ in range(blocks)
        ]
        self.layers = nn.Sequential(
            nn.Linear(self.in_features, width), *middle, nn.Linear(width, out_features)
        )


_public: list[Any] = [Network, fold, *Network.registry.values()]
__all__ = [thing.__name__ for thing in _public if thing.__module__ == __name__]
