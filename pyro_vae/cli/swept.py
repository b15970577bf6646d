"""What a sweep tells: the models side by side, and which of them to take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..criticism import html
from ..data.files import write
from .evaluate import FORMATS, models_table
from .terminal import console, frame_rows, write_csv, write_json

if TYPE_CHECKING:
    import pandas

CLOSE = 2.0  # standard errors within which a model is not told from the best


def tell(
    found: pandas.DataFrame, failed: dict[str, str], out: Path, num: int, *, as_json: bool
) -> None:
    """The comparison as CSV, HTML, and a table or JSON.

    Arguments:
        found: What :func:`.compare_models` gave, with ``num_parameters``.
        failed: The names of the models that could not be fitted, and why.
        out: The folder of the sweep.
        num: How many data the models are compared on.
        as_json: Whether to write a JSON document.
    """
    write_csv(found, out / "models.csv")
    title = f"A sweep of {len(found) + len(failed)} models"
    page = html.page(title, [*_page(title, found, failed, num)])
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
    typer.echo(f"{verdict(found)} Models, models.csv and report.html are in {out}.")


def smallest(found: pandas.DataFrame) -> str:
    """The model with the fewest parameters among those as good as the best."""
    return str(found.num_parameters[_good(found)].idxmin())


def verdict(found: pandas.DataFrame) -> str:
    """Which model is the best, as far as these data tell."""
    best, num_good = found.index[0], len(_good(found))
    unknown = [str(name) for name in found.index[found.difference.isna()]]
    if len(found) == 1:
        return f"There is log p(x) of {best} alone."
    if unknown:
        return f"log p(x) of {', '.join(unknown)} is no number: no model is the best."
    if num_good == 1:
        return f"{best} has the highest log p(x), by more than {CLOSE:g} standard errors."
    return (
        f"{best} has the highest log p(x), but these data do not tell {num_good} of the "
        f"{len(found)} models apart, those within {CLOSE:g} standard errors of it; the smallest of "
        f"these is {smallest(found)}."
    )


def _good(found: pandas.DataFrame) -> pandas.Index:
    """The best model, and those that are not told from it."""
    is_close = found.difference >= -CLOSE * found.difference_se
    return found.index[is_close & (found.difference > -math.inf)]


def _page(title: str, found: pandas.DataFrame, failed: dict[str, str], num: int) -> Iterator[str]:
    """The parts of the report."""
    yield f"<h1>{title}</h1>"
    flagged = int((found.flagged > 0.05).sum())
    yield html.light(html.colour(not (failed or flagged), not failed), verdict(found))
    caption = (
        f"log p(x) of the same {num} data, held out in training, in nats per datum; differences to "
        "the best are paired by datum."
    )
    shown = found.dropna(axis="columns", how="all")
    yield html.table(shown, "model", caption, FORMATS)
    if flagged:
        yield html.light("fair", f"{flagged} models have more than 5 % of their data flagged.")
    if failed:
        items = "".join(f"<li>{escape(f'{name}: {why}')}" for name, why in failed.items())
        yield f"<h2>Failed</h2><ul>{items}</ul>"
