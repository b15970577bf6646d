r"""Training: stochastic variational inference, by Pyro.

``fit`` runs ``pyro.infer.SVI(vae.model, vae.guide, ...)`` with any Pyro ELBO. Around it stand the things that a user
expects and Pyro leaves open: one fused optimiser instead of one per parameter tensor, gradients per datum (so that
learning rate, clipping and weight decay mean the same at any batch size), a weight :math:`\beta` on the KL term
(Higgins et al., 2017, https://openreview.net/forum?id=Sy2fzU9gl) with warm-up, validation with early stopping, and a
stop before the first step that a NaN would spoil.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import infer, poutine
from pyro.infer import ELBO, SVI
from torch import Tensor, nn

from ..guards import mode, own_store, seeded, whole_number
from ..rows import DataError, Rows
from ..vae import VAE
from .adapters import OneOptimiser, Tempered
from .monitor import warn_of_collapse, watch
from .objectives import FreeBits, ImportanceWeighted
from .progress import progress_bar
from .schedules import Schedule, as_schedule
from .terms import Batch

if TYPE_CHECKING:
    import pandas

EVALUATION_ROWS = 1024
ADVICE = (
    "; training stopped, the parameters are those before this step, or the best so far if there are validation data. "
    "Try a lower learning_rate, clip_norm=10, rescaled data, or a likelihood with fixed or learned scale"
)
fused_adam = functools.partial(torch.optim.Adam, fused=True)

losses: dict[str, tuple[type[ELBO], int, dict[str, Any]]] = {  # the ELBO, its usual particles, its options
    "elbo": (infer.Trace_ELBO, 1, {}),
    "mean_field": (infer.TraceMeanField_ELBO, 1, {}),
    "enum": (infer.TraceEnum_ELBO, 1, {}),
    "iwae": (infer.RenyiELBO, 16, {"alpha": 0.0}),
    "renyi": (infer.RenyiELBO, 16, {"alpha": 0.5}),
    "wake_sleep": (infer.ReweightedWakeSleep, 2, {"insomnia": 0.0, "num_sleep_particles": 1}),
    "stl": (ImportanceWeighted, 16, {"gradient": "stl"}),
    "dreg": (ImportanceWeighted, 16, {"gradient": "dreg"}),
    "miwae": (ImportanceWeighted, 8, {"groups": 8}),
    "piwae": (ImportanceWeighted, 8, {"groups": 8, "gradient": "piwae"}),
}


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
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    """Train a VAE in place by ``pyro.infer.SVI``.

    Arguments:
        vae: The model; its trainable parameters are changed, and what its own layers track in train mode.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What a conditional VAE is conditional on, a row for each datum.
        validation: Data for early stopping, for a conditional VAE a pair ``(x, c)``: the parameters with the lowest
            validation loss are restored at the end. Its KL term is weighed by the largest beta of the schedule.
        loss: A Pyro ELBO, or the name of one: elbo (exact over discrete latents), mean_field (analytic KL), enum, iwae,
            renyi (alpha 0.5), wake_sleep; iwae with other gradients: stl, dreg; in 8 groups: miwae, piwae.
        particles: The samples of z for each datum (default: 16 for iwae and its kin and renyi, 8 a group for miwae and
            piwae, 2 for wake_sleep, else 1).
        beta: The weight of the KL term: a number, or a function of the epoch such as :func:`linear_warmup`.
        free_bits: The nats of KL in each latent dimension that cost nothing (:class:`.FreeBits`), against collapse.
        epochs: How often the data are gone through.
        batch_size: How many data make one step.
        learning_rate: A number, or a function of the epoch.
        optimizer: Makes a torch optimiser from parameters and ``lr``.
        clip_norm: The largest norm of the gradient of the loss per datum, over all parameters.
        patience: After how many epochs without a lower validation loss training stops; None for never.
        seed: The seed of shuffling and sampling.
        progress: Whether a terminal shows a progress bar.

    Returns:
        The history, a row an epoch: epoch, loss and validation (nats per datum), beta, learning_rate, seconds; and
        what tells a collapse (:mod:`.monitor`): kl, kl_0, kl_1, ..., mutual_information, active_units.

    Raises:
        DataError: The data do not fit the likelihood; no parameter was touched.
        ValueError: An option makes no sense, and no parameter was touched; or a schedule gives something else than a
            number from 0, and training stops there.
        TypeError: `vae` is no VAE, `loss` no ELBO, or `optimizer` makes no torch optimiser.
        FloatingPointError: Loss, gradient or validation loss is not finite; the parameters are those before the step.

    Warns:
        UserWarning: After at least 10 epochs no latent dimension is used.
    """
    if not isinstance(vae, VAE):
        raise TypeError(f"fit needs a VAE; got {type(vae).__name__}; a pair of Pyro functions trains by pyro.infer.SVI")
    if any(parameter.is_inference() for parameter in vae.parameters()):
        raise ValueError("fit needs parameters made outside torch.inference_mode(); build the VAE outside it")
    schedules = as_schedule("beta", beta), as_schedule("learning_rate", learning_rate)
    if vae.is_discrete and isinstance(loss, str) and (loss not in ("elbo", "enum") or free_bits is not None):
        raise ValueError("fit: the latents are discrete, and sums over them exact; use loss='elbo' and no free_bits")
    loss = "enum" if loss == "elbo" and vae.is_discrete else loss
    run = _Run(vae, _elbo(loss, particles, beta, free_bits), *schedules, clip_norm)
    if isinstance(run.elbo, infer.TraceEnum_ELBO) and vae.is_mixed():
        raise ValueError("fit: enum needs all densities in one precision; use loss='elbo', or train vae.double()")
    if not isinstance(clip_norm, numbers.Real) or not clip_norm > 0:
        raise ValueError(f"clip_norm must be a number above 0; got {clip_norm!r}")
    for name, value in {"epochs": epochs, "batch_size": batch_size, "patience": patience}.items():
        if not (name == "patience" and value is None):
            whole_number(name, value, at_least=1)
    rows = vae.check(x, c)
    held_out = None if validation is None else _checked_validation(vae, validation)
    with own_store(), seeded(seed), mode(vae, training=True), run, progress_bar(epochs, progress) as show:
        run.start(optimizer)
        for epoch in range(epochs):
            run.epoch(epoch, rows, batch_size)
            if held_out is not None:
                run.validate(epoch, held_out, epochs, batch_size / len(rows))
            with mode(vae, training=False), pyro.validation_enabled(False):
                seen = watch(vae, rows)
            run.history[-1].update(seen)
            show(len(rows), run.history[-1])
            if held_out is not None and patience is not None and epoch - run.best_epoch >= patience:
                break
    warn_of_collapse(seen, len(run.history))
    import pandas

    return pandas.DataFrame(run.history)


def _checked_validation(vae: VAE, validation: Any) -> Rows:
    try:
        if vae.condition is None:
            return vae.check(validation)
        if not (isinstance(validation, tuple) and len(validation) == 2):
            raise DataError(f"a conditional VAE needs a pair (x, c); got {type(validation).__name__}")
        return vae.check(*validation)
    except DataError as error:
        raise DataError(f"validation data: {error}") from None


def _elbo(loss: str | ELBO, particles: int | None, beta: Schedule, free_bits: float | None) -> ELBO:
    if free_bits is not None:
        if loss != "elbo":
            raise ValueError(f"fit: free_bits changes the KL term of loss='elbo'; got loss={loss!r}")
        return FreeBits(free_bits, 1 if particles is None else particles)
    if isinstance(loss, str):
        if loss not in losses:
            raise ValueError(f"no loss is named {loss!r}; there are {', '.join(losses)}, and any pyro.infer.ELBO")
        cls, usual, options = losses[loss]
        particles = usual if particles is None else particles
        whole_number("particles", particles, at_least=2 if loss == "wake_sleep" else 1)
        if cls is not ImportanceWeighted:
            options = {"max_plate_nesting": 1, "vectorize_particles": particles > 1, **options}
        loss = cls(num_particles=particles, **options)
    elif not isinstance(loss, ELBO):
        raise TypeError(f"fit needs loss as a name or as an instance of a pyro.infer.ELBO; got {loss!r}")
    elif particles is not None:
        raise ValueError(f"fit takes particles= with the name of a loss; {type(loss).__name__} has its own")
    if isinstance(loss, (infer.RenyiELBO, infer.ReweightedWakeSleep, ImportanceWeighted)) and beta != 1.0:
        raise ValueError(
            f"fit: beta weighs the KL term of an ELBO, and {type(loss).__name__} has none: a weight inside the mean of "
            f"importance weights bounds nothing; use loss='elbo' or 'mean_field', or leave beta at 1"
        )
    return loss


@dataclass
class _Run:
    """One training run: what changes from step to step."""

    vae: VAE
    elbo: ELBO
    beta: Callable[[float], float]
    learning_rate: Callable[[float], float]
    clip_norm: float
    history: list[dict[str, float]] = field(default_factory=list)
    tempered: Tempered = field(default_factory=Tempered)
    largest_beta: float | None = None
    best_epoch: int = -1
    best_loss: float = math.inf
    best_state: dict[str, Tensor] | None = None

    def __enter__(self) -> None:
        """No gradient of the caller enters, and gradients are on whatever the caller has switched off."""
        self.vae.zero_grad(set_to_none=True)
        self.grad = contextlib.ExitStack()
        self.grad.enter_context(torch.inference_mode(False))
        self.grad.enter_context(torch.enable_grad())

    def __exit__(self, *_: object) -> None:
        """However training ends: the best parameters, if validation data told them, and no gradient left behind."""
        self.grad.close()
        self.vae.zero_grad(set_to_none=True)
        if self.best_state is not None:
            self.vae.load_state_dict(self.best_state)

    def start(self, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        parameters = [p for p in self.vae.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("fit has nothing to train: no parameter of the VAE requires a gradient")
        self.optim = OneOptimiser(_made(optimizer, parameters, self.learning_rate(0.0)), self.clip_norm)
        model, guide = self.tempered(self.vae.model), self.tempered(self.vae.guide)
        self.svi = SVI(model, guide, self.optim, self.elbo.loss, loss_and_grads=self._finite_loss)
        self.started = time.perf_counter()

    def epoch(self, epoch: int, rows: Rows, batch_size: int) -> None:
        order = torch.randperm(len(rows), device="cpu").numpy()
        total = 0.0
        for start in range(0, len(rows), batch_size):
            self._schedule(epoch + start / len(rows))
            batch = rows.batch(order[start : start + batch_size], like=self.vae.reference)
            self.optim.batch = len(batch[0])
            try:
                total += self._step(batch, validate=epoch == 0 and start == 0)
            except FloatingPointError as error:
                raise FloatingPointError(self._report(error, epoch, start // batch_size, batch)) from None
        self.history.append(
            {
                "epoch": epoch,
                "loss": total / len(rows),
                "beta": self.tempered.beta,
                "learning_rate": self.optim.optimiser.param_groups[0]["lr"],
                "seconds": time.perf_counter() - self.started,
            }
        )

    def _step(self, batch: Batch, validate: bool) -> float:
        """One step of SVI. Pyro's validation sees it first, for the first step; then only finite numbers count."""
        try:
            with pyro.validation_enabled(validate):
                return _scalar(self.svi.step(*batch))
        except ValueError as error:
            if "invalid values" not in str(error):
                raise
            raise FloatingPointError(f"first step ({str(error).splitlines()[0]})") from None

    def validate(self, epoch: int, rows: Rows, epochs: int, stride: float) -> None:
        """The loss on held-out data, with the same draws each time and the largest beta that training uses."""
        if self.largest_beta is None:
            self.largest_beta = max(
                self.beta(e + s * stride) for e in range(epochs) for s in range(math.ceil(1 / stride))
            )
        self.tempered.beta = self.largest_beta
        total = 0.0
        with seeded(0), mode(self.vae, training=False), pyro.validation_enabled(False):
            for chunk in rows.chunks(EVALUATION_ROWS):
                total += _scalar(self.svi.evaluate_loss(*rows.batch(chunk, like=self.vae.reference)))
        self.history[-1]["validation"] = loss = total / len(rows)
        if not math.isfinite(loss):
            raise FloatingPointError(f"fit: the validation loss is {loss} at epoch {epoch}{ADVICE}")
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            self.best_state = {name: tensor.clone() for name, tensor in self.vae.state_dict().items()}

    def _schedule(self, epoch: float) -> None:
        self.tempered.beta = self.beta(epoch)
        for group in self.optim.optimiser.param_groups:
            group["lr"] = self.learning_rate(epoch)

    def _finite_loss(self, model: Callable, guide: Callable, *batch: Tensor) -> Any:
        loss = self.elbo.loss_and_grads(model, guide, *batch)
        if not math.isfinite(_scalar(loss)):
            raise FloatingPointError(f"loss ({_scalar(loss)})")
        return loss

    def _report(self, error: FloatingPointError, epoch: int, number: int, batch: Batch) -> str:
        return f"fit: the {error} is not finite at epoch {epoch}, batch {number}{_culprit(self.vae, batch)}{ADVICE}"


def _made(optimizer: Any, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser, if what the caller gave makes one that steps without a closure."""
    made = optimizer(parameters, lr=learning_rate) if callable(optimizer) else None
    if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise TypeError(
            f"fit needs optimizer as a function of parameters and lr, such as torch.optim.AdamW or a functools.partial "
            f"of it; got {optimizer!r}"
        )
    return made


def _scalar(loss: Any) -> float:
    """Wake-sleep gives a loss for the model and one for the guide: the model's counts."""
    return float(loss[0] if isinstance(loss, tuple) else loss)


def _culprit(vae: VAE, batch: Batch) -> str:
    """The first site whose log density is not finite, as far as one more look can tell."""
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*batch)
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site["fn"].log_prob(site["value"]).isfinite().all():
                return f" (site {name!r} of the {role})"
    return ""
