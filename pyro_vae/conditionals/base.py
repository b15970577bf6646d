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
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..data.rows import Rows
from ..guards import whole_number
from .declared import Declared, nearest

Shape = int | Sequence[int]


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

    Subclasses set ``event_shape`` in their constructor and write ``forward`` and ``example``; one
    that reads a context through a network also says how many numbers, ``num_params``. ``class
    Mine(Conditional, name="mine")`` registers the name, which makes the class known to specs and to
    the contract tests."""

    registry: ClassVar[dict[str, type[Conditional]]] = {}
    kind, num_sizes = "conditional", 1
    scores_any_value: ClassVar[bool] = (
        True  # whether its density is known at any value, not only at its own draws
    )
    reads_guide: ClassVar[bool] = False  # whether its context, as a prior, is the guide

    event_shape: torch.Size
    num_params: int  # how many numbers are read from the context for each datum

    @abc.abstractmethod
    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """The distribution given `context`: batch shape ``*`` for a context of shape ``(*, ...)``,
        ``()`` for none.
        """

    @classmethod
    @abc.abstractmethod
    def example(cls) -> Conditional:
        """The small instance that tests and documentation use."""

    @property
    def support(self) -> constraints.Constraint:
        """Where its draws lie."""
        reads = getattr(self, "num_params", 0)
        return self(torch.zeros(reads) if reads else None).support

    @property
    def title(self) -> str:
        """How messages name it: its class and event shape."""
        return f"{type(self).__name__}{tuple(self.event_shape)}"

    @property
    def visible_shape(self) -> torch.Size:
        """The shape of what the likelihood sees of a latent."""
        return self.event_shape

    def visible(self, z: Tensor) -> Tensor:
        """What the likelihood sees of a latent."""
        return z

    def initialize(self, x: Rows) -> None:
        """Take in what the data tell before training begins.

        Draws from torch's current random state.
        """

    def extra_repr(self) -> str:
        given = (
            f"{name}={value!r}"
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
        """Arguments beside the `given` ones with which it stands without a context, as a prior by
        bare name does.
        """
        return {"learned": True} if "learned" in cls.takes() else {}

    @classmethod
    def implied(cls, x: Rows) -> dict[str, Any]:
        """Arguments that the data imply: how many classes, how many trials."""
        return {}

    @classmethod
    def with_data(cls, given: dict[str, Any], x: Rows) -> dict[str, Any]:
        """The `given` arguments, and beside them those that the data imply."""
        return {**cls.implied(x), **given}


def declared(part: str | dict[str, Any], event_shape: Shape) -> Conditional:
    """A conditional from its name, or from a table ``{"name": ..., ...}`` of its name and
    arguments.

    Raises:
        ValueError: No conditional has this name.
    """
    if not isinstance(part, (str, dict)):
        raise ValueError(f"must be a name or a table such as {{'name': ...}}; got {part!r}")
    table = {"name": part} if isinstance(part, str) else dict(part)
    name = table.pop("name", None)
    if not isinstance(name, str) or name not in Conditional.registry:
        raise ValueError(f"no conditional is named {name!r}{nearest(name, Conditional.registry)}")
    cls = Conditional.registry[name]
    if cls.reads_guide:
        raise ValueError(f"{name} reads the guide, so it can only be a prior")
    try:
        return cls(event_shape, **{**cls.required(), **table})
    except TypeError as error:
        lacks = cls.lacks(table)
        raise ValueError(
            f"{name} needs {', '.join(lacks)}" if lacks else f"{name}: {error}"
        ) from None


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

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        return self.head.event_shape

    @property
    def title(self) -> str:
        return self.head.title

    @property
    def support(self) -> constraints.Constraint:
        return self.head.support

    @property
    def scores_any_value(self) -> bool:  # type: ignore[override]
        return self.head.scores_any_value

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        return self.head(self.network(context))

    def usual_guide(self) -> str | dict[str, Any]:
        return self.head.usual_guide()

    @classmethod
    def example(cls) -> Conditional:
        return cls(nn.Linear(2, 6), Conditional.registry["normal"]((3,)))
