"""The commands about a saved model and data: evaluate, mcmc, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..criticism import plots
from ..criticism.export import to_datatree
from ..criticism.models import bits_per_dim
from ..criticism.posteriors import compare_posteriors, summarize
from ..criticism.report import report as write_report
from ..density.identity import is_probability
from ..evidence.climb import RUNGS
from ..evidence.evidence import log_evidence
from ..evidence.flags import SAID
from ..posterior.mcmc import sample_posterior
from .arguments import (
    ArrayKey,
    ConditionFile,
    Device,
    Kernel,
    ModelFile,
    Modules,
    NumData,
    Seed,
    Source,
    load_model_and_data,
    option,
    prepare_file,
)
from .terminal import console, frame_table

if TYPE_CHECKING:
    import xarray

Picture = Annotated[Path | None, option("A .png file to write.", "FILE")]


def evaluate(
    model: ModelFile,
    source: Source,
    num_samples: Annotated[
        int,
        option("Samples of z for each datum; with a tolerance, of the first try.", "K", min=1),
    ] = 1000,
    tolerance: Annotated[
        float | None,
        option(
            "Draw until the SE of each datum is at most this, in nats.",
            "NATS",
            show_default="none",
        ),
    ] = None,
    max_samples: Annotated[
        int, option("With a tolerance, the most samples of one rung.", "K", min=1)
    ] = 20_000,
    max_seconds: Annotated[
        float | None,
        option("End by then with the best there is, flagged.", "SECONDS", show_default="no limit"),
    ] = None,
    num: Annotated[
        int | None, option("Use the first N data.", "N", "--num", "-n", show_default="all", min=1)
    ] = None,
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
) -> None:
    """Score data by log p(x), with its error and a count of the data where not to trust it.

    `pyro-vae evaluate digits.safetensors digits --tolerance 0.1 -o evidence.csv`

    The estimate is by importance sampling from the guide. With a tolerance, better proposals
    follow where the guide does not suffice. log p(x) and ELBO are in nats per datum."""
    prepare_file(out, ".csv", ".nc")
    prepare_file(picture, ".png")
    vae, x, c = load_model_and_data(model, source, condition, num, modules, device, key)
    found = log_evidence(
        vae,
        x,
        c,
        num_samples=num_samples,
        tolerance=tolerance,
        max_samples=max_samples,
        max_seconds=max_seconds,
        seed=seed,
    )
    console().print(_evidence_table(found))

    if out is not None:
        _write_evidence(found, out)
    if picture is not None:
        plots.evidence(found).savefig(picture)


def mcmc(
    model: ModelFile,
    source: Source,
    out: Annotated[Path, option("The .nc file to write, for ArviZ.", "FILE", "--out", "-o")],
    kernel: Kernel = "hmc",
    num: NumData = 50,
    num_samples: Annotated[int, option("Draws of each chain.", "N", min=4)] = 1000,
    warmup: Annotated[int, option("Warm-up steps of each chain.", "N", min=1)] = 500,
    chains: Annotated[int, option("Chains for each datum.", "N", min=1)] = 4,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
) -> None:
    """Draw from the posterior of the latents by MCMC, and write the draws, diagnostics and log p(x)
    to a NetCDF file for ArviZ.

    `pyro-vae mcmc digits.safetensors digits -o digits.nc`
    """
    prepare_file(out, ".nc")
    vae, x, c = load_model_and_data(model, source, condition, num, modules, device, key)
    posterior = sample_posterior(
        vae, x, c, kernel=kernel, num_samples=num_samples, warmup=warmup, chains=chains, seed=seed
    )
    to_datatree(vae, x, c, posterior=posterior, seed=seed).to_netcdf(out, engine="h5netcdf")

    diagnostics = posterior["diagnostics"]
    typer.echo(
        f"{chains} chains of {num_samples} draws for {len(x)} data: R-hat at most "
        f"{float(diagnostics.rhat.max()):.3f}, bulk ESS at least "
        f"{float(diagnostics.ess_bulk.min()):.0f}, {int(diagnostics.divergences.sum())} "
        f"divergences. In {out}."
    )


def compare(
    model: ModelFile,
    source: Source,
    kernel: Kernel = "hmc",
    num: NumData = 50,
    out: Annotated[
        Path | None, option("A .csv file: a row for each datum and latent.", "FILE", "--out", "-o")
    ] = None,
    picture: Picture = None,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
) -> None:
    """Compare the guide with MCMC, datum by datum.

    `pyro-vae compare digits.safetensors digits --picture guide.png`
    """
    prepare_file(out, ".csv")
    prepare_file(picture, ".png")
    vae, x, c = load_model_and_data(model, source, condition, num, modules, device, key)
    posterior = sample_posterior(vae, x, c, kernel=kernel, seed=seed)
    found = compare_posteriors(vae, x, posterior, c, seed=seed)
    console().print(frame_table(summarize(found), "measure"))

    if out is not None:
        out.write_text(found.to_dataframe().to_csv())
    if picture is not None:
        plots.posteriors(found).savefig(picture)


def report(
    model: ModelFile,
    source: Source,
    out: Annotated[Path, option("The .html file to write.", "FILE", "--out", "-o")],
    num: Annotated[
        int, option("Compare the guide with MCMC on the first N data.", "N", "--num", "-n", min=0)
    ] = 50,
    num_samples: Annotated[
        int, option("Samples of z for each datum, for log p(x).", "K", min=25)
    ] = 1000,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
) -> None:
    """Write one HTML file: the model, its fit, its evidence with warning lights, its guide compared
    with MCMC.

    `pyro-vae report digits.safetensors digits -o report.html`
    """
    prepare_file(out, ".html")
    vae, x, c = load_model_and_data(model, source, condition, None, modules, device, key)
    written = write_report(vae, x, out, c, num_mcmc=num, num_samples=num_samples, seed=seed)
    typer.echo(f"The report is in {written}.")


def _write_evidence(found: xarray.Dataset, out: Path) -> None:
    """The whole result as NetCDF, or as CSV what it tells of each datum."""
    if out.suffix == ".nc":
        found.to_netcdf(out, engine="h5netcdf")
        return
    by_datum = [name for name, values in found.items() if values.dims == ("datum",)]
    out.write_text(found[by_datum].to_dataframe().to_csv())


def _evidence_table(found: xarray.Dataset) -> Table:
    """What a result says of the data as a whole."""
    num = found.sizes["datum"]
    attrs = found.attrs
    table = Table("log p(x)", "")
    table.columns[1].justify = "right"

    table.add_row("data", str(num))
    table.add_row("mean log p(x) in nats", f"{attrs['mean']:.2f} ± {attrs['mean_se']:.2f}")
    if is_probability(attrs["measure"]):
        table.add_row("bits per dimension", f"{bits_per_dim(found):.3f}")
    table.add_row("mean ELBO in nats", f"{float(found.elbo.mean(skipna=False)):.2f}")
    table.add_row("mean bias of finite K in nats", f"{float(found.bias.mean(skipna=False)):.2g}")
    table.add_row("flagged, not to be trusted", f"{attrs['flagged']} of {num}")
    for reason in SAID:
        if count := attrs.get(f"flagged_{reason.replace(' ', '_')}"):
            table.add_row(f"  {reason}", f"{count} of {num}")
    if "rung" in found:
        for rung in RUNGS:
            table.add_row(f"needed the rung {rung}", f"{int((found.rung == rung).sum())} of {num}")
    return table
