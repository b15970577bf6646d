"""The page of the command line, from the help of ``pyro-vae``."""

from __future__ import annotations

import inspect
from typing import Any

import typer.main

from pyro_vae.cli import app

HEAD = """# Command line

`pyro-vae COMMAND --help` says on the terminal what this page says.
"""


def page() -> str:
    """The page, a section for each command, in Markdown."""
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *(_section(name, each) for name, each in group.commands.items())])


def _section(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["pyro-vae", name, *command.collect_usage_pieces(context)])
    rows = "".join(_row(each) for each in command.params)
    table = f"| | | |\n|---|---|---|\n{rows}" if rows else ""
    return f"## {name}\n\n```text\n{usage}\n```\n\n{inspect.cleandoc(command.help)}\n\n{table}"


def _row(parameter: Any) -> str:
    """An argument or option: how it is written, what it is, its default."""
    name = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "option":
        flag = ", ".join([*parameter.opts, *parameter.secondary_opts])
        name = flag if parameter.is_flag else f"{flag} {name}"
    text = (parameter.help or "").replace("|", r"\|")
    default = _default(parameter)
    return f"| `{name}` | {text} | {default} |\n"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    return "" if shown is None or shown is False or shown == () or callable(shown) else str(shown)
