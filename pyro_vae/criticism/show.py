"""What a notebook cell shows of a VAE, of evidence and of a history: a picture and what to know."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..assembly.card import card
from ..vae import VAE
from . import html, plots

if TYPE_CHECKING:
    import pandas
    import xarray

FITS = 'style="max-width: 100%; background: #fff"'  # into a cell, on white paper


@dataclass(frozen=True)
class Shown:
    """A piece of HTML that a notebook shows; elsewhere its text."""

    content: str
    text: str

    def _repr_html_(self) -> str:
        return self.content

    def __repr__(self) -> str:
        return self.text


def show(thing: VAE | xarray.Dataset | pandas.DataFrame) -> Shown:
    """A VAE, a result of evidence or a history, as the last line of a notebook cell shows it.

    Of a VAE the parts, shapes, parameters and plate diagram, which it shows by itself too; of a
    result the histogram of log p(x), k-hat, the mean and how many data are flagged for what; of a
    history the curves. A result is an xarray data set and a history a frame: by themselves they
    show what those do.

    Arguments:
        thing: A VAE; what :func:`~pyro_vae.log_evidence` or
            :func:`~pyro_vae.annealed_log_evidence` gave; or what :func:`~pyro_vae.fit` gave.

    Returns:
        An object that a notebook shows. All is in it; nothing is loaded from elsewhere.

    Raises:
        TypeError: It is none of these.
    """
    import pandas
    import xarray

    if isinstance(thing, VAE):
        return Shown(card(thing), repr(thing))
    if isinstance(thing, xarray.Dataset) and {"log_evidence", "curve", "flag"} <= {
        *thing.variables
    }:
        return _evidence(thing)
    if isinstance(thing, pandas.DataFrame) and {"epoch", "loss"} <= {*thing.columns}:
        return _history(thing)
    raise TypeError(
        f"show needs a VAE, a result of log_evidence or annealed_log_evidence, or a history; got "
        f"{type(thing).__name__}; other results have pictures in pyro_vae.criticism.plots"
    )


def _evidence(result: xarray.Dataset) -> Shown:
    """The mean and its error, the flags, and the picture."""
    about, num = result.attrs, result.sizes["datum"]
    mean = f"log p(x): {about['mean']:.3f} ± {about['mean_se']:.3f} nats per datum, {num} data"
    reasons = {
        key.removeprefix("flagged_").replace("_", " "): count
        for key, count in about.items()
        if key.startswith("flagged_")
    }
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    flagged = f"{about['flagged']} flagged" + (f": {why}" if why else "")
    picture = html.img(plots.evidence(result), "log p(x) and k-hat", FITS)
    words = f"<p><b>{escape(mean)}</b></p><p>{escape(flagged)}</p>"
    return Shown(f"<div>{words}{picture}</div>", f"{mean}; {flagged}")


def _history(history: pandas.DataFrame) -> Shown:
    """The last losses and the curves."""
    if history.empty:
        return Shown("<div><p>0 epochs</p></div>", "0 epochs")
    last: Any = history.iloc[-1]
    names = [name for name in ("loss", "validation") if name in history]
    figures = ", ".join(f"{name} {last[name]:.3f}" for name in names)
    said = f"{len(history)} epochs: {figures} nats per datum"
    picture = html.img(plots.training(history), "losses", FITS)
    return Shown(f"<div><p><b>{escape(said)}</b></p>{picture}</div>", said)
