"""Checkpoints of a training run: from each, training goes on bit for bit as if it had not stopped.

A folder holds the last two, one safetensors file each, and ``history.csv``. A file appears whole or
not at all, so whenever the process is killed the newest one is good.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.files import write
from ..data.sealed import CheckpointError, as_written, sealed, unsealed
from ..guards import random_states, set_random_states

if TYPE_CHECKING:
    from ..vae import VAE
    from .run import Run

LOG = logging.getLogger("pyro_vae.training")
FORMAT = "pyro_vae/run/1"
KEPT = 2
OLD = 3600.0  # seconds, after which a file that is being written is one that was left
NAME = re.compile(r"state-(\d{6,})\.safetensors")
LEFT = re.compile(r"\.(?:state-\d+\.safetensors|history\.csv)\.(\d+)")  # as files.write names them
PLAIN = (bool, int, float, str, type(None))


class Checkpoints:
    """The folder of a run.

    Arguments:
        folder: Where they are; it is made where there is none.
        vae: What is trained.
        identity: What a run must share with one that it resumes: plain values by name.
        resume: Whether to go on from the newest.

    Raises:
        ValueError: There are some, and `resume` is False; or they are of another run or model.
        CheckpointError: There are some, and none can be read.
        OSError: The folder cannot be made or written to.
    """

    def __init__(
        self, folder: str | Path, vae: VAE, identity: dict[str, Any], *, resume: bool
    ) -> None:
        self.folder = Path(folder)
        self.identity = identity
        if self.folder.is_file():
            raise ValueError(f"checkpoint must be a folder; got the file {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._files() and not resume:
            raise ValueError(
                f"checkpoint: {self.folder} holds checkpoints of a run; resume=True (--resume) "
                "goes on from them, another folder keeps both"
            )
        self._remove_leftovers()
        self.found = self._newest()
        if self.found is not None:
            path, tensors, state = self.found
            with as_written(path, "checkpoint"):
                self._check(path, vae, tensors, state)
                for name, parameter in vae.named_parameters():
                    parameter.requires_grad_(state["trained"][name])

    def write(self, run: Run, epoch: int, *, epochs: int, stopped: bool) -> None:
        """Write the state of a run after an epoch, and its history; keep the last two."""
        tensors, state = _state_of(run)
        state |= {"epoch": epoch, "epochs": epochs, "stopped": stopped, "run": self.identity}
        content = sealed(tensors, {"format": FORMAT, "state": json.dumps(state)})
        write(self.folder / f"state-{epoch:06d}.safetensors", content)
        write(self.folder / "history.csv", run.frame().to_csv(index=False).encode())
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def put_back(self, run: Run, epochs: int) -> tuple[int, bool]:
        """Make a run of so many epochs what it was at the newest checkpoint.

        Returns:
            The epoch to go on with, 0 where there is no checkpoint; and whether a callback had
            stopped a run of as many epochs.

        Raises:
            ValueError: The optimiser is another.
        """
        if self.found is None:
            return 0, False
        path, tensors, state = self.found
        self.found = None
        with as_written(path, "checkpoint"):
            _refuse_other_optimiser(path, run, state)
        with as_written(path, "checkpoint", ValueError):
            _put_back(run, tensors, state)
            epoch, is_over = int(state["epoch"]), state["stopped"] and epochs <= state["epochs"]
        if state["threads"] != torch.get_num_threads():
            LOG.info(
                "%s was written with %d threads, now there are %d: last digits may differ",
                path.name,
                state["threads"],
                torch.get_num_threads(),
            )
        return epoch + 1, is_over

    def _files(self) -> list[Path]:
        """The checkpoints, the oldest first."""
        files = {path: NAME.fullmatch(path.name) for path in self.folder.iterdir()}
        numbers = {path: int(match[1]) for path, match in files.items() if match}
        return sorted(numbers, key=lambda path: numbers[path])

    def _remove_leftovers(self) -> None:
        """Remove what processes have left that were killed as they wrote, an hour ago or more."""
        for path in self.folder.glob(".*"):
            with contextlib.suppress(FileNotFoundError):  # where another process was faster
                if LEFT.fullmatch(path.name) and time.time() - path.stat().st_mtime > OLD:
                    path.unlink()

    def _newest(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """The newest that can be read; the log tells of those that cannot."""
        files = self._files()
        for path in reversed(files):
            try:
                tensors, about = unsealed(path, "checkpoint", FORMAT)
                with as_written(path, "checkpoint"):
                    return path, tensors, _read_state(about)
            except CheckpointError as error:
                LOG.warning("%s; trying the one before", error)
                last = error
        if files:
            raise CheckpointError(f"{self.folder} has no checkpoint that can be read: {last}")
        return None

    def _check(
        self, path: Path, vae: VAE, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Raise where a checkpoint is of another run or model."""
        for name, value in self.identity.items():
            if state["run"].get(name) != value:
                raise ValueError(
                    f"resume: {path} is of a run with {name} {state['run'].get(name)!r:.200}; got "
                    f"{value!r:.200}; go on with the same, or give another folder"
                )
        saved, own = kinds(_under("model", tensors)), kinds(vae.state_dict())
        for name in sorted(saved.keys() | own.keys()):
            if saved.get(name) != own.get(name):
                raise ValueError(
                    f"resume: {path} is of another model: {name} has shape {saved.get(name)} "
                    f"there, {own.get(name)} here; build the same VAE, or give another folder"
                )


def _read_state(about: dict[str, str]) -> dict[str, Any]:
    try:
        return dict(json.loads(about["state"]))
    except ValueError as error:
        raise TypeError(f"its state is no table in JSON: {error}") from None


def kinds(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Shape and precision of each tensor."""
    return {
        name: f"{tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors.items()
    }


def _refuse_other_optimiser(path: Path, run: Run, state: dict[str, Any]) -> None:
    """Raise where the optimiser is of another kind, or has other settings than its rates."""
    optimiser = run.optim.get_state()
    own = [_settings(type(run.optim.optimiser).__name__, g) for g in optimiser["param_groups"]]
    saved = [_settings(state["optimiser_type"], group) for group in state["groups"]]
    if own != saved:
        different = [
            f"{key} {there.get(key)!r}, got {here.get(key)!r}"
            for there, here in zip(saved, own, strict=False)
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        raise ValueError(
            f"resume: {path} is of another optimizer, with "
            f"{'; '.join(different) or f'{len(saved)} groups, got {len(own)}'}; go on with the "
            "same, or give another folder"
        )


def _settings(kind: str, group: dict[str, Any]) -> dict[str, Any]:
    """What of a group of an optimiser is its own: not the rate, which a schedule gives."""
    kept = {key: value for key, value in group.items() if key not in ("lr", "initial_lr")}
    return {"type": kind, **_plain("a group of the optimiser", kept)}


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
        "optimiser_type": type(run.optim.optimiser).__name__,
        "step_size": getattr(run.elbo, "step_size", None),  # which mcem adapts
        "times_fitted": run.vae.times_fitted,
        "history": run.history,
        "steps": run.steps,
        "skipped": run.skipped,
        "best": [run.best_epoch, run.best_loss, run.weighed_by],
        "threads": torch.get_num_threads(),
    }


def _put_back(run: Run, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Make a run what it was."""
    run.vae.load_state_dict(_under("model", tensors))
    own = run.vae.state_dict()
    best = {name: tensor.to(own[name].device) for name, tensor in _under("best", tensors).items()}
    run.best_state = best or None
    run.best_epoch, run.best_loss, run.weighed_by = state["best"]
    run.vae.times_fitted = state["times_fitted"]
    run.history, run.steps, run.skipped = state["history"], state["steps"], state["skipped"]
    run.started -= run.history[-1]["seconds"]
    if state["step_size"] is not None:
        vars(run.elbo)["step_size"] = state["step_size"]

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
    for number, group in enumerate(run.optim.optimiser.param_groups):
        if number not in run.scheduled:  # of a rate of its own, which may be another now
            groups[number]["lr"] = group["lr"]
    run.optim.set_state({"state": values, "param_groups": groups})
    pairs = zip(run.optim.parameters, state["reached"], strict=True)
    run.optim.reached = [parameter for parameter, was in pairs if was]

    watched = _under("watched", tensors)
    like = run.vae.reference
    rows = torch.Size([len(run.watched.index), *run.vae.likelihood.event_shape])
    if watched and watched["0"].shape != rows:
        raise ValueError(f"rows of shape {tuple(watched['0'].shape)}, and not {tuple(rows)}")
    run.watched.put_back(tuple(watched[str(number)].to(like) for number in range(len(watched))))
    states = _under("random", tensors)
    set_random_states([states[str(number)] for number in range(len(states))])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it."""
    return {
        name.removeprefix(f"{prefix}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}/")
    }


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
            f"checkpoint: {what} is of type {type(value).__name__}, which no checkpoint holds; use "
            "an optimiser of torch.optim, or leave checkpoint out"
        )
    return value
