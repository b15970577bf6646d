"""One HTML file that says what a VAE is, how well it fits, and how far its guide and its numbers
can be trusted.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from ..data.files import write
from ..data.rows import Rows
from ..density.problem import Problem
from ..evidence.evidence import log_evidence
from ..evidence.pareto import KHAT_LIMIT
from ..guards import whole_number
from ..posterior.diagnostics import have_mixed
from ..posterior.mcmc import sample_posterior
from ..spec.build import describe
from ..vae import VAE
from . import plots, tables
from .calibration import calibrate, check_predictions
from .draws import vae_of
from .posteriors import compare_posteriors, summarize

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SHOWN = 12  # reconstructions
STYLE = """
:root { color-scheme: light; --line: #d8dce3; --soft: #5b6472;
  --good: #1a7f4b; --fair: #b26a00; --bad: #b3261e }
body { font: 16px/1.55 system-ui, sans-serif; color: #1b1f27;
  margin: 0 auto; max-width: 62rem; padding: 1.2rem }
h1 { font-size: 1.7rem; margin: .2rem 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem }
p, li { max-width: 46rem } .soft { color: var(--soft) }
img, svg { max-width: 100%; height: auto; display: block }
.wide { overflow-x: auto; margin: .6rem 0 } img.big { min-width: 42rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
pre { background: #f5f6f8; padding: .8rem; overflow-x: auto; font-size: .85rem }
.light { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .45em }
.good { background: var(--good) } .fair { background: var(--fair) } .bad { background: var(--bad) }
"""


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
    write(path, _page(parts).encode())
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
    yield "<h2>Model</h2>" + _diagram(names, len(problem), seen_by)
    yield f"<details><summary>Its spec</summary><pre>{escape(tomli_w.dumps(spec))}</pre></details>"


def _diagram(names: dict[str, str], num: int, seen_by: Sequence[str]) -> str:
    """The plate of the data: z and x, what each is drawn from, the guide as a dashed arrow.

    Where there is a c, arrows show which parts see it.
    """
    small, height = 'text-anchor="middle" font-size="12" fill="#5b6472"', 230 if seen_by else 152
    guide = names["guide"] + (", sees c" if "guide" in seen_by else "")
    parts = [
        f'<svg viewBox="0 0 400 {height + 20}" width="400" role="img" aria-label="plate diagram" '
        'font-family="sans-serif">',
        '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto">'
        '<path d="M0 0 L9 4 L0 8 z"/></marker></defs>',
        f'<rect x="20" y="12" width="350" height="{height}" rx="8" fill="none" stroke="#9aa3b0"/>',
        f'<text x="360" y="{height + 4}" text-anchor="end" font-size="12" fill="#5b6472">'
        f"data: {num}</text>",
        _node(100, 75, "z", "white") + _node(290, 75, "x", "#dfe3ea"),
        '<path d="M124 68 L264 68" stroke="#1b1f27" marker-end="url(#tip)"/>',
        '<path d="M271 91 C 230 126 160 126 119 92" fill="none" stroke="#1b1f27" '
        'stroke-dasharray="4 3" marker-end="url(#tip)"/>',
        f'<text x="100" y="38" {small}>{escape(names["prior"])}</text>',
        f'<text x="195" y="58" {small}>{escape(names["likelihood"])}</text>',
        f'<text x="195" y="135" {small}>guide: {escape(guide)}</text>',
    ]
    if seen_by:
        parts.append(_node(195, 190, "c", "#dfe3ea"))
    if "prior" in seen_by:
        parts.append('<path d="M178 172 L112 99" stroke="#1b1f27" marker-end="url(#tip)"/>')
    if "likelihood" in seen_by:
        parts.append('<path d="M212 172 L278 99" stroke="#1b1f27" marker-end="url(#tip)"/>')
    return "".join([*parts, "</svg>"])


def _node(x: int, y: int, name: str, fill: str) -> str:
    circle = f'<circle cx="{x}" cy="{y}" r="24" fill="{fill}" stroke="#1b1f27"/>'
    font = 'text-anchor="middle" font-size="17" font-style="italic"'
    return f'{circle}<text x="{x}" y="{y + 6}" {font}>{name}</text>'


def _training(history: pandas.DataFrame) -> Iterator[str]:
    yield f"<h2>Training</h2><p>{len(history)} epochs in {history.seconds.iloc[-1]:.0f} s.</p>"
    yield _image(plots.training(history), "losses")


def _evidence(problem: Problem, num_samples: int, seed: int) -> Iterator[str]:
    found = log_evidence(problem, num_samples=num_samples, seed=seed)
    flagged, num = found.attrs["flagged"], found.sizes["datum"]
    if problem.sums_exactly:
        verdict = _light("good", "Exact: the latents are summed over.")
    else:
        share = flagged / num
        verdict = _light(
            _colour(share < 0.05, share < 0.3),
            f"log p(x) of {num - flagged} of {num} data can be trusted (k-hat at most "
            f"{KHAT_LIMIT}); that of {flagged} is a lower bound.",
        )
    yield "<h2>Evidence</h2>" + verdict
    elbo_se = float(found.elbo.std(ddof=1)) / num**0.5 if num > 1 else np.nan
    figures = [
        ("log p(x)", found.attrs["mean"], found.attrs["mean_se"]),
        ("ELBO", float(found.elbo.mean()), elbo_se),
    ]
    body = "".join(f"<tr><td>{name}<td>{mean:.2f}<td>{se:.2f}" for name, mean, se in figures)
    yield _wide(f"<table><tr><th>mean over data<th>nats<th>SE{body}</table>")
    yield f"<p class=soft>Importance sampling from the guide, K = {num_samples}.</p>" + _image(
        plots.evidence(found), "log p(x) and k-hat"
    )


def _fit(vae: VAE, problem: Problem, labels: Any, seed: int) -> Iterator[str]:
    """Does the model make data like these?"""
    yield "<h2>Data and predictions</h2>"
    rows = problem.rows
    if vae.condition is None and _is_square(rows):
        some = rows.only(np.arange(min(SHOWN, len(rows))))
        pictures = plots.reconstructions(vae, some, seed=seed)
        yield _image(pictures, "data above, reconstructions below")
        if not vae.prior.reads_guide:
            pictures = plots.samples(vae, rows=3, seed=seed)
            yield "<p>Drawn from the prior:</p>" + _image(pictures, "samples from the prior")

    table = check_predictions(problem, seed=seed).rename(columns={"p_value": "p"})
    yield _wide(_table(table, "statistic"))
    yield (
        "<p class=soft>Statistics of the data, and of 200 data sets drawn given them. Small p: it "
        "is missed.</p>"
    )

    has_a_plane = not vae.is_discrete and vae.prior.event_shape.numel() > 1
    if labels is not None and vae.condition is None and has_a_plane:
        picture = plots.latent_space(vae, rows, labels)
        yield "<h2>Latents</h2>" + _image(picture, "means of the guide, by class")


def _mcmc(problem: Problem, num: int, seed: int) -> Iterator[str]:
    first = problem.only(np.arange(num))
    tree = sample_posterior(first, num_samples=500, warmup=300, seed=seed)
    chains = tree["diagnostics"]
    good = have_mixed(chains)
    yield f"<h2>Guide against MCMC, {num} data</h2>"
    yield _light(
        _colour(good.all(), good.mean() > 0.9),
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
    yield _light(
        _colour(typical < 0.2 and narrow < 0.1, typical < 0.5),
        f"Means of the guide are off by {typical:.2f} posterior standard deviations (median); "
        f"{narrow:.0%} of its standard deviations are below 0.8 of the posterior's.",
    )
    yield _image(plots.posteriors(comparison), "errors of means, ratios of standard deviations, KL")
    yield _wide(_table(summarize(comparison), "measure"))


def _calibration(vae: VAE, c: Any, num: int, seed: int) -> Iterator[str]:
    found = calibrate(vae, c, num_simulations=num, seed=seed)
    good = bool(found.attrs["calibrated"])
    yield "<h2>Calibration of the guide</h2>"
    said = "the guide passes for exact" if good else "the guide is not the posterior"
    yield _light(
        "good" if good else "bad",
        f"On {num} simulated data {said} (p = {found.attrs['p_value']:.2g}).",
    )
    yield _image(plots.calibration(found), "ranks of true latents among the guide's draws")


def _is_square(rows: Rows) -> bool:
    """Whether the data are square images of one channel; a flat row is one from 8 x 8."""
    *channels, side = rows.event_shape
    if not channels:
        return side >= 64 and math.isqrt(side) ** 2 == side
    return math.prod(channels) == side > 1


def _colour(good: Any, fair: Any) -> str:
    if good:
        return "good"
    return "fair" if fair else "bad"


def _light(colour: str, text: str) -> str:
    return f'<p><span class="light {colour}" title="{colour}"></span>{escape(text)}</p>'


def _image(figure: Figure, alternative: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    content = base64.b64encode(file.getvalue()).decode()
    size = "big" if figure.get_figwidth() > 7 else "small"
    return _wide(
        f'<img class={size} alt="{escape(alternative)}" src="data:image/png;base64,{content}">'
    )


def _wide(content: str) -> str:
    return f"<div class=wide>{content}</div>"


def _table(frame: pandas.DataFrame, index: str) -> str:
    head = "".join(f"<th>{escape(name)}" for name in tables.header(frame, index))
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in tables.body(frame)
    )
    return f"<table><tr>{head}{rows}</table>"


def _page(parts: list[str]) -> str:
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    style = f"<title>A variational autoencoder</title><style>{STYLE}</style>"
    return "\n".join(["<!doctype html>", '<html lang="en">', head + style, *parts, "</html>", ""])
