"""A VAE as a notebook shows it: its plate diagram and a table of its parts.

Lines and letters have the colour of the page's text, and fills are grey and clear in part, so that
both can be read on a light and on a dark page. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from torch import nn

from ..conditionals.base import Amortised
from .classified import Classified

LINE = 'fill="none" stroke="currentColor"'
SMALL = 'font-size="12" fill="currentColor" fill-opacity="0.75"'
GREY = "#808080"
MOST = 12  # names of columns


def card(vae: Classified) -> str:
    """Parts, shapes, numbers of parameters and the plate diagram, as a piece of HTML."""
    parts: dict[str, nn.Module] = {
        "prior": vae.prior,
        "likelihood": vae.likelihood,
        "guide": vae.posterior,
    }
    names = {role: _named(part)[0] for role, part in parts.items()}
    if vae.missingness is not None:
        parts["missingness"] = vae.missingness
    if vae.classifier is not None:
        parts["q(c|x)"] = vae.classifier.conditional
    rows = "".join(_row(role, part) for role, part in parts.items())
    sizes = f"x {tuple(vae.likelihood.event_shape)}, z {tuple(vae.prior.event_shape)}"
    seen_by = () if vae.condition is None else vae.condition.seen_by
    columns = [escape(name) for name in vae.columns or []]
    more = ", ..." if len(columns) > MOST else ""
    told = f"<p>c is seen by: {', '.join(seen_by)}</p>" if seen_by else ""
    named = f"<p>columns: {', '.join(columns[:MOST])}{more}</p>" if columns else ""
    return (
        f"<div><p><b>VAE</b>: {sizes}, {_number(vae):,} parameters</p>"
        f"{diagram(names, 'data', seen_by)}"
        f'<table style="color: inherit">'
        f"<tr><th>part<th>family<th>network<th>parameters</tr>{rows}</table>{told}{named}</div>"
    )


def _row(role: str, part: nn.Module) -> str:
    """A row of the table: what a part is, and how many parameters it has."""
    family, network = _named(part)
    return f"<tr><td>{role}<td>{escape(family)}<td>{escape(network)}<td>{_number(part):,}</tr>"


def _named(part: nn.Module) -> tuple[str, str]:
    """The family of a part, and the network before it, if there is one."""
    networks = []
    while isinstance(part, Amortised):
        networks.append(type(part.network).__name__)
        part = part.head
    return getattr(part, "name", None) or type(part).__name__, ", ".join(networks)


def _number(part: nn.Module) -> int:
    """How many parameters a part has."""
    return sum(parameter.numel() for parameter in part.parameters())


def diagram(names: dict[str, str], plate: str, seen_by: Sequence[str]) -> str:
    """The plate of the data: z and x, what each is drawn from, the guide as a dashed arrow.

    Where there is a c, arrows show which parts see it.

    Arguments:
        names: Of the prior, the likelihood and the guide.
        plate: What stands in the corner of the plate.
        seen_by: The parts that see c.
    """
    height = 230 if seen_by else 152
    guide = names["guide"] + (", sees c" if "guide" in seen_by else "")
    parts = [
        f'<svg viewBox="0 0 400 {height + 20}" width="400" role="img" aria-label="plate diagram" '
        'font-family="sans-serif">',
        f'<rect x="20" y="12" width="350" height="{height}" rx="8" fill="none" stroke="{GREY}"/>',
        f'<text x="360" y="{height + 4}" text-anchor="end" {SMALL}>{escape(plate)}</text>',
        _node(100, 75, "z", observed=False) + _node(290, 75, "x", observed=True),
        _arrow("M124 68 L264 68", (264, 68), 0.0),
        _arrow("M271 91 C 230 126 160 126 119 92", (119, 92), -140.0, 'stroke-dasharray="4 3"'),
        _text(100, 38, names["prior"]),
        _text(195, 58, names["likelihood"]),
        _text(195, 135, f"guide: {guide}"),
    ]
    if seen_by:
        parts.append(_node(195, 190, "c", observed=True))
    if "prior" in seen_by:
        parts.append(_arrow("M178 172 L112 99", (112, 99), -132.0))
    if "likelihood" in seen_by:
        parts.append(_arrow("M212 172 L278 99", (278, 99), -48.0))
    return "".join([*parts, "</svg>"])


def _arrow(path: str, tip: tuple[int, int], degrees: float, dashes: str = "") -> str:
    """A line with a head: a marker's name would be one for all pictures of a notebook."""
    turned = f'transform="translate({tip[0]} {tip[1]}) rotate({degrees})"'
    head = f'<path d="M-8 -4 L1 0 L-8 4 z" fill="currentColor" {turned}/>'
    return f'<path d="{path}" {LINE} {dashes}/>{head}'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" {SMALL}>{escape(text)}</text>'


def _node(x: int, y: int, name: str, *, observed: bool) -> str:
    """A circle, grey where it is observed."""
    fill = f'fill="{GREY}" fill-opacity="{0.3 if observed else 0.0}"'
    circle = f'<circle cx="{x}" cy="{y}" r="24" {fill} stroke="currentColor"/>'
    font = 'text-anchor="middle" font-size="17" font-style="italic" fill="currentColor"'
    return f'{circle}<text x="{x}" y="{y + 6}" {font}>{name}</text>'
