"""Families of distributions: a Pyro distribution, and a rule for each of its parameters.

A Pyro distribution states the domains of its parameters in ``arg_constraints``. :func:`.links.link`
turns a domain into a link function. So a family is a declaration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions import Transform

from ..data.rows import Rows
from ..distributions.links import NAMED, link
from . import parameters
from .base import Conditional, Shape, as_shape, support_at
from .units import InUnits, Units

Value = float | Sequence[float] | Tensor | str | Mapping[str, str]


class Parametric(Conditional):
    """A family of distributions whose parameters are fixed, learned, or read from the context.

    A family is declared by three class attributes: ``family`` (the Pyro distribution), ``params``
    (the parameters in use) and ``standard`` (their values in a prior that is given by name alone).
    Each parameter has one role:

    ================  =====================================  ==================================
    role              written as                             example
    ================  =====================================  ==================================
    fixed             a number or tensor                     ``Normal((784,), scale=0.1)``
    learned           ``"learned"``, one for each element    ``Normal((784,), scale="learned")``
    learned           ``"shared"``, one for all elements     ``Normal((784,), scale="shared")``
    from the context  left out                               ``Normal((784,))``
    ================  =====================================  ==================================

    A parameter that is read from the context passes through the :func:`link` of its domain. Real
    ones stay as they are; positive ones pass through softplus, written :math:`[h]_+`. Zero means
    the standard value, so a context of zeros gives the standard distribution. The context lists the
    parameters one after the other, in the order of ``params``. ``links={"rate": "exp"}`` names
    another link: the parameter is then that function of what is read; but scales and rates are in
    units of the data.

    A family with ``units`` takes ``unit``, and mostly ``center``: parameters that are read or
    learned are then those of (x - center) / unit, and the density is that of x (:mod:`.units`).
    :func:`.build` gives a likelihood those of the data.

    Arguments:
        event_shape: The shape of one draw.
        learned: Whether the parameters that are left out are learned, instead of read from the
            context.
        values: Fixed or learned parameters by name. Those left out are read from the context. Fixed
            ones are kept in torch's default dtype. One number for a matrix means a multiple of the
            identity.
        center: Where the data lie, a number or one for each element.
        unit: How far they spread, a number or one for each element.
        links: Links by parameter, for those that are read or learned: exp, softplus, sigmoid or
            tanh; identity, log, log1p or logit, where what is read must suit the domain.

    Raises:
        ValueError: A parameter is unknown, outside its domain, of the wrong shape, or cannot be
            read from a context; or a link is unknown, or leads outside the domain.
    """

    family: ClassVar[type[TorchDistribution]]
    params: ClassVar[tuple[str, ...]]
    standard: ClassVar[dict[str, float]]
    units: ClassVar[Units | None] = None

    def __init__(self, event_shape: Shape, *, learned: bool = False, **values: Value) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.read: dict[str, torch.Size] = {}  # what is read from the context, and its shape there
        self.links: dict[str, Transform] = {}
        self.named_links = parameters.checked_links(self, values.pop("links", {}))
        self.origins: dict[str, float] = {}  # those that are one number for all elements
        self.in_units: InUnits | None = None
        if self.units is not None:
            given = {key: values.pop(key) for key in self.units.arguments if key in values}
            self.in_units = InUnits(self.units, self.event_shape, **given) if given else None
        self.own_places = parameters.bent_locations(self)
        for unknown in values.keys() - set(self.params):
            raise ValueError(
                f"{type(self).__name__} has no parameter {unknown}; it has {', '.join(self.params)}"
            )
        for name in self.params:
            rest = "learned" if learned and self.readable(name) else None
            self._declare(name, values.get(name, rest))

        self.fixed_names = [name for name in self.params if name in self._buffers]
        self.learned_names = [name for name in self.params if name in self._parameters]
        self.sizes = [shape.numel() for shape in self.read.values()]
        self.num_params = sum(self.sizes)
        if self.fixed_names:
            parameters.check_jointly(self, {name: self._buffers.get(name) for name in self.params})

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        return self._built(self._values(read))

    def exposed(self, read: Tensor | None, exposure: Tensor) -> TorchDistribution:
        """The distribution with its rate multiplied by the exposure of each datum."""
        assert self.units is not None
        values = self._values(read if self.num_params else None)
        built = self._built(self.units.multiplied(values, exposure, self.event_shape))
        return built if read is None else built.expand(read.shape[:-1])

    def _built(self, values: dict[str, Any]) -> TorchDistribution:
        built = self.family(**values)
        return built.to_event(len(self.event_shape) - built.event_dim)

    def _values(self, read: Tensor | None) -> dict[str, Any]:
        """The parameters: fixed, learned, and those that were read."""
        values: dict[str, Any] = {name: self._buffers[name] for name in self.fixed_names}
        for name in self.learned_names:
            values[name] = self._linked(name, self._learned(name))
        if read is not None:
            # To split off a single piece would cost two passes over its gradient.
            pieces = read.split(self.sizes, dim=-1) if len(self.sizes) > 1 else (read,)
            for name, piece in zip(self.read, pieces, strict=True):
                values[name] = self._linked(name, self._from_origin(name, piece))
        return values

    @property
    def support(self) -> constraints.Constraint:
        support: Any = self.family.support
        declared = type(self).forward is Conditional.forward
        declared = declared and type(self).distribution is Parametric.distribution
        if isinstance(support, property) or not declared:
            # by the parameters, or by what the subclass writes
            return support_at(self, parameters.standard_read(self))

        several = len(self.event_shape) - support.event_dim
        return constraints.independent(support, several) if several else support

    @property
    def options(self) -> dict[str, Any]:
        """What it was built from, without the shape; ``learned=True`` is written out."""
        options = super().options
        if options.pop("learned", False):
            for name in self.params:
                if self.readable(name):
                    options.setdefault(name, "learned")
        return options

    @classmethod
    def domain(cls, name: str) -> constraints.Constraint:
        """The domain of a parameter; ``dependent`` where the family gives none."""
        domains = cls.family.arg_constraints
        known = isinstance(domains, dict) and name in domains
        return domains[name] if known else constraints.dependent

    @classmethod
    def readable(cls, name: str) -> bool:
        """Whether a parameter has a link, so that it can be learned or read from a context."""
        try:
            link(cls.domain(name))
        except NotImplementedError:
            return False
        return True

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), **cls.required())

    def usual_guide(self) -> str | dict[str, Any]:
        if not self.support.is_discrete:
            return super().usual_guide()
        fixed = {
            key: value
            for key, value in self.options.items()
            if key not in self.params or not self.readable(key)
        }
        return {"name": self.name, **fixed}

    @classmethod
    def takes(cls) -> list[str]:
        others = [name for name in super().takes() if name not in cls.params]
        of_units = cls.units.arguments if cls.units is not None else ()
        return [*others, *cls.params, *of_units, "links"]

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        return {} if cls.units is None else cls.units.of(x)

    @classmethod
    def required(cls) -> dict[str, Any]:
        return {name: cls.standard[name] for name in cls.params if not cls.readable(name)}

    @classmethod
    def standalone(cls, given: dict[str, Any]) -> dict[str, Any]:
        learned = given.get("learned")
        return {
            name: value
            for name, value in cls.standard.items()
            if not (learned and cls.readable(name))
        }

    def parameter_shape(self, name: str) -> torch.Size:
        """The shape of a parameter of one datum."""
        return self.event_shape

    @classmethod
    def is_matrix(cls, name: str) -> bool:
        """Whether a parameter is a matrix for each datum."""
        domain = cls.domain(name)
        return not constraints.is_dependent(domain) and domain.event_dim == 2

    def filled(self, name: str, number: float) -> Tensor:
        """What one number for a parameter means: each element, or the diagonal of a matrix."""
        shape = self.parameter_shape(name)
        unit = torch.eye(*shape[-2:]) if self.is_matrix(name) else torch.ones(())
        return (number * unit.double()).expand(shape)

    def _declare(self, name: str, value: Value | None) -> None:
        """Give a parameter its role: read from the context, fixed, or learned."""
        if isinstance(value, str) or value is None:
            if not self.readable(name):
                raise ValueError(
                    f"{self.title} needs {name} as a number; it can be neither learned nor read "
                    "from a context"
                )
            named = self.named_links.get(name)
            self.links[name] = link(self.domain(name)) if named is None else NAMED[named]
        elif name in self.named_links:
            raise ValueError(f"links: {name} is fixed; leave out its link, or its value")

        if value is None:
            self._declare_read(name)
        elif not isinstance(value, (str, Mapping)):
            self.register_buffer(name, self._fixed(name, value))
        elif value == "learned" or (value == "shared" and not self.is_matrix(name)):
            self.register_parameter(name, nn.Parameter(self._initial(name, value)))
        else:
            roles = "'learned'" if self.is_matrix(name) else "'learned' or 'shared'"
            raise ValueError(f"{self.title} takes {name} as a number, {roles}; got {value!r}")

    def _declare_read(self, name: str) -> None:
        """Note the shape and the origin of a parameter that is read, both unconstrained."""
        self.read[name] = self._unconstrained_shape(name)
        origin = torch.zeros(self.read[name]) if name in self.named_links else self.origin(name)
        first = float(origin.flatten()[0])
        if bool((origin == first).all()):
            self.origins[name] = first
        else:
            origin = origin.to(torch.get_default_dtype())
            self.register_buffer(f"origin_of_{name}", origin, persistent=False)

    def _fixed(self, name: str, value: float | Sequence[float] | Tensor) -> Tensor:
        """A fixed parameter, checked."""
        return parameters.fixed(self, name, value)

    def _initial(self, name: str, role: str) -> Tensor:
        """A learned parameter starts at its origin."""
        origin = self.origin(name).to(torch.get_default_dtype())
        if role == "shared":
            return origin.flatten()[0].clone()
        return origin.expand(self._unconstrained_shape(name)).clone()

    def origin(self, name: str) -> Tensor:
        """The standard value of a parameter, in unconstrained space; 0 where its link has none."""
        origin = self.links[name].inv(self.filled(name, self.standard[name]))
        return torch.where(origin.isfinite(), origin, 0.0)

    def _unconstrained_shape(self, name: str) -> torch.Size:
        return torch.Size(self.links[name].inverse_shape(self.parameter_shape(name)))

    def _learned(self, name: str) -> Tensor:
        """A learned parameter, unconstrained; one number for all elements is spread over them."""
        parameter = getattr(self, name)
        return parameter if parameter.dim() else parameter.expand(self._unconstrained_shape(name))

    def _linked(self, name: str, unconstrained: Tensor) -> Tensor:
        """A parameter from its unconstrained form, in the units of the data."""
        value = self.links[name](unconstrained)
        if name in self.named_links:
            parameters.check_linked(self, name, unconstrained, value)
        if self.in_units is None or name in self.own_places:
            return value
        return self.in_units(name, value)

    def _from_origin(self, name: str, read: Tensor) -> Tensor:
        """What was read, counted from the origin; an origin of 0 costs no pass over wide data."""
        shape = self.read[name]
        if len(shape) != 1:
            read = read.reshape(read.shape[:-1] + shape)
        if name not in self.origins:
            return read + getattr(self, f"origin_of_{name}").to(read.dtype)
        return read + self.origins[name] if self.origins[name] else read

    def _names(self) -> str:
        return f" ({', '.join(self.read)})"

    def _remedy(self) -> str:
        fixed = ", ".join(f"{name}={self.standard[name]}" for name in self.read)
        return f"fix them ({fixed}) to use it as a prior"
