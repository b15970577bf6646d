"""A grid of models: each fitted in a folder of its own, all compared on the same rows held out."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

from ..criticism import html
from ..criticism.models import compare_models
from ..data.files import write
from ..progress import Progress
from ..spec.checkpoint import load
from ..spec.files import import_modules, importable, read_toml
from ..spec.grid import expand, folder_name
from .arguments import read_condition, read_rows, select
from .evaluate import models_table, written
from .terminal import console, frame_rows, plain_values, write_json
from .train import Fit, check_loss, fitted, split_rows

if TYPE_CHECKING:
    import pandas

CLOSE = 2.0  # standard errors within which a model is as good as the best
MODEL, RESULT = "model.safetensors", "result.json"


@dataclass(frozen=True)
class Run:
    """One model of a grid.

    Arguments:
        name: What is its own, such as ``latent=4``.
        fit: What to make; ``fit.out`` is in the run's own folder.
        digest: What tells it from a run of other data, spec or options.
        modules: The folder with the user's own modules.
    """

    name: str
    fit: Fit
    digest: str
    modules: Path

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


def sweep(spec: Path, asked: Fit, *, jobs: int, as_json: bool) -> None:
    """Fit all models of a grid, and compare them.

    Arguments:
        spec: The .toml file: a spec in which lists are a grid.
        asked: How to make each model; ``asked.out`` is the folder of the sweep.
        jobs: How many processes fit side by side.
        as_json: Whether to write a JSON document.
    """
    check_loss(asked.options["loss"])
    grid = expand(read_toml(spec))
    x = read_rows(asked.wanted.source, asked.wanted.key)
    c = read_condition(asked.wanted.condition, x)
    _, held_out = split_rows(len(x), asked.validation, asked.seed)
    if not len(held_out):
        raise ValueError("sweep compares models on rows held out; give --validation above 0")

    data = [x.summary.digest, _digest_of_condition(asked.wanted.condition)]
    runs = [_run(name, table, asked, data, spec.parent) for name, table in grid.items()]
    failed = dict(_made(runs, jobs))
    done = [run for run in runs if run.name not in failed]
    if not done:
        raise RuntimeError(f"all {len(runs)} runs failed; the first: {next(iter(failed.values()))}")

    with importable(spec.parent):
        import_modules(next(iter(grid.values())).get("modules", []))
    vaes = {run.name: load(run.fit.out, device=asked.device) for run in done}
    found = compare_models(
        vaes,
        x.only(held_out),
        select(c, held_out),
        num_samples=asked.num_samples,
        seed=asked.seed,
    )
    results = {run.name: run.result() or {} for run in done}
    found["num_parameters"] = [results[str(name)]["num_parameters"] for name in found.index]
    found["fit_seconds"] = [results[str(name)]["seconds"] for name in found.index]
    _tell(found, failed, asked.out, len(held_out), as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _digest_of_condition(source: str | None) -> str:
    """That of the file; columns of the data are told by their names."""
    if source is None or not Path(source).is_file():
        return str(source)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _run(name: str, spec: dict[str, Any], asked: Fit, data: list[str], modules: Path) -> Run:
    said = [spec, data, asked.options, asked.validation, asked.num_samples, asked.seed]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    folder = asked.out / f"{folder_name(name)}-{digest[:8]}"
    options = {**asked.options, "checkpoint": folder / "checkpoints", "resume": True}
    options["progress"] = False
    fit = replace(asked, out=folder / MODEL, spec=spec, options=options)
    return Run(name, fit, digest, modules)


def _made(runs: list[Run], jobs: int) -> Iterator[tuple[str, str]]:
    """Make what is not there yet; the names of the runs that failed, and why."""
    missing = [run for run in runs if run.result() is None]
    if len(missing) < len(runs):
        typer.echo(f"pyro-vae: {len(runs) - len(missing)} runs are there already", err=True)
    with Progress("runs", len(missing), shown=True) as progress:
        for run, error in _ended(missing, jobs):
            progress.advance()
            if error is None:
                typer.echo(f"pyro-vae: {run.name}: done", err=True)
            else:
                typer.echo(f"pyro-vae: {run.name} failed: {error}", err=True)
                yield run.name, error


def _ended(runs: list[Run], jobs: int) -> Iterator[tuple[Run, str | None]]:
    """Runs as they end, with the error if there was one."""
    if jobs == 1:
        for run in runs:
            yield run, make(run)
        return
    method, given = multiprocessing.get_context("spawn"), (torch.get_default_dtype(),)
    with ProcessPoolExecutor(jobs, mp_context=method, initializer=_alone, initargs=given) as pool:
        futures = {pool.submit(make, run): run for run in runs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                yield futures[future], str(error) if error is not None else future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alone(dtype: torch.dtype) -> None:
    """One thread for each process, as more would wait for each other; the dtype of the first."""
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)


def make(run: Run) -> str | None:
    """Fit one model of a grid, and record how it went.

    Returns:
        Why it failed, if it did.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with importable(run.modules), warnings.catch_warnings():
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


def smallest(found: pandas.DataFrame) -> str:
    """The model with the fewest parameters among those as good as the best."""
    good = found[found.difference >= -CLOSE * found.difference_se]
    return str(good.num_parameters.idxmin())


def _tell(
    found: pandas.DataFrame, failed: dict[str, str], out: Path, num: int, *, as_json: bool
) -> None:
    """The comparison as CSV, HTML, and a table or JSON."""
    write(out / "models.csv", found.to_csv().encode())
    verdict = (
        f"{found.index[0]} has the highest log p(x). The smallest model within {CLOSE:g} standard "
        f"errors of it is {smallest(found)}."
    )
    title = f"A sweep of {len(found) + len(failed)} models"
    page = html.page(title, [*_page(title, found, failed, num, verdict)])
    write(out / "report.html", page.encode())
    if as_json:
        write_json(
            {
                "num_data": num,
                "best": found.index[0],
                "smallest_as_good": smallest(found),
                "models": frame_rows(found, "model"),
                "failed": failed,
                "out": out,
            }
        )
        return
    console().print(models_table(found))
    typer.echo(f"{verdict} Models, models.csv and report.html are in {out}.")


def _page(
    title: str, found: pandas.DataFrame, failed: dict[str, str], num: int, verdict: str
) -> Iterator[str]:
    """The parts of the report."""
    yield f"<h1>{title}</h1>"
    yield html.light("bad" if failed else "good", verdict)
    caption = (
        f"log p(x) of the same {num} data, held out in training, in nats per datum; differences to "
        "the best are paired by datum."
    )
    yield html.table(written(found), "model", caption)
    if flagged := int((found.flagged > 0.05).sum()):
        yield html.light("fair", f"{flagged} models have more than 5 % of their data flagged.")
    if failed:
        items = "".join(f"<li>{escape(f'{name}: {why}')}" for name, why in failed.items())
        yield f"<h2>Failed</h2><ul>{items}</ul>"
