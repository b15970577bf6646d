r"""Training: stochastic variational inference, by Pyro.

``fit`` runs ``pyro.infer.SVI(vae.model, vae.guide, ...)`` with any Pyro ELBO. Around it stand the things that a user
expects and Pyro leaves open: one fused optimiser instead of one per parameter tensor, gradients per datum (so that
learning rate, clipping and weight decay mean the same at any batch size), a weight :math:`\beta` on the KL term
(Higgins et al., 2017, https://openreview.net/forum?id=Sy2fzU9gl) with warm-up, validation with early stopping, and a
stop before the first step that a NaN would spoil.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import infer, poutine
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..data import Rows
from ..guards import mode, own_store, seeded, whole_number
from ..vae import VAE

if TYPE_CHECKING:
    import pandas

Schedule = float | Callable[[float], float]
EVALUATION_ROWS = 1024
fused_adam = functools.partial(torch.optim.Adam, fused=True)

losses: dict[str, Callable[[int], ELBO]] = {
    "elbo": lambda k: infer.Trace_ELBO(k, max_plate_nesting=1, vectorize_particles=k > 1),
    "mean_field": lambda k: infer.TraceMeanField_ELBO(k, max_plate_nesting=1, vectorize_particles=k > 1),
    "enum": lambda k: infer.TraceEnum_ELBO(k, max_plate_nesting=1, vectorize_particles=k > 1),
    "iwae": lambda k: infer.RenyiELBO(0, num_particles=k, max_plate_nesting=1, vectorize_particles=True),
    "renyi": lambda k: infer.RenyiELBO(0.5, num_particles=k, max_plate_nesting=1, vectorize_particles=True),
    "wake_sleep": lambda k: infer.ReweightedWakeSleep(k, insomnia=0.0, num_sleep_particles=1, max_plate_nesting=1),
}
many_particles = {"iwae": 16, "renyi": 16, "wake_sleep": 2}  # the others take one unless told otherwise


def linear_warmup(epochs: float, end: float = 1.0) -> Callable[[float], float]:
    """A weight that rises from 0 to `end` over the first `epochs`, for ``fit(..., beta=linear_warmup(10))``."""
    return lambda epoch: end * min(1.0, epoch / epochs)


def cyclical_warmup(period: float, ramp: float = 0.5, end: float = 1.0) -> Callable[[float], float]:
    """A weight that rises from 0 to `end` in the first `ramp` of every `period` epochs.

    References:
        | Cyclical annealing schedule: a simple approach to mitigating KL vanishing (Fu et al., 2019)
        | https://arxiv.org/abs/1903.10145
    """
    return lambda epoch: end * min(1.0, (epoch % period) / (ramp * period))


def fit(
    vae: VAE,
    x: Any,
    *,
    validation: Any = None,
    loss: str | ELBO = "elbo",
    particles: int | None = None,
    beta: Schedule = 1.0,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: Schedule = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = fused_adam,
    clip_norm: float = math.inf,
    patience: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    """Train a VAE in place by ``pyro.infer.SVI``.

    Arguments:
        vae: The model; its trainable parameters are changed, nothing else.
        x: Data of shape ``(N, *X)``.
        validation: Data for early stopping: the parameters with the lowest validation loss are restored at the end.
        loss: A Pyro ELBO, or the name of one: elbo, mean_field (analytic KL), enum, iwae, renyi (alpha 0.5),
            wake_sleep.
        particles: The samples of z for each datum (default: 16 for iwae and renyi, 2 for wake_sleep, else 1).
        beta: The weight of the KL term: a number, or a function of the epoch such as :func:`linear_warmup`.
        epochs: How often the data are gone through.
        batch_size: How many data make one step.
        learning_rate: A number, or a function of the epoch.
        optimizer: Makes a torch optimiser from parameters and ``lr``.
        clip_norm: The largest norm of the gradient of the loss per datum, over all parameters.
        patience: After how many epochs without a lower validation loss training stops.
        seed: The seed of shuffling and sampling.
        progress: Whether a terminal shows a progress bar.

    Returns:
        The history, a row an epoch: epoch, loss and validation (nats per datum), beta, learning_rate, seconds.

    Raises:
        DataError: The data do not fit the likelihood; no parameter was touched.
        ValueError: An option makes no sense; no parameter was touched.
        TypeError: `vae` is no VAE.
        FloatingPointError: Loss or gradient is not finite; the parameters are those before that step.
    """
    if not isinstance(vae, VAE):
        raise TypeError(f"fit needs a VAE; got {type(vae).__name__}; a pair of Pyro functions trains by pyro.infer.SVI")
    schedules = _as_schedule("beta", beta), _as_schedule("learning_rate", learning_rate)
    run = _Run(vae, _elbo(loss, particles, beta), *schedules, clip_norm)
    for name, value in {"epochs": epochs, "batch_size": batch_size, "patience": patience}.items():
        whole_number(name, value, at_least=1)
    rows = vae.check(x)
    held_out = None if validation is None else vae.check(validation)
    with own_store(), seeded(seed), mode(vae, training=True), _bar(epochs, progress) as show:
        run.start(optimizer)
        for epoch in range(epochs):
            run.epoch(epoch, rows, batch_size)
            if held_out is not None:
                run.validate(epoch, held_out, epochs)
            show(len(rows), run.history[-1])
            if held_out is not None and epoch - run.best_epoch >= patience:
                break
        run.finish()
    import pandas

    return pandas.DataFrame(run.history)


def _as_schedule(name: str, value: Schedule) -> Callable[[float], float]:
    if callable(value):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number from 0, or a function of the epoch; got {value!r}")
    return lambda epoch: value


def _elbo(loss: str | ELBO, particles: int | None, beta: Schedule) -> ELBO:
    if isinstance(loss, str):
        if loss not in losses:
            raise ValueError(f"no loss is named {loss!r}; there are {', '.join(losses)}, and any pyro.infer.ELBO")
        usual = many_particles.get(loss, 1)
        particles = usual if particles is None else particles
        whole_number("particles", particles, at_least=2 if usual > 1 else 1)
        loss = losses[loss](particles)
    elif particles is not None:
        raise ValueError(f"fit takes particles= with the name of a loss; {type(loss).__name__} has its own")
    if isinstance(loss, (infer.RenyiELBO, infer.ReweightedWakeSleep)) and beta != 1.0:
        raise ValueError(
            f"beta weighs the KL term of an ELBO; {type(loss).__name__} has no KL term (a weight inside the mean of "
            f"importance weights bounds nothing); use loss='elbo' or 'mean_field', or leave beta at 1"
        )
    return loss


class _Tempered(Messenger):
    """Weighs the latent sites of model and guide alike; unlike ``poutine.scale`` it admits 0."""

    beta = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


class _OneOptimiser(PyroOptim):
    """One torch optimiser over all parameters, on gradients per datum; Pyro's own has one for each tensor."""

    def __init__(self, optimiser: torch.optim.Optimizer, clip_norm: float) -> None:
        super().__init__(type(optimiser), {})
        self.optimiser, self.clip_norm, self.batch = optimiser, clip_norm, 1

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        parameters = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            parameter.grad.div_(self.batch)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if not math.isfinite(norm):
            raise FloatingPointError("gradient")
        if norm > self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def get_state(self) -> dict:
        return self.optimiser.state_dict()

    def set_state(self, state_dict: dict) -> None:
        self.optimiser.load_state_dict(state_dict)


@dataclass
class _Run:
    """One training run: what changes from step to step."""

    vae: VAE
    elbo: ELBO
    beta: Callable[[float], float]
    learning_rate: Callable[[float], float]
    clip_norm: float
    history: list[dict[str, float]] = field(default_factory=list)
    tempered: _Tempered = field(default_factory=_Tempered)
    best_epoch: int = -1
    best_loss: float = math.inf
    best_state: dict[str, Tensor] | None = None

    def start(self, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        parameters = [p for p in self.vae.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("fit has nothing to train: no parameter of the VAE requires a gradient")
        self.optim = _OneOptimiser(optimizer(parameters, lr=self.learning_rate(0.0)), self.clip_norm)
        model, guide = self.tempered(self.vae.model), self.tempered(self.vae.guide)
        self.svi = SVI(model, guide, self.optim, self.elbo.loss, loss_and_grads=self._finite_loss)
        self.started = time.perf_counter()

    def epoch(self, epoch: int, rows: Rows, batch_size: int) -> None:
        order = torch.randperm(len(rows)).numpy()
        total = 0.0
        for start in range(0, len(rows), batch_size):
            self._schedule(epoch + start / len(rows))
            batch = rows.take(order[start : start + batch_size], like=self.vae.reference)
            self.optim.batch = len(batch)
            try:
                with pyro.validation_enabled(epoch == 0 and start == 0):
                    total += _scalar(self.svi.step(batch))
            except FloatingPointError as error:
                raise FloatingPointError(self._report(error, epoch, start // batch_size, batch)) from None
        self.history.append(
            {
                "epoch": epoch,
                "loss": total / len(rows),
                "beta": self.tempered.beta,
                "learning_rate": self.learning_rate(epoch),
                "seconds": time.perf_counter() - self.started,
            }
        )

    def validate(self, epoch: int, rows: Rows, epochs: int) -> None:
        """The loss on held-out data, with the same draws each time and the largest beta that is still to come."""
        self.tempered.beta = max(self.beta(e) for e in range(epochs + 1))
        total = 0.0
        with seeded(0), mode(self.vae, training=False), pyro.validation_enabled(False):
            for chunk in rows.chunks(EVALUATION_ROWS):
                total += _scalar(self.svi.evaluate_loss(rows.take(chunk, like=self.vae.reference)))
        self.history[-1]["validation"] = loss = total / len(rows)
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            self.best_state = {name: tensor.clone() for name, tensor in self.vae.state_dict().items()}

    def finish(self) -> None:
        if self.best_state is not None:
            self.vae.load_state_dict(self.best_state)

    def _schedule(self, epoch: float) -> None:
        self.tempered.beta = self.beta(epoch)
        for group in self.optim.optimiser.param_groups:
            group["lr"] = self.learning_rate(epoch)

    def _finite_loss(self, model: Callable, guide: Callable, x: Tensor) -> Any:
        loss = self.elbo.loss_and_grads(model, guide, x)
        if not math.isfinite(_scalar(loss)):
            raise FloatingPointError(f"loss ({_scalar(loss)})")
        return loss

    def _report(self, error: FloatingPointError, epoch: int, batch: int, x: Tensor) -> str:
        return (
            f"fit: the {error} is not finite at epoch {epoch}, batch {batch}{_culprit(self.vae, x)}; training stopped, "
            f"the parameters are those before this step. Try a lower learning_rate, clip_norm=10, rescaled data, or a "
            f"likelihood with fixed or learned scale"
        )


def _scalar(loss: Any) -> float:
    """Wake-sleep gives a loss for the model and one for the guide: the model's counts."""
    return float(loss[0] if isinstance(loss, tuple) else loss)


def _culprit(vae: VAE, x: Tensor) -> str:
    """The first site whose log density is not finite, as far as one more look can tell."""
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(vae.guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(x)
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site["fn"].log_prob(site["value"]).isfinite().all():
                return f" (site {name!r} of the {role})"
    return ""


@contextmanager
def _bar(epochs: int, progress: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar on standard error, where that is a terminal: epochs, rate, loss, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("epoch", MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("", total=epochs)
        began = time.perf_counter()

        def show(num_rows: int, row: dict[str, float]) -> None:
            rate = num_rows * (row["epoch"] + 1) / (time.perf_counter() - began)
            held_out = f", validation {row['validation']:.3f}" if "validation" in row else ""
            bar.update(task, advance=1, description=f"loss {row['loss']:.3f}{held_out} nats, {rate:,.0f} data/s")

        yield show
