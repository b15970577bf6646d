"""The epochs of a training run: what happens in and after each, and where they end."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..density.problem import Problem
from ..guards import mode
from .callbacks import Callback, wants_to_stop
from .checkpoints import Checkpoints
from .misfit import warn_of_columns_far_off
from .monitor import Watch, warn_of_collapse
from .run import Run


@dataclass(frozen=True)
class Plan:
    """What happens in and after each epoch."""

    epochs: int
    batch_size: int
    patience: int | None
    held_out: Problem | None
    checkpoints: Checkpoints | None
    callback: Callback | None


def train(run: Run, plan: Plan, show: Callable[[int, dict[str, float]], None]) -> None:
    """Train, from the newest checkpoint on."""
    group, watch = run.group, Watch(run.vae)
    first, stopped = 0, False
    with group.together():
        if plan.checkpoints:
            first, stopped = plan.checkpoints.put_back(run, plan.epochs)
    run.align()
    for epoch in range(first, plan.epochs):
        if stopped or _is_out_of_patience(run, plan, epoch - 1):
            break
        run.epoch(epoch, plan.batch_size)
        run.align()
        if epoch == 0:
            run.watched.join(group, run.vae.reference)
        if plan.held_out is not None:
            stride = plan.batch_size / len(run.problem)
            run.validate(epoch, plan.held_out, plan.epochs, stride)
        with group.together(), mode(run.vae, training=False):
            run.history[-1].update(watch(run.watched.batch))
        show(len(run.problem), run.history[-1])
        with group.together():
            if group.is_first:
                stopped = wants_to_stop(plan.callback, run.state)
                if plan.checkpoints:
                    plan.checkpoints.write(run, epoch, epochs=plan.epochs, stopped=stopped)
        run.align()
        stopped = group.gathered(stopped)[0]


def _is_out_of_patience(run: Run, plan: Plan, epoch: int) -> bool:
    """Whether the validation loss has not become lower for long enough, after an epoch."""
    if plan.held_out is None or plan.patience is None or epoch < 0:
        return False
    return epoch - run.best_epoch >= plan.patience


@contextlib.contextmanager
def history_of_what_was_interrupted(run: Run) -> Iterator[None]:
    """Ctrl-C carries the history so far, and says what is left."""
    try:
        yield
    except KeyboardInterrupt as error:
        run.vae.times_fitted += 1
        error.history = run.frame()  # type: ignore[attr-defined]
        error.add_note(
            f"fit was interrupted after {len(run.history)} epochs; the VAE has its parameters of "
            "now, or the best so far if there are validation data; the history is in the error's "
            "attribute history (in a notebook: import sys; sys.last_value.history)"
        )
        raise


def warn_of_what_was_not_reached(run: Run) -> None:
    """Say what the training did not reach."""
    if run.skipped:
        warnings.warn(
            f"fit: {run.skipped} of {run.steps} steps were skipped, as their loss or gradient was "
            "not finite; try a lower learning_rate or clip_norm=10",
            stacklevel=3,
        )
    if not warn_of_columns_far_off(run.vae, run.watched.batch, run.problem.rows):
        warn_of_collapse(run.history[-1], len(run.history))
