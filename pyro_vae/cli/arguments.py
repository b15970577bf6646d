"""What the command line is given: options, parts, files; found out before the work, not after it."""

from __future__ import annotations

import importlib
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import data
from ..data.rows import Rows
from ..spec.build import importable
from ..spec.checkpoint import load
from ..vae import VAE


def option(text: str, metavar: str, *names: str, shown: bool | str = True, **limits: Any) -> Any:
    """An option of a command."""
    return typer.Option(*names, help=text, metavar=metavar, show_default=shown, **limits)


Seed = Annotated[int, option("The seed of all that is random.", "N", min=0)]
Modules = Annotated[
    list[str] | None,
    option("A Python module that defines parts of the model; may be repeated.", "NAME", "--module"),
]
Condition = Annotated[
    str | None, option("What the model is conditional on: a row for each datum.", "FILE")
]


Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that pyro-vae fit has saved.")
]
Source = Annotated[
    str, typer.Argument(metavar="DATA", help="digits, or a .npy, .npz, .csv or idx file.")
]
Kernel = Annotated[str, option("hmc, batched, or nuts, Pyro's.", "NAME")]
First = Annotated[int, option("How many of the data, the first.", "N", "--num", "-n", min=1)]


def ready(path: Path) -> None:
    """A folder that can be written to: found out before the work, not after it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written to: {error.strerror}; choose another folder"
        ) from None


def ready_file(path: Path, *suffixes: str) -> None:
    """A file that can be written, with one of some endings."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"the file must end in {' or '.join(suffixes)}; got {path.name!r}")
    ready(path.parent)


def sizes(text: str | None) -> list[int] | None:
    """Whole numbers with commas between them."""
    try:
        return None if text is None else [int(size) for size in text.split(",") if size.strip()]
    except ValueError:
        raise ValueError(
            f"sizes are whole numbers with commas between them, such as 400,400; got {text!r}"
        ) from None


def part(role: str, text: str | None) -> Any:
    """A name, or a table in TOML."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return tomllib.loads(f"{role} = {text.strip()}")[role]
    except tomllib.TOMLDecodeError as error:
        form = f"write --{role} '{{name = \"gamma\", rate = 1.0}}'"
        raise ValueError(f"--{role} is no table in TOML: {error}; {form}") from None


def import_modules(modules: list[str] | None) -> None:
    """The user's own parts; a file that is loaded never says what to run."""
    with importable(Path.cwd()):
        for module in modules or ():
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(
                    f"--module {module}: {error}; run from its folder, or set PYTHONPATH"
                ) from None


def read_rows(source: str, key: str | None) -> Rows:
    """Data by name, or from a file."""
    return data.as_rows(data.load(source, key))


def read_condition(source: str | None) -> Rows | None:
    """What the data are conditional on; a single column is a vector, so that whole numbers are
    classes.
    """
    if source is None:
        return None
    rows = read_rows(source, None)
    return (
        Rows(lambda index: rows.fetch(index)[:, 0], len(rows), ())
        if rows.event_shape == (1,)
        else rows
    )


def some(rows: Rows | None, order: np.ndarray) -> Any:
    """The rows that `order` names, still read a few at a time."""
    return None if rows is None else rows.only(order)


def loaded(
    model: Path, source: str, condition: str | None, num: int | None, modules: list[str] | None
) -> tuple[VAE, Rows, Rows | None]:
    """A model, and the first data of a source with what they are conditional on."""
    import_modules(modules)
    vae, x, c = load(model), read_rows(source, None), read_condition(condition)
    if vae.condition is not None and c is None:
        raise ValueError(
            f"{model.name} is conditional: give --condition, a file with a row for each datum"
        )
    if c is not None and len(c) != len(x):
        raise ValueError(
            f"--condition needs a row for each datum; got {len(c)} rows for {len(x)} data"
        )
    first = np.arange(len(x) if num is None else min(num, len(x)))
    return vae, some(x, first), some(c, first)
