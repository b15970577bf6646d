"""What has a name: conditionals, networks, losses and data.

No table says in which roles a conditional can stand. A small VAE is built with it in each role; it
can stand where the library accepts that VAE."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from ..conditionals.base import Conditional
from ..conditionals.missingness import Missingness
from ..conditionals.networks import Network
from ..spec.build import build
from ..spec.describe import describe
from ..training.losses import Loss, losses
from .plaintext import plain
from .terminal import console, write_json

ROLES = ("prior", "likelihood", "guide")
DATA = {"digits": "scikit-learn's 8 x 8 digits: 1797 rows of 64 grey levels 0..16."}


Group = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]  # a title, columns, rows


def show_names(*, as_json: bool) -> None:
    """Show every name."""
    if as_json:
        write_json(
            {
                title.lower(): [dict(zip(_keys(columns), row, strict=True)) for row in rows]
                for title, columns, rows in groups()
            }
        )
        return
    for group in groups():
        console().print(_table(*group), "")


def groups() -> list[Group]:
    """All names, a table for each kind: conditionals with their roles, networks, ..."""
    conditionals = [
        (name, " ".join(roles(cls)), summary(cls)) for name, cls in Conditional.registry.items()
    ]
    networks = [(name, summary(cls)) for name, cls in Network.registry.items()]
    missingnesses = [(name, summary(cls)) for name, cls in Missingness.registry.items()]
    loss_rows = [(name, call_of(entry)) for name, entry in losses.items()]
    return [
        ("Conditionals", ("name", "can stand as", "for"), conditionals),
        ("Networks", ("name", "what it is"), networks),
        ("Missingness", ("name", "what it is"), missingnesses),
        ("Losses", ("name", "what it is"), loss_rows),
        ("Data", ("name", "what they are"), list(DATA.items())),
    ]


def _keys(columns: tuple[str, ...]) -> list[str]:
    return [column.replace(" ", "_") for column in columns]


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
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


def call_of(loss: Loss) -> str:
    """How a loss is made."""
    given = ", ".join(f"{key}={value!r}" for key, value in loss.options.items())
    number = "1 particle" if loss.particles == 1 else f"{loss.particles} particles"
    unit = " a group" if "groups" in loss.options else ""
    return f"{loss.elbo.__name__}({given}) with {number}{unit}"


def summary(cls: type) -> str:
    """The first sentence of a docstring, in plain text."""
    first = " ".join(plain((inspect.getdoc(cls) or "").split("\n\n")[0]).split())
    return re.split(r"(?<=[^.]\.)\s", first)[0]


def roles(cls: type[Conditional]) -> list[str]:
    """In which roles a conditional can stand: prior, likelihood, guide."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other
    try:
        return [role for role in ROLES if _can_stand_as(cls, role)]
    finally:
        torch.set_num_threads(threads)


def _can_stand_as(cls: type[Conditional], role: str) -> bool:
    if role != "prior" and not _reads_context(cls):
        return False  # its distribution would not depend on the context
    try:
        build(small_spec(cls, role), hidden=[4])
    except (ValueError, TypeError):
        return False
    return True


def _reads_context(cls: type[Conditional]) -> bool:
    return getattr(cls.example(), "num_params", 0) > 0


def small_spec(cls: type[Conditional], role: str) -> dict[str, Any]:
    """The spec of a small VAE: a conditional in a role, the usual parts in the others."""
    head = cls.example()
    shape = list(head.event_shape)
    written = describe(head)
    table = {"name": cls.name, **{key: written[key] for key in cls.lacks({})}}
    if role == "prior":
        table |= cls.standalone({})

    spec: dict[str, Any] = {"event": [2], "latent": [2]}
    spec["event" if role == "likelihood" else "latent"] = shape
    if role == "guide" and head.support.is_discrete:
        spec["prior"] = small_spec(cls, "prior")["prior"]
    return spec | {role: table}
