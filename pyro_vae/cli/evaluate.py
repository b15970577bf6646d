"""What is said of saved models and data: evaluate, compare-models, mcmc, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.table import Table

from ..criticism import plots
from ..criticism.export import to_datatree
from ..criticism.models import bits_per_dim
from ..criticism.models import compare_models as compare
from ..criticism.posteriors import compare_posteriors, summarize
from ..criticism.report import report as write_report
from ..data.rows import Rows
from ..density.identity import is_probability
from ..evidence.climb import RUNGS
from ..evidence.evidence import log_evidence
from ..evidence.flags import SAID
from ..posterior.mcmc import sample_posterior
from ..vae import VAE
from .terminal import console, frame_rows, frame_table, write_csv, write_json

if TYPE_CHECKING:
    import pandas
    import xarray

NATS = "{:.2f}"
FORMATS = {  # of a comparison of models
    "log_evidence": NATS,
    "se": NATS,
    "difference": NATS,
    "difference_se": NATS,
    "flagged": "{:.0%}",
    "bits_per_dim": "{:.3f}",
    "seconds": "{:.1f}",
    "probability": "{:.3f}",
    "probability_se": "{:.3f}",
    "num_parameters": "{:,.0f}",
    "fit_seconds": "{:.0f}",
}


def evaluate(
    vae: VAE,
    x: Any,
    c: Any,
    out: Path | None,
    picture: Path | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """log p(x) of data: a table, and files of each datum."""
    found = log_evidence(vae, x, c, **options)
    if out is not None:
        _write_evidence(found, x, out)
    if picture is not None:
        plots.evidence(found).savefig(picture)
    if as_json:
        write_json(_evidence_document(found))
    else:
        console().print(_evidence_table(found))


def compare_models(
    vaes: dict[str, VAE], x: Any, c: Any, out: Path | None, *, as_json: bool, **options: Any
) -> None:
    """Models by log p(x) of the same data."""
    found = compare(vaes, x, c, **options)
    if out is not None:
        write_csv(found, out)
    if as_json:
        write_json({"num_data": len(x), "models": frame_rows(found, "model")})
    else:
        console().print(models_table(found))


def models_table(found: pandas.DataFrame) -> Table:
    """What :func:`.compare_models` gave, without columns that say nothing."""
    return frame_table(found.dropna(axis="columns", how="all"), "model", FORMATS)


def names_of_models(models: list[Path]) -> list[str]:
    """A name for each file: its stem, or its path where two have the same."""
    stems = [model.stem for model in models]
    names = stems if len(set(stems)) == len(stems) else list(map(str, models))
    if len(set(names)) < len(names):
        raise ValueError(f"compare-models needs different models; got {', '.join(names)}")
    return names


def mcmc(vae: VAE, x: Any, c: Any, out: Path, *, as_json: bool, seed: int, **options: Any) -> None:
    """Draws from the posterior, in a file for ArviZ."""
    posterior = sample_posterior(vae, x, c, seed=seed, **options)
    to_datatree(vae, x, c, posterior=posterior, seed=seed).to_netcdf(out, engine="h5netcdf")

    diagnostics = posterior["diagnostics"]
    document = {
        "num_data": len(x),
        "chains": options["chains"],
        "num_samples": options["num_samples"],
        "rhat_max": float(diagnostics.rhat.max()),
        "ess_bulk_min": float(diagnostics.ess_bulk.min()),
        "divergences": int(diagnostics.divergences.sum()),
        "out": out,
    }
    if as_json:
        write_json(document)
        return
    typer.echo(
        f"{document['chains']} chains of {document['num_samples']} draws for {len(x)} data: R-hat "
        f"at most {document['rhat_max']:.3f}, bulk ESS at least {document['ess_bulk_min']:.0f}, "
        f"{document['divergences']} divergences. In {out}."
    )


def compare_guide(
    vae: VAE,
    x: Any,
    c: Any,
    out: Path | None,
    picture: Path | None,
    *,
    kernel: str,
    seed: int,
    as_json: bool,
) -> None:
    """The guide against MCMC."""
    posterior = sample_posterior(vae, x, c, kernel=kernel, seed=seed)
    found = compare_posteriors(vae, x, posterior, c, seed=seed)
    if out is not None:
        write_csv(found.assign_coords(datum=_numbers_of(x)).to_dataframe(), out)
    if picture is not None:
        plots.posteriors(found).savefig(picture)
    summary = summarize(found)
    if as_json:
        write_json({"num_data": len(x), "measures": frame_rows(summary, "measure")})
    else:
        console().print(frame_table(summary, "measure"))


def report(vae: VAE, x: Any, c: Any, out: Path, *, as_json: bool, **options: Any) -> None:
    """One HTML file on a model and data."""
    written = write_report(vae, x, out, c, **options)
    if as_json:
        write_json({"num_data": len(x), "out": written})
    else:
        typer.echo(f"The report is in {written}.")


def _evidence_document(found: xarray.Dataset) -> dict[str, Any]:
    """What a result says of the data as a whole, in nats per datum."""
    attrs = found.attrs
    reasons = {reason.replace(" ", "_") for reason in SAID}
    return {
        "num_data": found.sizes["datum"],
        "mean": attrs["mean"],
        "mean_se": attrs["mean_se"],
        "elbo": float(found.elbo.mean(skipna=False)),
        "bias": float(found.bias.mean(skipna=False)),
        "bits_per_dim": bits_per_dim(found),
        "measure": attrs["measure"],
        "num_samples": attrs.get("num_samples"),
        "flagged": attrs["flagged"],
        "reasons": {reason: attrs.get(f"flagged_{reason}", 0) for reason in sorted(reasons)},
        "data_digest": attrs.get("data_digest"),
        "model_digest": attrs.get("model_digest"),
    }


def _write_evidence(found: xarray.Dataset, x: Rows, out: Path) -> None:
    """The whole result as NetCDF, where ``row`` is the row of the data, or as CSV what it tells of
    each datum, which is called by its row.
    """
    rows = _numbers_of(x)
    if out.suffix == ".nc":
        found.assign_coords(row=("datum", rows)).to_netcdf(out, engine="h5netcdf")
        return
    by_datum = [name for name, values in found.items() if values.dims == ("datum",)]
    write_csv(found[by_datum].assign_coords(datum=rows).to_dataframe(), out)


def _numbers_of(x: Rows) -> np.ndarray:
    """Which rows of the data these are, from 0."""
    return np.arange(len(x)) if x.numbers is None else x.numbers


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
