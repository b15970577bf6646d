"""The HTML of a report: a page, its diagram, lights, pictures and tables."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from . import tables

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SAID = {"good": "✓ Good:", "fair": "! Check:", "bad": "✕ Bad:"}  # of a light, beside its colour
HINT = "<p class='soft hint'>Wider than this window: scroll sideways.</p>"


def colour(good: Any, fair: Any) -> str:
    """That of a light, from the two conditions for the better ones."""
    if good:
        return "good"
    return "fair" if fair else "bad"


def light(colour: str, text: str, explained: str = "") -> str:
    """A sentence after its warning light; below it what the light means, and what to do."""
    shown = f'<p><span class="light {colour}">{SAID[colour]}</span>{escape(text)}</p>'
    return shown + (f'<p class="soft explained">{escape(explained)}</p>' if explained else "")


def image(figure: Figure, alternative: str) -> str:
    """A picture inside the page, which scrolls where it is wider than the window."""
    is_big = figure.get_figwidth() > 7
    shown = img(figure, alternative, 'class="big"' if is_big else "")
    return wide(shown, alternative) + (HINT if is_big else "")


def img(figure: Figure, alternative: str, attributes: str = "") -> str:
    """A picture alone, as SVG where that is smaller, and what to read in its place."""
    contents = [("svg+xml", _saved(figure, "svg")), ("png", _saved(figure, "png"))]
    kind, content = min(contents, key=lambda one: len(one[1]))
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img {attributes} alt="{escape(alternative)}" src="{source}">'


def _saved(figure: Figure, kind: str) -> bytes:
    """The bytes of a picture, the same ones for the same picture."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "pyro_vae"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def wide(content: str, label: str) -> str:
    """Content that scrolls sideways where the window is narrow, by touch, wheel or arrow keys."""
    return (
        f'<div class=wide role="region" aria-label="{escape(label)}" tabindex="0">{content}</div>'
    )


def table(
    frame: pandas.DataFrame, index: str, caption: str, formats: Mapping[str, str] = {}
) -> str:
    """A data frame as a table that is sorted by a click on a heading.

    Arguments:
        frame: Numbers and texts, with names for rows and columns.
        index: What the rows are.
        caption: What the table is.
        formats: How the numbers of some columns are written.
    """
    head = "".join(f'<th scope="col">{escape(name)}' for name in tables.header(frame, index))
    cells = zip(tables.body(frame, formats), tables.numbers(frame), strict=True)
    rows = "".join("<tr>" + "".join(map(_cell, texts, numbers)) for texts, numbers in cells)
    content = f"<thead><tr>{head}</thead><tbody>{rows}</tbody>"
    told = f"<p class=soft>{escape(caption)}</p>"
    return told + wide(f"<table class=sortable>{content}</table>", f"table by {index}")


def _cell(text: str, number: float) -> str:
    """A cell, and the number by which its column is sorted, if it shows one."""
    value = repr(number).replace("inf", "Infinity")  # as the script reads it
    attribute = "" if math.isnan(number) else f' data-value="{value}"'
    return f"<td{attribute}>{escape(text)}"


def meanings(words: dict[str, str]) -> str:
    """What the words of a table mean, folded away."""
    listed = "".join(f"<dt>{escape(word)}<dd>{escape(text)}" for word, text in words.items())
    return f"<details><summary>What these mean</summary><dl>{listed}</dl></details>"


def page(title: str, parts: list[str]) -> str:
    """The whole page."""
    folder = resources.files(__package__)
    style, script = ((folder / name).read_text() for name in ("page.css", "page.js"))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    body = ["<body>", "<main>", *parts, "</main>", f"<script>{script}</script>", "</body>"]
    return "\n".join(["<!doctype html>", '<html lang="en">', head, *body, "</html>", ""])
