"""Networks over images: convolutions that read one, and convolutions that write one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..guards import whole_numbers
from .base import Shape, as_shape
from .networks import Standardized, activation_of

CHANNELS = (1, 3, 4)  # of grey images, coloured ones, those with transparency
LARGE = 7  # more than the channels that an image has beside such a width
RESHAPE = (
    "reshape the data, grey images to (N, 1, H, W), give a block of columns its shape, or use MLP"
)


class ConvEncoder(Standardized, name="conv_encoder"):
    """Convolutions that read an image, of standardised pixels: the network of a guide.

    Each convolution (3 x 3, stride 2) halves height and width, rounding up; an affine map of what
    is left ends it.

    See also:
        :class:`ConvDecoder` for the way back.

    Arguments:
        in_shape: The shape of the context of one datum, ``(C, H, W)``.
        out_features: How many numbers come out for each datum: the head's ``num_params``.
        channels: The channels that each convolution puts out.
        activation: One of relu, tanh, silu, gelu, elu, softplus.
        log1p: Whether it sees ``sign(x) log(1 + |x|)`` for x; guides of counts do.

    Raises:
        ValueError: The context is no image.

    Example:
        >>> ConvEncoder((1, 28, 28), 10)(torch.zeros(5, 7, 1, 28, 28)).shape
        torch.Size([5, 7, 10])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        activation: str = "relu",
        log1p: bool = False,
    ) -> None:
        super().__init__(in_shape, log1p=log1p)
        if len(self.in_shape) != 3:
            got = f"got a context of shape {tuple(self.in_shape)}"
            raise ValueError(f"ConvEncoder reads images of shape (C, H, W); {got}; {RESHAPE}")
        _refuse_channels_last("ConvEncoder reads", self.in_shape)

        make = activation_of(activation)
        whole_numbers("channels", channels)
        widths = (self.in_shape[0], *channels)
        steps = [
            (nn.Conv2d(a, b, 3, stride=2, padding=1), make()) for a, b in itertools.pairwise(widths)
        ]
        height, width = _halved(self.in_shape, len(channels))
        affine = nn.Linear(widths[-1] * height * width, out_features)
        self.layers = nn.Sequential(*itertools.chain(*steps), nn.Flatten(), affine)

    def _rows(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvDecoder(Standardized, name="conv_decoder"):
    """Transposed convolutions that write the parameters of an image: the network of a likelihood.

    An affine map makes a small grid; each transposed convolution (4 x 4, stride 2) doubles its
    height and width. What is beyond the image is cut off. The outputs are one image of shape ``(C,
    H, W)`` after the other, one for each parameter, as families over images read them. It does not
    serve :class:`Categorical`, which reads the numbers of all classes of a pixel side by side.

    See also:
        :class:`ConvEncoder` for the way there.

    Arguments:
        in_shape: The shape of the context of one datum; it is flattened.
        out_features: How many numbers come out for each datum: the head's ``num_params``, a
            multiple of ``H * W``.
        image: The event shape of the head, ``(C, H, W)``.
        channels: The channels that each transposed convolution takes in.
        activation: One of relu, tanh, silu, gelu, elu, softplus.

    Raises:
        ValueError: The head is not over images of this shape.

    Example:
        >>> head = Normal((1, 28, 28), scale="shared")
        >>> ConvDecoder(8, head.num_params, image=(1, 28, 28))(torch.zeros(5, 7, 8)).shape
        torch.Size([5, 7, 784])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_features: int,
        *,
        image: Shape,
        channels: Sequence[int] = (64, 32),
        activation: str = "relu",
    ) -> None:
        super().__init__(in_shape)
        self.image = as_shape(image)
        if len(self.image) != 3:
            got = f"got image={tuple(self.image)}"
            raise ValueError(f"ConvDecoder writes images of shape (C, H, W); {got}; {RESHAPE}")
        _refuse_channels_last("ConvDecoder writes", self.image)

        pixels = math.prod(self.image[1:])
        if out_features < 1 or out_features % pixels:
            raise ValueError(
                f"ConvDecoder with image={tuple(self.image)} needs a head that reads a multiple of "
                f"{pixels} numbers per datum; got out_features={out_features}; give the head the "
                "event shape of the image"
            )

        make = activation_of(activation)
        whole_numbers("channels", channels)
        widths = (*channels, out_features // pixels)
        grid = (widths[0], *_halved(self.image, len(channels)))
        steps = [
            (make(), nn.ConvTranspose2d(a, b, 4, stride=2, padding=1))
            for a, b in itertools.pairwise(widths)
        ]
        affine = nn.Linear(self.in_shape.numel(), math.prod(grid))
        self.layers = nn.Sequential(affine, nn.Unflatten(1, grid), *itertools.chain(*steps))

    @classmethod
    def implied(cls, event_shape: Sequence[int]) -> dict[str, Any]:
        return {"image": list(event_shape)}

    def _rows(self, x: Tensor) -> Tensor:
        _, height, width = self.image
        return super()._rows(x)[..., :height, :width].flatten(1)


def _refuse_channels_last(who: str, image: torch.Size) -> None:
    """Raise for shapes that are surely (H, W, C): a last size of 1, 3 or 4 behind large ones."""
    *others, last = image
    if last in CHANNELS and min(others) > LARGE:
        raise ValueError(
            f"{who} images of shape (C, H, W); got {tuple(image)}, whose channels are last; move "
            "them: np.moveaxis(x, -1, 1), or x.movedim(-1, 1)"
        )


def _halved(image: torch.Size, times: int) -> list[int]:
    """Height and width, halved and rounded up several times."""
    return [-(-size // 2**times) for size in image[1:]]


__all__ = ["ConvDecoder", "ConvEncoder"]
