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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer import ELBO

from ..data.columns import names_of
from ..data.rows import DataError
from ..density.problem import Problem
from ..guards import device_of, mode, own_store, seeded, whole_number
from ..vae import VAE
from .losses import objective
from .misfit import warn_of_columns_far_off
from .monitor import Watch, warn_of_collapse
from .progress import progress_bar
from .run import Run
from .schedules import Schedule, as_schedule

if TYPE_CHECKING:
    import pandas

fused_adam = functools.partial(torch.optim.Adam, fused=True)


def fit(
    vae: VAE,
    x: Any,
    c: Any = None,
    *,
    validation: Any = None,
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
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    """Train a VAE in place by ``pyro.infer.SVI``.

    Arguments:
        vae: The model; its trainable parameters are changed, and what its own layers track in train
            mode.
        x: Data of shape ``(N, *X)``, NaN where missing. Columns of a frame are put into the order
            that the VAE knows; one that knows none learns their names here.
        c: What a conditional VAE is conditional on, a row for each datum.
        validation: Data for early stopping, for a conditional VAE a pair ``(x, c)``: the parameters
            with the lowest validation loss are restored at the end. Its KL term is weighed by the
            largest beta of the schedule.
        loss: A Pyro ELBO, or the name of one: elbo (exact over discrete latents), mean_field
            (analytic KL), enum, iwae, renyi (alpha 0.5), wake_sleep; iwae with other gradients:
            stl, dreg; in 8 groups: miwae, piwae (Rainforth et al., 2018; the MIWAE of missing data
            is iwae on data with NaN); mcem, by HMC, without a bound.
        particles: The samples of z for each datum (default: 16 for iwae and its kin and renyi, 8 a
            group for miwae and piwae, 4 for mcem, 2 for wake_sleep, else 1).
        beta: The weight of the KL term: a number, or a function of the epoch such as
            :func:`linear_warmup`.
        free_bits: The nats of KL in each latent dimension that cost nothing (:class:`.FreeBits`),
            against collapse.
        epochs: How often the data are gone through.
        batch_size: How many data make one step; a last step of a single datum is joined to the one
            before, for batch normalisation.
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
        seed: The seed of shuffling and sampling.
        progress: Whether a terminal shows a progress bar.

    Returns:
        The history, a row an epoch: epoch, loss and validation (nats per datum), beta,
        learning_rate, seconds; and what tells a collapse (:mod:`.monitor`): kl, kl_0, kl_1, ...,
        mutual_information, active_units. Its ``attrs`` tell what was ``compiled``, and
        ``compile_seconds``.

    Raises:
        DataError: The data do not fit the likelihood; no parameter was touched.
        ValueError: An option makes no sense, and no parameter was touched; or a schedule gives
            something else than a number from 0, and training stops there.
        TypeError: `vae` is no VAE, `loss` no ELBO, or `optimizer` makes no torch optimiser.
        FloatingPointError: Loss, gradient or validation loss is not finite; the parameters are
            those before the step.

    Warns:
        UserWarning: Values of a column lie far from where the model puts them, so training has not
            reached their scale; after at least 10 epochs no latent dimension is used; or a step is
            not compiled that should be.
    """
    _check_vae(vae)
    schedules = as_schedule("beta", beta), as_schedule("learning_rate", learning_rate)
    elbo = objective(vae, loss, particles, beta, free_bits)
    run = Run(vae, elbo, *schedules, clip_norm, compile)
    _check_numbers(epochs, batch_size, patience, clip_norm, compile)
    if device is not None:
        vae.to(device_of(device))
    problem = Problem.of(vae, x, c).on_device()
    vae.columns = vae.columns or names_of(problem.rows)
    if len(problem) <= batch_size + (batch_size > 1):  # one step, with a last datum joined to it
        batch_size = len(problem)
    held_out = None if validation is None else _held_out(vae, validation)

    as_in_training, no_validation = mode(vae, training=True), pyro.validation_enabled(False)
    bar = progress_bar(epochs, progress)
    with own_store(), seeded(seed), as_in_training, no_validation, run, bar as show:
        run.start(optimizer, problem)
        watch = Watch(vae)
        run.choose_whether_to_compile(steps=epochs * math.ceil(len(problem) / batch_size))
        for epoch in range(epochs):
            run.epoch(epoch, batch_size)
            if held_out is not None:
                run.validate(epoch, held_out, epochs, batch_size / len(problem))
            with mode(vae, training=False):
                seen = watch(run.watched.batch)
            run.history[-1].update(seen)
            show(len(problem), run.history[-1])
            if held_out is not None and patience is not None and epoch - run.best_epoch >= patience:
                break
    if not warn_of_columns_far_off(vae, run.watched.batch, problem.rows):
        warn_of_collapse(seen, len(run.history))
    return run.frame()


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
    epochs: int, batch_size: int, patience: int | None, clip_norm: float, compile: bool | str
) -> None:
    if not isinstance(clip_norm, numbers.Real) or not clip_norm > 0:
        raise ValueError(f"clip_norm must be a number above 0; got {clip_norm!r}")
    if compile != "auto" and not isinstance(compile, bool):
        raise ValueError(f"compile must be True, False or 'auto'; got {compile!r}")
    counts = {"epochs": epochs, "batch_size": batch_size}
    for name, value in (counts if patience is None else counts | {"patience": patience}).items():
        whole_number(name, value, at_least=1)


def _held_out(vae: VAE, validation: Any) -> Problem:
    try:
        if vae.condition is None:
            return Problem.of(vae, validation).on_device()
        if not (isinstance(validation, tuple) and len(validation) == 2):
            raise DataError(
                f"a conditional VAE needs a pair (x, c); got {type(validation).__name__}"
            )
        return Problem.of(vae, *validation).on_device()
    except DataError as error:
        raise DataError(f"validation data: {error}") from None
