"""What the arguments of the commands become: parts, sizes, models, data and the rows to use.

A word that means nothing is refused before the work begins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from .. import data
from ..data.annotated import AnnotatedRows, named
from ..data.columns import in_order
from ..data.labels import with_labels
from ..data.rows import Rows
from ..spec.checkpoint import load
from ..spec.files import import_modules
from ..spec.parts import Part
from ..spec.split import Split, read_split
from ..vae import VAE


@dataclass(frozen=True)
class Wanted:
    """Which data, and how much of them.

    Arguments:
        source: The data: a name, or a file.
        key: The array of several, if there are.
        condition: What the data are conditional on.
        num: How many at most: the first.
        rows: held-out, trained or all, of the data that a model was fitted to.
    """

    source: str
    key: str | None = None
    condition: str | None = None
    num: int | None = None
    rows: str | None = None


def parse_sizes(text: str | None) -> list[int] | None:
    """Whole numbers with commas between them."""
    if text is None:
        return None
    try:
        return [int(size) for size in text.split(",") if size.strip()]
    except ValueError:
        raise ValueError(
            f"sizes are whole numbers with commas between them, such as 400,400; got {text!r}"
        ) from None


def parse_part(role: str, text: str | None) -> Part | None:
    """A name, or a table in TOML."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return tomllib.loads(f"{role} = {text.strip()}")[role]
    except tomllib.TOMLDecodeError as error:
        form = f"write --{role} '{{name = \"gamma\", rate = 1.0}}'"
        raise ValueError(f"--{role} is no table in TOML: {error}; {form}") from None


def import_own_parts(modules: list[str] | None) -> None:
    """Import the modules with the user's own parts. A model file never says what to import."""
    import_modules("--module", modules or [], Path.cwd())


def read_data(wanted: Wanted) -> tuple[Rows, Any]:
    """The data, all of them, and what they are conditional on.

    Raises:
        ValueError: There are more rows of the one than of the other.
    """
    x = read_rows(wanted.source, wanted.key)
    c = read_condition(wanted.condition, x)
    if c is not None and len(c) != len(x):
        raise ValueError(
            f"--condition needs a row for each datum; got {len(c)} rows for {len(x)} data"
        )
    return x, c


def read_rows(source: str, key: str | None = None) -> Rows:
    """Data by name, or from a file."""
    return data.as_rows(data.load(source, key), labels=True)


def read_condition(source: str | None, x: Rows | None = None) -> Any:
    """What the data are conditional on: a frame where the file has labels, else rows. Beside cells
    of an .h5ad file what is no file names columns of their obs.
    """
    if source is None:
        return None
    if isinstance(x, AnnotatedRows) and not Path(source).is_file():
        return named(x, source.split(","))
    table = data.load(source)
    return table if with_labels(table) is not None else data.as_rows(table)


def select(c: Any, index: np.ndarray) -> Any:
    """Some of the rows, if there are any; where c has no labels, still read a few at a time."""
    if isinstance(c, Rows) or c is None:
        return c if c is None else c.only(index)
    return c.iloc[index]


def require_condition(vae: VAE, model: Path, c: Any, unit: str) -> None:
    """Raise unless a conditional model is given c.

    Arguments:
        vae: The model.
        model: Its file.
        c: What it is conditional on.
        unit: What each row of c is for: a datum or a draw.

    Raises:
        ValueError: The model is conditional, and c is None.
    """
    if vae.condition is not None and c is None:
        raise ValueError(
            f"{model.name} is conditional: give --condition, a file with a row for each {unit}"
        )


def load_models(
    models: list[Path], wanted: Wanted, modules: list[str] | None, device: str
) -> tuple[list[VAE], Rows, Any]:
    """Saved models, the rows that are wanted of the data, and their rows of c.

    A line on stderr tells which rows are used, where not all are.
    """
    import_own_parts(modules)
    vaes = [load(model, device=device) for model in models]
    x, c = read_data(wanted)
    for vae, model in zip(vaes, models, strict=True):
        require_condition(vae, model, c, "datum")

    splits = {model: read_split(model) for model in models}
    found = [
        split
        for vae, split in zip(vaes, splits.values(), strict=True)
        if split is not None and split.is_of(in_order(x, vae.columns))
    ]
    used = _used(found, len(x), wanted)
    if found and wanted.rows != "all":
        _tell_of_unknown_rows(splits)
    if len(used) == len(x):
        return vaes, x, c
    return vaes, x.only(used), select(c, used)


def _tell_of_unknown_rows(splits: dict[Path, Split | None]) -> None:
    """Say which models do not tell what they were trained on, where others do."""
    silent = [model.name for model, split in splits.items() if split is None]
    if 0 < len(silent) < len(splits):
        told = "the file does not say which rows it was trained on; it may have seen these"
        typer.echo(f"pyro-vae: {', '.join(silent)}: {told}", err=True)


def _used(splits: list[Split], num: int, wanted: Wanted) -> np.ndarray:
    """The numbers of the rows to use, of data that models were fitted to with these splits."""
    everything, rows = np.arange(num), wanted.rows
    if rows == "all" or not (splits or rows):
        return everything[: wanted.num]
    if not splits:
        raise ValueError(
            f"--rows {rows} needs the data that the model was fitted to by pyro-vae fit; got other "
            "data; leave --rows out"
        )

    kind = rows or "held-out"
    masks = [split.held_out if kind == "held-out" else ~split.held_out for split in splits]
    found = everything[np.logical_and.reduce(masks)]
    if not len(found) and rows is None and not any(split.held_out.any() for split in splits):
        typer.echo("pyro-vae: all data were trained on: none was held out", err=True)
        return everything[: wanted.num]
    if not len(found):
        raise ValueError(f"no row of the data is {kind} in every model; give --rows all")
    used = found[: wanted.num]
    first = "those" if len(used) == len(found) else f"the first of {len(found)}"
    doing = "held out in" if kind == "held-out" else "used for"
    told = f"{len(used)} of {num} data, {first} {doing} training; --rows all for all"
    typer.echo(f"pyro-vae: {told}", err=True)
    return used
