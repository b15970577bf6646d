r"""Training: stochastic variational inference, by Pyro.

``fit`` runs ``pyro.infer.SVI(vae.model, vae.guide, ...)`` with any Pyro ELBO. Around it stand the
things that a user expects and Pyro leaves open: one fused optimiser instead of one per parameter
tensor, gradients per datum (so that learning rate, clipping and weight decay mean the same at any
batch size), a weight :math:`\beta` on the KL term (Higgins et al., 2017,
https://openreview.net/forum?id=Sy2fzU9gl) with warm-up, validation with early stopping, and a stop
before the first step that a NaN would spoil.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from ..data.columns import names_of, refuse_other_order
from ..data.datasets import is_dataset
from ..data.rows import DataError
from ..density.problem import Problem
from ..guards import device_of, mode, own_store, seed_of, seeded, whole_number
from ..vae import VAE
from .callbacks import Callback
from .checkpoints import Checkpoints
from .epochs import Plan, history_of_what_was_interrupted, train, warn_of_what_was_not_reached
from .group import Group
from .identity import identity_of, shared_by_processes
from .labelled import to_be_fitted
from .losses import objective
from .progress import progress_bar
from .run import Run
from .schedules import Schedule, as_schedule
from .step import steps_of
from .weighing import as_weights

if TYPE_CHECKING:
    import pandas

fused_adam = functools.partial(torch.optim.Adam, fused=True)


def fit(
    vae: VAE,
    x: Any,
    c: Any = None,
    *,
    validation: Any = None,
    weights: Sequence[float] | np.ndarray | Tensor | None = None,
    loss: str | ELBO = "elbo",
    particles: int | None = None,
    beta: Schedule = 1.0,
    free_bits: float | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: Schedule = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = fused_adam,
    clip_norm: float = math.inf,
    patience: int | None = 20,
    compile: bool | str = "auto",
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    on_nonfinite: str = "stop",
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    """Train a VAE in place by ``pyro.infer.SVI``.

    In a process group of ``torch.distributed`` all processes call it with the same arguments, and
    each takes a share of every step.

    Arguments:
        vae: The model; its trainable parameters are changed, and what its own layers track in train
            mode.
        x: Data of shape ``(N, *X)``, NaN where missing. Columns of a frame are put into the order
            that the VAE knows; one that knows none learns their names here.
        c: What a conditional VAE is conditional on, a row for each datum.
        validation: Data for early stopping, for a conditional VAE a pair ``(x, c)``: the parameters
            with the lowest validation loss are restored at the end. Its KL term is weighed by the
            largest beta of the schedule.
        weights: A number from 0 for each datum, by which its loss counts; only their ratios matter.
            For elbo, mean_field, iwae and renyi of continuous latents; steps are then not compiled,
            and the loss of `validation` has none.
        loss: A Pyro ELBO, or the name of one: elbo (exact over discrete latents), mean_field
            (analytic KL), enum, iwae, renyi (alpha 0.5), wake_sleep; iwae with other gradients:
            stl, dreg; in 8 groups: miwae, piwae (Rainforth et al., 2018; the MIWAE of missing data
            is iwae on data with NaN); mcem, by HMC, without a bound.
        particles: The samples of z for each datum (default: 16 for iwae and its kin and renyi, 8 a
            group for miwae and piwae, 4 for mcem, 2 for wake_sleep, else 1).
        beta: The weight of the KL term: a number, or a function of the epoch such as
            :func:`linear_warmup`.
        free_bits: The nats of KL in each latent dimension that cost nothing (:class:`.FreeBits`),
            against collapse; for loss "elbo" of continuous latents only.
        epochs: How often the data are gone through.
        batch_size: How many data make one step, in all processes together; a last step of a single
            datum is joined to the one before, for batch normalisation.
        learning_rate: A number, or a function of the epoch.
        optimizer: Makes a torch optimiser from parameters and ``lr``. A parameter group with
            another rate keeps it.
        clip_norm: The largest norm of the gradient of the loss per datum, over all parameters.
        patience: After how many epochs without a lower validation loss training stops; None for
            never.
        compile: Whether a step is one call, with Adam's update in it: compiled by
            ``torch.compile``, on a GPU recorded as a CUDA graph. "auto" for training of at least
            50,000 steps, which repays the half minute that compiling may take (flows and Vamp: one
            or more); on a GPU of at least 100. Other optimisers step after the call. Losses by
            traces or with gradients of their own (discrete latents, wake_sleep, dreg, piwae, mcem),
            hooks, batch normalisation and branches on values are left as they are; what a forward
            pass does beside its result (print, count) is then done once.
        device: Where the VAE is moved first, and stays; "auto" for a GPU where there is one
            (default: where it is).
        checkpoint: A folder for the state of the training after each epoch (the last two), and for
            ``history.csv``; of several processes the first writes it. A run that was killed and
            resumed ends bit for bit as one that was not: with the same arguments, threads, device,
            number of processes and versions.
        resume: Whether to go on from the newest checkpoint there, if there is one. It trains the
            parameters that were trained. A run that had ended goes on where there are more epochs.
        callback: A function of a :class:`.State`, called after each epoch, of several processes in
            the first: to log, save, or return True to stop.
        on_nonfinite: What a step does whose loss or gradient is not finite: "stop" the training, or
            "skip" itself; the column ``skipped`` of the history counts all so far, and steps are
            not compiled.
        seed: The seed of shuffling and sampling; a VAE that was fitted before draws other numbers.
        progress: Whether a terminal shows a progress bar.

    Returns:
        The history, a row an epoch: epoch, loss and validation (nats per datum), beta,
        learning_rate, seconds; and what tells a collapse (:mod:`.monitor`): kl, kl_0, kl_1, ...,
        mutual_information, active_units. Its ``attrs`` tell what was ``compiled``, and
        ``compile_seconds``.

    Raises:
        DataError: The data do not fit the likelihood; no parameter was touched.
        ValueError: An option makes no sense, and no parameter was touched; or a schedule gives
            something else than a number from 0, and training stops there. The checkpoints in the
            folder are of another run or model, or `resume` is False.
        TypeError: `vae` is no VAE, `loss` no ELBO, `optimizer` makes no torch optimiser, or one
            whose state no checkpoint holds.
        FloatingPointError: Loss, gradient or validation loss is not finite; the parameters are
            those before the step. With "skip", only where every step of an epoch is skipped.
        GroupError: Another process of the group failed, or has ended.
        CheckpointError: There are checkpoints to resume from, and none can be read.
        KeyboardInterrupt: Training was interrupted. The VAE can be used, with its best parameters
            if there are validation data; the error has the ``history`` so far.

    Warns:
        UserWarning: Values of a column lie far from where the model puts them, so training has not
            reached their scale; after at least 10 epochs no latent dimension is used; or a step is
            not compiled that should be.
    """
    group = Group.here()
    with group.together():
        _check_vae(vae)
        schedules = as_schedule("beta", beta), as_schedule("learning_rate", learning_rate)
        elbo = objective(vae, loss, particles, beta, free_bits)
        skips = on_nonfinite == "skip"
        run = Run(vae, elbo, *schedules, clip_norm, compile, skips=skips, seed=seed, group=group)
        _check_numbers(epochs, batch_size, patience, seed, clip_norm, compile)
        _check_choices(checkpoint, resume, callback, on_nonfinite)
        if device is not None:
            vae.to(device_of(device))
        problem = to_be_fitted(vae, x, c).on_device()
        vae.columns = vae.columns or names_of(problem.rows)
        if len(steps_of(len(problem), batch_size)) == 1:  # with a last datum joined to it
            batch_size = len(problem)
        held_out = None if validation is None else _held_out(vae, validation)
        refuse_other_order(x, weights, "weights")
        run.weights = None if weights is None else as_weights(weights, problem, elbo)

        identity = identity_of(run, problem, held_out, batch_size)
        checkpoints = None
        if checkpoint is not None:
            checkpoints = Checkpoints(checkpoint, vae, identity, resume=resume)
    plan = Plan(epochs, batch_size, patience, held_out, checkpoints, callback)
    _train_by(run, plan, problem, identity, optimizer, show_progress=progress and group.is_first)
    if group.is_first:
        warn_of_what_was_not_reached(run)
    return run.frame()


def _train_by(
    run: Run,
    plan: Plan,
    problem: Problem,
    identity: dict[str, Any],
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    show_progress: bool,
) -> None:
    """Train, and leave all that is the caller's as it was."""
    vae, seed = run.vae, run.seed
    as_in_training, no_validation = mode(vae, training=True), pyro.validation_enabled(False)
    drawn_from = seed_of(seed, vae.times_fitted) if vae.times_fitted else seed
    bar = progress_bar(plan.epochs, show_progress)
    with own_store(), seeded(drawn_from), as_in_training, no_validation, run, bar as show:
        with run.group.together():
            run.start(optimizer, problem)
            steps = plan.epochs * math.ceil(len(problem) / plan.batch_size)
            run.choose_whether_to_compile(steps)
        if not run.group.is_one:
            run.group.agree_on(identity | shared_by_processes(run, plan))
        with history_of_what_was_interrupted(run):
            train(run, plan, show)
    vae.times_fitted += 1


def _check_vae(vae: VAE) -> None:
    if not isinstance(vae, VAE):
        raise TypeError(
            f"fit needs a VAE; got {type(vae).__name__}; a pair of Pyro functions trains by "
            "pyro.infer.SVI"
        )
    if any(parameter.is_inference() for parameter in vae.parameters()):
        raise ValueError(
            "fit needs parameters made outside torch.inference_mode(); build the VAE outside it"
        )


def _check_numbers(
    epochs: int,
    batch_size: int,
    patience: int | None,
    seed: int,
    clip_norm: float,
    compile: bool | str,
) -> None:
    if not isinstance(clip_norm, numbers.Real) or not clip_norm > 0:
        raise ValueError(f"clip_norm must be a number above 0; got {clip_norm!r}")
    if compile != "auto" and not isinstance(compile, bool):
        raise ValueError(f"compile must be True, False or 'auto'; got {compile!r}")
    counts = {"epochs": epochs, "batch_size": batch_size}
    for name, value in (counts if patience is None else counts | {"patience": patience}).items():
        whole_number(name, value, at_least=1)
    whole_number("seed", seed, at_least=0, at_most=2**63 - 1)


def _check_choices(checkpoint: Any, resume: bool, callback: Any, on_nonfinite: str) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of the state; got {callback!r:.60}")
    if checkpoint is not None and not (isinstance(checkpoint, (str, Path)) and str(checkpoint)):
        raise TypeError(f"checkpoint must be the name of a folder; got {checkpoint!r:.60}")
    if on_nonfinite not in ("stop", "skip"):
        raise ValueError(f"on_nonfinite must be 'stop' or 'skip'; got {on_nonfinite!r}")
    if resume and checkpoint is None:
        raise ValueError(
            "resume needs the folder to resume from: checkpoint='runs/a' (--checkpoint runs/a)"
        )


def _held_out(vae: VAE, validation: Any) -> Problem:
    try:
        if vae.condition is None:
            return Problem.of(vae, validation).on_device()
        if is_dataset(validation):  # of pairs
            return to_be_fitted(vae, validation).on_device()
        if not (isinstance(validation, tuple) and len(validation) == 2):
            raise DataError(
                f"a conditional VAE needs a pair (x, c); got {type(validation).__name__}"
            )
        return to_be_fitted(vae, *validation).on_device()
    except DataError as error:
        raise DataError(f"validation data: {error}") from None
