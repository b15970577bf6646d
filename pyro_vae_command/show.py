"""The commands that need no data: list, describe, check, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Json, Modules, Seed, option, prepare_folder

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A name that pyro-vae list shows, or a saved model.")
]


def show_names(as_json: Json = False) -> None:
    """Show every name: conditionals and the roles they can have, networks, models of missing cells,
    losses, data.
    """
    from pyro_vae.cli import catalogue

    catalogue.show_names(as_json=as_json)


def describe_name(name: Name, modules: Modules = None, as_json: Json = False) -> None:
    """Explain a name that `pyro-vae list` shows, or show what a saved model is.

    `pyro-vae describe gamma`

    `pyro-vae describe digits.safetensors > digits.toml`
    """
    from pyro_vae.cli import explain

    explain.describe_name(name, modules, as_json=as_json)


def check(
    seed: Seed = 0,
    use_references: Annotated[
        bool, typer.Option("--reference", help="Take the reference set: trained models.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Test every estimator of log p(x) on this machine, against models whose log p(x) is known.

    `pyro-vae check`

    `pyro-vae check --reference`

    Exit code 1 if one fails that is not known to.
    """
    from pyro_vae.cli import selftest

    selftest.check(seed, use_references=use_references, as_json=as_json)


def demo(
    out: Annotated[Path, option("The folder for the model and the pictures.", "FOLDER")] = Path(
        "runs/demo"
    ),
    epochs: Annotated[int, option("The most passes over the data.", "N", min=1)] = 300,
    num_samples: Annotated[
        int, option("The largest number of samples for log p(x).", "K", min=2)
    ] = 5000,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fit a VAE to 8 x 8 digits and evaluate it: log p(x) with its error, baselines, four pictures,
    a report."""
    prepare_folder(out)
    from pyro_vae.cli import demo as work

    work.demo(out, epochs, num_samples, device, as_json=as_json)
