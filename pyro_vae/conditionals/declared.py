"""Modules that a spec can name: a registry, and the arguments of the constructor."""

from __future__ import annotations

import contextlib
import copy
import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn


def nearest(name: Any, names: Any) -> str:
    """The end of a message about an unknown name: the nearest one, or all of them."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


@contextlib.contextmanager
def at(path: str) -> Iterator[None]:
    """Errors inside say where in a declaration they arose: ``prior.component: ...``."""
    try:
        yield
    except ValueError as error:
        joint = "." if re.match(r"[a-z_.]+(\[\d+\])?[a-z_.]*: ", str(error)) else ": "
        kind = type(error) if type(error).__init__ is ValueError.__init__ else ValueError
        raise kind(f"{path}{joint}{error}") from None


class Declared(nn.Module):
    """A module that remembers what it was built from and may be registered by name, so that a spec
    can name it.
    """

    registry: ClassVar[dict[str, Any]]
    kind: ClassVar[str]
    num_sizes: ClassVar[int]  # how many of the first arguments are sizes, which a spec leaves out
    name: ClassVar[str | None] = None
    formerly: ClassVar[str | None] = None  # a name from before, which old specs and files have

    arguments: dict[str, Any]

    def __init_subclass__(
        cls, name: str | None = None, formerly: str | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        cls.formerly = formerly
        if name is not None:
            other = cls.registry.setdefault(name, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"two {cls.kind}s are named {name!r}: {other.__name__} and {cls.__name__}"
                )
            cls.registry[name] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        # A call that __init__ will refuse does not bind; neither does a copy, which gets a state.
        with contextlib.suppress(TypeError):
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__["arguments"] = _flat(bound)
        return self

    @classmethod
    def lookup(cls, name: Any) -> type[Self] | None:
        """The registered class that has this name, or had it formerly; None if there is none."""
        if not isinstance(name, str):
            return None
        former = {found.formerly: found for found in cls.registry.values()}
        return cls.registry.get(name) or former.get(name)

    @classmethod
    def named(cls, name: Any) -> type[Self]:
        """The registered class that has this name, or had it formerly.

        Raises:
            ValueError: There is none.
        """
        found = cls.lookup(name)
        if found is None:
            raise ValueError(f"no {cls.kind} is named {name!r}{nearest(name, cls.registry)}")
        return found

    @classmethod
    def takes(cls) -> list[str]:
        """The names of the arguments that a spec may give."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1 + cls.num_sizes :]
        return [parameter.name for parameter in parameters if "VAR" not in parameter.kind.name]

    @classmethod
    def lacks(cls, options: dict[str, Any]) -> list[str]:
        """The arguments without a default that `options` leave out."""
        parameters = inspect.signature(cls.__init__).parameters
        named = [
            name
            for name in list(parameters)[1 + cls.num_sizes :]
            if name in cls.takes() and name not in options
        ]
        return [name for name in named if parameters[name].default is inspect.Parameter.empty]

    @property
    def options(self) -> dict[str, Any]:
        """What it was built from, without the sizes."""
        return dict(list(self.arguments.items())[self.num_sizes :])


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments by name, without ``self``; those of ``**values`` are among the others.

    Lists and arrays are copied, so that the caller may change his own.
    """
    kinds = bound.signature.parameters
    flat: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        flat.update(value if kinds[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    kept = (list, dict, np.ndarray)
    return {
        name: copy.deepcopy(value) if isinstance(value, kept) else value
        for name, value in flat.items()
    }
