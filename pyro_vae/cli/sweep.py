"""A grid of models: each fitted in a folder of its own, all compared on the same rows held out."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer

from ..criticism.comparable import checked_problems
from ..criticism.models import compare_models
from ..data.files import write
from ..data.rows import Rows
from ..progress import Progress
from ..spec.build import build
from ..spec.checkpoint import load
from ..spec.files import import_modules, read_toml
from ..spec.grid import expand, folder_name
from ..vae import VAE
from .arguments import read_data, select
from .swept import tell
from .terminal import plain_values, whoever_reads
from .train import Fit, check_loss, fitted, split_rows

MODEL, RESULT = "model.safetensors", "result.json"


@dataclass(frozen=True)
class Run:
    """One model of a grid.

    Arguments:
        name: What is its own, such as ``latent=4``.
        fit: What to make; ``fit.out`` is in the run's own folder.
        digest: What tells it from a run of other data, spec or options.
        modules: The names of the user's own modules.
        modules_folder: Where these lie.
    """

    name: str
    fit: Fit
    digest: str
    modules: list[str]
    modules_folder: Path

    @property
    def folder(self) -> Path:
        """Where the model, its checkpoints and its result are."""
        return self.fit.out.parent

    def result(self) -> dict[str, Any] | None:
        """How it went, if it has ended."""
        try:
            found = json.loads((self.folder / RESULT).read_text())
        except (OSError, ValueError):
            return None
        is_its_own = isinstance(found, dict) and found.get("digest") == self.digest
        return found if is_its_own and self.fit.out.is_file() else None


def sweep(spec: Path, asked: Fit, scoring: dict[str, Any], *, jobs: int, as_json: bool) -> None:
    """Fit all models of a grid, and compare them.

    Arguments:
        spec: The .toml file: a spec in which lists are a grid.
        asked: How to make each model; ``asked.out`` is the folder of the sweep.
        scoring: How to compare them: arguments of :func:`.compare_models`.
        jobs: How many processes fit side by side.
        as_json: Whether to write a JSON document.
    """
    check_loss(asked.options["loss"])
    table = read_toml(spec)
    import_modules("modules", table.get("modules", []), spec.parent)
    grid = expand(table)
    x, c = read_data(asked.wanted)
    _, held_out = split_rows(len(x), asked.validation, asked.seed)
    if not len(held_out):
        raise ValueError("sweep compares models on rows held out; give --validation above 0")
    held_out_data = x.only(held_out), select(c, held_out)
    checked_problems("sweep", _built(grid, x, c, asked.seed), *held_out_data)

    modules = table.get("modules", [])
    digests = [_digest_of(x), _digest_of(c), *map(_digest_of_code, modules)]
    runs = [_run(name, one, asked, digests, spec.parent) for name, one in grid.items()]
    failed = _made(runs, jobs)
    done = [run for run in runs if run.name not in failed]
    if not done:
        raise RuntimeError(f"all {len(runs)} runs failed; the first: {next(iter(failed.values()))}")

    found = compare_models(
        {run.name: load(run.fit.out, device=asked.device) for run in done},
        *held_out_data,
        seed=asked.seed,
        **scoring,
    )
    results = {run.name: run.result() or {} for run in done}
    found["num_parameters"] = [results[str(name)]["num_parameters"] for name in found.index]
    found["fit_seconds"] = [results[str(name)]["seconds"] for name in found.index]
    with whoever_reads():
        tell(found, failed, asked.out, len(held_out), as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _built(grid: dict[str, dict[str, Any]], x: Rows, c: Any, seed: int) -> dict[str, VAE]:
    """All models before they are trained, so that what makes no sense is found before any is."""
    vaes = {}
    for name, spec in grid.items():
        try:
            vaes[name] = build(spec, x, c, seed=seed)
        except (ValueError, TypeError) as error:
            who = f"{name}: " if len(grid) > 1 else ""
            raise ValueError(f"{who}{error}") from None
    return vaes


def _digest_of(table: Any) -> str:
    """What tells these rows, a frame, or none, from others."""
    if isinstance(table, Rows):
        return f"{table.summary.digest} {table.columns}"
    return "" if table is None else hashlib.sha256(table.to_csv().encode()).hexdigest()


def _digest_of_code(module: str) -> str:
    """What tells this code of a module from another; what it imports is not looked at."""
    file = getattr(sys.modules[module], "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _run(name: str, spec: dict[str, Any], asked: Fit, digests: list[str], folder: Path) -> Run:
    identity = [spec, digests, asked.options, asked.validation, asked.seed]
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    own = asked.out / f"{folder_name(name)}-{digest[:8]}"
    options = {**asked.options, "checkpoint": own / "checkpoints", "resume": True}
    options["progress"] = False
    fit = replace(asked, out=own / MODEL, spec=spec, options=options)
    return Run(name, fit, digest, spec.get("modules", []), folder)


def _made(runs: list[Run], jobs: int) -> dict[str, str]:
    """Make what is not there yet; the names of the runs that failed, in their order, and why."""
    missing, errors = [run for run in runs if run.result() is None], {}
    if len(missing) < len(runs):
        typer.echo(f"pyro-vae: {len(runs) - len(missing)} runs are there already", err=True)
    with Progress("runs", len(missing), shown=True) as progress:
        for run, error in _ended(missing, jobs):
            progress.advance()
            if error is None:
                typer.echo(f"pyro-vae: {run.name}: done", err=True)
            else:
                typer.echo(f"pyro-vae: {run.name} failed: {error}", err=True)
                errors[run.name] = error
    return {run.name: errors[run.name] for run in runs if run.name in errors}


def _ended(runs: list[Run], jobs: int) -> Iterator[tuple[Run, str | None]]:
    """Runs as they end, with the error if there was one."""
    if jobs == 1:
        for run in runs:
            yield run, make(run)
        return
    method, given = multiprocessing.get_context("spawn"), (torch.get_default_dtype(),)
    with ProcessPoolExecutor(
        jobs, mp_context=method, initializer=_prepare_process, initargs=given
    ) as pool:
        futures = {pool.submit(make, run): run for run in runs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                yield futures[future], str(error) if error is not None else future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare_process(dtype: torch.dtype) -> None:
    """A process as the first one, but with one thread: more would wait for each other."""
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)


def make(run: Run) -> str | None:
    """Fit one model of a grid, and record how it went.

    Returns:
        Why it failed, if it did.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        import_modules("modules", run.modules, run.modules_folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what they say, the comparison says
            document = fitted(run.fit, lambda text: None)
    except Exception as error:  # whatever it is, the other models are wanted
        return f"{type(error).__name__}: {error}"
    if document is None or document["interrupted"]:
        raise KeyboardInterrupt
    document = plain_values({"digest": run.digest, "name": run.name, **document})
    write(run.folder / RESULT, json.dumps(document, indent=2).encode())
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return None
