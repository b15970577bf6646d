"""The arguments of the commands, and what they become: parts, sizes, data, files to write.

A file that cannot be written and a word that means nothing are refused before the work begins."""

from __future__ import annotations

import importlib
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import data
from ..data.annotated import AnnotatedRows, named
from ..data.labels import with_labels
from ..data.rows import Rows
from ..spec.checkpoint import load
from ..spec.files import importable
from ..spec.parts import Part
from ..vae import VAE


def option(
    text: str, metavar: str, *names: str, show_default: bool | str = True, **limits: Any
) -> Any:
    """An option of a command.

    Arguments:
        text: The help.
        metavar: What stands for the value in the help.
        names: The option's names (default: the argument's own).
        show_default: The text that the help gives for the default.
        limits: ``min`` and ``max`` of a number.
    """
    return typer.Option(*names, help=text, metavar=metavar, show_default=show_default, **limits)


Seed = Annotated[int, option("The seed of all random numbers.", "N", min=0)]
Device = Annotated[
    str, option("Where to compute: cpu, cuda, or auto for a GPU where there is one.", "NAME")
]
Modules = Annotated[
    list[str] | None,
    option("A Python module that defines parts of the model; may be repeated.", "NAME", "--module"),
]
ConditionFile = Annotated[
    str | None,
    option(
        "What the model is conditional on: a file with a row for each datum; or, of an .h5ad file, "
        "columns of its obs, with commas between them.",
        "FILE",
    ),
]
ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that pyro-vae fit has saved.")
]
Source = Annotated[
    str, typer.Argument(metavar="DATA", help="digits, or a .npy, .npz, .csv, .h5ad or idx file.")
]
ArrayKey = Annotated[
    str | None,
    option("The array to read, of an .npz file with several; the layer, of an .h5ad.", "NAME"),
]
Kernel = Annotated[str, option("hmc: batched HMC; nuts: Pyro's NUTS.", "NAME")]
NumData = Annotated[int, option("Use the first N data.", "N", "--num", "-n", min=1)]


def prepare_folder(path: Path) -> None:
    """Make a folder unless it exists, and see that it can be written to.

    Raises:
        ValueError: It cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written to: {error.strerror}; choose another folder"
        ) from None


def prepare_file(path: Path | None, *suffixes: str) -> None:
    """See that a file can be written, if one is wanted.

    Raises:
        ValueError: It is a folder, has none of the suffixes, or its folder cannot be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"the file must end in {' or '.join(suffixes)}; got {path.name!r}")
    prepare_folder(path.parent)


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


def import_modules(modules: list[str] | None) -> None:
    """Import the modules with the user's own parts. A model file never says what to import."""
    with importable(Path.cwd()):
        for module in modules or ():
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(
                    f"--module {module}: {error}; run from its folder, or set PYTHONPATH"
                ) from None


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


def load_model_and_data(
    model: Path,
    source: str,
    condition: str | None,
    num: int | None,
    modules: list[str] | None,
    device: str,
    key: str | None,
) -> tuple[VAE, Rows, Any]:
    """A saved model, the first `num` data of a source (None: all), and their rows of c."""
    import_modules(modules)
    vae = load(model, device=device)
    x = read_rows(source, key)
    c = read_condition(condition, x)

    require_condition(vae, model, c, "datum")
    if c is not None and len(c) != len(x):
        raise ValueError(
            f"--condition needs a row for each datum; got {len(c)} rows for {len(x)} data"
        )

    first = np.arange(len(x) if num is None else min(num, len(x)))
    return vae, x.only(first), select(c, first)
