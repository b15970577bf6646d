r"""Is the latent used at all? What the history of training says about the collapse of the posterior.

.. math:: I(x; z) = \mathrm{E}_x\, \mathrm{KL}(q(z \mid x) \,\|\, p(z)) - \mathrm{KL}(q(z) \,\|\, p(z))

(Hoffman & Johnson, 2016, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf), with q(z) the average of the
guide over the data that are looked at. A latent dimension is active where the mean of the guide moves with x: where
:math:`\mathrm{Var}_x\, \mathrm{E}_q z_j` exceeds 1 % of the prior's variance (Burda et al., 2015, section 5).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guards import seeded
from ..rows import Rows
from ..vae import VAE
from .objectives import kl_by_part

ROWS, PAIRED, SCORED, DRAWS, ACTIVE = 128, 50, 4, 32, 0.01


def watch(vae: VAE, rows: Rows) -> dict[str, float]:
    """What the guide tells about at most 128 rows, in nats per datum; the VAE is in eval mode.

    Returns:
        ``kl``, its mean; ``kl_0``, ``kl_1``, ... for each latent dimension where prior and guide factorise;
        ``mutual_information``, at most log 50, NaN for a guide that scores its own draws only; ``active_units``.
    """
    picked = np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int)
    x, *given = rows.batch(np.unique(picked), like=vae.reference)
    with torch.no_grad(), seeded(0):
        c = vae._given(len(x), *given)
        guide, prior = vae._encoded(x, c), vae._latent(c).expand(torch.Size([len(x)]))
        z = guide.sample(torch.Size([SCORED]))
        kl = kl_by_part(guide.expand(z.shape[:2]), prior.expand(z.shape[:2]), z).mean(0)
        by_part = {f"kl_{j}": float(part) for j, part in enumerate(kl)} if len(kl) > 1 else {}
        return {
            "kl": float(kl.sum()),
            **by_part,
            "mutual_information": _mutual_information(vae, guide, z[0]),
            "active_units": _active_units(guide.sample(torch.Size([DRAWS])), prior.sample(torch.Size([DRAWS]))),
        }


def _mutual_information(vae: VAE, guide: Any, z: Tensor) -> float:
    """log q(z|x) less the log of the average of the guide, in the mean over one draw for each datum."""
    if not vae.posterior.scores_any_value:
        return math.nan
    each = guide.log_prob(z[:PAIRED].unsqueeze(1))[:, :PAIRED]
    return float((each.diagonal() - each.logsumexp(1) + math.log(len(each))).mean())


def _active_units(z: Tensor, prior: Tensor) -> int:
    """From draws ``(K, N, *Z)``: the variance of the means, less what K draws for each add to it.

    Within the range of the prior: a heavy-tailed guide may have no mean.
    """
    z, prior = z.double().flatten(2), prior.double().flatten(0, 1).flatten(1)
    low, high = prior.quantile(torch.tensor([0.001, 0.999]).to(prior), 0)
    z, prior = z.clamp(low, high), prior.clamp(low, high)
    moved = z.mean(0).var(0) - z.var(0).mean(0) / len(z)
    return int((moved > ACTIVE * prior.var(0)).sum())


def warn_of_collapse(seen: dict[str, float], epochs: int) -> None:
    """Say so if after some training no latent dimension is used."""
    if epochs >= 10 and seen["active_units"] == 0:
        warnings.warn(
            f"posterior collapse: after {epochs} epochs no latent dimension moves with x (KL {seen['kl']:.3f} nats per "
            f"datum); try beta=pv.linear_warmup(20), free_bits=0.1, a weaker likelihood, or more epochs",
            stacklevel=4,
        )
