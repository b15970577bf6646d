"""What a run is, in plain values: who resumes it must have the same, and all its processes."""

from __future__ import annotations

import json
from typing import Any

from ..assembly.classifier import Classifier
from ..conditionals.base import Conditional
from ..conditionals.missingness import Missingness
from ..density.identity import data_digest, digest_of
from ..density.problem import Problem
from ..spec.describe import describe
from .checkpoints import PLAIN, kinds
from .epochs import Plan
from .labelled import Labelled
from .run import Run

ADAPTED = ("step_size", "max_plate_nesting")  # what mcem and Pyro change of a loss as they go


def identity_of(
    run: Run, problem: Problem, held_out: Problem | None, batch_size: int
) -> dict[str, Any]:
    """What a run must share with one that it resumes, as plain values."""
    vae = run.vae
    elbo = run.elbo.base if isinstance(run.elbo, Labelled) else run.elbo
    options = {
        key: value
        for key, value in sorted(vars(elbo).items())
        if isinstance(value, (int, float, str)) and key not in ADAPTED
    }
    parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
    return {
        **{role: _described(part) for role, part in parts.items()},
        "condition": None if vae.condition is None else json.dumps(vae.condition.describe()),
        "classifier": None if vae.classifier is None else _classifier(vae.classifier),
        "missingness": None if vae.missingness is None else _described(vae.missingness),
        "data": _digest(problem),
        "validation data": None if held_out is None else _digest(held_out),
        "loss": type(elbo).__name__,
        "options of the loss": options,
        "batch_size": int(batch_size),
        "seed": int(run.seed),
        "clip_norm": float(run.clip_norm),
        "weights": None if run.weights is None else digest_of(run.weights.tolist()),
    }


def shared_by_processes(run: Run, plan: Plan) -> dict[str, Any]:
    """What else the processes of a group must share, as plain values."""
    found = plan.checkpoints.found if plan.checkpoints else None
    return {
        "epochs": plan.epochs,
        "patience": plan.patience,
        "checkpoints": plan.checkpoints is not None,
        "newest checkpoint": None if found is None else found[0].name,
        "on_nonfinite": run.skips,
        "times fitted": run.vae.times_fitted,
        "shapes": kinds(run.vae.state_dict()),
        "learning rates": [run.learning_rate(epoch) for epoch in (0.0, 0.5, 1.0)],
        "betas": [run.beta(epoch) for epoch in (0.0, 0.5, 1.0)],
        "optimizer": _optimiser(run),
    }


def _optimiser(run: Run) -> list[Any]:
    """Its kind, settings, and the names of what it trains, in order."""
    names = {id(parameter): name for name, parameter in run.vae.named_parameters()}
    optimiser = run.optim.optimiser
    groups = [
        {
            **{key: value for key, value in group.items() if isinstance(value, (*PLAIN, tuple))},
            "trains": [names.get(id(parameter)) for parameter in group["params"]],
        }
        for group in optimiser.param_groups
    ]
    return [type(optimiser).__name__, *groups]


def _described(part: Conditional | Missingness) -> str:
    """A part as a spec writes it, or by its kind where none can."""
    try:
        return json.dumps(describe(part), sort_keys=True)
    except TypeError:
        return getattr(part, "title", type(part).__name__)


def _classifier(classifier: Classifier) -> str:
    return f"{_described(classifier.conditional)}, weight {classifier.weight}"


def _digest(problem: Problem) -> str:
    rows = problem.rows
    return data_digest(rows) if rows.is_fixed else f"{len(rows)} rows that change"
