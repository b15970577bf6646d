"""What makes a model: fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import typer

from pyro_vae_command.processes import is_first

from ..data.columns import in_order
from ..data.refusals import listed
from ..data.rows import Rows
from ..evidence.evidence import log_evidence
from ..spec.build import build
from ..spec.checkpoint import save
from ..spec.describe import describe
from ..spec.grid import ROLES
from ..spec.split import Split
from ..training.fit import fit as fit_vae
from ..training.losses import losses
from ..vae import VAE
from .arguments import Wanted, parse_part, parse_sizes, read_data, select
from .launched import process_group
from .terminal import write_json

SIZES = ("latent", "hidden")


@dataclass(frozen=True)
class Fit:
    """One model to make.

    Arguments:
        wanted: The data.
        out: The file of the model.
        spec: What to build, if it is written.
        parts: Else the arguments of :func:`.build`.
        validation: The share of the data held out.
        num_samples: The samples of z for log p(x) of each datum that is held out; None if that is
            not wanted.
        seed: The seed of all random numbers.
        device: Where to compute.
        options: More arguments of :func:`.fit`.
    """

    wanted: Wanted
    out: Path
    spec: Path | dict[str, Any] | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    validation: float = 0.1
    num_samples: int | None = 1000
    seed: int = 0
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)


def _goes_on(asked: Fit) -> bool:
    """Whether there is a training to resume."""
    folder = asked.options["checkpoint"]
    return asked.options["resume"] and folder is not None and any(Path(folder).glob("state-*"))


def fit(asked: Fit, given: dict[str, str | None], *, overwrite: bool, as_json: bool) -> None:
    """Train a model, save and score it, and say how it went.

    Arguments:
        asked: What to make, but for its parts.
        given: The parts and sizes as they were typed.
        overwrite: Whether a model may be replaced.
        as_json: Whether to write a JSON document.
    """
    check_loss(asked.options["loss"])
    if asked.out.exists() and not (overwrite or _goes_on(asked)):
        raise ValueError(
            f"{asked.out} is there already; give --overwrite to replace it, or another name"
        )
    asked = replace(asked, parts=_parsed(asked.spec, given))

    def say(text: str) -> None:
        if is_first():
            with contextlib.suppress(BrokenPipeError):  # the reader may go; the work goes on
                typer.echo(text, err=as_json)

    document = fitted(asked, say)
    if document is None:
        return
    if as_json:
        write_json(document)
    if document["interrupted"]:
        raise typer.Exit(130)


def fitted(asked: Fit, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Train a model, save and score it.

    Arguments:
        asked: What to make.
        say: What is given each line that tells how it goes.

    Returns:
        How it went; None in all processes that were launched but the first.
    """
    with process_group(asked.device) as device:
        x, c = read_data(asked.wanted)
        train, held_out = split_rows(len(x), asked.validation, asked.seed)
        x_held_out, c_held_out = x.only(held_out), select(c, held_out)
        options = dict(asked.options)
        if len(held_out):
            options["validation"] = x_held_out if c is None else (x_held_out, c_held_out)
        vae = _built(asked, x, c, device)
        say(f"Built a VAE: {_summary(vae)}{_missing(x)}.")
        if constant := _constant(x):
            say(f"One value, or none, in {constant}: a density of it has no bound; leave it out.")
        document = _described(vae, asked.out, len(train), len(held_out))
        try:
            history = fit_vae(vae, x.only(train), select(c, train), seed=asked.seed, **options)
        except KeyboardInterrupt as error:
            if getattr(error, "history", None) is None:  # nothing was trained yet
                raise
            history = error.history  # type: ignore[attr-defined]
            document["interrupted"] = True
    if not is_first():
        return None
    save(vae, asked.out, split=Split.of(in_order(x, vae.columns), held_out))
    document |= _course(history)
    is_early = document["epochs"] < asked.options.get("epochs", 0) and not document["interrupted"]
    if document["interrupted"]:
        told = f"Interrupted after {len(history)} epochs; the model so far is in {asked.out}."
        typer.echo(told, err=True)
        return document

    say(_told(document, is_early=is_early))
    if len(held_out) and asked.num_samples is not None:
        score = log_evidence(
            vae, x_held_out, c_held_out, num_samples=asked.num_samples, seed=asked.seed
        ).attrs
        document["log_evidence"] = {key: score[key] for key in ("mean", "mean_se", "flagged")}
        say(
            f"log p(x) of {len(held_out)} validation data: {score['mean']:.2f} ± "
            f"{score['mean_se']:.2f} nats per datum (K = {asked.num_samples}, {score['flagged']} "
            "flagged)."
        )
    say(f"The model is in {asked.out}.")
    return document


def check_loss(name: str) -> None:
    """Raise ValueError unless a loss has this name."""
    if name not in losses:
        raise ValueError(f"no loss is named {name!r}; there are {', '.join(losses)}")


def _parsed(spec: Path | dict[str, Any] | None, typed: dict[str, str | None]) -> dict[str, Any]:
    """The arguments of :func:`build` that were given; none may be beside a spec."""
    read: dict[str, Any] = {role: parse_part(role, typed[role]) for role in ROLES}
    read |= {name: parse_sizes(typed[name]) for name in SIZES}
    given = {name: value for name, value in read.items() if value is not None}
    if spec is not None and given:
        raise ValueError(f"--spec says what to build: leave out --{', --'.join(given)}, or --spec")
    return given


def _built(asked: Fit, x: Rows, c: Any, device: str) -> VAE:
    where: dict[str, Any] = {"seed": asked.seed, "device": device}
    if asked.spec is None:
        return build(x, c=c, **where, **asked.parts)
    return build(asked.spec, x, c, **where, **asked.parts)


def split_rows(num: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on, and which to hold out, in the order of the data."""
    num_held_out = 0 if share == 0 else max(1, round(share * num))
    if num_held_out >= num:
        raise ValueError(
            f"--validation {share:g} of {num} data leaves none to train on; use a smaller share, "
            "or 0"
        )
    order = np.random.default_rng(seed).permutation(num)
    return order[num_held_out:], np.sort(order[:num_held_out])


def _described(vae: VAE, out: Path, num_trained: int, num_held_out: int) -> dict[str, Any]:
    """What is known of a model before it is trained, and the keys of the rest."""
    return {
        "model": out,
        "num_parameters": _num_parameters(vae),
        "num_trained": num_trained,
        "num_held_out": num_held_out,
        "interrupted": False,
        "epochs": 0,
        "seconds": None,
        "loss": None,
        "validation": None,
        "log_evidence": None,
        "spec": describe(vae),
    }


def _num_parameters(vae: VAE) -> int:
    return sum(parameter.numel() for parameter in vae.parameters())


def _summary(vae: VAE) -> str:
    """What was built, in a sentence."""
    spec = describe(vae)
    parts = ", ".join(f"{role} {spec[role]['name']}" for role in ROLES if role in spec)
    shapes = f"data of shape {tuple(spec['event'])}, latents of shape {tuple(spec['latent'])}"
    sizes = [f"{column} ({len(labels)})" for column, labels in (vae.classes or {}).items()]
    classes = f"; classes of {', '.join(sizes)}" if sizes else ""
    return f"{parts}; {shapes}, {_num_parameters(vae):,} parameters{classes}"


def _missing(x: Rows) -> str:
    """How many cells are missing, if some are."""
    cells = len(x) * x.event_shape.numel()
    return f"; {cells - x.summary.seen:,} of {cells:,} cells are missing" if x.has_missing else ""


def _constant(x: Rows) -> str:
    """The columns with names in which nothing differs."""
    if x.columns is None:
        return ""
    spread = x.moments()[1].flatten()
    names = [name for name, sd in zip(x.columns, spread, strict=True) if sd == 0]
    return listed(names) if names else ""


def _course(history: Any) -> dict[str, Any]:
    """How training went: its length, and the losses in nats per datum."""
    best = float(history.validation.min()) if "validation" in history else None
    return {
        "epochs": len(history),
        "seconds": float(history.seconds.iloc[-1]) if len(history) else 0.0,
        "loss": float(history.loss.iloc[-1]) if len(history) else None,
        "validation": best,
    }


def _told(course: dict[str, Any], *, is_early: bool) -> str:
    """How training went, in a sentence."""
    loss = f"loss is {course['loss']:.2f}"
    if course["num_held_out"]:
        loss = f"best validation loss is {course['validation']:.2f}"
    ended = ", until the validation loss no longer fell" if is_early else ""
    return (
        f"Trained {course['epochs']} epochs on {course['num_trained']} data in "
        f"{course['seconds']:.0f} s{ended}; the {loss} nats per datum."
    )
