"""One HTML file that says what a VAE is, how well it fits, and how far its guide and its numbers
can be trusted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from ..data.files import write
from ..data.rows import Rows
from ..density.problem import Problem
from ..evidence.evidence import log_evidence
from ..guards import whole_number
from ..posterior.diagnostics import have_mixed
from ..posterior.mcmc import sample_posterior
from ..spec.build import describe
from ..vae import VAE
from . import html, plots
from .calibration import calibrate
from .draws import vae_of
from .posteriors import compare_posteriors, summarize
from .predictions import check_predictions

if TYPE_CHECKING:
    import pandas

SHOWN = 12  # reconstructions


def report(
    vae: VAE | Problem,
    x: Any = None,
    path: str | Path = "report.html",
    c: Any = None,
    *,
    history: pandas.DataFrame | None = None,
    labels: Any = None,
    num_samples: int = 1000,
    num_mcmc: int = 50,
    num_simulations: int = 500,
    seed: int = 0,
) -> Path:
    """Write a report on a VAE and data it has not seen: one HTML file, with its pictures inside.

    Arguments:
        vae: A VAE.
        x: Data of shape ``(N, *X)``, NaN where missing.
        path: The .html file.
        c: What a conditional VAE is conditional on, a row for each datum.
        history: What :func:`~pyro_vae.fit` gave, for the curves of training.
        labels: A class for each datum; they colour the picture of the latents and play no other
            part.
        num_samples: The samples for log p(x) of each datum.
        num_mcmc: How many of the data, the first, are held against MCMC; 0 for none.
        num_simulations: How many data are simulated to calibrate the guide; 0 for none.
        seed: The seed of all draws.

    Returns:
        The path.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: The path is no .html file in a folder that exists, or an option makes no sense.
    """
    own = vae_of("report", vae)
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

    parts = [*_model(own, problem)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what they say, the report says
        if history is not None:
            parts += _training(history)
        parts += _evidence(problem, num_samples, seed)
        parts += _fit(own, problem, labels, seed)
        if num_mcmc and not own.is_discrete:
            parts += _mcmc(problem, min(num_mcmc, len(problem)), seed)
        if num_simulations and not own.is_discrete:
            given = None if problem.rows.c is None else problem.rows.c.take(slice(None))
            parts += _calibration(own, given, num_simulations, seed)
    write(path, html.page(parts).encode())
    return path


def _model(vae: VAE, problem: Problem) -> Iterator[str]:
    spec = describe(vae)
    names = {role: spec[role]["name"] for role in ("prior", "likelihood", "guide")}
    number = sum(parameter.numel() for parameter in vae.parameters())
    prior, likelihood = escape(names["prior"]), escape(names["likelihood"])
    yield f"<h1>A variational autoencoder: {prior}, {likelihood}</h1>"
    yield (
        f"<p class=soft>{len(problem)} data of shape {tuple(spec['event'])}, latents of shape "
        f"{tuple(spec['latent'])}, {number:,} parameters. All densities in nats, per datum.</p>"
    )

    seen_by = () if vae.condition is None else vae.condition.seen_by
    yield "<h2>Model</h2>" + html.diagram(names, len(problem), seen_by)
    yield f"<details><summary>Its spec</summary><pre>{escape(tomli_w.dumps(spec))}</pre></details>"


def _training(history: pandas.DataFrame) -> Iterator[str]:
    yield f"<h2>Training</h2><p>{len(history)} epochs in {history.seconds.iloc[-1]:.0f} s.</p>"
    yield html.image(plots.training(history), "losses")


def _evidence(problem: Problem, num_samples: int, seed: int) -> Iterator[str]:
    found = log_evidence(problem, num_samples=num_samples, seed=seed)
    flagged, num = found.attrs["flagged"], found.sizes["datum"]
    if problem.sums_exactly:
        verdict = html.light("good", "Exact: the latents are summed over.")
    else:
        share = flagged / num
        verdict = html.light(
            html.colour(share < 0.05, share < 0.3),
            f"log p(x) of {num - flagged} of {num} data can be trusted; that of {flagged} is "
            "flagged, and mostly too low.",
        )
    yield "<h2>Evidence</h2>" + verdict

    elbo_se = float(found.elbo.std(ddof=1)) / num**0.5 if num > 1 else np.nan
    figures = [
        ("log p(x)", found.attrs["mean"], found.attrs["mean_se"]),
        ("ELBO", float(found.elbo.mean()), elbo_se),
    ]
    body = "".join(f"<tr><td>{name}<td>{mean:.2f}<td>{se:.2f}" for name, mean, se in figures)
    yield html.wide(f"<table><tr><th>mean over data<th>nats<th>SE{body}</table>")
    yield f"<p class=soft>Importance sampling from the guide, K = {num_samples}.</p>" + html.image(
        plots.evidence(found), "log p(x) and k-hat"
    )


def _fit(vae: VAE, problem: Problem, labels: Any, seed: int) -> Iterator[str]:
    """Does the model make data like these?"""
    yield "<h2>Data and predictions</h2>"
    rows = problem.rows
    if vae.condition is None and _is_square(rows):
        some = rows.only(np.arange(min(SHOWN, len(rows))))
        pictures = plots.reconstructions(vae, some, seed=seed)
        yield html.image(pictures, "data above, reconstructions below")
        if not vae.prior.reads_guide:
            pictures = plots.samples(vae, rows=3, seed=seed)
            yield "<p>Drawn from the prior:</p>" + html.image(pictures, "samples from the prior")

    table = check_predictions(problem, seed=seed).rename(columns={"p_value": "p"})
    yield html.wide(html.table(table, "statistic"))
    yield (
        "<p class=soft>Statistics of the data, and of 200 data sets drawn given them. Small p: it "
        "is missed.</p>"
    )

    has_a_plane = not vae.is_discrete and vae.prior.event_shape.numel() > 1
    if labels is not None and vae.condition is None and has_a_plane:
        picture = plots.latent_space(vae, rows, labels)
        yield "<h2>Latents</h2>" + html.image(picture, "means of the guide, by class")


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
    )
    yield html.image(
        plots.posteriors(comparison), "errors of means, ratios of standard deviations, KL"
    )
    yield html.wide(html.table(summarize(comparison), "measure"))


def _calibration(vae: VAE, c: Any, num: int, seed: int) -> Iterator[str]:
    found = calibrate(vae, c, num_simulations=num, seed=seed)
    good = bool(found.attrs["calibrated"])
    yield "<h2>Calibration of the guide</h2>"
    said = "the guide passes for exact" if good else "the guide is not the posterior"
    yield html.light(
        "good" if good else "bad",
        f"On {num} simulated data {said} (p = {found.attrs['p_value']:.2g}).",
    )
    yield html.image(plots.calibration(found), "ranks of true latents among the guide's draws")


def _is_square(rows: Rows) -> bool:
    """Whether the data are square images of one channel; a flat row is one from 8 x 8."""
    *channels, side = rows.event_shape
    if not channels:
        return side >= 64 and math.isqrt(side) ** 2 == side
    return math.prod(channels) == side > 1
