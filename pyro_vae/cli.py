"""The command ``pyro-vae``.

What a user can mend ends in one line on stderr and exit code 2, in one place, :class:`.Command`; every other error is
ours, and keeps its traceback.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from . import catalogue, data
from .checkpoint import load, save
from .command import Command
from .demo import demo as run_demo
from .inference.evidence import log_evidence
from .inference.svi import fit as train
from .inference.svi import losses
from .rows import Rows
from .spec import build, describe, importable
from .vae import VAE

PIPED_WIDTH = 200  # of tables that no terminal shows: one line for each entry


app = typer.Typer(cls=Command, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """Variational autoencoders as declarative Pyro models.

    A VAE is three distributions that fit together: a prior p(z), a likelihood p(x|z) and a guide q(z|x). `pyro-vae
    list` shows what can stand where.
    """
    if version or context.invoked_subcommand is None:
        typer.echo(metadata.version("pyro-vae") if version else context.get_help())
        raise typer.Exit


def _ready(path: Path) -> None:
    """A folder that can be written to: found out before the work, not after it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written to: {error.strerror}; choose another folder") from None


def _ready_file(path: Path, *suffixes: str) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"the file must end in {' or '.join(suffixes)}; got {path.name!r}")
    _ready(path.parent)


def _sizes(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(size) for size in text.split(",") if size.strip()]
    except ValueError:
        raise ValueError(f"sizes are whole numbers with commas between them, such as 400,400; got {text!r}") from None


def _part(role: str, text: str | None) -> Any:
    """A name, or a table in TOML."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return tomllib.loads(f"{role} = {text.strip()}")[role]
    except tomllib.TOMLDecodeError as error:
        form = f"write --{role} '{{name = \"gamma\", rate = 1.0}}'"
        raise ValueError(f"--{role} is no table in TOML: {error}; {form}") from None


def _import(modules: list[str] | None) -> None:
    """The user's own parts; a file that is loaded never says what to run."""
    with importable(Path.cwd()):
        for module in modules or ():
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(f"--module {module}: {error}; run from its folder, or set PYTHONPATH") from None


def _rows(source: str, key: str | None) -> Rows:
    return data.as_rows(data.load(source, key))


def _condition(source: str | None) -> Rows | None:
    """What the data are conditional on; a single column is a vector, so that whole numbers are classes."""
    if source is None:
        return None
    rows = _rows(source, None)
    return Rows(lambda index: rows.fetch(index)[:, 0], len(rows), ()) if rows.event_shape == (1,) else rows


def _some(rows: Rows | None, order: np.ndarray) -> Any:
    """The rows that `order` names, still read a few at a time."""
    return None if rows is None else Rows(lambda i: rows.fetch(order[i]), len(order), rows.event_shape, rows.columns)


def _split(num: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on, and which to hold out."""
    held_out = 0 if share == 0 else max(1, round(share * num))
    if held_out >= num:
        raise ValueError(f"--validation {share:g} of {num} data leaves none to train on; use a smaller share, or 0")
    order = np.random.default_rng(seed).permutation(num)
    return order[held_out:], order[:held_out]


def _built(vae: VAE) -> str:
    spec, number = describe(vae), sum(parameter.numel() for parameter in vae.parameters())
    parts = ", ".join(f"{role} {spec[role]['name']}" for role in ("prior", "likelihood", "guide"))
    shapes = f"data of shape {tuple(spec['event'])}, latents of shape {tuple(spec['latent'])}"
    return f"Built a VAE: {parts}; {shapes}, {number:,} parameters."


def _trained(vae: VAE, rows: tuple[Rows, Rows | None], held_out: tuple[Rows, Rows | None], **options: Any) -> str:
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
        f"log p(x) of {len(held_out[0])} validation data: {score['mean']:.2f} ± {score['mean_se']:.2f} nats per datum "
        f"(K = {num_samples}, {score['flagged']} flagged)."
    )


def _option(text: str, metavar: str, *names: str, shown: bool | str = True, **limits: Any) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, show_default=shown, **limits)


Seed = Annotated[int, _option("The seed of all that is random.", "N", min=0)]
Modules = Annotated[
    list[str] | None, _option("A Python module that defines parts of the model; may be repeated.", "NAME", "--module")
]
Condition = Annotated[str | None, _option("What the model is conditional on: a row for each datum.", "FILE")]


@app.command()
def fit(
    source: Annotated[str, typer.Argument(metavar="DATA", help="digits, or a .npy, .npz, .csv or idx file.")],
    out: Annotated[Path, _option("The .safetensors file to write.", "MODEL", "--out", "-o")],
    spec: Annotated[Path | None, _option("The VAE, as a .toml file, instead of the five below.", "FILE")] = None,
    prior: Annotated[str | None, _option("p(z): a name, or a table in TOML.", "PART", shown="normal")] = None,
    likelihood: Annotated[str | None, _option("p(x|z), in the same way.", "PART", shown="normal")] = None,
    guide: Annotated[str | None, _option("q(z|x), in the same way.", "PART", shown="what suits the prior")] = None,
    latent: Annotated[str | None, _option("The shape of the latents.", "SIZES", shown="8")] = None,
    hidden: Annotated[str | None, _option("The widths of the hidden layers.", "SIZES", shown="400")] = None,
    validation: Annotated[float, _option("The share of data held out, at random.", "SHARE", min=0, max=1)] = 0.1,
    loss: Annotated[str, _option("A name that pyro-vae list shows.", "NAME")] = "elbo",
    particles: Annotated[int | None, _option("Samples of z a datum.", "K", shown="the loss's own", min=1)] = None,
    epochs: Annotated[int, _option("At most so many passes over the data.", "N", min=1)] = 100,
    batch_size: Annotated[int, _option("How many data make one step.", "N", min=1)] = 128,
    learning_rate: Annotated[float, _option("The learning rate of Adam.", "RATE", min=0)] = 1e-3,
    num_samples: Annotated[int, _option("Samples of z a datum for log p(x).", "K", min=1)] = 1000,
    seed: Seed = 0,
    key: Annotated[str | None, _option("Which array of an .npz file with several.", "NAME")] = None,
    condition: Condition = None,
) -> None:
    """Fit a VAE to data and save it.

    `pyro-vae fit digits --likelihood binomial -o digits.safetensors`

    `pyro-vae fit counts.csv --prior '{name="gamma", rate=2.0}' --likelihood poisson --hidden 200,200 -o m.safetensors`

    The VAE is built for all data, trained on most of them, and scored on the share held out: log p(x) by importance
    sampling, in nats per datum.
    """
    _ready_file(out)
    if loss not in losses:
        raise ValueError(f"no loss is named {loss!r}; there are {', '.join(losses)}")
    parts = {"prior": _part("prior", prior), "likelihood": _part("likelihood", likelihood)}
    parts |= {"guide": _part("guide", guide), "latent": _sizes(latent), "hidden": _sizes(hidden)}
    given = {name: value for name, value in parts.items() if value is not None}
    if spec is not None and given:
        raise ValueError(f"--spec says what to build: leave out --{', --'.join(given)}, or --spec")
    x, c = _rows(source, key), _condition(condition)
    rest, held_out = _split(len(x), validation, seed)
    vae = build(x, c=c, seed=seed, **given) if spec is None else build(spec, x, c, seed=seed)
    typer.echo(_built(vae))
    scored = _some(x, held_out), _some(c, held_out)
    options = {"loss": loss, "particles": particles, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    typer.echo(_trained(vae, (_some(x, rest), _some(c, rest)), scored, learning_rate=learning_rate, **options))
    save(vae, out)
    if scored[0]:
        typer.echo(_scored(vae, scored, num_samples, seed))
    typer.echo(f"The model is in {out}.")


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model that pyro-vae fit has saved.")],
    num: Annotated[int | None, _option("How many data.", "N", "--num", "-n", shown="16", min=1)] = None,
    out: Annotated[Path | None, _option("A .npy or .csv file.", "FILE", "--out", "-o", shown="CSV to stdout")] = None,
    seed: Seed = 0,
    condition: Condition = None,
    modules: Modules = None,
) -> None:
    """Draw data from a saved model.

    `pyro-vae sample digits.safetensors -n 100 -o drawn.npy`

    A model that is conditional draws one datum for each row of --condition. In CSV a datum is a line.
    """
    if out is not None:
        _ready_file(out, ".npy", ".csv")
    _import(modules)
    vae, c = load(model), _condition(condition)
    if vae.condition is not None and c is None:
        raise ValueError(f"{model.name} is conditional: give --condition, a file with a row for each draw")
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that pyro-vae list shows, or a saved model.")],
    modules: Modules = None,
) -> None:
    """Explain a conditional or a network by name, or show what a saved model is.

    `pyro-vae describe gamma`

    `pyro-vae describe digits.safetensors > digits.toml`
    """
    _import(modules)
    typer.echo(catalogue.explain(name))


@app.command()
def demo(
    out: Annotated[Path, _option("The folder for the model and the pictures.", "FOLDER")] = Path("runs/demo"),
    epochs: Annotated[int, _option("At most so many passes over the data.", "N", min=1)] = 300,
    num_samples: Annotated[int, _option("The largest number of samples for log p(x).", "K", min=2)] = 5000,
) -> None:
    """Fit a VAE to 8 x 8 digits and judge it: log p(x) with its error, baselines, four pictures."""
    _ready(out)
    run_demo(out, epochs, num_samples)
