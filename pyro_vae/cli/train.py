"""The commands that make a model and draw from it: fit, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from torch import Tensor

from ..data.columns import as_array, framed
from ..data.rows import Rows
from ..evidence.evidence import log_evidence
from ..spec.build import build
from ..spec.checkpoint import load, save
from ..spec.describe import describe
from ..training.fit import fit as fit_vae
from ..training.losses import losses
from ..vae import VAE
from .arguments import (
    ArrayKey,
    ConditionFile,
    Device,
    ModelFile,
    Modules,
    Seed,
    Source,
    import_modules,
    option,
    parse_part,
    parse_sizes,
    prepare_file,
    read_condition,
    read_rows,
    require_condition,
    select,
)
from .launched import is_first, process_group

NUM_DRAWN = 16
ROLES = ("prior", "likelihood", "guide", "missingness", "classifier")

SpecFile = Annotated[
    Path | None, option("The VAE as a .toml file, in place of the next seven options.", "FILE")
]
Prior = Annotated[
    str | None, option("p(z): a name, or a table in TOML.", "PART", show_default="normal")
]
Likelihood = Annotated[
    str | None, option("p(x|z), in the same way.", "PART", show_default="normal")
]
Guide = Annotated[
    str | None, option("q(z|x), in the same way.", "PART", show_default="what suits the prior")
]
Missing = Annotated[
    str | None,
    option("p(s|x): why cells are missing, in the same way.", "PART", show_default="for no reason"),
]
Classifier = Annotated[
    str | None,
    option("q(c|x), in the same way, where --condition has unknown classes.", "PART"),
]
Latent = Annotated[str | None, option("The shape of the latents.", "SIZES", show_default="8")]
Hidden = Annotated[
    str | None, option("The widths of the hidden layers.", "SIZES", show_default="400")
]
Validation = Annotated[
    float, option("The share of data held out, at random.", "SHARE", min=0, max=1)
]
Loss = Annotated[str, option("A name that pyro-vae list shows.", "NAME")]
Particles = Annotated[
    int | None, option("Samples of z for each datum.", "K", show_default="the loss's own", min=1)
]
Epochs = Annotated[int, option("The most passes over the data.", "N", min=1)]
BatchSize = Annotated[int, option("The number of data in a step.", "N", min=1)]
CheckpointFolder = Annotated[
    Path | None,
    option("A folder for the state after each epoch, and history.csv.", "FOLDER", "--checkpoint"),
]
Resume = Annotated[bool, option("Go on from the newest state in that folder.", "", "--resume")]
LearningRate = Annotated[float, option("The learning rate of Adam.", "RATE", min=0)]
NumSamples = Annotated[int, option("Samples of z for each datum, for log p(x).", "K", min=1)]
SavedModel = Annotated[Path, option("The .safetensors file to write.", "MODEL", "--out", "-o")]
NumDrawn = Annotated[
    int | None, option("How many data.", "N", "--num", "-n", show_default=str(NUM_DRAWN), min=1)
]
DrawnFile = Annotated[
    Path | None,
    option("A .npy or .csv file.", "FILE", "--out", "-o", show_default="CSV to stdout"),
]


def fit(
    source: Source,
    out: SavedModel,
    spec: SpecFile = None,
    prior: Prior = None,
    likelihood: Likelihood = None,
    guide: Guide = None,
    missingness: Missing = None,
    classifier: Classifier = None,
    latent: Latent = None,
    hidden: Hidden = None,
    validation: Validation = 0.1,
    loss: Loss = "elbo",
    particles: Particles = None,
    epochs: Epochs = 100,
    batch_size: BatchSize = 128,
    learning_rate: LearningRate = 1e-3,
    num_samples: NumSamples = 1000,
    seed: Seed = 0,
    key: ArrayKey = None,
    condition: ConditionFile = None,
    device: Device = "cpu",
    checkpoint: CheckpointFolder = None,
    resume: Resume = False,
) -> None:
    """Fit a VAE to data and save it.

    `pyro-vae fit digits --likelihood binomial -o digits.safetensors`

    `pyro-vae fit counts.csv --prior '{name="gamma", rate=2.0}' --likelihood poisson --hidden
    200,200 -o m.safetensors`

    The VAE is built for all data, trained on most of them, and scored on the share held out: log
    p(x) by importance sampling, in nats per datum. Ctrl-C saves the best so far; after that, or
    after a crash, the same command with --resume goes on from --checkpoint. Several processes train
    together by `torchrun --nproc-per-node 2 -m pyro_vae fit ...`."""
    prepare_file(out)
    _check_loss(loss)
    texts = (prior, likelihood, guide, missingness, classifier)
    parts = _parsed(spec, texts, {"latent": latent, "hidden": hidden})

    options: dict[str, Any] = {
        "loss": loss,
        "particles": particles,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "checkpoint": checkpoint,
        "resume": resume,
    }
    with process_group(device) as device:
        x = read_rows(source, key)
        c = read_condition(condition, x)
        train, held_out = _split(len(x), validation, seed)
        x_held_out, c_held_out = x.only(held_out), select(c, held_out)
        if len(held_out):
            options["validation"] = x_held_out if c is None else (x_held_out, c_held_out)
        vae = _built(spec, x, c, parts, seed=seed, device=device)
        _say(_summary(vae))
        try:
            _say(_train(vae, x.only(train), select(c, train), **options))
        except KeyboardInterrupt as interrupted:
            _save_what_was_interrupted(vae, out, interrupted)
            raise typer.Exit(130) from None
    if not is_first():
        return
    save(vae, out)
    if len(held_out):
        _say(_score(vae, x_held_out, c_held_out, num_samples, seed))
    _say(f"The model is in {out}.")


def _say(text: str) -> None:
    """Print a line, once for all processes."""
    if is_first():
        typer.echo(text)


def _check_loss(name: str) -> None:
    if name not in losses:
        raise ValueError(f"no loss is named {name!r}; there are {', '.join(losses)}")


def _parsed(
    spec: Path | None, parts: tuple[str | None, ...], sizes: dict[str, str | None]
) -> dict[str, Any]:
    """The arguments of :func:`build` that were given, parts in the order of ``ROLES``; none may be
    beside a spec.
    """
    named = zip(ROLES, parts, strict=True)
    read: dict[str, Any] = {role: parse_part(role, text) for role, text in named}
    read |= {name: parse_sizes(text) for name, text in sizes.items()}
    given = {name: value for name, value in read.items() if value is not None}
    if spec is not None and given:
        raise ValueError(f"--spec says what to build: leave out --{', --'.join(given)}, or --spec")
    return given


def _built(spec: Path | None, x: Rows, c: Any, parts: dict[str, Any], **where: Any) -> VAE:
    return build(x, c=c, **where, **parts) if spec is None else build(spec, x, c, **where)


def _split(num: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on, and which to hold out."""
    num_held_out = 0 if share == 0 else max(1, round(share * num))
    if num_held_out >= num:
        raise ValueError(
            f"--validation {share:g} of {num} data leaves none to train on; use a smaller share, "
            "or 0"
        )
    order = np.random.default_rng(seed).permutation(num)
    return order[num_held_out:], order[:num_held_out]


def _summary(vae: VAE) -> str:
    """What was built, in a sentence."""
    spec = describe(vae)
    number = sum(parameter.numel() for parameter in vae.parameters())
    parts = ", ".join(f"{role} {spec[role]['name']}" for role in ROLES if role in spec)
    shapes = f"data of shape {tuple(spec['event'])}, latents of shape {tuple(spec['latent'])}"
    sizes = [f"{column} ({len(labels)})" for column, labels in (vae.classes or {}).items()]
    classes = f"; classes of {', '.join(sizes)}" if sizes else ""
    return f"Built a VAE: {parts}; {shapes}, {number:,} parameters{classes}."


def _train(vae: VAE, x: Rows, c: Any, **options: Any) -> str:
    """Train, and say in a sentence how it went."""
    history = fit_vae(vae, x, c, **options)
    loss = f"loss is {history.loss.iloc[-1]:.2f}"
    if "validation" in options:
        loss = f"best validation loss is {history.validation.min():.2f}"
    return (
        f"Trained {len(history)} epochs on {len(x)} data in {history.seconds.iloc[-1]:.0f} s; the "
        f"{loss} nats per datum."
    )


def _save_what_was_interrupted(vae: VAE, out: Path, interrupted: KeyboardInterrupt) -> None:
    history = getattr(interrupted, "history", None)
    if history is None:  # nothing was trained yet
        raise interrupted
    if not is_first():
        return
    save(vae, out)
    told = f"Interrupted after {len(history)} epochs; the model so far is in {out}."
    typer.echo(told, err=True)


def _score(vae: VAE, x: Rows, c: Any, num_samples: int, seed: int) -> str:
    """log p(x) of the data held out, in a sentence."""
    score = log_evidence(vae, x, c, num_samples=num_samples, seed=seed).attrs
    return (
        f"log p(x) of {len(x)} validation data: {score['mean']:.2f} ± {score['mean_se']:.2f} nats "
        f"per datum (K = {num_samples}, {score['flagged']} flagged)."
    )


def sample(
    model: ModelFile,
    num: NumDrawn = None,
    out: DrawnFile = None,
    seed: Seed = 0,
    condition: ConditionFile = None,
    modules: Modules = None,
    device: Device = "cpu",
) -> None:
    """Draw data from a saved model.

    `pyro-vae sample digits.safetensors -n 100 -o drawn.npy`

    A conditional model draws one datum for each row of --condition. In CSV a datum is a line."""
    prepare_file(out, ".npy", ".csv")
    import_modules(modules)
    vae = load(model, device=device)
    c = read_condition(condition)
    require_condition(vae, model, c, "draw")

    if num is None:
        num = NUM_DRAWN if c is None else len(c)
    if out is not None and out.suffix == ".npy" and vae.classes:
        columns = ", ".join(map(repr, vae.classes))
        raise ValueError(f"{model.name} draws labels, of {columns}; --out needs a .csv file")
    drawn = vae.sample(num, c, seed=seed)

    if out is None:
        typer.echo(_csv(drawn), nl=False)
    elif out.suffix == ".npy":
        np.save(out, as_array(drawn))
    else:
        out.write_text(_csv(drawn))


def _csv(drawn: Any) -> str:
    """A line for each datum, flat; whole numbers without a decimal point."""
    if isinstance(drawn, Tensor):
        flat = drawn.flatten(1) if drawn.dim() > 1 else drawn[:, None]
        drawn = framed(flat.numpy(force=True), [f"x{number}" for number in range(flat.shape[1])])
    return drawn.convert_dtypes().to_csv(index=False)
