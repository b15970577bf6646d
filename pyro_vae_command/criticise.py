"""The commands about saved models and data: evaluate, compare-models, report, mcmc, compare.

Of data that a model was fitted to they use the rows that were held out, unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    AllOrFirst,
    ArrayKey,
    ConditionFile,
    Device,
    Json,
    Kernel,
    MaxSamples,
    MaxSeconds,
    ModelFile,
    Modules,
    NumData,
    NumSamples,
    Picture,
    Rows,
    Seed,
    Source,
    Tolerance,
    option,
    prepare_file,
)

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Models that pyro-vae fit has saved.")
]


def evaluate(
    model: ModelFile,
    source: Source,
    num_samples: Annotated[
        int,
        option("Samples of z for each datum; with a tolerance, of the first try.", "K", min=1),
    ] = 1000,
    tolerance: Tolerance = None,
    max_samples: MaxSamples = 20_000,
    max_seconds: MaxSeconds = None,
    num: AllOrFirst = None,
    rows: Rows = None,
    out: Annotated[
        Path | None,
        option(
            "A .csv file: a row for each datum; or .nc: the whole result.", "FILE", "--out", "-o"
        ),
    ] = None,
    picture: Picture = None,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score data by log p(x), with its error and a count of the data where not to trust it.

    `pyro-vae evaluate digits.safetensors digits --tolerance 0.1 -o evidence.csv`

    The estimate is by importance sampling from the guide. With a tolerance, better proposals
    follow where the guide does not suffice. log p(x) and ELBO are in nats per datum."""
    prepare_file(out, ".csv", ".nc")
    prepare_file(picture, ".png")
    from pyro_vae.cli import evaluate as work

    (vae,), x, c = _load([model], source, key, condition, num, rows, modules, device)
    work.evaluate(
        vae,
        x,
        c,
        out,
        picture,
        as_json=as_json,
        num_samples=num_samples,
        tolerance=tolerance,
        max_samples=max_samples,
        max_seconds=max_seconds,
        seed=seed,
    )


def compare_models(
    models: Models,
    source: Source,
    num_samples: NumSamples = 1000,
    tolerance: Tolerance = None,
    max_samples: MaxSamples = 20_000,
    max_seconds: MaxSeconds = None,
    num: AllOrFirst = None,
    rows: Rows = None,
    out: Annotated[
        Path | None, option("A .csv file: a row for each model.", "FILE", "--out", "-o")
    ] = None,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Compare models by log p(x) of the same data, the best first, with paired differences.

    `pyro-vae compare-models normal.safetensors vamp.safetensors digits`

    Rows that any of the models was trained on are left out, where its file says which, unless
    --rows says otherwise."""
    prepare_file(out, ".csv")
    from pyro_vae.cli import evaluate as work

    names = work.names_of_models(models)
    vaes, x, c = _load(models, source, key, condition, num, rows, modules, device)
    work.compare_models(
        dict(zip(names, vaes, strict=True)),
        x,
        c,
        out,
        as_json=as_json,
        num_samples=num_samples,
        tolerance=tolerance,
        max_samples=max_samples,
        max_seconds=max_seconds,
        seed=seed,
    )


def mcmc(
    model: ModelFile,
    source: Source,
    out: Annotated[Path, option("The .nc file to write, for ArviZ.", "FILE", "--out", "-o")],
    kernel: Kernel = "hmc",
    num: NumData = 50,
    rows: Rows = None,
    num_samples: Annotated[int, option("Draws of each chain.", "N", min=4)] = 1000,
    warmup: Annotated[int, option("Warm-up steps of each chain.", "N", min=1)] = 500,
    chains: Annotated[int, option("Chains for each datum.", "N", min=1)] = 4,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Draw from the posterior of the latents by MCMC, and write the draws, diagnostics and log p(x)
    to a NetCDF file for ArviZ.

    `pyro-vae mcmc digits.safetensors digits -o digits.nc`
    """
    prepare_file(out, ".nc")
    from pyro_vae.cli import evaluate as work

    (vae,), x, c = _load([model], source, key, condition, num, rows, modules, device)
    work.mcmc(
        vae,
        x,
        c,
        out,
        as_json=as_json,
        kernel=kernel,
        num_samples=num_samples,
        warmup=warmup,
        chains=chains,
        seed=seed,
    )


def compare(
    model: ModelFile,
    source: Source,
    kernel: Kernel = "hmc",
    num: NumData = 50,
    rows: Rows = None,
    out: Annotated[
        Path | None, option("A .csv file: a row for each datum and latent.", "FILE", "--out", "-o")
    ] = None,
    picture: Picture = None,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Compare the guide with MCMC, datum by datum.

    `pyro-vae compare digits.safetensors digits --picture guide.png`
    """
    prepare_file(out, ".csv")
    prepare_file(picture, ".png")
    from pyro_vae.cli import evaluate as work

    (vae,), x, c = _load([model], source, key, condition, num, rows, modules, device)
    work.compare_guide(vae, x, c, out, picture, kernel=kernel, seed=seed, as_json=as_json)


def report(
    model: ModelFile,
    source: Source,
    out: Annotated[Path, option("The .html file to write.", "FILE", "--out", "-o")],
    num: AllOrFirst = None,
    rows: Rows = None,
    num_mcmc: Annotated[
        int, option("Compare the guide with MCMC on the first N of these data; 0: not.", "N", min=0)
    ] = 50,
    num_simulations: Annotated[
        int, option("Calibrate the guide on N simulated data; 0: not.", "N", min=0)
    ] = 500,
    num_samples: Annotated[
        int, option("Samples of z for each datum, for log p(x).", "K", min=25)
    ] = 1000,
    tolerance: Tolerance = None,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Write one HTML file: the model, its fit, its evidence with warning lights, its guide compared
    with MCMC.

    `pyro-vae report digits.safetensors digits -o report.html`
    """
    prepare_file(out, ".html")
    from pyro_vae.cli import evaluate as work

    (vae,), x, c = _load([model], source, key, condition, num, rows, modules, device)
    work.report(
        vae,
        x,
        c,
        out,
        as_json=as_json,
        num_mcmc=num_mcmc,
        num_simulations=num_simulations,
        num_samples=num_samples,
        tolerance=tolerance,
        seed=seed,
    )


def _load(
    models: list[Path],
    source: str,
    key: str | None,
    condition: str | None,
    num: int | None,
    rows: Rows,
    modules: list[str] | None,
    device: str,
) -> Any:
    """Saved models, and the rows of the data that are wanted."""
    from pyro_vae.cli.arguments import Wanted, load_models

    word = None if rows is None else rows.value
    return load_models(models, Wanted(source, key, condition, num, word), modules, device)
