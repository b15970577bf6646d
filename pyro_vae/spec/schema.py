"""The grammar of a spec as JSON Schema, from the registries: by it editors and other programs check
a spec before :func:`.build` reads it.

There is no second table of names. A part is a name or a table; the table's name says which
definition holds for the rest. What a schema cannot say, :func:`.build` still checks: that shapes
fit together, that a support suits a role, that values lie in their domains."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..assembly.condition import Condition
from ..conditionals.base import Conditional, Shape
from ..conditionals.declared import Declared
from ..conditionals.missingness import Missingness
from ..conditionals.networks import Network
from ..conditionals.parametric import Parametric
from ..distributions.links import fitting
from .describe import plain

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
ROOTS: dict[str, type[Declared]] = {
    "conditional": Conditional,
    "network": Network,
    "missingness": Missingness,
}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
NUMBERS: list[Schema] = [{"type": "number"}, {"type": "array"}]
SIZE: Schema = {"type": "integer", "minimum": 1}
SIZES: Schema = {"anyOf": [SIZE, {"type": "array", "items": SIZE}]}
NAMES: Schema = {"type": "array", "items": {"type": "string"}}


def json_schema() -> dict[str, Any]:
    """The grammar of a spec, as JSON Schema (draft 2020-12), from what is registered now.

    It accepts what :func:`describe` gives, and specs that leave out what data imply. Conditionals
    and networks of your own are in it once their modules are imported.

    Returns:
        A dict that can be written as JSON.

    References:
        | JSON Schema: a media type for describing JSON documents
        | https://json-schema.org/draft/2020-12

    Example:
        >>> json_schema()["required"]
        ['latent']
    """
    head = _ref("with_network")
    weight = {"properties": {"weight": {"type": "number", "minimum": 0}}}
    parts: Schema = {
        "event": SIZES,
        "latent": SIZES,
        "columns": NAMES,
        "classes": {"type": "object"},
        **dict.fromkeys(("prior", "likelihood", "guide"), _closed(head)),
        "condition": _closed({"type": "object", "properties": _arguments(Condition)}),
        "classifier": _closed(head, weight),
        "missingness": _closed(_ref("missingness")),
        "modules": NAMES,
    }
    whole = {"type": "object", "properties": parts, "required": ["latent"]}
    title = {"$schema": DRAFT, "title": "A VAE of pyro_vae"}
    return {**title, **_closed(whole), "$defs": _definitions()}


def _definitions() -> Schema:
    """What parts are made of, and what each registered name takes."""
    network = {"network": _closed(_ref("network"))}
    block = {"columns": {"type": "array"}, "shape": SIZES, **network}
    definitions: Schema = {
        "with_network": {**_ref("conditional"), "properties": network},
        "block": {"type": "object", **_ref("conditional"), "properties": block},
    }
    for kind, root in ROOTS.items():
        definitions[kind] = _by_name(kind, root)
        for name, cls in root.registry.items():
            definitions[f"{kind}.{name}"] = {
                "description": (cls.__doc__ or "").strip().split("\n")[0],
                "properties": {"name": {"type": "string"}, **_takes(cls)},
            }
    return definitions


def _by_name(kind: str, root: type[Declared]) -> Schema:
    """A registered name, or a table with one, whose definition holds for it."""
    former = {cls.formerly: name for name, cls in root.registry.items() if cls.formerly}
    names = {name: name for name in root.registry} | former
    cases = [
        {"if": _has_name(given), "then": _ref(f"{kind}.{name}")} for given, name in names.items()
    ]
    return {
        "type": ["string", "object"],
        "if": {"type": "string"},
        "then": {"enum": list(names)},
        "else": {"properties": {"name": {"enum": list(names)}}, "allOf": cases},
    }


def _has_name(name: str) -> Schema:
    return {"properties": {"name": {"const": name}}, "required": ["name"]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _closed(*schemas: Schema) -> Schema:
    """All of these schemas, and no entry that none of them knows."""
    whole = {key: value for schema in schemas for key, value in schema.items()}
    joined = whole if len(schemas) == 1 else {"allOf": list(schemas)}
    return {**joined, "unevaluatedProperties": False}


def _takes(cls: type[Declared]) -> Schema:
    """The arguments that a table may give."""
    if not issubclass(cls, Parametric):
        found = _arguments(cls)
    else:
        units = () if cls.units is None else cls.units.arguments
        named = filter(cls.readable, cls.params)
        links = {name: {"enum": fitting(cls.domain(name))} for name in named}
        found = {
            **_arguments(cls),
            **{name: _parameter(cls, name) for name in cls.params},
            **{name: {"anyOf": NUMBERS} for name in units},
            "links": {"type": "object", "properties": links, "additionalProperties": False},
        }
    return {name: found.get(name, {}) for name in cls.takes()}


def _parameter(cls: type[Parametric], name: str) -> Schema:
    """A parameter of a family: fixed, or learned."""
    words = ["learned"] if cls.is_matrix(name) else ["learned", "shared"]
    return {"anyOf": [*NUMBERS, {"enum": words}] if cls.readable(name) else NUMBERS}


def _arguments(cls: Any) -> Schema:
    """The arguments of a constructor that are given by name: their types and defaults."""
    hints: dict[str, Any] = {}
    with contextlib.suppress(NameError):  # of a module of the user's, unknown at run time
        hints = get_type_hints(cls.__init__)
    named = signature(cls).parameters.values()
    return {
        each.name: _type(hints.get(each.name)) | _default(each)
        for each in named
        if each.kind is Parameter.KEYWORD_ONLY
    }


def _default(argument: Parameter) -> Schema:
    if argument.default in (Parameter.empty, None):
        return {}
    return {"default": plain(argument.default)}


def _type(hint: Any) -> Schema:
    """The schema of an annotation; one that says nothing to JSON allows anything."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint == Shape:
        return SIZES
    if hint == str | dict[str, Any]:
        return _closed(_ref("conditional"))
    if hint == dict[str, Any]:
        return _closed(_ref("block"))
    if hint in TYPES:
        return {"type": TYPES[hint]}
    if origin in (Union, UnionType):
        each = [_type(option) for option in inner]
        return {} if {} in each else {"anyOf": each}
    if origin in (Sequence, list):
        return {"type": "array", "items": _type(inner[0])}
    return {"type": "object"} if origin in (Mapping, dict) else {}
