"""The command ``pyro-vae``: its subcommands, in the order in which the help shows them.

:class:`.Command` says how a command ends."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from . import catalogue, demo, evaluate, explain, selftest, train
from .errors import Command

app = typer.Typer(
    cls=Command, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.command("fit")(train.fit)
app.command("sample")(train.sample)
app.command("evaluate")(evaluate.evaluate)
app.command("mcmc")(evaluate.mcmc)
app.command("compare")(evaluate.compare)
app.command("report")(evaluate.report)
app.command("list")(catalogue.show_names)
app.command("describe")(explain.describe_name)
app.command("check")(selftest.check)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Variational autoencoders as declarative Pyro models.

    A VAE is three distributions that fit together: a prior p(z), a likelihood p(x|z) and a guide
    q(z|x). `pyro-vae list` shows the names, and in which roles each can stand."""
    if version:
        typer.echo(metadata.version("pyro-vae"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
