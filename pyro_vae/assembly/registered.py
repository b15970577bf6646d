"""Parameters in Pyro's store under a name that no other instance has."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
from torch import nn

_names = (f"vae_{number}" for number in itertools.count())


class Registered(nn.Module):
    """A module that shows its parameters to Pyro; a copy trains by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._name = next(_names)

    def register_parameters(self) -> None:
        """Show the parameters to Pyro under a name that no other instance has.

        Unlike ``pyro.module`` this follows a part that was replaced, and is silent about frozen
        parameters.
        """
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                full_name = f"{self._name}$$${name}"
                if full_name in store and store[full_name] is not parameter:
                    del store[full_name]
                pyro.param(full_name, parameter)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference: no pickle of it
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy trains by itself: it gets a name of its own."""
        super().__setstate__(state)
        self._name = next(_names)
