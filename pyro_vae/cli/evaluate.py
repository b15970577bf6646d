"""The commands that judge a saved model: log p(x), MCMC, the guide against it, a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..criticism import plots
from ..criticism.export import to_datatree
from ..criticism.models import bits_per_dim
from ..criticism.posteriors import compare_posteriors, summarize
from ..criticism.report import report
from ..evidence.escalation import RUNGS
from ..evidence.evidence import log_evidence
from ..posterior.mcmc import sample_posterior
from .arguments import (
    Condition,
    First,
    Kernel,
    Model,
    Modules,
    Seed,
    Source,
    loaded,
    option,
    ready_file,
)
from .errors import PIPED_WIDTH, app

if TYPE_CHECKING:
    import pandas
    import xarray


@app.command()
def evaluate(
    model: Model,
    source: Source,
    num_samples: Annotated[
        int, option("Samples of z a datum; with a tolerance, at first.", "K", min=1)
    ] = 1000,
    tolerance: Annotated[
        float | None,
        option(
            "The SE wanted for each datum, in nats: more samples until then.", "NATS", shown="none"
        ),
    ] = None,
    max_samples: Annotated[
        int, option("With a tolerance, the most samples of one rung.", "K", min=1)
    ] = 20_000,
    num: Annotated[
        int | None,
        option("How many of the data, the first.", "N", "--num", "-n", shown="all", min=1),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "A .csv file: a row for each datum; or .nc: the whole result.", "FILE", "--out", "-o"
        ),
    ] = None,
    picture: Annotated[Path | None, option("A .png file.", "FILE")] = None,
    seed: Seed = 0,
    condition: Condition = None,
    modules: Modules = None,
) -> None:
    """Score data by log p(x), with its error and a count of the data where not to trust it.

    `pyro-vae evaluate digits.safetensors digits --tolerance 0.1 -o evidence.csv`

    The estimate is by importance sampling from the guide; with a tolerance by better proposals
    where the guide will not do. log p(x) and ELBO are in nats per datum."""
    for path, suffixes in ((out, (".csv", ".nc")), (picture, (".png",))):
        if path is not None:
            ready_file(path, *suffixes)
    vae, x, c = loaded(model, source, condition, num, modules)
    found = log_evidence(
        vae, x, c, num_samples=num_samples, tolerance=tolerance, max_samples=max_samples, seed=seed
    )
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(_evidence(found))
    if out is not None and out.suffix == ".nc":
        found.to_netcdf(out, engine="h5netcdf")
    elif out is not None:
        by_datum = [name for name, values in found.items() if values.dims == ("datum",)]
        out.write_text(found[by_datum].to_dataframe().to_csv())
    if picture is not None:
        plots.evidence(found).savefig(picture)


@app.command()
def mcmc(
    model: Model,
    source: Source,
    out: Annotated[Path, option("The .nc file to write, for ArviZ.", "FILE", "--out", "-o")],
    kernel: Kernel = "hmc",
    num: First = 50,
    num_samples: Annotated[int, option("Draws of each chain.", "N", min=4)] = 1000,
    warmup: Annotated[int, option("Steps of each chain before them.", "N", min=1)] = 500,
    chains: Annotated[int, option("Chains for each datum.", "N", min=1)] = 4,
    seed: Seed = 0,
    condition: Condition = None,
    modules: Modules = None,
) -> None:
    """Draw from the posterior of the latents by MCMC, and write everything that ArviZ knows to a
    NetCDF file.

    `pyro-vae mcmc digits.safetensors digits -o digits.nc`
    """
    ready_file(out, ".nc")
    vae, x, c = loaded(model, source, condition, num, modules)
    drawn = sample_posterior(
        vae, x, c, kernel=kernel, num_samples=num_samples, warmup=warmup, chains=chains, seed=seed
    )
    to_datatree(vae, x, c, posterior=drawn, seed=seed).to_netcdf(out, engine="h5netcdf")
    found = drawn["diagnostics"]
    typer.echo(
        f"{chains} chains of {num_samples} draws for {len(x)} data: R-hat at most "
        f"{float(found.rhat.max()):.3f}, bulk ESS at least {float(found.ess_bulk.min()):.0f}, "
        f"{int(found.divergences.sum())} divergences. In {out}."
    )


@app.command()
def compare(
    model: Model,
    source: Source,
    kernel: Kernel = "hmc",
    num: First = 50,
    out: Annotated[
        Path | None, option("A .csv file: a row for each datum and latent.", "FILE", "--out", "-o")
    ] = None,
    picture: Annotated[Path | None, option("A .png file.", "FILE")] = None,
    seed: Seed = 0,
    condition: Condition = None,
    modules: Modules = None,
) -> None:
    """Hold the guide against MCMC, datum by datum.

    `pyro-vae compare digits.safetensors digits --picture guide.png`
    """
    for path, suffix in ((out, ".csv"), (picture, ".png")):
        if path is not None:
            ready_file(path, suffix)
    vae, x, c = loaded(model, source, condition, num, modules)
    found = compare_posteriors(
        vae, x, sample_posterior(vae, x, c, kernel=kernel, seed=seed), c, seed=seed
    )
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(
        _table(summarize(found), "measure")
    )
    if out is not None:
        out.write_text(found.to_dataframe().to_csv())
    if picture is not None:
        plots.posteriors(found).savefig(picture)


@app.command("report")
def write_report(
    model: Model,
    source: Source,
    out: Annotated[Path, option("The .html file to write.", "FILE", "--out", "-o")],
    num: Annotated[
        int, option("How many of the data are held against MCMC.", "N", "--num", "-n", min=0)
    ] = 50,
    num_samples: Annotated[int, option("Samples of z a datum for log p(x).", "K", min=25)] = 1000,
    seed: Seed = 0,
    condition: Condition = None,
    modules: Modules = None,
) -> None:
    """Write one HTML file: the model, its fit, its evidence with warning lights, its guide against
    MCMC.

    `pyro-vae report digits.safetensors digits -o report.html`
    """
    ready_file(out, ".html")
    vae, x, c = loaded(model, source, condition, None, modules)
    typer.echo(
        "The report is in "
        f"{report(vae, x, out, c, num_mcmc=num, num_samples=num_samples, seed=seed)}."
    )


def _evidence(found: xarray.Dataset) -> Table:
    """What a result says of the data as a whole."""
    about, num = found.attrs, found.sizes["datum"]
    table = Table("log p(x)", "")
    table.columns[1].justify = "right"
    table.add_row("data", str(num))
    table.add_row("mean log p(x) in nats", f"{about['mean']:.2f} ± {about['mean_se']:.2f}")
    if about["measure"] == "probability":
        table.add_row("bits per dimension", f"{bits_per_dim(found):.3f}")
    table.add_row("mean ELBO in nats", f"{float(found.elbo.mean(skipna=False)):.2f}")
    table.add_row("mean bias of finite K in nats", f"{float(found.bias.mean(skipna=False)):.2g}")
    table.add_row("flagged, not to be trusted", f"{about['flagged']} of {num}")
    for rung in RUNGS if "rung" in found else ():
        table.add_row(f"needed the rung {rung}", f"{int((found.rung == rung).sum())} of {num}")
    return table


def _table(frame: pandas.DataFrame, index: str) -> Table:
    table = Table(index)
    for name in frame.columns:
        table.add_column(str(name).replace("_", " "), justify="right")
    for name, values in zip(frame.index, frame.values, strict=True):
        table.add_row(str(name).replace("_", " "), *[f"{value:.3g}" for value in values])
    return table
