"""Fixed values of parameters, checked one by one and together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pyro.distributions import constraints
from torch import Tensor

if TYPE_CHECKING:
    from .parametric import Parametric


def fixed(family: Parametric, name: str, value: float | Sequence[float] | Tensor) -> Tensor:
    """The fixed value of a parameter as a tensor of its shape.

    Raises:
        ValueError: It has another shape, or is outside the domain of the parameter.
    """
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    shape = family.parameter_shape(name)
    if tensor.dim() == 0:
        tensor = family.filled(name, float(tensor)).to(tensor)
    try:
        tensor = tensor.detach().expand(shape).clone()
    except RuntimeError:
        raise ValueError(
            f"{family.title} needs {name} of shape {tuple(shape)}; got {tuple(tensor.shape)}"
        ) from None

    domain = family.domain(name)
    if not constraints.is_dependent(domain) and not bool(domain.check(tensor).all()):
        raise ValueError(f"{family.title} needs {name} in {domain}; got {value}")
    return tensor


def check_jointly(family: Parametric, values: dict[str, Tensor]) -> None:
    """Fixed values can be valid singly but not jointly, e.g. low > high.

    Raises:
        ValueError: They are not.
    """
    try:
        family.family(**values, validate_args=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{family.title} got values that do not fit together: {reason}") from None
