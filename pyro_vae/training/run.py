"""One training run: what changes from step to step, and what is put back when it ends."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor

from ..density.problem import Problem
from ..density.terms import Batch
from ..guards import mode, no_kept_casts, seeded
from ..recorded import Recorded
from ..vae import VAE
from .adapters import OneOptimiser, Tempered, made_by
from .callbacks import State
from .compiled import NOT_COMPILED, CompiledStep, NotCompiled, repaid_from, why_not
from .ledger import NotFinite
from .monitor import Watched
from .nonfinite import ADVICE, message_of
from .objectives import Objective
from .step import steps_of

if TYPE_CHECKING:
    import pandas

EVALUATION_ROWS = 1024
READ = 100  # compiled steps, after which their losses are read
FLUSHED = 500  # steps, after which the optimiser's state is rid of subnormal numbers
ONE_STEP = "the first step never is, and it was the only one"


@dataclass
class Run:
    """One training run: what changes from step to step."""

    vae: VAE
    elbo: ELBO
    beta: Callable[[float], float]
    learning_rate: Callable[[float], float]
    clip_norm: float
    compile: bool | str
    skips: bool = False  # steps whose loss or gradient is not finite
    weights: Tensor | None = None  # of the data, 1 in the mean
    of_batch: Tensor | None = None  # those of this step
    history: list[dict[str, float]] = field(default_factory=list)
    tempered: Tempered = field(default_factory=Tempered)
    largest_beta: float | None = None
    weighed_by: float | None = None  # the beta of the best loss
    steps: int = 0
    skipped: int = 0  # steps, in all
    left_out: int = 0  # data of this epoch, with the steps that were skipped
    best_epoch: int = -1
    best_loss: float = math.inf
    best_state: dict[str, Tensor] | None = None
    compiled: CompiledStep | None = None
    not_compiled: str = ""  # why
    unread: list[int] = field(default_factory=list)  # compiled steps, each by its first row

    def __enter__(self) -> None:
        """Clear existing gradients; enable gradients even under ``no_grad``."""
        self.vae.zero_grad(set_to_none=True)
        self.grad = contextlib.ExitStack()
        for each in (torch.inference_mode(False), torch.enable_grad(), no_kept_casts()):
            self.grad.enter_context(each)

    def __exit__(self, *_: object) -> None:
        """Restore the best parameters, if validation data told them, and leave no gradient."""
        with contextlib.suppress(NotFinite):
            self._read()  # so that the optimiser has counted all steps
        self.grad.close()
        self.vae.zero_grad(set_to_none=True)
        if self.best_state is not None:
            self.vae.load_state_dict(self.best_state)

    def start(self, optimizer: Callable[..., torch.optim.Optimizer], problem: Problem) -> None:
        """Make the optimiser and Pyro's SVI for the data of a problem."""
        parameters = [p for p in self.vae.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                "fit has nothing to train: no parameter of the VAE requires a gradient"
            )

        rate = self.learning_rate(0.0) or 1e-3  # frozen groups have 0 as well
        made = made_by(optimizer, parameters, rate)
        self.scheduled = [n for n, group in enumerate(made.param_groups) if group["lr"] == rate]
        self.optim = OneOptimiser(made, self.clip_norm)
        self.problem = self.seen = problem
        can_be = isinstance(self.elbo, Objective) and self.elbo.is_direct
        self.is_direct = can_be and problem.vae is not None
        trained = {id(p) for group in made.param_groups for p in group["params"]}
        if trained.isdisjoint(map(id, parameters)):
            raise ValueError(
                "fit needs an optimizer of the parameters that it gives; got one of none of them"
            )
        self.untrained = [p for p in self.vae.parameters() if id(p) not in trained]
        self.watched = Watched(len(problem))
        self.evaluate = Recorded(self._direct_loss, self.vae)
        model, guide = self.tempered(self.vae.model), self.tempered(self.vae.guide)
        self.svi = SVI(model, guide, self.optim, self._loss, loss_and_grads=self._loss_and_grads)
        self.started = time.perf_counter()

    def choose_whether_to_compile(self, steps: int) -> None:
        """Compile the steps after the first, or not; `steps` are to come, at most."""
        reason = why_not(self.elbo, self.is_direct)
        if self.compile is False:
            self.not_compiled = "compile=False"
        elif self.skips or self.weights is not None:
            why = "on_nonfinite='skip'" if self.skips else "weights="
            self._go_on_without(f"{why} looks at each step", stacklevel=4)
        elif reason:
            self._go_on_without(reason, stacklevel=4)
        elif self.compile == "auto" and steps < repaid_from(self.vae.reference.device):
            self.not_compiled = f"{steps} steps do not repay it; compile=True compiles them"

    def epoch(self, epoch: int, batch_size: int) -> None:
        """Go through the data once, and write a row of the history."""
        num = len(self.problem)
        order = torch.randperm(num, device="cpu").numpy()
        index = self.problem.rows.as_index(order)
        self.seen, total, start, self.left_out = self.problem, 0.0, 0, 0
        try:
            for rows in steps_of(num, batch_size):
                start = rows.start
                self._schedule(epoch + start / num)
                batch = self.problem.batch(index[rows])
                if epoch == 0:
                    self.watched.take(order[rows], batch)
                if self.weights is not None:
                    self.of_batch = self.weights[order[rows]]
                self.steps += 1
                if self.steps % FLUSHED == 0:
                    self.optim.flush_subnormal()
                is_first, is_whole = epoch == start == 0, rows.stop - start == batch_size
                if self.not_compiled or is_first or not is_whole:
                    total += self._read() + self._step(batch, validate=is_first)
                else:
                    total += self._compiled_step(batch, start)
            total += self._read()
            if self.left_out == num:
                raise FloatingPointError("loss or gradient of every step")
        except FloatingPointError as error:
            bad = self.unread[error.steps] if isinstance(error, NotFinite) else start
            if bad != start:
                batch = self.problem.batch(index[bad : bad + batch_size])
            place = epoch, bad // batch_size
            message = message_of(error, place, self.vae, batch, self.problem.rows)
            raise FloatingPointError(message) from None

        groups = self.optim.optimiser.param_groups
        row = {
            "epoch": epoch,
            "loss": total / (num - self.left_out),
            "beta": self.tempered.beta,
            "learning_rate": groups[min(self.scheduled, default=0)]["lr"],
            "seconds": time.perf_counter() - self.started,
        }
        self.history.append({**row, "skipped": self.skipped} if self.skips else row)

    def validate(self, epoch: int, held_out: Problem, epochs: int, stride: float) -> None:
        """The loss on held-out data: with the same draws each time, and the largest beta."""
        if self.largest_beta is None:
            steps = range(math.ceil(1 / stride))
            self.largest_beta = max(self.beta(e + s * stride) for e in range(epochs) for s in steps)
        if self.weighed_by not in (None, self.largest_beta):
            self.best_loss = math.inf  # of a schedule that went less far
        self.tempered.beta = self.weighed_by = self.largest_beta
        self.seen = held_out
        with seeded(0), mode(self.vae, training=False):
            batches = map(held_out.batch, held_out.rows.chunks(EVALUATION_ROWS))
            total = sum(self._evaluated(batches))

        self.history[-1]["validation"] = loss = total / len(held_out)
        if not math.isfinite(loss):
            raise FloatingPointError(f"fit: the validation loss is {loss} at epoch {epoch}{ADVICE}")
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            self.best_state = {k: tensor.clone() for k, tensor in self.vae.state_dict().items()}

    def _evaluated(self, batches: Iterable[Batch]) -> list[float]:
        """The losses of some batches."""
        if not self.is_direct:
            return [_scalar(self.svi.evaluate_loss(*batch)) for batch in batches]
        like = self.vae.reference
        beta = torch.full((), self.tempered.beta, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            return torch.stack([self.evaluate(beta, *batch)[0] for batch in batches]).tolist()

    def _compiled_step(self, batch: Batch, start: int) -> float:
        """One step as one compiled call; where that fails, by SVI from now on.

        Returns:
            The losses that were read meanwhile.
        """
        self.unread.append(start)
        try:
            if self.compiled is None:
                missing = self.problem.rows.has_missing
                self.compiled = CompiledStep(self.elbo, self.vae, self.optim, missing=missing)
            self.compiled(batch, self.tempered.beta)
        except NotCompiled as error:
            self.unread.pop()
            self._go_on_without(str(error), stacklevel=6)
            return self._read() + self._step(batch, validate=False)
        if self.compiled.adam is None or len(self.unread) == READ:
            return self._read()
        return 0.0

    def _read(self) -> float:
        """The losses of compiled steps that were not read yet."""
        if self.compiled is None or not self.unread:
            return 0.0
        total = self.compiled.read()
        self.unread.clear()
        return total

    def _go_on_without(self, reason: str, stacklevel: int) -> None:
        """Do not compile, or no longer; say so where it was asked for."""
        self.not_compiled = reason
        if self.compile is True:
            warnings.warn(NOT_COMPILED.format(reason), stacklevel=stacklevel)

    def _step(self, batch: Batch, validate: bool) -> float:
        """One step of SVI, the first one under Pyro's validation: its loss, 0 if it is skipped."""
        self.optim.batch = 1 if self.is_direct else len(batch[0])
        for parameter in self.untrained:
            parameter.grad = None
        validation = pyro.validation_enabled(True) if validate else contextlib.nullcontext()
        before = [(b, b.clone()) for b in self.vae.buffers()] if self.skips else []
        try:
            with validation:
                return _scalar(self.svi.step(*batch))
        except ValueError as error:
            if "invalid values" not in str(error):
                raise
            if not self.skips:
                raise FloatingPointError(f"first step ({str(error).splitlines()[0]})") from None
        except FloatingPointError:
            if not self.skips:
                raise
        self.vae.zero_grad(set_to_none=True)
        for buffer, value in before:  # running means of batch normalisation
            buffer.copy_(value)
        self.skipped += 1
        self.left_out += len(batch[0])
        return 0.0

    def _schedule(self, epoch: float) -> None:
        self.tempered.beta = self.beta(epoch)
        for number in self.scheduled:
            self.optim.optimiser.param_groups[number]["lr"] = self.learning_rate(epoch)

    def _direct_loss(self, beta: Any, *batch: Tensor) -> tuple[Tensor]:
        assert isinstance(self.elbo, Objective)
        return (self.elbo.evaluate(self.seen.densities(batch), beta),)

    def _loss(self, model: Callable, guide: Callable, *batch: Tensor) -> Any:
        return self.elbo.loss(model, guide, *batch)

    def _loss_and_grads(self, model: Callable, guide: Callable, *batch: Tensor) -> Any:
        if isinstance(self.elbo, Objective) and self.is_direct:
            per_datum = 1 / len(batch[0])
            densities = self.seen.densities(batch)
            densities.weights = self.of_batch
            loss: Any = self.elbo.backward(densities, self.tempered.beta, per_datum)
        else:
            loss = self.elbo.loss_and_grads(model, guide, *batch)
        if not math.isfinite(_scalar(loss)):
            raise FloatingPointError(f"loss ({_scalar(loss)})")
        return loss

    def state(self) -> State:
        """What a callback is told."""
        return State(self.vae, len(self.history) - 1, dict(self.history[-1]), self.frame())

    def frame(self) -> pandas.DataFrame:
        """The history, and in its attributes what of a step was one compiled call."""
        import pandas

        frame = pandas.DataFrame(self.history)
        if self.not_compiled or self.compiled is None:
            frame.attrs["compiled"] = f"no: {self.not_compiled or ONE_STEP}"
        else:
            frame.attrs["compiled"] = self.compiled.title
            frame.attrs["compile_seconds"] = self.compiled.seconds
        return frame


def _scalar(loss: Any) -> float:
    """Wake-sleep gives a loss for the model and one for the guide: the model's counts."""
    return float(loss[0] if isinstance(loss, tuple) else loss)
