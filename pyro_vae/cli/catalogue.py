"""What there is: conditionals, networks, losses and data by name, each explained in plain text.

In which roles a conditional can stand is not written down anywhere: a small VAE is built for each
role, and what the library accepts there, it can be."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tomli_w
import torch
from rich.table import Table
from rich.text import Text

from ..conditionals.base import Conditional
from ..conditionals.declared import nearest
from ..conditionals.networks import Network
from ..conditionals.parametric import Parametric
from ..data.arrays import as_rows
from ..spec.build import build, describe
from ..spec.checkpoint import load
from ..training.losses import Loss, losses
from .plaintext import plain

ROLES = ("prior", "likelihood", "guide")
DATA = {"digits": "scikit-learn's 8 x 8 digits: 1797 rows of 64 grey levels 0..16."}
WIDTH = 100


def tables() -> list[Table]:
    """All names, in four tables: conditionals with their roles, networks, losses, data."""
    conditionals = (
        (name, " ".join(roles(cls)), summary(cls)) for name, cls in Conditional.registry.items()
    )
    networks = ((name, summary(cls)) for name, cls in Network.registry.items())
    return [
        _table("Conditionals", ("name", "can stand as", "for"), conditionals),
        _table("Networks", ("name", "what it is"), networks),
        _table(
            "Losses",
            ("name", "what it is"),
            ((name, _loss(entry)) for name, entry in losses.items()),
        ),
        _table("Data", ("name", "what they are"), DATA.items()),
    ]


def _table(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1], overflow="fold", header_style="dim")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _loss(loss: Loss) -> str:
    given = ", ".join(f"{key}={value!r}" for key, value in loss.options.items())
    many = "1 particle" if loss.particles == 1 else f"{loss.particles} particles"
    group = " a group" if "groups" in loss.options else ""
    return f"{loss.elbo.__name__}({given}) with {many}{group}"


def roles(cls: type[Conditional]) -> list[str]:
    """In which roles a conditional can stand: prior, likelihood, guide."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other
    try:
        return [role for role in ROLES if _stands(cls, role)]
    finally:
        torch.set_num_threads(threads)


def _stands(cls: type[Conditional], role: str) -> bool:
    if role != "prior" and not _reads(cls):
        return False  # it would not depend on what it is given
    try:
        build(_small(cls, role), hidden=[4])
    except (ValueError, TypeError):
        return False
    return True


def _reads(cls: type[Conditional]) -> bool:
    return getattr(cls.example(), "num_params", 0) > 0


def _small(cls: type[Conditional], role: str) -> dict[str, Any]:
    """A small spec with a conditional in a role, and the usual parts in the others."""
    head = cls.example()
    shape, written = list(head.event_shape), describe(head)
    table = {"name": cls.name, **{key: written[key] for key in cls.lacks({})}}
    spec: dict[str, Any] = {
        "event": [2],
        "latent": [2],
        "event" if role == "likelihood" else "latent": shape,
    }
    if role == "guide" and head.support.is_discrete:
        spec["prior"] = _small(cls, "prior")["prior"]
    return spec | {role: table | cls.standalone({}) if role == "prior" else table}


def example(cls: type[Conditional], role: str) -> dict[str, Any]:
    """What a spec may say of a conditional in a role."""
    spec, size = _small(cls, role), "event" if role == "likelihood" else "latent"
    network = {} if role == "prior" else {"network": {"name": "mlp", "hidden": [200]}}
    return {size: spec[size], role: spec[role] | network}


def _example_of_network(cls: type[Network]) -> dict[str, Any]:
    """A spec with a network: before a guide, or before a likelihood where only that can be."""
    table = {"name": cls.name, **_defaults(cls)}
    for role in ("guide", "likelihood"):
        spec = {"event": [1, 8, 8], "latent": [2], role: {"name": "normal", "network": table}}
        try:
            build(spec)
        except (ValueError, TypeError):
            continue
        return {role: spec[role]}
    return {"network": table}


def _defaults(cls: Any) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters
    given = {name: parameters[name].default for name in cls.takes() if name in parameters}
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in given.items()
    }
    return {name: value for name, value in plain.items() if value is not inspect.Parameter.empty}


def explain(name: str) -> str:
    """A registered conditional or network, or a saved model, in plain text.

    Arguments:
        name: A registered name, or the path of a model.

    Raises:
        ValueError: There is neither.
        CheckpointError: The file is no model.
    """
    if name in Conditional.registry:
        return _explain_conditional(Conditional.registry[name])
    if name in Network.registry:
        return _explain_network(Network.registry[name])
    if Path(name).is_file() or name.endswith(".safetensors"):
        return _explain_model(Path(name))
    near = nearest(name, [*Conditional.registry, *Network.registry])
    near = near if "did you mean" in near else "; pyro-vae list shows the names"
    raise ValueError(f"no conditional, network or model file is named {name!r}{near}")


def _explain_conditional(cls: type[Conditional]) -> str:
    found = roles(cls)
    tables = [(f"As a {role}, in a spec:", example(cls, role)) for role in found]
    return _page(cls, f"can stand as {', '.join(found) or 'nothing that is known here'}", tables)


def _explain_network(cls: type[Network]) -> str:
    return _page(cls, "a network", [("In a spec:", _example_of_network(cls))])


def _page(cls: Any, kind: str, tables: list[tuple[str, dict[str, Any]]]) -> str:
    body, *rest = re.split(
        r"^(Arguments|Raises|Example|References|See also):\n", inspect.getdoc(cls) or "", flags=re.M
    )
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    blocks = [f"{cls.name}: {cls.__name__}, {kind}", plain(body), *_notes(cls)]
    blocks += [
        f"{title}:\n{plain(sections[title])}"
        for title in ("See also", "References")
        if title in sections
    ]
    blocks += [f"Arguments:\n{_arguments(cls)}"] if cls.takes() else []
    blocks += [f"{title}\n\n{textwrap.indent(toml(table), '    ')}" for title, table in tables]
    blocks += [f"In Python:\n\n{sections['Example']}"] if "Example" in sections else []
    return "\n\n".join(block.rstrip() for block in blocks)


def _notes(cls: Any) -> list[str]:
    """What the module says about the formulas of all its families."""
    if "math:" not in (cls.__doc__ or ""):
        return []
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    return [plain(part) for part in text.split("\n\n") if part.startswith("In the formulas")]


def _arguments(cls: Any) -> str:
    """What a table may say beside the name: defaults and meaning."""
    described: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        described |= _described(base)
    defaults, implied = _defaults(cls), _implied(cls)
    lines = []
    for name in cls.takes():
        text = described.get(name, "")
        if name in defaults:
            start = f" = {json.dumps(defaults[name], default=repr)}"
        elif name in getattr(cls, "params", ()):
            start, text = "", _parameter(cls, name, name in implied)
        else:
            start = f" ({implied.get(name, 'must be given')})"
        indent = " " * 8
        lines += [
            f"    {name}{start}",
            textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent),
        ]
    return "\n".join(line for line in lines if line.strip())


def _described(cls: type) -> dict[str, str]:
    """The entries under Arguments of a class's own docstring."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Arguments:\n((?:    .*\n?|\n)+)", doc, flags=re.M)
    entries = re.findall(
        r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", flags=re.M
    )
    return {name: " ".join(plain(text).split()) for name, text in entries}


def _implied(cls: Any) -> dict[str, str]:
    """What is known without being given, though it has no default."""
    if issubclass(cls, Network):
        return dict.fromkeys(cls.implied([1, 8, 8]), "follows from the likelihood")
    return dict.fromkeys(
        cls.implied(as_rows(np.ones((1, 3)))), "a likelihood takes it from the data"
    )


def _parameter(cls: type[Parametric], name: str, implied: bool) -> str:
    standard = f"{cls.standard[name]:g}"
    if not cls.readable(name):
        first = "a likelihood takes it from the data, else " if implied else ""
        return f"A number or a list; left out, {first}{standard}."
    learned = '"learned"' if cls.is_matrix(name) else '"learned" or "shared"'
    return f"A number or a list, {learned}; left out, it is read from the context, in a prior {standard}."


def _explain_model(path: Path) -> str:
    """A saved model as TOML that ``fit --spec`` takes, with the rest as comments."""
    vae = load(path)
    with safetensors.safe_open(path, framework="pt") as file:
        versions = json.loads(file.metadata()["versions"])
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    number = sum(parameter.numel() for parameter in vae.parameters())
    return f"# {path.name}: a VAE with {number:,} parameters, saved with {used}\n{toml(describe(vae))}".rstrip()


def toml(table: dict[str, Any]) -> str:
    """TOML, with short lists on one line and without what is None."""

    def joined(found: re.Match[str]) -> str:
        return f"[{' '.join(line.strip() for line in found[1].splitlines())}]"

    return re.sub(r"\[\n([^\[\]{}]*),\n\s*\]", joined, tomli_w.dumps(_given(table)))


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(part) for key, part in value.items() if part is not None}
    return [_given(part) for part in value] if isinstance(value, list) else value


def summary(cls: Any) -> str:
    """The first sentence of a docstring, in plain text."""
    first = " ".join(plain((inspect.getdoc(cls) or "").split("\n\n")[0]).split())
    return re.split(r"(?<=[^.]\.)\s", first)[0]
