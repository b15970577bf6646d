"""One training run: what changes from step to step, and what is put back when it ends."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
from .group import Group
from .ledger import NotFinite
from .monitor import Watched
from .nonfinite import ADVICE, message_of
from .step import steps_of
from .step_loss import StepLoss, of_batches, scalar

if TYPE_CHECKING:
    import pandas

EVALUATION_ROWS = 1024
READ = 100  # compiled steps, after which their losses are read
FLUSHED = 500  # steps, after which the optimiser's state is rid of subnormal numbers
BEFORE = ("epoch", "loss", "beta", "learning_rate", "seconds")  # columns of a history without rows
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
    seed: int = 0
    group: Group = field(default_factory=Group)
    weights: Tensor | None = None  # of the data, 1 in the mean
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
        self.problem = problem
        trained = {id(p) for group in made.param_groups for p in group["params"]}
        if trained.isdisjoint(map(id, parameters)):
            raise ValueError(
                "fit needs an optimizer of the parameters that it gives; got one of none of them"
            )
        self.untrained = [p for p in self.vae.parameters() if id(p) not in trained]
        self.watched = Watched(len(problem))
        loss = StepLoss(self.elbo, self.tempered, self.group, problem, self.optim.parameters)
        self.loss, self.evaluate = loss, Recorded(loss.evaluate, self.vae)
        model, guide = self.tempered(self.vae.model), self.tempered(self.vae.guide)
        self.svi = SVI(model, guide, self.optim, loss.loss, loss_and_grads=loss.loss_and_grads)
        self.started = time.perf_counter()

    def choose_whether_to_compile(self, steps: int) -> None:
        """Compile the steps after the first, or not; `steps` are to come, at most."""
        reason = why_not(self.elbo, self.loss.is_direct)
        if self.compile is False:
            self.not_compiled = "compile=False"
        elif self.skips or self.weights is not None:
            why = "on_nonfinite='skip'" if self.skips else "weights="
            self._go_on_without(f"{why} looks at each step", stacklevel=5)
        elif not self.group.is_one:
            self._go_on_without(
                "the processes of a group sum their gradients in each step", stacklevel=5
            )
        elif reason:
            self._go_on_without(reason, stacklevel=5)
        elif self.compile == "auto" and steps < repaid_from(self.vae.reference.device):
            self.not_compiled = f"{steps} steps do not repay it; compile=True compiles them"

    def epoch(self, epoch: int, batch_size: int) -> None:
        """Go through the data once, and write a row of the history."""
        num, group, fitted = len(self.problem), self.group, self.vae.times_fitted
        group.seed_order(self.seed, fitted, epoch)
        order = torch.randperm(num, device="cpu").numpy()
        index = self.problem.rows.as_index(order)
        self.loss.problem, total, start, self.left_out = self.problem, 0.0, 0, 0
        try:
            for rows in steps_of(num, batch_size):
                start = rows.start
                group.attempt(self._schedule, epoch + start / num)
                group.seed_noise(self.seed, fitted, self.steps)
                own, self.loss.rows = group.share(rows), rows.stop - start
                has_rows = own.stop > own.start
                batch = group.attempt(self.problem.batch, index[own]) or () if has_rows else ()
                if epoch == 0 and batch:
                    self.watched.take(order[own], batch)
                if self.weights is not None:
                    self.loss.weights = self.weights[order[own]]
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
            if bad != start or not group.is_one:
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

    def align(self) -> None:
        """Make model and loss in all processes what they are in the first."""
        self.group.spread(list(self.vae.state_dict().values()))
        step_size = getattr(self.elbo, "step_size", None)  # which mcem adapts
        if step_size is not None:
            vars(self.elbo)["step_size"] = self.group.gathered(step_size)[0]

    def validate(self, epoch: int, held_out: Problem, epochs: int, stride: float) -> None:
        """The loss on held-out data: with the same draws each time, and the largest beta."""
        if self.largest_beta is None:
            steps = range(math.ceil(1 / stride))
            self.largest_beta = max(self.beta(e + s * stride) for e in range(epochs) for s in steps)
        if self.weighed_by not in (None, self.largest_beta):
            self.best_loss = math.inf  # of a schedule that went less far
        self.tempered.beta = self.weighed_by = self.largest_beta
        self.loss.problem = held_out
        rank, size, total = self.group.rank, self.group.size, 0.0
        with self.group.together(), seeded(rank), mode(self.vae, training=False):
            chunks = itertools.islice(held_out.rows.chunks(EVALUATION_ROWS), rank, None, size)
            total = sum(self._evaluated(map(held_out.batch, chunks)))

        self.history[-1]["validation"] = loss = self.group.total(total) / len(held_out)
        if not math.isfinite(loss):
            raise FloatingPointError(f"fit: the validation loss is {loss} at epoch {epoch}{ADVICE}")
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            self.best_state = {k: tensor.clone() for k, tensor in self.vae.state_dict().items()}

    def _evaluated(self, batches: Iterable[Batch]) -> list[float]:
        """The losses of some batches."""
        if not self.loss.is_direct:
            return [scalar(self.svi.evaluate_loss(*batch)) for batch in batches]
        like = self.vae.reference
        beta = torch.full((), self.tempered.beta, dtype=like.dtype, device=like.device)
        return of_batches(self.evaluate, beta, batches)

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
            self._go_on_without(str(error), stacklevel=7)
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
        if self.compile is True and self.group.is_first:
            warnings.warn(NOT_COMPILED.format(reason), stacklevel=stacklevel)

    def _step(self, batch: Batch, validate: bool) -> float:
        """One step of SVI, the first one under Pyro's validation: its loss, 0 if it is skipped."""
        self.optim.batch = 1 if self.loss.is_direct else self.loss.rows
        for parameter in self.untrained:
            parameter.grad = None
        validation = pyro.validation_enabled(True) if validate else contextlib.nullcontext()
        before = [(b, b.clone()) for b in self.vae.buffers()] if self.skips else []
        try:
            with validation:
                return scalar(self.svi.step(*batch))
        except FloatingPointError:
            if not self.skips:
                raise
        self.vae.zero_grad(set_to_none=True)
        for buffer, value in before:  # running means of batch normalisation
            buffer.copy_(value)
        self.skipped += 1
        self.left_out += self.loss.rows
        return 0.0

    def _schedule(self, epoch: float) -> None:
        self.tempered.beta = self.beta(epoch)
        for number in self.scheduled:
            self.optim.optimiser.param_groups[number]["lr"] = self.learning_rate(epoch)

    def state(self) -> State:
        """What a callback is told."""
        return State(self.vae, len(self.history) - 1, dict(self.history[-1]), self.frame())

    def frame(self) -> pandas.DataFrame:
        """The history, and in its attributes what of a step was one compiled call."""
        import pandas

        frame = pandas.DataFrame(self.history, columns=None if self.history else BEFORE)
        if self.not_compiled or self.compiled is None:
            frame.attrs["compiled"] = f"no: {self.not_compiled or ONE_STEP}"
        else:
            frame.attrs["compiled"] = self.compiled.title
            frame.attrs["compile_seconds"] = self.compiled.seconds
        return frame
