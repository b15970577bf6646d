r"""The one concept: a module whose ``forward(context)`` is a distribution.

A variational autoencoder (Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114) is three
conditional distributions that fit together: the prior :math:`p_\theta(z)`, the likelihood
:math:`p_\theta(x \mid z)` and the guide :math:`q_\phi(z \mid x)`. Each is a :class:`Conditional`;
which of the three it is depends only on its context.

=============  ==========================  ================
role           call                        event shape
=============  ==========================  ================
prior          ``prior()``                 ``Z``
likelihood     ``likelihood(z)``           ``X``
guide          ``guide(x)``                ``U`` (``Z``, unconstrained)
=============  ==========================  ================

Most conditionals are a family of distributions and a rule for its parameters (:mod:`.parametric`).
:class:`Amortised` puts a network before any conditional.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..data.rows import Rows
from ..guards import whole_number
from .declared import Declared

Shape = int | Sequence[int]
Make = Callable[[torch.Size, int], nn.Module]  # from the shape of what it reads, and its outputs


class Own(NamedTuple):
    """What a block of columns has of its own: a shape for its network, and what makes that."""

    shape: torch.Size | None = None
    make: Make | None = None


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

    To write one:

    1. Set ``event_shape`` in the constructor, and ``num_params``: how many numbers it reads from
       its context for each datum, 0 for none.
    2. Write ``distribution(read)``. The context is checked before it, and expanded after it.
    3. Write ``example()``. The contract tests use it.

    A conditional whose context is no tensor of ``num_params`` numbers, such as :class:`Amortised`,
    writes ``forward(context)`` itself and needs neither ``distribution`` nor ``num_params``.

    ``class Mine(Conditional, name="mine")`` registers a name: specs and the contract tests then
    know the class. See :class:`.UniformSphere` for a short one.
    """

    registry: ClassVar[dict[str, type[Conditional]]] = {}
    kind = "conditional"
    num_sizes = 1
    reads_guide: ClassVar[bool] = False  # whether its context, as a prior, is the guide
    are_counts: ClassVar[bool] = False  # draws without a bound, which guides see as logarithms
    scores_any_value: bool = True  # False: it knows the density of its own draws only

    event_shape: torch.Size
    num_params: int  # how many numbers are read from the context for each datum

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """The distribution given `context`.

        Its batch shape is ``*`` for a context of shape ``(*, num_params)`` and ``()`` for none. A
        conditional that reads nothing takes only the batch shape from its context.
        """
        if self.num_params == 0:
            alone = self.distribution(None)
            return alone if context is None else alone.expand(context.shape[:-1])

        if context is None or context.shape[-1:] != (self.num_params,):
            raise ValueError(self._mismatch(context))
        return self.distribution(context)

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        """What a subclass writes: the distribution given the numbers it reads, ``(*, num_params)``.

        `read` is None if it reads nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} writes neither distribution nor forward")

    def exposed(self, context: Tensor | None, exposure: Tensor) -> TorchDistribution:
        """The distribution given `context`, its rate multiplied by an exposure ``(N,)``: for
        families of counts and amounts.
        """
        raise NotImplementedError(f"{self.title} has no rate that an exposure could multiply")

    @classmethod
    @abc.abstractmethod
    def example(cls) -> Conditional:
        """The small instance that tests and documentation use."""

    @property
    def title(self) -> str:
        """How messages name it: by its class and event shape."""
        return f"{type(self).__name__}{tuple(self.event_shape)}"

    @property
    def support(self) -> constraints.Constraint:
        """Where its draws lie."""
        return support_at(self)

    @property
    def visible_shape(self) -> torch.Size:
        """The shape of what the likelihood sees of a latent."""
        return self.event_shape

    def visible(self, z: Tensor) -> Tensor:
        """What the likelihood sees of a latent."""
        return z

    def initialize(self, x: Rows) -> None:
        """Initialise from the data, before training. Draws from torch's current random state."""

    def behind(self, make: Make, context: torch.Size, own: Sequence[Own] = ()) -> Amortised:
        """It, behind a network for contexts of this shape.

        Arguments:
            make: Makes a network from the shape of what it reads and its number of outputs.
            context: The shape of the context of one datum.
            own: What each block has of its own, for one with blocks.
        """
        return Amortised(make(context, self.num_params), self)

    def extra_repr(self) -> str:
        given = (
            f"{name}={value!r:.120}"
            for name, value in self.options.items()
            if not isinstance(value, nn.Module)
        )
        return ", ".join([str(tuple(self.event_shape)), *given])

    def usual_guide(self) -> str | dict[str, Any]:
        """The guide that goes with it as a prior, by name or as a table."""
        return "normal"

    @classmethod
    def required(cls) -> dict[str, Any]:
        """Standard values of the arguments that can be neither learned nor read from a context."""
        return {}

    @classmethod
    def standalone(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that it needs beside the `given` ones to stand without a context.

        A prior that is given by name alone stands so.
        """
        return {"learned": True} if "learned" in cls.takes() else {}

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        """Arguments that the data imply: how many classes, how many trials."""
        return {}

    @classmethod
    def with_data(cls, given: dict[str, Any], x: Rows) -> dict[str, Any]:
        """The `given` arguments, and those that the data imply."""
        return {**cls.implied(x), **given}

    def _mismatch(self, context: Tensor | None) -> str:
        """The message about a context that does not fit."""
        reads = f"{self.title} reads {self.num_params} numbers per datum{self._names()}"
        if context is None:
            return f"{reads}; got no context; {self._remedy()}"
        return f"{reads}; got a context of shape {tuple(context.shape)}"

    def _names(self) -> str:
        """What the numbers are called, in brackets, if they have names."""
        return ""

    def _remedy(self) -> str:
        """What to do if there is no context."""
        return "learned=True reads none" if "learned" in self.takes() else "give it one"


def support_at(part: Conditional, read: Tensor | None = None) -> constraints.Constraint:
    """The support that a conditional has where it reads this (default: zeros), or nothing."""
    reads = getattr(part, "num_params", 0)
    if not reads:
        return part().support
    tensors = itertools.chain(part.parameters(), part.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    return part(like.new_zeros(reads) if read is None else read.to(like)).support


def declared(part: str | dict[str, Any], event_shape: Shape) -> Conditional:
    """A conditional from its name, or from a table ``{"name": ..., ...}`` with its arguments.

    Raises:
        ValueError: No conditional has this name.
    """
    if not isinstance(part, (str, dict)):
        raise ValueError(f"must be a name or a table such as {{'name': ...}}; got {part!r}")
    table = {"name": part} if isinstance(part, str) else dict(part)
    cls: Any = Conditional.named(table.pop("name", None))
    if cls.reads_guide:
        raise ValueError(f"{cls.name} reads the guide, so it can only be a prior")

    try:
        return cls(event_shape, **{**cls.required(), **table})
    except TypeError as error:
        lacks = cls.lacks(table)
        reason = f" needs {', '.join(lacks)}" if lacks else f": {error}"
        raise ValueError(f"{cls.name}{reason}") from None


class Amortised(Conditional):
    r"""A conditional behind a network: :math:`p(x \mid z)` with parameters :math:`f(z)`, or
    :math:`q(z \mid x)`.

    Arguments:
        network: Maps a context of shape ``(*, ...)`` to ``(*, head.num_params)``, for any leading
            ``*`` (see :func:`fold`).
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
                raise TypeError(
                    f"Amortised needs its {role} as a {kind.__name__}; got {part!r:.60}"
                )
        self.network = network
        self.head = head
        self.event_shape = head.event_shape
        self.scores_any_value = head.scores_any_value

    @property
    def title(self) -> str:
        return self.head.title

    @property
    def support(self) -> constraints.Constraint:
        return self.head.support

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        return self.head(self.read(context))

    def read(self, context: Tensor | None) -> Tensor:
        """What the head reads; under ``torch.autocast`` networks may be coarse, densities not."""
        read = self.network(context)
        if read.element_size() < 4 and torch.is_autocast_enabled(read.device.type):
            return read.float()
        return read

    def exposed(self, context: Tensor | None, exposure: Tensor) -> TorchDistribution:
        return self.head.exposed(self.read(context), exposure)

    def usual_guide(self) -> str | dict[str, Any]:
        return self.head.usual_guide()

    @classmethod
    def example(cls) -> Conditional:
        return cls(nn.Linear(2, 6), Conditional.registry["normal"]((3,)))
