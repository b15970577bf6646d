"""Families of distributions: a Pyro distribution, and a rule for each of its parameters.

A Pyro distribution states the domains of its parameters in ``arg_constraints``, and
:func:`.links.link` turns a domain into a link function, so a family is a declaration."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..distributions.links import link
from .base import Conditional, Shape, as_shape

Value = float | Sequence[float] | Tensor | str


class Parametric(Conditional):
    """A family of distributions whose parameters are fixed, learned, or read from the context.

    A family is declared by three class attributes: ``family`` (the Pyro distribution), ``params``
    (the parameters in use) and ``standard`` (the values that an unadorned prior of this family
    takes). Each parameter has one role:

    ================  ===============================================  ==========================================
    role              written as                                       example
    ================  ===============================================  ==========================================
    fixed             a number or tensor                               ``Normal((784,), scale=0.1)``
    learned           ``"learned"`` (per element), ``"shared"`` (one)  ``NegativeBinomial((9,), total_count="learned")``
    from the context  left out                                         ``Normal((784,))``: heads of mean and scale
    ================  ===============================================  ==========================================

    A parameter read from the context passes through the :func:`link` of its domain: real ones
    unchanged, positive ones through softplus, written :math:`[h]_+`. Its origin is the standard
    value, so a context of zeros gives the standard distribution. The context lists the parameters
    one after the other, in the order of ``params``.

    Arguments:
        event_shape: The shape of one draw.
        learned: Whether the parameters that are left out are learned, instead of read from the
            context.
        values: Fixed or learned parameters by name; those left out are read from the context. Fixed
            ones are kept in torch's default dtype; for a parameter that is a matrix a number means
            a multiple of the identity.

    Raises:
        ValueError: A parameter is unknown, outside its domain, of the wrong shape, or cannot be
            read from a context.
    """

    family: ClassVar[type[TorchDistribution]]
    params: ClassVar[tuple[str, ...]]
    standard: ClassVar[dict[str, float]]

    def __init__(self, event_shape: Shape, *, learned: bool = False, **values: Value) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.read: dict[str, torch.Size] = {}
        for unknown in values.keys() - set(self.params):
            raise ValueError(
                f"{type(self).__name__} has no parameter {unknown}; it has {', '.join(self.params)}"
            )
        for name in self.params:
            self._declare(
                name, values.get(name, "learned" if learned and self.readable(name) else None)
            )
        self._fit_together()

    @property
    def options(self) -> dict[str, Any]:
        """What it was built from, without the shape; ``learned=True`` written out for each
        parameter.
        """
        options = super().options
        rest = self.params if options.pop("learned", False) else ()
        return {
            **options,
            **{name: "learned" for name in rest if name not in options and self.readable(name)},
        }

    @classmethod
    def domain(cls, name: str) -> constraints.Constraint:
        """The domain of a parameter; ``dependent`` where the family gives none."""
        declared = cls.family.arg_constraints
        return (
            declared.get(name, constraints.dependent)
            if isinstance(declared, dict)
            else constraints.dependent
        )

    @classmethod
    def readable(cls, name: str) -> bool:
        """Whether a parameter has a link function, so that it can be learned or read from a
        context.
        """
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
        return [name for name in super().takes() if name not in cls.params] + list(cls.params)

    @classmethod
    def required(cls) -> dict[str, Any]:
        return {name: cls.standard[name] for name in cls.params if not cls.readable(name)}

    def parameter_shape(self, name: str) -> torch.Size:
        """The shape of a parameter of one datum."""
        return self.event_shape

    @classmethod
    def is_matrix(cls, name: str) -> bool:
        """Whether a parameter is a matrix for each datum."""
        return not constraints.is_dependent(cls.domain(name)) and cls.domain(name).event_dim == 2

    def filled(self, name: str, number: float) -> Tensor:
        """What a single number for a parameter means: each element, or the diagonal of a matrix."""
        shape = self.parameter_shape(name)
        unit = torch.eye(*shape[-2:]) if self.is_matrix(name) else torch.ones(())
        return (number * unit.double()).expand(shape)

    @property
    def num_params(self) -> int:  # type: ignore[override]
        """How many numbers are read from the context for each datum."""
        return sum(shape.numel() for shape in self.read.values())

    @classmethod
    def standalone(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: v
            for name, v in cls.standard.items()
            if not (given.get("learned") and cls.readable(name))
        }

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        values = {name: self._own(name) for name in self.params if name not in self.read}
        values |= self._from(context)
        built = self.family(**values)
        built = built.to_event(len(self.event_shape) - built.event_dim)
        return built if context is None or self.read else built.expand(context.shape[:-1])

    def _who(self) -> str:
        return f"{type(self).__name__}{tuple(self.event_shape)}"

    def _declare(self, name: str, value: Value | None) -> None:
        who = self._who()
        if (value is None or isinstance(value, str)) and not self.readable(name):
            raise ValueError(
                f"{who} needs {name} as a number; it can be neither learned nor read from a context"
            )
        if value is None:
            self.read[name] = self._unconstrained_shape(name)
        elif not isinstance(value, str):
            self.register_buffer(name, self._fixed(who, name, value))
        elif value == "learned" or (value == "shared" and not self.is_matrix(name)):
            self.register_parameter(
                name, nn.Parameter(self._initial(name, shared=value == "shared"))
            )
        else:
            roles = "'learned'" if self.is_matrix(name) else "'learned' or 'shared'"
            raise ValueError(f"{who} takes {name} as a number, {roles}; got {value!r}")

    def _fixed(self, who: str, name: str, value: float | Sequence[float] | Tensor) -> Tensor:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
        shape = self.parameter_shape(name)
        if tensor.dim() == 0:
            tensor = self.filled(name, float(tensor)).to(tensor)
        try:
            tensor = tensor.detach().expand(shape).clone()
        except RuntimeError:
            raise ValueError(
                f"{who} needs {name} of shape {tuple(shape)}; got {tuple(tensor.shape)}"
            ) from None
        domain = self.domain(name)
        if not constraints.is_dependent(domain) and not bool(domain.check(tensor).all()):
            raise ValueError(f"{who} needs {name} in {domain}; got {value}")
        return tensor

    def _fit_together(self) -> None:
        """Fixed parameters may be possible one by one and not together: low above high."""
        if self.params and len(self._buffers) == len(self.params):
            try:
                self.family(**dict(self._buffers), validate_args=True)
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{self._who()} got values that do not fit together: {reason}"
                ) from None

    def _initial(self, name: str, shared: bool) -> Tensor:
        """A learned parameter starts at its standard value, in unconstrained space."""
        origin = self._origin(name).to(torch.get_default_dtype())
        return (
            origin.flatten()[0].clone()
            if shared
            else origin.expand(self._unconstrained_shape(name)).clone()
        )

    @functools.cached_property
    def _origins(self) -> dict[str, Tensor]:
        """The standard values in unconstrained space: numbers where all elements have the same."""
        origins = {}
        for name in self.params:
            if self.readable(name):
                origin = link(self.domain(name)).inv(self.filled(name, self.standard[name]))
                same = bool((origin == origin.flatten()[0]).all())
                origins[name] = origin.flatten()[0] if same else origin
        return origins

    def _origin(self, name: str) -> Tensor:
        return self._origins[name]

    def _moved(self, name: str, read: Tensor) -> Tensor:
        """What was read, from the origin on; as it is where that is 0, which saves a pass over wide
        data.
        """
        origin = self._origin(name)
        return read + origin.to(read) if origin.any() else read

    def _unconstrained_shape(self, name: str) -> torch.Size:
        return torch.Size(link(self.domain(name)).inverse_shape(self.parameter_shape(name)))

    def _own(self, name: str) -> Tensor:
        """A fixed or learned parameter, constrained."""
        if name in self._buffers:
            return getattr(self, name)
        return link(self.domain(name))(getattr(self, name).expand(self._unconstrained_shape(name)))

    def _from(self, context: Tensor | None) -> dict[str, Tensor]:
        """The parameters that the context holds, constrained; where none are read it only lends its
        batch shape.
        """
        if not self.read:
            return {}
        if context is None or context.dim() == 0 or context.shape[-1] != self.num_params:
            raise ValueError(self._mismatch(context))
        pieces = context.split([shape.numel() for shape in self.read.values()], dim=-1)
        return {
            name: link(self.domain(name))(
                self._moved(name, piece.reshape(piece.shape[:-1] + shape))
            )
            for (name, shape), piece in zip(self.read.items(), pieces, strict=True)
        }

    def _mismatch(self, context: Tensor | None) -> str:
        reads = f"{self._who()} reads {self.num_params} numbers per datum ({', '.join(self.read)})"
        if context is not None:
            return f"{reads}; got a context of shape {tuple(context.shape)}"
        fixed = ", ".join(f"{name}={self.standard[name]}" for name in self.read)
        return f"{reads}; got no context; fix them ({fixed}) to use it as a prior"
