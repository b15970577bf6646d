r"""The one concept: a module whose ``forward(context)`` is a distribution.

A variational autoencoder (Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114) is three conditional
distributions that fit together: the prior :math:`p_\theta(z)`, the likelihood :math:`p_\theta(x \mid z)` and the guide
:math:`q_\phi(z \mid x)`. Each is a :class:`Conditional`; which of the three it is depends only on its context.

=============  ==========================  ================
role           call                        event shape
=============  ==========================  ================
prior          ``prior()``                 ``Z``
likelihood     ``likelihood(z)``           ``X``
guide          ``guide(x)``                ``U`` (``Z``, unconstrained)
=============  ==========================  ================

Most conditionals are a family of distributions and a rule for its parameters: :class:`Parametric`. A Pyro distribution
states the domains of its parameters in ``arg_constraints``, and :func:`link` turns a domain into a link function, so a
family is a declaration. :class:`Amortised` puts a network before any conditional.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..guards import whole_number
from .declared import Declared
from .links import link

Shape = int | Sequence[int]
Value = float | Sequence[float] | Tensor | str


def as_shape(shape: Shape) -> torch.Size:
    """``3`` and ``(3,)`` both mean one vector of three numbers.

    Raises:
        ValueError: A size is no whole number from 1.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    for size in sizes:
        whole_number("every size of a shape", size, at_least=1)
    return torch.Size(sizes)


class Conditional(Declared, abc.ABC):
    """A conditional distribution: a module whose ``forward(context)`` is a Pyro distribution.

    Subclasses set ``event_shape`` in their constructor and write ``forward`` and ``example``; one that reads a context
    through a network also says how many numbers, ``num_params``. ``class Mine(Conditional, name="mine")`` registers the
    name, which makes the class known to specs and to the contract tests.
    """

    registry: ClassVar[dict[str, type[Conditional]]] = {}
    kind, num_sizes = "conditional", 1

    event_shape: torch.Size

    @abc.abstractmethod
    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """The distribution given `context`: batch shape ``*`` for a context of shape ``(*, ...)``, ``()`` for none."""

    @classmethod
    @abc.abstractmethod
    def example(cls) -> Conditional:
        """The small instance that tests and documentation use."""

    @classmethod
    def implied(cls, largest: Callable[[], float]) -> dict[str, Any]:
        """Arguments that the data imply, given a way to their largest value: how many classes, how many trials."""
        return {}


class Parametric(Conditional):
    """A family of distributions whose parameters are fixed, learned, or read from the context.

    A family is declared by three class attributes: ``family`` (the Pyro distribution), ``params`` (the parameters in
    use) and ``standard`` (the values that an unadorned prior of this family takes). Each parameter has one role:

    ================  ===============================================  ==========================================
    role              written as                                       example
    ================  ===============================================  ==========================================
    fixed             a number or tensor                               ``Normal((784,), scale=0.1)``
    learned           ``"learned"`` (per element), ``"shared"`` (one)  ``NegativeBinomial((9,), total_count="learned")``
    from the context  left out                                         ``Normal((784,))``: heads of mean and scale
    ================  ===============================================  ==========================================

    A parameter read from the context passes through the :func:`link` of its domain: real ones unchanged, positive ones
    through softplus, written :math:`[h]_+`. Its origin is the standard value, so a context of zeros gives the standard
    distribution. The context lists the parameters one after the other, in the order of ``params``.

    Arguments:
        event_shape: The shape of one draw.
        values: Fixed or learned parameters by name; those left out are read from the context. Fixed ones are kept in
            torch's default dtype.

    Raises:
        ValueError: A parameter is unknown, outside its domain, of the wrong shape, or cannot be read from a context.
    """

    family: ClassVar[type[TorchDistribution]]
    params: ClassVar[tuple[str, ...]]
    standard: ClassVar[dict[str, float]]

    def __init__(self, event_shape: Shape, **values: Value) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.read: dict[str, torch.Size] = {}
        for unknown in values.keys() - set(self.params):
            raise ValueError(f"{type(self).__name__} has no parameter {unknown}; it has {', '.join(self.params)}")
        for name in self.params:
            self._declare(name, values.get(name))
        self._fit_together()

    @classmethod
    def domain(cls, name: str) -> constraints.Constraint:
        """The domain of a parameter; ``dependent`` where the family gives none."""
        declared = cls.family.arg_constraints
        return declared[name] if isinstance(declared, dict) else constraints.dependent

    @classmethod
    def readable(cls, name: str) -> bool:
        """Whether a parameter has a link function, so that it can be learned or read from a context."""
        try:
            link(cls.domain(name))
        except NotImplementedError:
            return False
        return True

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), **{name: cls.standard[name] for name in cls.params if not cls.readable(name)})

    def parameter_shape(self, name: str) -> torch.Size:
        """The shape of a parameter of one datum."""
        return self.event_shape

    @property
    def num_params(self) -> int:
        """How many numbers are read from the context for each datum."""
        return sum(shape.numel() for shape in self.read.values())

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        values = {name: self._own(name) for name in self.params if name not in self.read}
        values |= self._from(context)
        built = self.family(**values)
        built = built.to_event(len(self.event_shape) - built.event_dim)
        return built if context is None or self.read else built.expand(context.shape[:-1])

    def extra_repr(self) -> str:
        given = (f"{name}={value!r}" for name, value in self.options.items())
        return ", ".join([str(tuple(self.event_shape)), *given])

    def _who(self) -> str:
        return f"{type(self).__name__}{tuple(self.event_shape)}"

    def _declare(self, name: str, value: Value | None) -> None:
        who = self._who()
        if (value is None or isinstance(value, str)) and not self.readable(name):
            raise ValueError(f"{who} needs {name} as a number; it can be neither learned nor read from a context")
        if value is None:
            self.read[name] = self._unconstrained_shape(name)
        elif not isinstance(value, str):
            self.register_buffer(name, self._fixed(who, name, value))
        elif value in ("learned", "shared"):
            self.register_parameter(name, nn.Parameter(self._initial(name, shared=value == "shared")))
        else:
            raise ValueError(f"{who} takes {name} as a number, 'learned' or 'shared'; got {value!r}")

    def _fixed(self, who: str, name: str, value: float | Sequence[float] | Tensor) -> Tensor:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
        shape = self.parameter_shape(name)
        try:
            tensor = tensor.detach().expand(shape).clone()
        except RuntimeError:
            raise ValueError(f"{who} needs {name} of shape {tuple(shape)}; got {tuple(tensor.shape)}") from None
        domain = self.domain(name)
        if not constraints.is_dependent(domain) and not bool(domain.check(tensor).all()):
            raise ValueError(f"{who} needs {name} in {domain}; got {value}")
        return tensor

    def _fit_together(self) -> None:
        """Fixed parameters may be possible one by one and not together: low above high."""
        if len(self._buffers) == len(self.params):
            try:
                self.family(**dict(self._buffers), validate_args=True)
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"{self._who()} got values that do not fit together: {reason}") from None

    def _initial(self, name: str, shared: bool) -> Tensor:
        """A learned parameter starts at its standard value, in unconstrained space."""
        return torch.full(torch.Size(()) if shared else self._unconstrained_shape(name), self._origin(name))

    @classmethod
    @functools.cache
    def _origin(cls, name: str) -> float:
        """The standard value in unconstrained space."""
        domain = cls.domain(name)
        standard = torch.full((1,) * domain.event_dim, cls.standard[name], dtype=torch.float64)
        return float(link(domain).inv(standard))

    def _unconstrained_shape(self, name: str) -> torch.Size:
        return torch.Size(link(self.domain(name)).inverse_shape(self.parameter_shape(name)))

    def _own(self, name: str) -> Tensor:
        """A fixed or learned parameter, constrained."""
        if name in self._buffers:
            return getattr(self, name)
        return link(self.domain(name))(getattr(self, name).expand(self._unconstrained_shape(name)))

    def _from(self, context: Tensor | None) -> dict[str, Tensor]:
        """The parameters that the context holds, constrained; where none are read it only lends its batch shape."""
        if not self.read:
            return {}
        if context is None or context.dim() == 0 or context.shape[-1] != self.num_params:
            raise ValueError(self._mismatch(context))
        pieces = context.split([shape.numel() for shape in self.read.values()], dim=-1)
        return {
            name: link(self.domain(name))(piece.reshape(piece.shape[:-1] + shape) + self._origin(name))
            for (name, shape), piece in zip(self.read.items(), pieces, strict=True)
        }

    def _mismatch(self, context: Tensor | None) -> str:
        reads = f"{self._who()} reads {self.num_params} numbers per datum ({', '.join(self.read)})"
        if context is not None:
            return f"{reads}; got a context of shape {tuple(context.shape)}"
        fixed = ", ".join(f"{name}={self.standard[name]}" for name in self.read)
        return f"{reads}; got no context; fix them ({fixed}) to use it as a prior"


class Amortised(Conditional):
    r"""A conditional behind a network: :math:`p(x \mid z)` with parameters :math:`f(z)`, or :math:`q(z \mid x)`.

    Arguments:
        network: Maps a context of shape ``(*, ...)`` to ``(*, head.num_params)``, for any leading ``*``
            (see :func:`fold`).
        head: The conditional that reads the network's output.

    Raises:
        TypeError: The network is no module, or the head no conditional.

    Example:
        >>> likelihood = Amortised(MLP(2, 5), Poisson((5,)))
        >>> likelihood(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
    """

    def __init__(self, network: nn.Module, head: Conditional) -> None:
        super().__init__()
        for role, part, kind in (("network", network, nn.Module), ("head", head, Conditional)):
            if not isinstance(part, kind):
                raise TypeError(f"Amortised needs its {role} as a {kind.__name__}; got {part!r:.60}")
        self.network = network
        self.head = head

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        return self.head.event_shape

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        return self.head(self.network(context))

    @classmethod
    def example(cls) -> Conditional:
        return cls(nn.Linear(2, 6), Conditional.registry["normal"]((3,)))
