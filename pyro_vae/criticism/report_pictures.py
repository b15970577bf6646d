"""The pictures of a report on a VAE: data beside reconstructions, and what the latents do."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.rows import Rows
from ..vae import VAE
from . import html, plots
from .latents import interpolate, traverse

SHOWN = 12  # reconstructions
MOVED = 8  # latents
PAIRS = 4  # of images, with the way between them


def pictures_of(vae: VAE, rows: Rows, seed: int) -> Iterator[str]:
    """Of images: reconstructions, and draws of the prior."""
    if vae.condition is not None or not _is_square(rows):
        return
    some = rows.only(np.arange(min(SHOWN, len(rows))))
    pictures = plots.reconstructions(vae, some, seed=seed)
    yield html.image(pictures, "data above, reconstructions below")
    if not vae.prior.reads_guide:
        pictures = plots.samples(vae, rows=3, seed=seed)
        yield "<p>Drawn from the prior:</p>" + html.image(pictures, "samples from the prior")


def latents(vae: VAE, rows: Rows, labels: Any) -> Iterator[str]:
    """What each does to the data, and where the data lie."""
    if vae.condition is not None or vae.is_discrete:
        return
    title = "<h2>Latents</h2>"
    with contextlib.suppress(ValueError):  # of latents that do not move one by one
        moved = traverse(vae, rows)
        first = moved.isel(dimension=slice(0, MOVED))
        order = "" if "kl" not in moved else ", in the order of their KL"
        yield (
            f"{title}<p>Means of p(x | z) as one latent moves from the prior's quantile 0.02 to "
            f"0.98: {first.sizes['dimension']} of {moved.sizes['dimension']}{order}."
        )
        yield html.image(plots.traversal(first), "what each latent does to the data")
        title = ""
    if _is_square(rows) and len(rows) > 1:
        half = np.arange(min(PAIRS, len(rows) // 2))
        ways = interpolate(vae, rows.only(half), rows.only(half + len(half)))
        yield f"{title}<p>From one datum to another, straight through the latents:</p>"
        yield html.image(plots.interpolation(ways), "on the way between pairs of data")
        title = ""
    if labels is not None and vae.prior.event_shape.numel() > 1:
        picture = plots.latent_space(vae, rows, labels)
        yield title + html.image(picture, "means of the guide, by class")


def _is_square(rows: Rows) -> bool:
    """Whether the data are square images of one channel; a flat row is one from 8 x 8."""
    *channels, side = rows.event_shape
    if not channels:
        return side >= 64 and math.isqrt(side) ** 2 == side
    return math.prod(channels) == side > 1
