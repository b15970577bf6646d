r"""log p(x) by importance sampling, datum by datum, with its error and a warning light.

.. math::

    \log \hat p_K(x) = \log \frac1K \sum_{k=1}^K w_k, \qquad
    w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

:math:`\hat p_K` is unbiased, so its log is a lower bound in the mean that rises to log p(x) with K (Burda et al., 2015,
https://arxiv.org/abs/1509.00519). Its standard error is by the delta method. Both are worthless when the weights have
too heavy a tail: the Pareto shape k-hat of the largest ones says so (Vehtari et al., 2024,
https://arxiv.org/abs/1507.02646); above 0.7 the number cannot be trusted at any affordable K. Below 0.7 is no proof:
what the guide never draws leaves no trace, and a low effective sample size is a second warning. A guide fitted with
``beta=2.0`` while the model is held fixed aims beyond the posterior, at :math:`p(z)\, p(x \mid z)^{1/2}`, whose weights
are bounded where the likelihood is.

The (K, N) weights are never all in memory. Data are worked through in tiles of at most ``TILE_DATA`` rows, samples in
tiles that fill ``TILE_ROWS`` decoder rows. A tile has its own seed and a shape that depends on nothing but N and K, so
the memory given to the decoder changes neither the draws nor the answer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import torch
import xarray
from torch import Tensor

from ..guards import mode, own_store, owner_of, seed_of, seeded, whole_number
from ..rows import Rows
from ..vae import VAE
from .terms import Pair, Terms, entrance, enumerated_terms, trace_terms

TILE_DATA = 64
TILE_ROWS = 4096
BUFFER = 4096  # weights per datum kept until they are merged into the running sums
KHAT_LIMIT = 0.7
TIED = 0.01  # a tail of ties has no shape; where it spans less than this in log weight, it is no tail


def log_evidence(
    vae: VAE | Pair, x: Any, c: Any = None, *, num_samples: int = 1000, seed: int = 0, block_rows: int = TILE_ROWS
) -> xarray.Dataset:
    """log p(x) for each datum, by importance sampling from the guide; over discrete latents by an exact sum.

    Of data with missing cells (NaN) it is the evidence of the cells that are seen.

    Arguments:
        vae: A VAE, or any pair ``(model, guide)`` of Pyro functions of x whose sites all lie in one data plate. What
            a pair closes over is taken as it is: its data are not checked against a support.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum: the second argument of model and guide.
        num_samples: The number of samples K for each datum; exactly as many are drawn.
        seed: The seed of the draws.
        block_rows: How many rows the decoder is given at once: less takes less memory, and never another answer.

    Returns:
        A dataset over the dimension ``datum``, all in nats per datum where they are log densities:
        ``log_evidence``; ``se``, its standard error (NaN for one sample); ``ess``, the effective sample size, between
        1 and K; ``khat``, the Pareto shape of the largest weights (-inf for equal weights, NaN below 25 samples); and
        ``elbo``. Its attributes: ``mean`` of log p(x) over data, ``mean_se`` (over the draw of data and of z),
        ``num_samples``, and ``flagged``, the number of data with k-hat above 0.7 or an estimate that is not finite. An
        exact sum has ``se`` 0, ``khat`` -inf and as ``ess`` the number of values summed over.

    Raises:
        DataError: The data do not fit the likelihood.
        ValueError: The pair has sites outside the data plate, or model and guide have different latents.

    Warns:
        UserWarning: Some data are flagged.
    """
    whole_number("seed", seed, at_least=0)
    whole_number("block_rows", block_rows, at_least=1)
    model, guide, rows, like = entrance(vae, x, c, num_samples)
    with torch.no_grad(), own_store(), mode(model, guide, training=False), pyro.validation_enabled(False):
        tiles = [
            _tile_evidence(model, guide, rows, tile, like, num_samples, (seed, number), block_rows)
            for number, tile in enumerate(rows.chunks(TILE_DATA))
        ]
    result = {name: torch.cat([tile[name] for tile in tiles]).numpy(force=True) for name in tiles[0]}
    return _dataset(result, num_samples)


def _tile_evidence(
    model: Callable,
    guide: Callable,
    rows: Rows,
    tile: slice,
    like: Tensor | None,
    num_samples: int,
    seed: tuple[int, int],
    block_rows: int,
) -> dict[str, Tensor]:
    """The estimates for one tile of data."""
    with seeded(seed_of(*seed)):
        batch = rows.batch(tile, like=like)
        if getattr(owner_of(guide), "is_discrete", False):
            return _summed(enumerated_terms(model, guide, batch, block_rows))
        sums = _Sums(num_samples, precision=torch.finfo(batch[0].dtype).eps)
        size = max(1, TILE_ROWS // min(TILE_DATA, len(rows)))
        for weights in _buffered(
            trace_terms(model, guide, batch, min(size, num_samples - done), block_rows)
            for done in range(0, num_samples, size)
        ):
            sums.add(weights)
        return sums.result()


def _summed(terms: Terms) -> dict[str, Tensor]:
    """The exact figures from terms of all values of a discrete latent."""
    log_joint, log_guide = (terms.log_likelihood + terms.log_prior).double(), terms.log_guide.double()
    log_evidence = log_joint.logsumexp(0)
    inside = log_guide > -math.inf
    elbo = torch.where(inside, log_guide.exp() * (log_joint - log_guide), 0.0).sum(0)
    zero = torch.zeros_like(log_evidence)
    exact = {"se": zero, "ess": zero + len(log_joint), "khat": zero - math.inf, "elbo": elbo}
    return {"log_evidence": log_evidence, **exact}


def _buffered(terms: Iterator[Terms]) -> Iterator[Tensor]:
    """Log weights, joined to blocks worth merging."""
    kept: list[Tensor] = []
    for part in terms:
        kept.append(part.log_weight)
        if sum(map(len, kept)) >= BUFFER:
            yield torch.cat(kept)
            kept = []
    if kept:
        yield torch.cat(kept)


class _Sums:
    """Running sums over the log weights of N data, and the tail of the largest: memory O(N), whatever K is."""

    def __init__(self, num_samples: int, precision: float) -> None:
        self.num_samples, self.tail_length, self.precision = num_samples, tail_length(num_samples), precision
        self.largest: Any = -math.inf  # the largest log weight so far
        self.shift: Any = 0.0  # the same, or 0 while it is infinite
        self.weight: Any = 0.0  # sum of w, relative to the shift
        self.square: Any = 0.0  # sum of w squared
        self.log: Any = 0.0  # sum of log w
        self.tail: Tensor | None = None

    def add(self, log_weight: Tensor) -> None:
        """Count weights of shape ``(K', N)``."""
        log_weight = log_weight.double()
        self.largest = torch.maximum(torch.as_tensor(self.largest).to(log_weight), log_weight.amax(0))
        shift = torch.where(self.largest.isfinite(), self.largest, 0.0)
        rescale = torch.where(torch.as_tensor(self.weight).to(shift) != 0, torch.exp(self.shift - shift), 0.0)
        self.weight = self.weight * rescale + torch.exp(log_weight - shift).sum(0)
        self.square = self.square * rescale**2 + torch.exp(2 * (log_weight - shift)).sum(0)
        self.log = self.log + log_weight.sum(0)
        self.shift = shift
        seen = log_weight if self.tail is None else torch.cat([self.tail, log_weight])
        self.tail = seen.topk(min(len(seen), self.tail_length + 1), dim=0).values

    def result(self) -> dict[str, Tensor]:
        """The estimates, each of shape ``(N,)``."""
        assert self.tail is not None
        num = self.num_samples
        ess = torch.where(self.weight > 0, self.weight**2 / self.square, 0 * self.weight)
        variance = (num / ess - 1).clamp(min=0) / (num - 1) if num > 1 else torch.full_like(ess, math.nan)
        return {
            "log_evidence": self.shift + self.weight.log() - math.log(num),
            "se": variance.sqrt(),
            "ess": ess,
            "khat": _fit_tail(self.tail, self.tail_length, self.precision),
            "elbo": self.log / num,
        }


def khat(log_weight: Tensor) -> Tensor:
    """The Pareto shape of the largest importance weights (PSIS, Vehtari et al., 2024).

    Arguments:
        log_weight: Log importance weights of shape ``(K, N)``.

    Returns:
        k-hat of shape ``(N,)``: below 0.7 the estimate can be trusted; -inf for weights that are equal up to rounding
        (a perfect guide), inf where the tail is beyond floating point, NaN for fewer than 25 weights or a weight that
        is NaN or inf.

    Raises:
        ValueError: The weights are no matrix of at least one sample.
    """
    if log_weight.dim() != 2 or len(log_weight) == 0:
        raise ValueError(f"khat needs log weights of shape (K, N); got {tuple(log_weight.shape)}")
    length = tail_length(len(log_weight))
    tail = log_weight.double().topk(min(len(log_weight), length + 1), dim=0).values
    return _fit_tail(tail, length, torch.finfo(log_weight.dtype).eps)


def tail_length(num_samples: int) -> int:
    """How many of the weights are the tail."""
    return math.floor(3 * math.sqrt(num_samples)) if num_samples > 225 else num_samples // 5


def _fit_tail(descending: Tensor, length: int, precision: float) -> Tensor:
    """k-hat, shape ``(N,)``, from the largest log weights ``(length + 1, N)``, known to a relative `precision`."""
    if length < 5:
        return torch.full_like(descending[0], math.nan)
    rounding = 100 * precision * descending[0].abs().clamp(min=1)
    weights = torch.exp(descending - descending[0])
    excess = (weights[:-1] - weights[-1]).flip(0)
    shape = _generalized_pareto_shape(excess)
    spread = descending[0] - descending[-1]
    shape = torch.where(shape.isnan(), torch.where(spread < TIED, -math.inf, math.inf), shape)
    shape = torch.where(spread <= rounding, -math.inf, shape)
    return torch.where(descending[0].isfinite(), shape, math.nan)


def _generalized_pareto_shape(x: Tensor) -> Tensor:
    """The posterior mean of the shape k, given excesses of shape ``(T, N)`` in ascending order.

    Zhang & Stephens (2009, https://doi.org/10.1198/tech.2009.08017): a grid of values of b = k / sigma, weighted by
    their profile likelihood; then the prior of Vehtari et al. (2024, appendix C), ten observations of k = 0.5.
    """
    num = len(x)
    grid = torch.arange(1, 31 + math.isqrt(num), dtype=x.dtype, device=x.device)
    quartile = x[int(num / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - torch.sqrt(len(grid) / (grid - 0.5)))[:, None] / (3 * quartile)
    k = torch.stack([torch.log1p(-b_j * x).mean(0) for b_j in b])
    weight = torch.softmax(num * (torch.log(-b / k) - k - 1), dim=0)
    weight = torch.where(weight >= 10 * torch.finfo(x.dtype).eps, weight, 0.0)
    best = (b * weight).sum(0) / weight.sum(0)
    return (num * torch.log1p(-best * x).mean(0) + 5) / (num + 10)


def _dataset(result: dict[str, np.ndarray], num_samples: int) -> xarray.Dataset:
    log_evidence, khat = result["log_evidence"], result["khat"]
    num = len(log_evidence)
    with np.errstate(invalid="ignore", over="ignore"):  # a datum that the model cannot have made: -inf, its error NaN
        mean = log_evidence.mean()
        mean_se = log_evidence.std(ddof=1) / math.sqrt(num) if num > 1 else result["se"][0]
    heavy, undefined = khat > KHAT_LIMIT, ~np.isfinite(log_evidence)
    flagged = int(np.sum(heavy | undefined))
    if flagged:
        warnings.warn(
            f"log p(x) of {flagged} of {num} data cannot be trusted: k-hat is above {KHAT_LIMIT} for "
            f"{int(heavy.sum())} of them, the estimate not finite for {int(undefined.sum())}; "
            f"fit the guide with beta=2.0 and the model held fixed, take a richer guide, or raise num_samples",
            stacklevel=3,
        )
    return xarray.Dataset(
        {name: ("datum", values) for name, values in result.items()},
        coords={"datum": np.arange(num)},
        attrs={
            "mean": float(mean),
            "mean_se": float(mean_se),
            "num_samples": num_samples,
            "flagged": flagged,
            "unit": "nats per datum",
        },
    )
