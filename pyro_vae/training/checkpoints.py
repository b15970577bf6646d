"""Checkpoints of a training run: from each, training goes on bit for bit as if it had not stopped.

A folder holds the last two, one safetensors file each, and ``history.csv``. A file appears whole or
not at all, so whenever the process is killed the newest one is good.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.files import write
from ..data.sealed import CheckpointError, sealed, unsealed
from ..guards import random_states, set_random_states

if TYPE_CHECKING:
    from ..vae import VAE
    from .run import Run

LOG = logging.getLogger("pyro_vae.training")
FORMAT = "pyro_vae/run/1"
KEPT = 2
PLAIN = (bool, int, float, str, type(None))


class Checkpoints:
    """The folder of a run.

    Arguments:
        folder: Where they are; it is made where there is none.
        resume: Whether to go on from the newest.
        about: What another run must share to go on from them: plain values by name.

    Raises:
        ValueError: There are some, and `resume` is False.
        CheckpointError: There are some, and none can be read.
        OSError: The folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, *, resume: bool, about: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.about = about
        self.found: tuple[Path, dict[str, Tensor], dict[str, Any]] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*"):  # by a process that was killed as it wrote
            if left.name.startswith((".epoch-", ".history.csv")):
                left.unlink(missing_ok=True)
        if self._files() and not resume:
            raise ValueError(
                f"checkpoint: {self.folder} holds checkpoints of a run; resume=True goes on from "
                "them, another folder keeps both"
            )
        self.found = self._newest()

    def freeze(self, vae: VAE) -> None:
        """Train the parameters that were trained, and no others."""
        if self.found is not None:
            trained = self.found[2]["trained"]
            for name, parameter in vae.named_parameters():
                parameter.requires_grad_(trained.get(name, parameter.requires_grad))

    def write(self, run: Run, epoch: int, *, stopped: bool) -> None:
        """Write the state of a run after an epoch, and its history; keep the last two."""
        tensors, state = _state_of(run)
        state |= {"epoch": epoch, "stopped": stopped, "run": self.about}
        content = sealed(tensors, {"format": FORMAT, "state": json.dumps(state)})
        write(self.folder / f"epoch-{epoch:06d}.safetensors", content)
        write(self.folder / "history.csv", run.frame().to_csv(index=False).encode())
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def put_back(self, run: Run) -> tuple[int, bool]:
        """Make a run what it was at the newest checkpoint.

        Returns:
            The epoch to go on with, 0 where there is no checkpoint; and whether the run had been
            stopped.

        Raises:
            ValueError: The checkpoint is of another run.
        """
        if self.found is None:
            return 0, False
        path, tensors, state = self.found
        self._check(path, run, tensors, state)
        _put_back(run, tensors, state)
        if state["threads"] != torch.get_num_threads():
            LOG.info(
                "%s was written with %d threads, now there are %d: last digits may differ",
                path.name,
                state["threads"],
                torch.get_num_threads(),
            )
        return state["epoch"] + 1, state["stopped"]

    def _files(self) -> list[Path]:
        """The checkpoints, the oldest first."""
        return sorted(self.folder.glob("epoch-*.safetensors"))

    def _newest(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """The newest that can be read; the log tells of those that cannot."""
        files = self._files()
        for path in reversed(files):
            try:
                tensors, about = unsealed(path, "checkpoint", FORMAT)
            except CheckpointError as error:
                LOG.warning("%s; trying the one before", error)
                last = error
                continue
            return path, tensors, json.loads(about["state"])
        if files:
            raise CheckpointError(f"{self.folder} has no checkpoint that can be read: {last}")
        return None

    def _check(
        self, path: Path, run: Run, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Raise where a checkpoint is of another run."""
        for name, value in self.about.items():
            if state["run"].get(name) != value:
                raise ValueError(
                    f"resume: {path} is of a run with {name} {state['run'].get(name)!r}; got "
                    f"{value!r}; go on with the same, or give another folder"
                )
        saved = {name: tuple(tensor.shape) for name, tensor in _under("model", tensors).items()}
        own = {name: tuple(tensor.shape) for name, tensor in run.vae.state_dict().items()}
        for name in sorted(saved.keys() | own.keys()):
            if saved.get(name) != own.get(name):
                raise ValueError(
                    f"resume: {path} is of another model: {name} has shape {saved.get(name)} "
                    f"there, {own.get(name)} here; build the same VAE, or give another folder"
                )


def _state_of(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a run is made of: tensors by name, and plain values."""
    tensors = {f"model/{name}": tensor for name, tensor in run.vae.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (run.best_state or {}).items()}
    tensors |= {f"random/{number}": state for number, state in enumerate(random_states())}
    tensors |= {f"watched/{number}": part for number, part in enumerate(run.watched.batch)}

    optimiser = run.optim.get_state()
    numbers: dict[str, dict[str, Any]] = {}
    for place, values in optimiser["state"].items():
        numbers[str(place)] = {}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{place}/{key}"] = value
            else:
                numbers[str(place)][key] = _plain(f"the state of the optimiser, {key},", value)
    reached = {id(parameter) for parameter in run.optim.reached}
    return tensors, {
        "optimiser": numbers,
        "groups": _plain("a group of the optimiser", optimiser["param_groups"]),
        "reached": [id(parameter) in reached for parameter in run.optim.parameters],
        "trained": {name: p.requires_grad for name, p in run.vae.named_parameters()},
        "loss": {key: value for key, value in vars(run.elbo).items() if type(value) is float},
        "history": run.history,
        "steps": run.steps,
        "skipped": run.skipped,
        "best": [run.best_epoch, run.best_loss],
        "threads": torch.get_num_threads(),
    }


def _put_back(run: Run, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Make a run what it was."""
    run.vae.load_state_dict(_under("model", tensors))
    run.best_state = _under("best", tensors, like=run.vae.state_dict()) or None
    run.best_epoch, run.best_loss = state["best"]
    run.history, run.steps, run.skipped = state["history"], state["steps"], state["skipped"]
    run.started -= run.history[-1]["seconds"]
    vars(run.elbo).update(state["loss"])

    values: dict[int, dict[str, Any]] = {
        int(place): dict(plain) for place, plain in state["optimiser"].items()
    }
    for name, tensor in _under("optimiser", tensors).items():
        place, _, key = name.partition("/")
        values[int(place)][key] = tensor
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in state["groups"]
    ]
    run.optim.set_state({"state": values, "param_groups": groups})
    pairs = zip(run.optim.parameters, state["reached"], strict=True)
    run.optim.reached = [parameter for parameter, was in pairs if was]

    watched = _under("watched", tensors)
    like = run.vae.reference
    run.watched.put_back(tuple(watched[str(number)].to(like) for number in range(len(watched))))
    states = _under("random", tensors)
    set_random_states([states[str(number)] for number in range(len(states))])


def _under(
    prefix: str, tensors: dict[str, Tensor], like: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it; where those of `like` are."""
    found = {
        name.removeprefix(f"{prefix}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}/")
    }
    return {k: tensor.to(like[k].device) for k, tensor in found.items()} if like else found


def _plain(what: str, value: Any) -> Any:
    """A value that JSON can hold.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, dict):
        return {key: _plain(what, part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(what, part) for part in value]
    if not isinstance(value, PLAIN):
        raise TypeError(
            f"checkpoint: {what} is a {type(value).__name__}, which no checkpoint holds; use an "
            "optimiser of torch.optim, or leave checkpoint out"
        )
    return value
