"""What a run is, in plain values: who resumes it must have the same, and all its processes."""

from __future__ import annotations

import json
from typing import Any

from ..conditionals.base import Conditional
from ..density.identity import data_digest, digest_of
from ..density.problem import Problem
from ..spec.build import describe
from .epochs import Plan
from .run import Run

ADAPTED = ("step_size", "max_plate_nesting")  # what mcem and Pyro change of a loss as they go


def identity_of(
    run: Run, problem: Problem, held_out: Problem | None, batch_size: int
) -> dict[str, Any]:
    """What a run must share with one that it resumes, as plain values."""
    vae, elbo = run.vae, run.elbo
    options = {
        key: value
        for key, value in sorted(vars(elbo).items())
        if isinstance(value, (int, float, str)) and key not in ADAPTED
    }
    parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
    return {
        **{role: _described(part) for role, part in parts.items()},
        "condition": None if vae.condition is None else json.dumps(vae.condition.describe()),
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
        "shapes": {name: list(part.shape) for name, part in run.vae.state_dict().items()},
        "trained": [name for name, part in run.vae.named_parameters() if part.requires_grad],
    }


def _described(part: Conditional) -> str:
    """A part as a spec writes it, or by its kind where none can."""
    try:
        return json.dumps(describe(part), sort_keys=True)
    except TypeError:
        return part.title


def _digest(problem: Problem) -> str:
    rows = problem.rows
    return data_digest(rows) if rows.is_fixed else f"{len(rows)} rows that change"
