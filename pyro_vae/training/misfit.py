"""Columns that training has not reached: data that lie far from where the model puts them."""

from __future__ import annotations

import warnings

import pyro
import torch
from torch import Tensor

from ..data.rows import Rows
from ..density.terms import Batch
from ..distributions.supports import innermost
from ..guards import mode, seeded
from ..vae import VAE

FAR = 100.0  # nats between the density of a value and that of the model's own draws
SHOWN = 3  # columns, in the warning


def warn_of_columns_far_off(vae: VAE, batch: Batch, rows: Rows) -> bool:
    """Say so if the values of a column have far less density than the model's own draws have.

    Arguments:
        vae: What was trained.
        batch: Some of its data: x, and c if there is one.
        rows: All of them, which know the names of columns.

    Returns:
        Whether there is such a column.
    """
    no_validation = pyro.validation_enabled(False)
    with torch.no_grad(), seeded(0), mode(vae, training=False), no_validation:
        gap = _below_own_draws(vae, *batch)
    columns = [] if gap is None else (gap > FAR).nonzero().tolist()
    if gap is None or not columns:
        return False
    columns.sort(key=lambda column: -float(gap[tuple(column)]))
    told = [
        f"{rows.name_of(tuple(column))}: {float(gap[tuple(column)]):,.0f} nats"
        for column in columns[:SHOWN]
    ]
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    warnings.warn(
        "fit: training has not reached the scale of the data; values have less density than the "
        f"model's own draws, by ({', '.join(told)}{more}); train for more epochs; "
        "pv.build(x, ...) starts a likelihood at the scale of x, and so does rescaling",
        stacklevel=4,
    )
    return True


def _below_own_draws(vae: VAE, *batch: Tensor) -> Tensor | None:
    """How far the log density of each cell is below that of draws, in the median over the data;
    None where cells have no density of their own.
    """
    x, *given = vae.likeliest(*batch)
    c = vae.encode_condition(len(x), *given)
    cell = innermost(vae.likelihood_of(vae.guide_of(x, c).sample(), c))
    if cell.event_shape:
        return None
    try:
        own = cell.sample()
    except NotImplementedError:
        return None
    gap = cell.log_prob(own) - cell.log_prob(torch.where(x.isnan(), own, x))
    return gap.nan_to_num(0.0, torch.inf, 0.0).median(0).values
