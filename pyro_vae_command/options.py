"""The options that several commands share, and files that are refused before the work begins."""

from __future__ import annotations

import enum
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer


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


class Used(enum.StrEnum):
    """Which rows a command uses, of data that a model was fitted to."""

    held_out = "held-out"
    trained = "trained"
    all = "all"


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
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, or a file: .npy, .npz, .parquet, .feather, .h5ad, idx, or .csv, .tsv, .txt "
        "(also compressed: .gz, .bz2, .xz).",
    ),
]
ArrayKey = Annotated[
    str | None,
    option("The array to read, of an .npz file with several; the layer, of an .h5ad.", "NAME"),
]
Rows = Annotated[
    Used | None,
    option(
        "Of the data that the model was fitted to, the rows to use: held-out, trained or all.",
        "ROWS",
        show_default="held-out; all of other data",
    ),
]
Json = Annotated[
    bool, option("Write one JSON document to stdout, and all else to stderr.", "", "--json")
]
Kernel = Annotated[str, option("hmc: batched HMC; nuts: Pyro's NUTS.", "NAME")]
NumData = Annotated[int, option("Use the first N data.", "N", "--num", "-n", min=1)]
AllOrFirst = Annotated[
    int | None, option("Use the first N data.", "N", "--num", "-n", show_default="all", min=1)
]
Picture = Annotated[Path | None, option("A .png file to write.", "FILE")]
NumSamples = Annotated[int, option("Samples of z for each datum, for log p(x).", "K", min=1)]
Tolerance = Annotated[
    float | None,
    option(
        "Draw until the SE of each datum is at most this, in nats.", "NATS", show_default="none"
    ),
]
MaxSamples = Annotated[int, option("With a tolerance, the most samples of one rung.", "K", min=1)]
MaxSeconds = Annotated[
    float | None,
    option("End by then with the best there is, flagged.", "SECONDS", show_default="no limit"),
]


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
