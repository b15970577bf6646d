"""What a saved model gives: data that it draws, classes of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.columns import as_array, framed
from ..spec.checkpoint import load
from .arguments import Wanted, import_own_parts, read_condition, read_rows, require_condition
from .terminal import write_csv, write_json

NUM_DRAWN = 16


def sample(
    model: Path,
    num: int | None,
    out: Path | None,
    seed: int,
    condition: str | None,
    modules: list[str] | None,
    device: str,
    *,
    as_json: bool,
) -> None:
    """Draw data from a saved model; to a file, or as CSV or JSON to stdout."""
    import_own_parts(modules)
    vae = load(model, device=device)
    c = read_condition(condition)
    require_condition(vae, model, c, "draw")

    if num is None:
        num = NUM_DRAWN if c is None else len(c)
    if out is not None and out.suffix == ".npy" and vae.classes:
        labelled = ", ".join(map(repr, vae.classes))
        raise ValueError(f"{model.name} draws labels, of {labelled}; --out needs a .csv file")
    drawn = vae.sample(num, c, seed=seed)

    frame = _frame(drawn, vae.columns)
    if out is not None and out.suffix == ".npy":
        np.save(out, as_array(drawn))
    elif out is not None or not as_json:
        write_csv(frame, out, index=False)
    if as_json:
        columns = [str(name) for name in frame.columns]
        given = {} if out is not None else {"data": frame.astype(object).to_numpy().tolist()}
        write_json({"num": num, "seed": seed, "columns": columns, "out": out, **given})


def _frame(drawn: Any, columns: list[str] | None) -> Any:
    """A row for each datum, flat, under the names of the columns where the model knows them; whole
    numbers without a decimal point.
    """
    if isinstance(drawn, Tensor):
        flat = drawn.flatten(1) if drawn.dim() > 1 else drawn[:, None]
        names = columns or [f"x{number}" for number in range(flat.shape[1])]
        drawn = framed(flat.numpy(force=True), names)
    return drawn.convert_dtypes()


def classify(
    model: Path,
    wanted: Wanted,
    out: Path | None,
    modules: list[str] | None,
    device: str,
    *,
    as_json: bool,
) -> None:
    """The most probable class of each datum, and the probability of each class."""
    import pandas

    import_own_parts(modules)
    vae = load(model, device=device)
    x = read_rows(wanted.source, wanted.key)
    x = x.only(np.arange(len(x))[: wanted.num])
    probs = vae.classify(x).probs.numpy(force=True)
    known = None if vae.condition is None else vae.condition.labels[0]
    names = list(range(probs.shape[1]) if known is None else known)
    labels = [names[number] for number in probs.argmax(-1)]
    columns = {f"p({name})": column for name, column in zip(names, probs.T, strict=True)}
    frame = pandas.DataFrame({"label": labels, **columns})
    if out is not None or not as_json:
        write_csv(frame, out, index=False)
    if as_json:
        given = {} if out is not None else {"label": labels, "probabilities": probs}
        write_json({"num": len(labels), "classes": names, "out": out, **given})
