"""The command check: every estimator of log p(x) on the user's machine, against models whose log
p(x) is known: those of :mod:`.closed_forms`, or the reference set.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
import xarray
from rich.table import Table

from ..criticism.references import ReferenceModel, reference
from ..evidence.annealing import annealed_log_evidence
from ..evidence.bridge import bridge_log_evidence
from ..evidence.evidence import log_evidence
from ..posterior.mcmc import sample_posterior
from .closed_forms import Case, closed_forms
from .terminal import console, whoever_reads, write_json

if TYPE_CHECKING:
    import pandas

Model = Case | ReferenceModel
Estimator = Callable[[Any, int], xarray.Dataset]  # of a model, with a seed

# In a correct program either limit is passed in less than 1 of 1000 runs.
DATUM_LIMIT = 5.0  # standard errors of a single datum
MEAN_LIMIT = 4.0  # standard errors of the mean
ROUNDING = 1e-6  # of log p(x), relative: of the exact values, and of single precision

TOLERANCE, BRIDGE = "log_evidence with a tolerance", "bridge sampling"
# It knows the modes that its chains have found; docs/decisions/0030
KNOWN_LIMITS = {("folded", BRIDGE)}


def check(seed: int, *, use_references: bool, as_json: bool) -> None:
    """Every estimator against what is known; ends with 1 if one fails that is not known to."""
    found = check_references(seed) if use_references else check_estimators(seed)
    against = "the reference set" if use_references else "closed forms"
    failed = "FAIL" in map(_verdict, found.itertuples())
    with whoever_reads():
        if as_json:
            rows = [{**row, "verdict": verdict} for row, verdict in _rows_and_verdicts(found)]
            write_json({"against": against, "failed": failed, "checks": rows})
        else:
            console().print(table(found, against))
            passed = int(found.passed.sum())
            typer.echo(f"{passed} of {len(found)} passed in {found.seconds.sum():.0f} s.")
    if failed:
        raise typer.Exit(1)


def _rows_and_verdicts(found: pandas.DataFrame) -> zip[tuple[dict[str, Any], str]]:
    rows = [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]
    return zip(rows, map(_verdict, found.itertuples()), strict=True)


def check_estimators(seed: int = 0) -> pandas.DataFrame:
    """Every estimator on every model with a closed form.

    Arguments:
        seed: The seed of the draws; the data are fixed.

    Returns:
        A frame with a row for each model and estimator: ``error`` and ``se``, the mean over data in
        nats; ``z``, the error of the mean in standard errors; ``worst``, the largest error of one
        datum in its own standard errors; ``passed``; and ``seconds``.
    """
    return _compared(closed_forms(), lambda model: ESTIMATORS, seed)


def check_references(seed: int = 0) -> pandas.DataFrame:
    """Every estimator on every reference model that it is for.

    Arguments:
        seed: The seed of the draws; the data are fixed.

    Returns:
        A frame as of :func:`check_estimators`.
    """
    return _compared(reference, _estimators_for, seed)


def _compared(
    models: Mapping[str, Model], estimators: Callable[[Any], dict[str, Estimator]], seed: int
) -> pandas.DataFrame:
    """What the estimators of each model find, held against what is known."""
    import pandas

    rows = []
    for model_name, model in models.items():
        for name, estimator in estimators(model).items():
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a bad guide is part of the test
                found = estimator(model, seed)
            rows.append({"model": model_name, "estimator": name, **_scores(found, model)})
            rows[-1]["seconds"] = time.perf_counter() - start
    return pandas.DataFrame(rows)


def table(found: pandas.DataFrame, against: str) -> Table:
    """What :func:`check_estimators` gave, for a terminal."""
    result = Table(
        "model",
        "log p(x) by",
        title=f"log p(x) against {against}, in nats per datum",
        title_justify="left",
    )
    for name in ("mean error", "mean SE", "z of the mean", "largest |z|", "", "seconds"):
        result.add_column(name, justify="right")
    for row in found.itertuples():
        result.add_row(
            str(row.model),
            str(row.estimator),
            f"{row.error:+.4f}",
            f"{row.se:.4f}",
            f"{row.z:+.2f}",
            f"{row.worst:.2f}",
            _verdict(row),
            f"{row.seconds:.1f}",
        )
    return result


def _verdict(row: Any) -> str:
    if row.passed:
        return "pass"
    return "known limit" if (row.model, row.estimator) in KNOWN_LIMITS else "FAIL"


def _scores(found: xarray.Dataset, model: Model) -> dict[str, Any]:
    """How far estimates are from what is known, in errors of both, and whether that passes."""
    error = found.log_evidence.values - model.log_evidence
    rounding = ROUNDING * (1 + np.abs(model.log_evidence))
    se = np.sqrt(found.se.values**2 + model.se**2 + rounding**2)
    se_of_mean = np.sqrt(np.square(se).sum()) / len(se)
    z = error.mean() / se_of_mean
    worst = np.abs(error / se).max()

    passed = bool(np.isfinite(error).all() and worst < DATUM_LIMIT and abs(z) < MEAN_LIMIT)
    return {"error": error.mean(), "se": se.mean(), "z": z, "worst": worst, "passed": passed}


def _importance(case: Case, seed: int) -> xarray.Dataset:
    return log_evidence(case.pair(1.3), case.x, num_samples=2000, seed=seed)


def _escalation(case: Case, seed: int) -> xarray.Dataset:
    return log_evidence(case.pair(0.2), case.x, tolerance=0.05, seed=seed)


def _annealing_from_guide(case: Case, seed: int) -> xarray.Dataset:
    return annealed_log_evidence(
        case.pair(1.3), case.x, num_distributions=100, chains=32, num_steps=5, seed=seed
    )


def _annealing_from_prior(case: Case, seed: int) -> xarray.Dataset:
    return annealed_log_evidence(
        case.pair(1.3),
        case.x,
        num_distributions=200,
        chains=64,
        start="prior",
        num_steps=5,
        seed=seed,
    )


def _bridge(case: Case, seed: int) -> xarray.Dataset:
    pair = case.pair(1.3)
    posterior = sample_posterior(pair, case.x, num_samples=500, warmup=300, seed=seed)
    return bridge_log_evidence(pair, case.x, posterior)


ESTIMATORS: dict[str, Estimator] = {
    "importance sampling": _importance,
    "escalation, from a guide of a fifth the width": _escalation,
    "annealing, from the guide": _annealing_from_guide,
    "annealing, from the prior": _annealing_from_prior,
    BRIDGE: _bridge,
}


def _with_tolerance(model: ReferenceModel, seed: int) -> xarray.Dataset:
    return log_evidence(model.vae, model.x, tolerance=0.05, seed=seed)


def _annealing(model: ReferenceModel, seed: int) -> xarray.Dataset:
    return annealed_log_evidence(
        model.vae,
        model.x,
        num_distributions=400,
        chains=64,
        start="prior",
        num_steps=5,
        seed=seed,
    )


def _bridge_of_vae(model: ReferenceModel, seed: int) -> xarray.Dataset:
    posterior = sample_posterior(model.vae, model.x, num_samples=500, warmup=300, seed=seed)
    return bridge_log_evidence(model.vae, model.x, posterior)


def _estimators_for(model: ReferenceModel) -> dict[str, Estimator]:
    """All that take the model's latents: over discrete ones log p(x) is a sum."""
    if model.vae.is_discrete:
        return {"exact sum": _with_tolerance}
    return {
        TOLERANCE: _with_tolerance,
        "annealing, from the prior": _annealing,
        BRIDGE: _bridge_of_vae,
    }
