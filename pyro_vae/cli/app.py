"""The command ``pyro-vae``.

What a user can mend ends in one line on stderr and exit code 2, in one place, :class:`.Command`;
every other error is ours, and keeps its traceback."""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from ..data.rows import Rows
from ..evidence.evidence import log_evidence
from ..spec.build import build, describe
from ..spec.checkpoint import load, save
from ..training.fit import fit as train
from ..training.losses import losses
from ..vae import VAE
from . import catalogue
from . import evaluate as evaluate  # registers its commands
from .arguments import (
    Condition,
    Model,
    Modules,
    Seed,
    Source,
    import_modules,
    option,
    part,
    read_condition,
    read_rows,
    ready,
    ready_file,
    sizes,
    some,
)
from .demo import demo as run_demo
from .errors import PIPED_WIDTH, app
from .selftest import check_estimators
from .selftest import table as selftest_table


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Variational autoencoders as declarative Pyro models.

    A VAE is three distributions that fit together: a prior p(z), a likelihood p(x|z) and a guide
    q(z|x). `pyro-vae list` shows what can stand where."""
    if version or context.invoked_subcommand is None:
        typer.echo(metadata.version("pyro-vae") if version else context.get_help())
        raise typer.Exit


def _split(num: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on, and which to hold out."""
    held_out = 0 if share == 0 else max(1, round(share * num))
    if held_out >= num:
        raise ValueError(
            f"--validation {share:g} of {num} data leaves none to train on; use a smaller share, "
            "or 0"
        )
    order = np.random.default_rng(seed).permutation(num)
    return order[held_out:], order[:held_out]


def _built(vae: VAE) -> str:
    spec, number = describe(vae), sum(parameter.numel() for parameter in vae.parameters())
    parts = ", ".join(f"{role} {spec[role]['name']}" for role in ("prior", "likelihood", "guide"))
    shapes = f"data of shape {tuple(spec['event'])}, latents of shape {tuple(spec['latent'])}"
    return f"Built a VAE: {parts}; {shapes}, {number:,} parameters."


def _trained(
    vae: VAE, rows: tuple[Rows, Rows | None], held_out: tuple[Rows, Rows | None], **options: Any
) -> str:
    """Train on `rows`; with data held out, these say when to stop."""
    if held_out[0]:
        options |= {"validation": held_out[0] if held_out[1] is None else held_out}
    began = time.perf_counter()
    history = train(vae, *rows, **options)
    took = time.perf_counter() - began
    loss = f"loss is {history.loss.iloc[-1]:.2f}"
    loss = f"best validation loss is {history.validation.min():.2f}" if held_out[0] else loss
    return f"Trained {len(history)} epochs on {len(rows[0])} data in {took:.0f} s; the {loss} nats per datum."


def _scored(vae: VAE, held_out: tuple[Rows, Rows | None], num_samples: int, seed: int) -> str:
    score = log_evidence(vae, *held_out, num_samples=num_samples, seed=seed).attrs
    return (
        f"log p(x) of {len(held_out[0])} validation data: {score['mean']:.2f} ± "
        f"{score['mean_se']:.2f} nats per datum (K = {num_samples}, {score['flagged']} flagged)."
    )


@app.command()
def fit(
    source: Source,
    out: Annotated[Path, option("The .safetensors file to write.", "MODEL", "--out", "-o")],
    spec: Annotated[
        Path | None, option("The VAE, as a .toml file, instead of the five below.", "FILE")
    ] = None,
    prior: Annotated[
        str | None, option("p(z): a name, or a table in TOML.", "PART", shown="normal")
    ] = None,
    likelihood: Annotated[
        str | None, option("p(x|z), in the same way.", "PART", shown="normal")
    ] = None,
    guide: Annotated[
        str | None, option("q(z|x), in the same way.", "PART", shown="what suits the prior")
    ] = None,
    latent: Annotated[str | None, option("The shape of the latents.", "SIZES", shown="8")] = None,
    hidden: Annotated[
        str | None, option("The widths of the hidden layers.", "SIZES", shown="400")
    ] = None,
    validation: Annotated[
        float, option("The share of data held out, at random.", "SHARE", min=0, max=1)
    ] = 0.1,
    loss: Annotated[str, option("A name that pyro-vae list shows.", "NAME")] = "elbo",
    particles: Annotated[
        int | None, option("Samples of z a datum.", "K", shown="the loss's own", min=1)
    ] = None,
    epochs: Annotated[int, option("At most so many passes over the data.", "N", min=1)] = 100,
    batch_size: Annotated[int, option("How many data make one step.", "N", min=1)] = 128,
    learning_rate: Annotated[float, option("The learning rate of Adam.", "RATE", min=0)] = 1e-3,
    num_samples: Annotated[int, option("Samples of z a datum for log p(x).", "K", min=1)] = 1000,
    seed: Seed = 0,
    key: Annotated[str | None, option("Which array of an .npz file with several.", "NAME")] = None,
    condition: Condition = None,
) -> None:
    """Fit a VAE to data and save it.

    `pyro-vae fit digits --likelihood binomial -o digits.safetensors`

    `pyro-vae fit counts.csv --prior '{name="gamma", rate=2.0}' --likelihood poisson --hidden
    200,200 -o m.safetensors`

    The VAE is built for all data, trained on most of them, and scored on the share held out: log
    p(x) by importance sampling, in nats per datum."""
    ready_file(out)
    if loss not in losses:
        raise ValueError(f"no loss is named {loss!r}; there are {', '.join(losses)}")
    parts = {"prior": part("prior", prior), "likelihood": part("likelihood", likelihood)}
    parts |= {"guide": part("guide", guide), "latent": sizes(latent), "hidden": sizes(hidden)}
    given = {name: value for name, value in parts.items() if value is not None}
    if spec is not None and given:
        raise ValueError(f"--spec says what to build: leave out --{', --'.join(given)}, or --spec")
    x, c = read_rows(source, key), read_condition(condition)
    rest, held_out = _split(len(x), validation, seed)
    vae = build(x, c=c, seed=seed, **given) if spec is None else build(spec, x, c, seed=seed)
    typer.echo(_built(vae))
    scored = some(x, held_out), some(c, held_out)
    options = {
        "loss": loss,
        "particles": particles,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
    }
    typer.echo(
        _trained(
            vae, (some(x, rest), some(c, rest)), scored, learning_rate=learning_rate, **options
        )
    )
    save(vae, out)
    if scored[0]:
        typer.echo(_scored(vae, scored, num_samples, seed))
    typer.echo(f"The model is in {out}.")


@app.command()
def sample(
    model: Model,
    num: Annotated[
        int | None, option("How many data.", "N", "--num", "-n", shown="16", min=1)
    ] = None,
    out: Annotated[
        Path | None, option("A .npy or .csv file.", "FILE", "--out", "-o", shown="CSV to stdout")
    ] = None,
    seed: Seed = 0,
    condition: Condition = None,
    modules: Modules = None,
) -> None:
    """Draw data from a saved model.

    `pyro-vae sample digits.safetensors -n 100 -o drawn.npy`

    A model that is conditional draws one datum for each row of --condition. In CSV a datum is a
    line."""
    if out is not None:
        ready_file(out, ".npy", ".csv")
    import_modules(modules)
    vae, c = load(model), read_condition(condition)
    if vae.condition is not None and c is None:
        raise ValueError(
            f"{model.name} is conditional: give --condition, a file with a row for each draw"
        )
    drawn = vae.sample(num or (16 if c is None else len(c)), c, seed=seed).numpy()
    if out is not None and out.suffix == ".npy":
        np.save(out, drawn)
        return
    import pandas

    flat = drawn.reshape(len(drawn), -1)
    frame = pandas.DataFrame(flat, columns=[f"x{number}" for number in range(flat.shape[1])])
    text = frame.convert_dtypes().to_csv(index=False)  # whole numbers without a point
    typer.echo(text, nl=False) if out is None else out.write_text(text)


@app.command("list")
def show_list() -> None:
    """Show every name: conditionals and the roles they can have, networks, losses, data."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for table in catalogue.tables():
        console.print(table, "")


@app.command("describe")
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A name that pyro-vae list shows, or a saved model."),
    ],
    modules: Modules = None,
) -> None:
    """Explain a conditional or a network by name, or show what a saved model is.

    `pyro-vae describe gamma`

    `pyro-vae describe digits.safetensors > digits.toml`
    """
    import_modules(modules)
    typer.echo(catalogue.explain(name))


@app.command()
def check(seed: Seed = 0) -> None:
    """Test every estimator of log p(x) on this machine, against models whose log p(x) is known.

    `pyro-vae check`

    Exit code 1 if one fails.
    """
    found = check_estimators(seed)
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(selftest_table(found))
    failed = int((~found.passed).sum())
    typer.echo(f"{len(found) - failed} of {len(found)} passed in {found.seconds.sum():.0f} s.")
    if failed:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, option("The folder for the model and the pictures.", "FOLDER")] = Path(
        "runs/demo"
    ),
    epochs: Annotated[int, option("At most so many passes over the data.", "N", min=1)] = 300,
    num_samples: Annotated[
        int, option("The largest number of samples for log p(x).", "K", min=2)
    ] = 5000,
) -> None:
    """Fit a VAE to 8 x 8 digits and judge it: log p(x) with its error, baselines, four pictures."""
    ready(out)
    run_demo(out, epochs, num_samples)
