"""The commands that make a model, and what a model gives: fit, sweep, sample, classify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    AllOrFirst,
    ArrayKey,
    ConditionFile,
    Device,
    Json,
    MaxSeconds,
    ModelFile,
    Modules,
    NumSamples,
    Seed,
    Source,
    Tolerance,
    option,
    prepare_file,
    prepare_folder,
)

SpecFile = Annotated[
    Path | None, option("The VAE as a .toml file, in place of the next seven options.", "FILE")
]
Prior = Annotated[
    str | None, option("p(z): a name, or a table in TOML.", "PART", show_default="normal")
]
Likelihood = Annotated[
    str | None, option("p(x|z), in the same way.", "PART", show_default="normal")
]
Guide = Annotated[
    str | None, option("q(z|x), in the same way.", "PART", show_default="what suits the prior")
]
Missing = Annotated[
    str | None,
    option("p(s|x): why cells are missing, in the same way.", "PART", show_default="for no reason"),
]
Classifier = Annotated[
    str | None,
    option("q(c|x), in the same way, where --condition has unknown classes.", "PART"),
]
Latent = Annotated[str | None, option("The shape of the latents.", "SIZES", show_default="8")]
Hidden = Annotated[
    str | None, option("The widths of the hidden layers.", "SIZES", show_default="400")
]
Validation = Annotated[
    float, option("The share of data held out, at random.", "SHARE", min=0, max=1)
]
Loss = Annotated[str, option("A name that pyro-vae list shows.", "NAME")]
Particles = Annotated[
    int | None, option("Samples of z for each datum.", "K", show_default="the loss's own", min=1)
]
Epochs = Annotated[int, option("The most passes over the data.", "N", min=1)]
BatchSize = Annotated[int, option("The number of data in a step.", "N", min=1)]
CheckpointFolder = Annotated[
    Path | None,
    option("A folder for the state after each epoch, and history.csv.", "FOLDER", "--checkpoint"),
]
Resume = Annotated[bool, option("Go on from the newest state in that folder.", "", "--resume")]
LearningRate = Annotated[float, option("The learning rate of Adam.", "RATE", min=0)]
SavedModel = Annotated[Path, option("The .safetensors file to write.", "MODEL", "--out", "-o")]
NumDrawn = Annotated[
    int | None, option("How many data.", "N", "--num", "-n", show_default="16", min=1)
]
DrawnFile = Annotated[
    Path | None,
    option("A .npy or .csv file.", "FILE", "--out", "-o", show_default="CSV to stdout"),
]
Overwrite = Annotated[bool, option("Replace a model of that name.", "", "--overwrite")]
Jobs = Annotated[
    int, option("How many processes fit side by side, each with one thread.", "N", min=1)
]
SweepFile = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A .toml file: a spec in which lists are a grid.")
]
SweepFolder = Annotated[
    Path, option("The folder for models, table and report.", "FOLDER", "--out", "-o")
]


def fit(
    source: Source,
    out: SavedModel,
    spec: SpecFile = None,
    prior: Prior = None,
    likelihood: Likelihood = None,
    guide: Guide = None,
    missingness: Missing = None,
    classifier: Classifier = None,
    latent: Latent = None,
    hidden: Hidden = None,
    validation: Validation = 0.1,
    loss: Loss = "elbo",
    particles: Particles = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 128,
    learning_rate: LearningRate = 1e-3,
    num_samples: NumSamples = 1000,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    device: Device = "cpu",
    checkpoint: CheckpointFolder = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fit a VAE to data and save it.

    `pyro-vae fit digits --likelihood binomial -o digits.safetensors`

    `pyro-vae fit counts.csv --prior '{name="gamma", rate=2.0}' --likelihood poisson --hidden
    200,200 -o m.safetensors`

    The VAE is built for all data, trained on most of them, and scored on the share held out: log
    p(x) by importance sampling, in nats per datum. That share also says when to stop, so keep other
    data for a last word. The file says which rows were held out. Ctrl-C
    saves the best so far; after that, or after a crash, the same command with --resume goes on from
    --checkpoint. Several processes train together by `torchrun --nproc-per-node 2 -m pyro_vae fit
    ...`."""
    prepare_file(out, ".safetensors")
    from pyro_vae.cli.arguments import Wanted
    from pyro_vae.cli.train import Fit
    from pyro_vae.cli.train import fit as work

    options = {
        "loss": loss,
        "particles": particles,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "checkpoint": checkpoint,
        "resume": resume,
    }
    given = {
        "prior": prior,
        "likelihood": likelihood,
        "guide": guide,
        "missingness": missingness,
        "classifier": classifier,
        "latent": latent,
        "hidden": hidden,
    }
    asked = Fit(
        Wanted(source, key, condition),
        out,
        spec,
        validation=validation,
        num_samples=num_samples,
        seed=seed,
        device=device,
        options=options,
    )
    work(asked, given, overwrite=overwrite, as_json=as_json)


def sweep(
    spec: SweepFile,
    source: Source,
    out: SweepFolder,
    jobs: Jobs = 1,
    validation: Validation = 0.1,
    loss: Loss = "elbo",
    particles: Particles = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 128,
    learning_rate: LearningRate = 1e-3,
    num_samples: NumSamples = 1000,
    tolerance: Tolerance = None,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fit every VAE of a grid, and compare them by log p(x) of the same rows held out.

    `pyro-vae sweep grid.toml digits -o sweep --jobs 2`

    A grid is a spec with lists: `prior = ["normal", "vamp"]`, `latent = [2, 4, 8, 16]` (four
    sizes), `prior = {name = "mixture", components = [2, 5]}`. The same command again goes on where
    it was stopped, and fits no model twice."""
    prepare_folder(out)
    from pyro_vae.cli.arguments import Wanted
    from pyro_vae.cli.sweep import sweep as work
    from pyro_vae.cli.train import Fit

    options = {
        "loss": loss,
        "particles": particles,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    asked = Fit(
        Wanted(source, key, condition),
        out,
        validation=validation,
        num_samples=None,
        seed=seed,
        device=device,
        options=options,
    )
    scoring = {"num_samples": num_samples, "tolerance": tolerance, "max_seconds": max_seconds}
    work(spec, asked, scoring, jobs=jobs, as_json=as_json)


def sample(
    model: ModelFile,
    num: NumDrawn = None,
    out: DrawnFile = None,
    seed: Seed = 0,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Draw data from a saved model.

    `pyro-vae sample digits.safetensors -n 100 -o drawn.npy`

    A conditional model draws one datum for each row of --condition. In CSV a datum is a line."""
    prepare_file(out, ".npy", ".csv")
    from pyro_vae.cli.draw import sample as work

    work(model, num, out, seed, condition, modules, device, as_json=as_json)


def classify(
    model: ModelFile,
    source: Source,
    num: AllOrFirst = None,
    out: Annotated[
        Path | None,
        option("A .csv file.", "FILE", "--out", "-o", show_default="CSV to stdout"),
    ] = None,
    key: ArrayKey = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Classify data by a model with a classifier: the most probable class, and all probabilities.

    `pyro-vae classify labelled.safetensors x.csv -o labels.csv`"""
    prepare_file(out, ".csv")
    from pyro_vae.cli.arguments import Wanted
    from pyro_vae.cli.draw import classify as work

    work(model, Wanted(source, key, num=num), out, modules, device, as_json=as_json)
