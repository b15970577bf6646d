"""A spec with lists becomes a grid of specs.

A list is a grid where one value could stand::

    latent = [2, 4, 8]                                          # three sizes; a shape: [[4, 4]]
    prior = ["normal", {name = "mixture", components = [2, 5]}]  # three priors

A list is itself a value where the argument takes one, such as ``hidden = [200, 100]`` of a network:
for a grid of these, write one list for each, ``hidden = [[200, 100], [400]]``. Where it takes one
number, name or truth value, several are a grid. Where it takes a number or a list, as the
parameters of a family do, a flat list could be either, and is refused.
"""

from __future__ import annotations

import itertools
import json
import re
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..conditionals.base import Conditional, Shape
from ..conditionals.declared import Declared
from ..conditionals.missingness import Missingness
from ..conditionals.networks import Network

ROLES = ("prior", "likelihood", "guide", "missingness", "classifier")
SCALARS = {bool, int, float, str, type(None)}
MOST = 1000  # runs of one sweep

Choice = tuple[str, Any]  # how one value is called, and the value


def expand(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specs of a grid, by name.

    Arguments:
        spec: A spec in which lists are a grid.

    Returns:
        For each combination its spec. A name tells the values of what varies, such as
        ``latent=4 prior=vamp``.

    Raises:
        ValueError: A list could be one value or several; or two runs would be the same.
    """
    axes = {key: _choices(key, value) for key, value in spec.items()}
    varying = [key for key, choices in axes.items() if len(choices) > 1]
    number = 1
    for choices in axes.values():
        number *= len(choices)
    if number > MOST:
        raise ValueError(f"a sweep has at most {MOST} runs; got {number}; write fewer values")

    runs: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        name = " ".join(f"{key}={chosen[key][0]}" for key in varying) or "model"
        if name in runs:
            raise ValueError(f"two runs of the sweep are {name}; write each value once")
        runs[name] = {key: value for key, (_, value) in chosen.items()}
    return runs


def folder_name(name: str) -> str:
    """The name of a run as that of a folder."""
    return re.sub(r"[^\w.=-]+", "_", name)[:80]


def _choices(key: str, value: Any) -> list[Choice]:
    """The values that an entry of the spec stands for."""
    if key == "latent":
        return _latents(value)
    if key not in ROLES:
        return [(_called(value), value)]
    if not isinstance(value, list):
        return _of_part(key, value)
    if not value:
        raise ValueError(f"{key}: a grid needs at least one value; got []")
    return [choice for part in value for choice in _of_part(key, part)]


def _latents(value: Any) -> list[Choice]:
    """One number or several, or one shape or several."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("latent: a grid needs at least one size; got []")
    if all(isinstance(size, list) for size in values):
        return [("x".join(map(str, shape)), shape) for shape in values]
    if any(isinstance(size, list) for size in values):
        raise ValueError(
            f"latent: a grid has sizes, [2, 4], or shapes, [[2], [4, 4]]; got both: {value}"
        )
    return [(str(size), [size]) for size in values]


def _of_part(where: str, part: Any) -> list[Choice]:
    """The parts that a name or a table stands for."""
    if not isinstance(part, dict):
        return [(_called(part), part)]
    cls = _class_of(part.get("name"))
    axes = {key: _of_argument(f"{where}.{key}", key, value, cls) for key, value in part.items()}
    found = []
    for combination in itertools.product(*axes.values()):
        table = {key: value for key, (_, value) in zip(axes, combination, strict=True)}
        said = [f"{key}={called}" for key, (called, _) in zip(axes, combination, strict=True)]
        inner = ",".join(text for text in said if not text.startswith("name="))
        name = str(part.get("name", "table"))
        found.append((f"{name}({inner})" if inner else name, table))
    return found


def _of_argument(where: str, key: str, value: Any, cls: type[Declared] | None) -> list[Choice]:
    if isinstance(value, dict):
        return _of_part(where, value)
    if not isinstance(value, list) or not value or cls is None:
        return [(_called(value), value)]
    if all(isinstance(each, list) for each in value):
        return [(_called(each), each) for each in value]
    kind = _kind(cls, key)
    if kind == "either":
        raise ValueError(
            f"{where}: in a sweep {value} could be one value or {len(value)}; write [{value}] for "
            f"one, or a table for each, such as {{name = {cls.name!r}, {key} = {value[0]}}}"
        )
    if kind == "one":
        return [choice for each in value for choice in _of_argument(where, key, each, cls)]
    return [(_called(value), value)]


def _class_of(name: Any) -> type[Declared] | None:
    if not isinstance(name, str):
        return None
    for kind in (Conditional, Network, Missingness):
        if (found := kind.lookup(name)) is not None:
            return found
    return None


def _kind(cls: Any, key: str) -> str:
    """What an argument takes by its annotation: "one" number, name, table or truth value, "several"
    in a list, or "either".
    """
    if key in getattr(cls, "params", ()):
        return "either"
    try:
        hint = get_type_hints(cls.__init__).get(key)
    except NameError:  # of a type that is imported for checks alone
        return "either"
    if hint is None or hint == Shape:
        return "several"
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    are_single = [kind in SCALARS or get_origin(kind) is dict for kind in kinds]
    if all(are_single):
        return "one"
    return "either" if any(are_single) or hint is Any else "several"


def _called(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).replace(" ", "")
