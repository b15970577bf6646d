"""What is said of parameters, checked: fixed values, one by one and together, and named links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ..distributions.links import PARTIAL, fitting
from ..distributions.supports import is_real
from .declared import nearest

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


def check_jointly(family: Parametric, values: dict[str, Tensor | None]) -> None:
    """Fixed values can be valid singly but not jointly, e.g. low > high. The others, None, are at
    their standard values.

    Raises:
        ValueError: They are not.
    """
    whole = {
        name: family.filled(name, family.standard[name]) if value is None else value
        for name, value in values.items()
    }
    try:
        family.family(**whole, validate_args=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{family.title} got values that do not fit together: {reason}") from None


def checked_links(family: Parametric, links: Any) -> Mapping[str, str]:
    """Named links, by parameter.

    Raises:
        ValueError: A parameter or a link is unknown, or the link leads outside the domain.
    """
    if not isinstance(links, Mapping):
        raise ValueError(f"links: must be a table such as {{'rate': 'exp'}}; got {links!r:.60}")
    for name, link in links.items():
        if name not in family.params:
            raise ValueError(f"links: there is no parameter {name!r}{nearest(name, family.params)}")
        there = fitting(family.domain(name))
        if link not in there:
            takes = f"one of {', '.join(there)}" if there else "its usual link only"
            raise ValueError(f"links: {name} takes {takes}; got {link!r:.60}")
    return dict(links)


def bent_locations(family: Parametric) -> set[str]:
    """The locations with another link than identity: they have no center and no unit."""
    locations = set() if family.units is None else family.units.locations
    return {name for name in locations if family.named_links.get(name, "identity") != "identity"}


def standard_read(family: Parametric) -> Tensor | None:
    """What gives the standard values if it is read, of shape ``(num_params,)``."""
    if not family.read:
        return None
    parts = []
    for name, shape in family.read.items():
        origin = family.origin(name) if name in family.named_links else torch.zeros(shape)
        parts.append(origin.flatten())
    return torch.cat(parts)


def check_linked(family: Parametric, name: str, read: Tensor, value: Tensor) -> None:
    """Raise for a number that was read, whose link leads outside the domain of the parameter.

    Raises:
        ValueError: It does; NaN is left to those who look for it.
    """
    link, domain = family.named_links[name], family.domain(name)
    if link not in PARTIAL or torch.compiler.is_compiling():
        return
    outside = value.isnan() if is_real(domain) else ~domain.check(value)
    outside = outside & ~read.isnan()
    if bool(outside.any()):
        raise ValueError(
            f"{family.title} needs {name} in {domain}; its link {link!r} got "
            f"{float(read[outside][0]):g}; choose one that takes any number, such as 'softplus' or "
            "'exp', or have what is read give others"
        )
