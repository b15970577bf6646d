"""Modules that a spec can name: a registry, and the arguments of the constructor."""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn


class Declared(nn.Module):
    """A module that remembers what it was built from and may be registered by name, so that a spec can name it."""

    registry: ClassVar[dict[str, Any]]
    kind: ClassVar[str]
    num_sizes: ClassVar[int]  # how many of the first arguments are sizes, which a spec leaves out
    name: ClassVar[str | None] = None

    arguments: dict[str, Any]

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        if name is not None:
            other = cls.registry.setdefault(name, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"two {cls.kind}s are named {name!r}: {other.__name__} and {cls.__name__}")
            cls.registry[name] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        with contextlib.suppress(TypeError):  # of a call that __init__ will refuse, and of a copy, which gets a state
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__["arguments"] = _flat(bound)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What it was built from, without the sizes."""
        return dict(list(self.arguments.items())[self.num_sizes :])


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments by name, without ``self``, those of ``**values`` among the others; lists are the caller's to change."""
    kinds = bound.signature.parameters
    flat: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        flat.update(value if kinds[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    return {name: copy.copy(value) if isinstance(value, (list, np.ndarray)) else value for name, value in flat.items()}
