"""What to say of a loss or gradient that is not finite: where, of what, and what may help."""

from __future__ import annotations

import torch
from pyro import poutine

from ..data.rows import Rows
from ..density.terms import Batch
from ..vae import VAE

LARGE = 1e3  # numbers from which data are taken to be unscaled
ADVICE = (
    "; training stopped, the parameters are those before it, or the best so far if there are "
    "validation data. Try a lower learning_rate, clip_norm=10, or a likelihood with fixed or "
    "learned scale"
)


def message_of(what: object, place: tuple[int, int], vae: VAE, batch: Batch, rows: Rows) -> str:
    """A message: what was not finite, at which epoch and batch, of which site and datum.

    Arguments:
        what: The loss or the gradient.
        place: Epoch and batch.
        vae: What is trained, before the step.
        batch: x of the step, and c if there is one.
        rows: All data, which know the names of columns.
    """
    where = f"epoch {place[0]}, batch {place[1]}{_culprit(vae, batch)}"
    return f"fit: the {what} is not finite at {where}{ADVICE}{_unscaled(batch[0], rows)}"


def _culprit(vae: VAE, batch: Batch) -> str:
    """The first site whose log density is not finite, and how many data, as far as one more look
    can tell.
    """
    with torch.no_grad():
        guide_trace = poutine.trace(vae.guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*batch)
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample":
                continue
            bad = ~site["fn"].log_prob(site["value"]).isfinite()
            if bool(bad.any()):
                first = int(bad.flatten().nonzero()[0])
                which = f"{int(bad.sum())} of {bad.numel()} data, the first {first}"
                return f" (site {name!r} of the {role}, {which} in the batch)"
    return ""


def _unscaled(x: torch.Tensor, rows: Rows) -> str:
    """Which column to rescale, if numbers are large."""
    largest = x.abs().nan_to_num(0.0).amax(0)
    if not bool((largest > LARGE).any()):
        return ""
    place = tuple(int(i) for i in (largest == largest.max()).nonzero()[0])
    return (
        f"; or rescale the data: {rows.name_of(place)} holds numbers up to "
        f"{float(largest.max()):.3g}; pv.build(x, ...) starts at the scale of x"
    )
