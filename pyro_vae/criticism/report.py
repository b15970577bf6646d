"""One HTML file that says what a model is, how well it fits, and how far its guide and its numbers
can be trusted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import date
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
import torch

from ..assembly.card import diagram
from ..data.files import write
from ..data.rows import Rows
from ..density.identity import data_digest
from ..density.problem import Problem
from ..density.traced import Pair
from ..evidence.evidence import log_evidence
from ..guards import evaluating, whole_number
from ..posterior.diagnostics import have_mixed
from ..posterior.mcmc import sample_posterior
from ..spec.describe import describe
from ..vae import VAE
from . import html, plots
from . import report_text as text
from .calibration import calibrate
from .draws import NotDrawn, vae_in
from .posteriors import compare_posteriors, summarize
from .predictions import check_predictions
from .report_pictures import latents, pictures_of

if TYPE_CHECKING:
    import pandas
    import xarray

NUM_LOWEST = 8  # data whose log p(x) is shown


def report(
    vae: VAE | Pair | Problem,
    x: Any = None,
    path: str | Path = "report.html",
    c: Any = None,
    *,
    history: pandas.DataFrame | None = None,
    labels: Any = None,
    num_samples: int = 1000,
    tolerance: float | None = None,
    num_mcmc: int = 50,
    num_simulations: int = 500,
    seed: int = 0,
) -> Path:
    """Write a report on a model, its guide and data they have not seen: one HTML file, with its
    pictures inside.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one
            data plate. Of a pair there is no spec, no reconstruction and no picture of the latents;
            of one that observes something else than x no predictions and no calibration.
        x: Data of shape ``(N, *X)``, NaN where missing.
        path: The .html file.
        c: What the model is conditional on, a row for each datum.
        history: What :func:`~pyro_vae.fit` gave, for the curves of training.
        labels: A class for each datum; they colour the picture of the latents and play no other
            part.
        num_samples: The samples for log p(x) of each datum.
        tolerance: The standard error wanted for each datum, in nats, as in :func:`.log_evidence`.
        num_mcmc: How many of the data, the first, are held against MCMC; 0 for none.
        num_simulations: How many data are simulated to calibrate the guide; 0 for none.
        seed: The seed of all draws.

    Returns:
        The path.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: The path is no .html file in a folder that exists, or an option makes no sense.
    """
    path = Path(path)
    if path.suffix != ".html" or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"report writes an .html file in a folder that exists; got {str(path)!r}")
    whole_number("num_samples", num_samples, at_least=25)
    whole_number("num_mcmc", num_mcmc, at_least=0)
    whole_number("num_simulations", num_simulations, at_least=20 if num_simulations else 0)
    problem = Problem.of(vae, x, c).in_memory()
    if labels is not None and len(labels) != len(problem):
        raise ValueError(
            f"report needs a label for each datum; got {len(labels)} labels for {len(problem)} data"
        )

    own, discrete = vae_in(problem), _is_discrete(problem)
    draws_cells = own is not None and own.draws_missing
    has_joint = not (discrete or draws_cells)
    parts = [*_pair(problem)] if own is None else [*_model(own, problem)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what they say, the report says
        if history is not None:
            parts += _training(history)
        numbers = x.numbers if isinstance(x, Rows) else None
        parts += _evidence(
            problem, numbers, num_samples=num_samples, tolerance=tolerance, seed=seed
        )
        parts += _fit(own, problem, seed)
        if own is not None:
            parts += latents(own, problem.rows, labels)
        if num_mcmc and draws_cells:
            parts.append("<p class=soft>No MCMC, as the missingness draws missing cells.</p>")
        if num_mcmc and has_joint:
            parts += _mcmc(problem, min(num_mcmc, len(problem)), seed)
        if num_simulations and has_joint:
            parts += _calibration(problem, num_simulations, seed)
    parts.append(_made_by(problem, seed))
    write(path, html.page(_title(own), parts).encode())
    return path


def _title(vae: VAE | None) -> str:
    if vae is None:
        return "A Pyro model and its guide"
    spec = describe(vae)
    return f"A variational autoencoder: {spec['prior']['name']}, {spec['likelihood']['name']}"


def _model(vae: VAE, problem: Problem) -> Iterator[str]:
    spec = describe(vae)
    names = {role: spec[role]["name"] for role in ("prior", "likelihood", "guide")}
    number = sum(parameter.numel() for parameter in vae.parameters())
    yield f"<h1>{escape(_title(vae))}</h1>"
    yield (
        f"<p class=soft>{len(problem)} data of shape {tuple(spec['event'])}, latents of shape "
        f"{tuple(spec['latent'])}, {number:,} parameters. All densities in nats, per datum.</p>"
    )

    seen_by = () if vae.condition is None else vae.condition.seen_by
    yield "<h2>Model</h2>" + diagram(names, f"data: {len(problem)}", seen_by)
    yield f"<details><summary>Its spec</summary><pre>{escape(tomli_w.dumps(spec))}</pre></details>"


def _is_discrete(problem: Problem) -> bool:
    with evaluating(problem.model, problem.guide):
        return problem.is_discrete


def _pair(problem: Problem) -> Iterator[str]:
    """What can be said of two functions."""
    with torch.no_grad(), evaluating(problem.model, problem.guide):
        latents = problem.densities(problem.batch(slice(0, 1))).latents
    shapes = (f"{escape(name)} {tuple(latent.event_shape)}" for name, latent in latents.items())
    yield f"<h1>{_title(None)}</h1>"
    yield (
        f"<p class=soft>{len(problem)} data of shape {tuple(problem.rows.event_shape)}; latents "
        f"and their shapes: {', '.join(shapes)}. All densities in nats, per datum.</p>"
    )


def _training(history: pandas.DataFrame) -> Iterator[str]:
    yield f"<h2>Training</h2><p>{len(history)} epochs in {history.seconds.iloc[-1]:.0f} s.</p>"
    yield html.image(plots.training(history), "losses")


def _evidence(problem: Problem, rows: np.ndarray | None, **options: Any) -> Iterator[str]:
    """log p(x) of the data, which are these rows of others, if they are some."""
    found = log_evidence(problem, **options)
    flagged, num = found.attrs["flagged"], found.sizes["datum"]
    if problem.sums_exactly:
        verdict = html.light("good", "Exact: the latents are summed over.", text.EXACT)
    else:
        share = flagged / num
        verdict = html.light(
            html.colour(share < 0.05, share < 0.3),
            f"log p(x) of {num - flagged} of {num} data can be trusted; that of {flagged} is "
            "flagged, and mostly too low.",
            text.EVIDENCE,
        )
    yield "<h2>Evidence</h2>" + verdict

    elbo_se = float(found.elbo.std(ddof=1)) / num**0.5 if num > 1 else np.nan
    figures = [
        ("log p(x)", found.attrs["mean"], found.attrs["mean_se"]),
        ("ELBO", float(found.elbo.mean()), elbo_se),
    ]
    body = "".join(f"<tr><td>{name}<td>{mean:.2f}<td>{se:.2f}" for name, mean, se in figures)
    yield html.wide(f"<table><tr><th>mean over data<th>nats<th>SE{body}</table>", "evidence")
    yield f"<p class=soft>{text.sampled(**options)}</p>"
    yield html.image(plots.evidence(found), "log p(x) and k-hat")
    called = found if rows is None else found.assign_coords(datum=rows)
    yield f"<details><summary>The lowest</summary>{_lowest(called)}</details>"


def _lowest(found: xarray.Dataset) -> str:
    """The data that the model finds least likely."""
    columns = [name for name in ("log_evidence", "se", "khat", "flag") if name in found]
    table = found[columns].to_dataframe()[columns].nsmallest(NUM_LOWEST, "log_evidence")
    return html.table(table, "datum", text.LOWEST)


def _fit(vae: VAE | None, problem: Problem, seed: int) -> Iterator[str]:
    """Does the model make data like these?"""
    try:
        table = check_predictions(problem, seed=seed).rename(columns={"p_value": "p"})
    except NotDrawn:
        return
    yield "<h2>Data and predictions</h2>"
    if vae is not None:
        yield from pictures_of(vae, problem.rows, seed)
    yield html.table(table, "statistic", text.PREDICTIONS)


def _mcmc(problem: Problem, num: int, seed: int) -> Iterator[str]:
    first = problem.only(np.arange(num))
    tree = sample_posterior(first, num_samples=500, warmup=300, seed=seed)
    chains = tree["diagnostics"]
    good = have_mixed(chains)
    yield f"<h2>Guide against MCMC, {num} data</h2>"
    yield html.light(
        html.colour(good.all(), good.mean() > 0.9),
        f"Batched HMC, 4 chains of 500 draws: those of {int(good.sum())} of {num} data have mixed "
        f"(R-hat at most {float(chains.rhat.max()):.3f}, bulk ESS at least "
        f"{float(chains.ess_bulk.min()):.0f}, {int(chains.divergences.sum())} divergences). Only "
        "these judge the guide.",
        text.MIXED,
    )
    if not good.any():
        return

    comparison = compare_posteriors(first, posterior=tree, seed=seed)
    comparison = comparison.isel(datum=np.flatnonzero(good))
    narrow = float((comparison.sd_ratio < 0.8).mean())
    typical = float(np.abs(comparison.mean_error).median())
    yield html.light(
        html.colour(typical < 0.2 and narrow < 0.1, typical < 0.5),
        f"Means of the guide are off by {typical:.2f} posterior standard deviations (median); "
        f"{narrow:.0%} of its standard deviations are below 0.8 of the posterior's.",
        text.GUIDE,
    )
    yield html.image(
        plots.posteriors(comparison), "errors of means, ratios of standard deviations, KL"
    )
    yield html.table(summarize(comparison), "measure", text.COMPARED)
    yield html.meanings(text.MEASURES)


def _calibration(problem: Problem, num: int, seed: int) -> Iterator[str]:
    try:
        found = calibrate(problem, num_simulations=num, seed=seed)
    except NotDrawn:
        return
    good = bool(found.attrs["calibrated"])
    yield "<h2>Calibration of the guide</h2>"
    said = "the guide passes for exact" if good else "the guide is not the posterior"
    yield html.light(
        "good" if good else "bad",
        f"On {num} simulated data {said} (p = {found.attrs['p_value']:.2g}).",
        text.CALIBRATION,
    )
    yield html.image(plots.calibration(found), "ranks of true latents among the guide's draws")


def _made_by(problem: Problem, seed: int) -> str:
    """Where the page comes from."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("pyro-vae", "torch"))
    return (
        f"<footer class=soft><p>{date.today().isoformat()}, by {versions}; seed {seed}; digest of "
        f"the data {data_digest(problem.rows)[:12]}.</p></footer>"
    )
