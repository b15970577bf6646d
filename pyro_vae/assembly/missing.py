r"""Missing data: NaN means missing.

What is missing has no term in the likelihood: for one that factorises over cells, :math:`\log
p(x_{\mathrm{seen}} \mid z) = \sum_{i\ \mathrm{seen}} \log p(x_i \mid z)`, and the bounds of what is
seen follow (MIWAE: Mattei & Frellsen, 2019, https://arxiv.org/abs/1812.02633). Cells are filled
inside the support *before* the density is evaluated and masked on the distribution of one cell: a
mask alone leaves NaN in the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..data.rows import DataError
from ..distributions.supports import innermost, inside


def factorises(likelihood: Any) -> bool:
    """Whether the cells of a datum are independent given z."""
    return innermost(likelihood).event_shape == ()


def is_missing(x: Tensor) -> bool:
    """Whether a cell of x is missing."""
    return bool(x.isnan().any())


def masked(likelihood: TorchDistribution, x: Tensor, who: str) -> tuple[TorchDistribution, Tensor]:
    """The distribution of the cells of x that are seen, and x with the others filled.

    It looks at no value of x.

    Raises:
        DataError: The likelihood does not factorise over cells.
    """
    if not factorises(likelihood):
        raise DataError(
            f"{who} cannot leave out missing cells, as its cells depend on each other; drop these "
            "rows"
        )
    seen, cell = ~x.isnan(), innermost(likelihood)
    of_seen = cell.mask(seen).to_event(likelihood.event_dim)
    return of_seen, torch.where(seen, x, inside(cell.support, x))
