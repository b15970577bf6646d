"""Networks between a context and the parameters of a conditional. They take any leading batch shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..guards import whole_number
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


def fold(function: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> Tensor:
    """Apply to ``(*, ...)`` a function that only knows ``(batch, ...)``: flatten ``*`` before, restore it after.

    Convolutions and batch normalisation take exactly one batch dimension; importance samples and plates bring more.

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
    batch, event = x.shape[: x.dim() - event_dim], x.shape[x.dim() - event_dim :]
    y = function(x.reshape(batch.numel(), *event))
    return y.reshape(batch + y.shape[1:])


class Network(Declared):
    """A network that a spec can name: its first arguments are the context's shape and the number of outputs."""

    registry: ClassVar[dict[str, type[Network]]] = {}
    kind, num_sizes = "network", 2

    def standardize(self, mean: Tensor, sd: Tensor) -> None:
        """Take in the mean and standard deviation that the inputs have, if the network has a use for them."""


class MLP(Network, name="mlp"):
    """A multilayer perceptron on standardised inputs; without hidden layers, an affine map.

    The mean and standard deviation of the inputs are 0 and 1 until :meth:`standardize` tells better: counts and
    unscaled columns would otherwise drive the links of the head to extremes before training has begun.

    Arguments:
        in_shape: The shape of the context of one datum; it is flattened.
        out_features: How many numbers come out for each datum: the head's ``num_params``.
        hidden: The widths of the hidden layers.
        activation: One of relu, tanh, silu, gelu, elu, softplus.

    Example:
        >>> MLP((28, 28), 10, hidden=[100])(torch.zeros(5, 7, 28, 28)).shape
        torch.Size([5, 7, 10])
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self, in_shape: Shape, out_features: int, *, hidden: Sequence[int] = (400,), activation: str = "relu"
    ) -> None:
        super().__init__()
        if activation not in activations:
            raise ValueError(f"no activation is named {activation!r}; there are {', '.join(activations)}")
        if not isinstance(hidden, Sequence):
            raise ValueError(f"MLP needs hidden as a list of widths; got {hidden!r}; one layer is [{hidden!r}]")
        for width in hidden:
            whole_number("every width in hidden", width, at_least=1)
        self.in_shape = as_shape(in_shape)
        self.register_buffer("mean", torch.zeros(self.in_shape))
        self.register_buffer("sd", torch.ones(self.in_shape))
        widths = (self.in_shape.numel(), *hidden, out_features)
        layers = [(nn.Linear(a, b), activations[activation]()) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*itertools.chain(*layers))[:-1]

    def forward(self, x: Tensor) -> Tensor:
        event_dim = len(self.in_shape)
        if x.shape[x.dim() - event_dim :] != self.in_shape:
            raise ValueError(f"MLP reads a context of shape {('*', *self.in_shape)}; got {tuple(x.shape)}")
        return fold(self._rows, (x - self.mean) / self.sd, event_dim)

    def standardize(self, mean: Tensor, sd: Tensor) -> None:
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))

    def _rows(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(len(x), self.in_shape.numel()))
