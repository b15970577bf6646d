"""The command ``pyro-vae``: its subcommands, in the order in which the help shows them.

:class:`.Command` says how a command ends."""

from __future__ import annotations

from typing import Annotated

import typer

from . import criticise, make, show
from .errors import Command

app = typer.Typer(
    cls=Command,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 it failed on the way; 2 what was asked for makes no sense; 130 "
    "interrupted. `pyro-vae --install-completion` lets the shell complete names.",
)
app.command("fit")(make.fit)
app.command("sweep")(make.sweep)
app.command("sample")(make.sample)
app.command("evaluate")(criticise.evaluate)
app.command("compare-models")(criticise.compare_models)
app.command("report")(criticise.report)
app.command("mcmc")(criticise.mcmc)
app.command("compare")(criticise.compare)
app.command("classify")(make.classify)
app.command("list")(show.show_names)
app.command("describe")(show.describe_name)
app.command("check")(show.check)
app.command("demo")(show.demo)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Variational autoencoders as declarative Pyro models.

    A VAE is three distributions that fit together: a prior p(z), a likelihood p(x|z) and a guide
    q(z|x). `pyro-vae list` shows the names, and in which roles each can stand."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("pyro-vae"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
