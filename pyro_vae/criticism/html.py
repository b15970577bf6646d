"""The HTML of a report: a page, its diagram, lights, pictures and tables."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from . import tables

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; --line: #d8dce3; --soft: #5b6472;
  --good: #1a7f4b; --fair: #b26a00; --bad: #b3261e }
body { font: 16px/1.55 system-ui, sans-serif; color: #1b1f27;
  margin: 0 auto; max-width: 62rem; padding: 1.2rem }
h1 { font-size: 1.7rem; margin: .2rem 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem }
p, li { max-width: 46rem } .soft { color: var(--soft) }
img, svg { max-width: 100%; height: auto; display: block }
.wide { overflow-x: auto; margin: .6rem 0 } img.big { min-width: 42rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
pre { background: #f5f6f8; padding: .8rem; overflow-x: auto; font-size: .85rem }
.light { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .45em }
.good { background: var(--good) } .fair { background: var(--fair) } .bad { background: var(--bad) }
"""


def colour(good: Any, fair: Any) -> str:
    """That of a light, from the two conditions for the better ones."""
    if good:
        return "good"
    return "fair" if fair else "bad"


def light(colour: str, text: str) -> str:
    """A sentence with a warning light before it."""
    return f'<p><span class="light {colour}" title="{colour}"></span>{escape(text)}</p>'


def image(figure: Figure, alternative: str) -> str:
    """A picture inside the page, and what to read in its place."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    content = base64.b64encode(file.getvalue()).decode()
    size = "big" if figure.get_figwidth() > 7 else "small"
    return wide(
        f'<img class={size} alt="{escape(alternative)}" src="data:image/png;base64,{content}">'
    )


def wide(content: str) -> str:
    """Content that scrolls sideways where the window is narrow."""
    return f"<div class=wide>{content}</div>"


def table(frame: pandas.DataFrame, index: str) -> str:
    """A data frame as a table."""
    head = "".join(f"<th>{escape(name)}" for name in tables.header(frame, index))
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in tables.body(frame)
    )
    return f"<table><tr>{head}{rows}</table>"


def page(parts: list[str]) -> str:
    """The whole page."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    style = f"<title>A variational autoencoder</title><style>{STYLE}</style>"
    return "\n".join(["<!doctype html>", '<html lang="en">', head + style, *parts, "</html>", ""])
