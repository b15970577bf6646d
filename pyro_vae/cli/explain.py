"""One name explained in plain text: what a conditional, a network or a loss is for, its arguments,
how to ask for it. A saved model is shown as its spec."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tomli_w
import typer

from ..conditionals.base import Conditional
from ..conditionals.declared import Declared, nearest
from ..conditionals.missingness import Missingness
from ..conditionals.networks import Network
from ..conditionals.parametric import Parametric
from ..data.arrays import as_rows
from ..spec.build import build
from ..spec.checkpoint import load
from ..spec.describe import describe
from ..training.losses import Loss, losses
from . import catalogue
from .arguments import import_own_parts
from .catalogue import DATA, roles, small_spec
from .plaintext import plain
from .terminal import write_json

WIDTH = 100
TOLD = ("See also", "References")  # sections of docstrings
OPTIONAL = ("links",)  # arguments without a default that need not be given


def describe_name(name: str, modules: list[str] | None, *, as_json: bool) -> None:
    """Explain a name, or show what a saved model is."""
    import_own_parts(modules)
    text = explain(name)
    if as_json:
        is_model = text.startswith("#")
        spec = describe(load(name)) if is_model else None
        write_json({"name": name, "spec": spec, "text": text})
    else:
        typer.echo(text)


def explain(name: str) -> str:
    """A name that is listed, or a saved model, in plain text.

    Arguments:
        name: A conditional, network, missingness, loss or data by name, or the path of a model.

    Raises:
        ValueError: There is neither.
        CheckpointError: The file is no model.
    """
    pages = []
    if (conditional := Conditional.lookup(name)) is not None:
        pages.append(_explain_conditional(conditional))
    if (network := Network.lookup(name)) is not None:
        pages.append(_explain_network(network))
    if (missingness := Missingness.lookup(name)) is not None:
        pages.append(_explain_missingness(missingness))
    if name in losses:
        pages.append(_explain_loss(name, losses[name]))
    if name in DATA:
        pages.append(f"{name}: data\n\n{DATA[name]}")
    if pages:
        return "\n\n".join(pages)
    if Path(name).is_file() or name.endswith(".safetensors"):
        return _explain_model(Path(name))

    registries = (Conditional.registry, Network.registry, Missingness.registry, losses, DATA)
    hint = nearest(name, list(chain(*registries)))
    if "did you mean" not in hint:
        hint = "; pyro-vae list shows the names"
    raise ValueError(f"nothing that is listed, and no model file, is named {name!r}{hint}")


def _explain_conditional(cls: type[Conditional]) -> str:
    found = roles(cls)
    specs = [(f"As a {role}, in a spec:", _example(cls, role)) for role in found]
    return _page(cls, f"can stand as {', '.join(found) or 'nothing that is known here'}", specs)


def _explain_network(cls: type[Network]) -> str:
    return _page(cls, "a network", [("In a spec:", _example_of_network(cls))])


def _explain_missingness(cls: type[Missingness]) -> str:
    return _page(cls, "a missingness", [("In a spec:", {"missingness": {"name": cls.name}})])


def _explain_loss(name: str, loss: Loss) -> str:
    text, sections = _sections(loss.elbo)
    notes = [f"By this name it is {catalogue.call_of(loss)}."]
    if loss.elbo.__module__.startswith("pyro."):
        text = catalogue.summary(loss.elbo).replace(" - ", " ")  # its markup is another
        notes.insert(0, f"It is pyro.infer.{loss.elbo.__name__}.")
    notes.append(f"It has {'a' if loss.has_kl else 'no'} KL term for beta of fit to weigh.")
    if loss.discrete is None:
        notes.append("It does not train discrete latents.")
    elif loss.discrete != name:
        notes.append(f"Where latents are discrete, {loss.discrete} takes its place.")

    blocks = [f"{name}: {loss.elbo.__name__}, a loss", plain(text)]
    blocks.append(textwrap.fill(" ".join(notes), WIDTH))
    blocks += [f"{title}:\n{plain(sections[title])}" for title in TOLD if title in sections]
    blocks.append(f"On the command line:\n\n    pyro-vae fit DATA --loss {name} -o MODEL")
    blocks.append(f'In Python:\n\n    fit(vae, x, loss="{name}")')
    return "\n\n".join(block.rstrip() for block in blocks)


def _explain_model(path: Path) -> str:
    """A saved model as TOML that ``fit --spec`` takes, with the rest as comments."""
    vae = load(path)
    with safetensors.safe_open(path, framework="pt") as file:
        versions = dict(json.loads(file.metadata().get("versions", "{}")))
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    number = sum(parameter.numel() for parameter in vae.parameters())
    head = f"# {path.name}: a VAE with {number:,} parameters, saved with {used}"
    return f"{head}\n{_toml(describe(vae))}".rstrip()


def _page(cls: type[Declared], kind: str, specs: list[tuple[str, dict[str, Any]]]) -> str:
    text, sections = _sections(cls)
    blocks = [f"{cls.name}: {cls.__name__}, {kind}", plain(text), *_notes(cls)]
    blocks += [f"{title}:\n{plain(sections[title])}" for title in TOLD if title in sections]
    if cls.takes():
        blocks.append(f"Arguments:\n{_arguments(cls)}")
    for title, spec in specs:
        blocks.append(f"{title}\n\n{textwrap.indent(_toml(spec), '    ')}")
    if "Example" in sections:
        blocks.append(f"In Python:\n\n{sections['Example']}")
    return "\n\n".join(block.rstrip() for block in blocks)


def _sections(cls: type) -> tuple[str, dict[str, str]]:
    """What a docstring begins with, and its sections by title."""
    text, *rest = re.split(
        r"^(Arguments|Raises|Example|References|See also):\n", inspect.getdoc(cls) or "", flags=re.M
    )
    return text, dict(zip(rest[::2], rest[1::2], strict=True))


def _notes(cls: type[Declared]) -> list[str]:
    """What the module says about the formulas of all its families."""
    if "math:" not in (cls.__doc__ or ""):
        return []
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    paragraphs = text.split("\n\n")
    return [plain(each) for each in paragraphs if each.startswith("In the formulas")]


def _arguments(cls: Any) -> str:
    """What a table may say beside the name: defaults and meaning."""
    described: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        described |= _described_arguments(base)
    defaults = _defaults(cls)
    implied = _implied(cls)

    lines = []
    for name in cls.takes():
        value = ""
        text = described.get(name, "")
        if name in defaults:
            value = f" = {json.dumps(defaults[name], default=repr)}"
        elif name in getattr(cls, "params", ()):
            text = _parameter(cls, name, name in implied)
        else:
            optional = "" if name in OPTIONAL else " (must be given)"
            value = f" ({implied[name]})" if name in implied else optional
        indent = " " * 8
        lines.append(f"    {name}{value}")
        lines.append(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent))
    return "\n".join(line for line in lines if line.strip())


def _described_arguments(cls: type) -> dict[str, str]:
    """The entries under Arguments of a class's own docstring."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Arguments:\n((?:    .*\n?|\n)+)", doc, flags=re.M)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1], flags=re.M)
    return {name: " ".join(plain(text).split()) for name, text in entries}


def _defaults(cls: Any) -> dict[str, Any]:
    """The defaults of the arguments that have one, as a spec writes them."""
    parameters = inspect.signature(cls.__init__).parameters
    defaults = {name: parameters[name].default for name in cls.takes() if name in parameters}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in defaults.items()
        if value is not inspect.Parameter.empty
    }


def _implied(cls: Any) -> dict[str, str]:
    """Arguments without a default that need not be given: where their values come from."""
    if issubclass(cls, Network):
        return dict.fromkeys(cls.implied([1, 8, 8]), "follows from the likelihood")
    if issubclass(cls, Missingness):
        return {}
    names = cls.implied(as_rows(np.ones((1, 3))))
    return dict.fromkeys(names, "a likelihood takes it from the data")


def _parameter(cls: type[Parametric], name: str, implied: bool) -> str:
    """What a parameter of a family may be."""
    standard = f"{cls.standard[name]:g}"
    if not cls.readable(name):
        first = "a likelihood takes it from the data, else " if implied else ""
        return f"A number or a list; left out, {first}{standard}."
    learned = '"learned"' if cls.is_matrix(name) else '"learned" or "shared"'
    return (
        f"A number or a list, {learned}; left out, it is read from the context, in a prior "
        f"{standard}."
    )


def _example(cls: type[Conditional], role: str) -> dict[str, Any]:
    """What a spec may say of a conditional in a role."""
    spec = small_spec(cls, role)
    size = "event" if role == "likelihood" else "latent"
    network = {} if role == "prior" else {"network": {"name": "mlp", "hidden": [200]}}
    return {size: spec[size], role: spec[role] | network}


def _example_of_network(cls: type[Network]) -> dict[str, Any]:
    """A spec with a network: in front of a guide, or of a likelihood where it fits only there."""
    table = {"name": cls.name, **_defaults(cls)}
    for role in ("guide", "likelihood"):
        spec = {"event": [1, 8, 8], "latent": [2], role: {"name": "normal", "network": table}}
        try:
            build(spec)
        except (ValueError, TypeError):
            continue
        return {role: spec[role]}
    return {"network": table}


def _toml(table: dict[str, Any]) -> str:
    """TOML, with short lists on one line and without what is None."""

    def on_one_line(found: re.Match[str]) -> str:
        return f"[{' '.join(line.strip() for line in found[1].splitlines())}]"

    return re.sub(r"\[\n([^\[\]{}]*),\n\s*\]", on_one_line, tomli_w.dumps(_without_none(table)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_none(part) for part in value]
    return value
