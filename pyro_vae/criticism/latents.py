"""What the latents mean: what each dimension does to the data, where the data lie, and what lies
between two of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..assembly.streams import joined, rows_at_once
from ..data.columns import index_of
from ..data.rows import DataError, Rows
from ..distributions.summaries import mean_or_average, mode_of
from ..distributions.supports import base_of
from ..guards import mode, seeded, whole_number
from ..posterior.trees import dataset, features
from ..training.free_bits import element_of, kl_by_part
from ..vae import VAE

if TYPE_CHECKING:
    import pandas
    import xarray

LOWEST, HIGHEST = 0.02, 0.98  # quantiles of the prior, between which a dimension is moved
DRAWS = 10_000  # of a prior whose quantiles are not known
AVERAGED = 1000  # draws behind a mean that is not known
ROWS = 1024  # of which the KL is found at once
SCORED = 8  # draws of each guide, for a KL that is not known


def traverse(
    vae: VAE,
    x: Any = None,
    c: Any = None,
    *,
    dimensions: Sequence[int] | None = None,
    steps: int = 7,
    at: int | None = None,
    seed: int = 0,
) -> xarray.Dataset:
    """What each latent dimension does: the mean of p(x|z) while it moves and the others stay.

    It moves from the prior's quantile 0.02 to 0.98; the others stay at the prior's mean (at its
    median where it has no mean), or at what the guide says of one datum.

    Arguments:
        vae: A VAE with continuous latents that can move one by one.
        x: Data of shape ``(N, *X)``, NaN where missing: they give the order of the dimensions.
        c: What a conditional VAE is conditional on, a row for each datum.
        dimensions: Which to show, in this order, as numbers of flattened latents; left out, all, by
            their KL over x, the largest first.
        steps: How many values each takes, at equal distances of the quantile.
        at: The number of the datum in x at whose posterior mean, and c, the others stay.
        seed: The seed of the draws, where quantiles, means or the KL are not known.

    Returns:
        A dataset with ``mean``, over dimension, step and the dimensions of the data (the mode where
        there is no mean, as of classes); ``z``, the value of the latent, over dimension and step;
        and, where x is given and prior and guide factorise, ``kl`` over dimension, in nats per
        datum. Its coordinates: ``dimension``, and ``quantile`` of each step.

    Raises:
        DataError: The data do not fit the likelihood.
        TypeError: `vae` is no VAE.
        ValueError: The latents are discrete, or cannot move one by one; a number is out of range;
            `at` is given without x, or is missing for a conditional VAE.
    """
    whole_number("steps", steps, at_least=2)
    _check_latents(vae)
    rows = None if x is None else vae.check(x, c)
    _check_at(vae, rows, at)
    size = vae.prior.event_shape.numel()
    if dimensions is not None and (isinstance(dimensions, int) or not len(dimensions)):
        raise ValueError(f"traverse needs a list of one dimension at least; got {dimensions!r}")
    for number in dimensions or ():
        whole_number("every number in dimensions", number, at_least=0, at_most=size - 1)

    quantiles = torch.linspace(LOWEST, HIGHEST, steps).to(vae.reference)
    with torch.no_grad(), seeded(seed), mode(vae, training=False):
        kl = None if rows is None else _kl(vae, rows)
        by_kl = np.arange(size) if kl is None else np.argsort(-kl, kind="stable")
        shown = by_kl if dimensions is None else np.array(dimensions, dtype=int)
        base, given, prior = _stays(vae, rows, at)
        values = _quantiles(prior, quantiles)
        z = base.flatten().expand(len(shown), steps, size).clone()
        for row, number in zip(z, shown.tolist(), strict=True):
            row[:, number] = values[:, number]
        z = z.reshape(len(shown), steps, 1, *vae.prior.event_shape)
        mean = _mean(vae.likelihood_of(z, given)).squeeze(2)

    leading = "dimension", "step"
    moved = values.T[shown].numpy(force=True)
    found = dataset({"mean": mean.numpy(force=True)}, leading, "feature")
    found = found.merge(dataset({"z": moved}, leading, ""))
    if kl is not None:
        found["kl"] = ("dimension", kl[shown])
    if vae.columns is not None:
        found = found.assign_coords(feature=vae.columns)
    quantile = ("step", quantiles.numpy(force=True))
    return found.assign_coords(dimension=shown, quantile=quantile)


def _check_latents(vae: VAE) -> None:
    if not isinstance(vae, VAE):
        raise TypeError(f"traverse needs a VAE; got {type(vae).__name__}")
    support = vae.prior.support
    if vae.is_discrete or base_of(support).event_dim:
        raise ValueError(
            "traverse moves latents one by one, so it needs numbers that are free to; got a prior "
            f"on {support}; decode some z of your own"
        )


def _check_at(vae: VAE, rows: Rows | None, at: int | None) -> None:
    if at is not None:
        if rows is None:
            raise ValueError(f"traverse needs x to stay at a datum of it; got at={at!r} alone")
        whole_number("at", at, at_least=0, at_most=len(rows) - 1)
    elif vae.condition is not None:
        raise ValueError(
            "traverse of a conditional VAE needs at=, the number of a datum in x, whose c it keeps"
        )


def _kl(vae: VAE, rows: Rows) -> np.ndarray | None:
    """The mean KL of each latent dimension; none where they are not independent."""
    total: Any = 0.0
    for place in rows.chunks(ROWS):
        x, *given = rows.batch(place, like=vae.reference)
        c = vae.encode_condition(len(x), *given)
        shape = torch.Size([SCORED, len(x)])
        guide, prior = vae.guide_of(x, c).expand(shape), vae.prior_of(c).expand(shape)
        total = total + kl_by_part(guide, prior, guide.sample()).double().sum(0) / SCORED
    size = vae.prior.event_shape.numel()
    return total.numpy(force=True) / len(rows) if total.numel() == size else None


def _stays(
    vae: VAE, rows: Rows | None, at: int | None
) -> tuple[Tensor, Tensor | None, TorchDistribution]:
    """Where latents stay, c as the parts read it, and the prior, of batch shape ``(1,)``."""
    if rows is None or at is None:
        prior = vae.prior_of(None).expand(torch.Size([1]))
        median = _quantiles(prior, torch.tensor([0.5]).to(vae.reference))
        try:
            mean = prior.mean.reshape(median.shape)
        except NotImplementedError:
            mean = median
        return torch.where(mean.isfinite(), mean, median), None, prior
    x, *given = rows.batch(slice(at, at + 1), like=vae.reference)
    c = vae.encode_condition(1, *given)
    prior = vae.prior_of(c).expand(torch.Size([1]))
    return mean_or_average(vae.guide_of(x, c), AVERAGED), c, prior


def _quantiles(prior: TorchDistribution, quantiles: Tensor) -> Tensor:
    """Those of each latent dimension, of shape ``(S, dimensions)``."""
    element = element_of(prior)
    if element is not None:
        with contextlib.suppress(NotImplementedError):
            by_element = quantiles.reshape(-1, *[1] * len(element.batch_shape))
            return element.icdf(by_element).reshape(len(quantiles), -1)
    drawn = prior.sample(torch.Size([DRAWS])).reshape(DRAWS, -1)
    return drawn.quantile(quantiles.to(drawn), dim=0)


def _mean(decoded: TorchDistribution) -> Tensor:
    """The mean; the mode where it has none, the average of draws where it is not known."""
    try:
        mean = decoded.mean
    except NotImplementedError:
        return mean_or_average(decoded, AVERAGED)
    known = mean.isfinite()
    return mean if bool(known.all()) else torch.where(known, mean, mode_of(decoded))


def embed(vae: VAE, x: Any, c: Any = None, *, seed: int = 0) -> pandas.DataFrame:
    """Where the guide puts the data, in a plane: the means of q(z|x).

    Two latents are the plane; of more these are the first two principal components of the means.

    Arguments:
        vae: A VAE with two latents or more.
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What a conditional VAE is conditional on, a row for each datum.
        seed: The seed of the draws, where a mean is not known.

    Returns:
        A frame with a row for each datum, under the names of the rows of x, and two columns:
        ``z_0`` and ``z_1``, or ``component_0`` and ``component_1``. Its attribute ``share`` is the
        share that each column has of the variance of the means.

    Raises:
        DataError: The data do not fit the likelihood.
        TypeError: `vae` is no VAE.
        ValueError: There is one latent, or one datum.
    """
    import pandas
    from sklearn.decomposition import PCA

    if not isinstance(vae, VAE):
        raise TypeError(f"embed needs a VAE, and x beside it; got {type(vae).__name__}")
    with torch.no_grad(), seeded(seed), mode(vae, training=False):
        encoded = mean_or_average(vae.encode(x, c), AVERAGED)
        means = encoded.flatten(1).double().numpy(force=True)
    if min(means.shape) < 2:
        raise ValueError(
            f"embed needs two data and two latents at least; got means of shape {means.shape}"
        )
    names, placed = ["z_0", "z_1"], means
    if means.shape[1] > 2:
        names = ["component_0", "component_1"]
        with np.errstate(invalid="ignore"):  # its shares, of a guide that has collapsed
            placed = PCA(2, svd_solver="full").fit_transform(means)
    frame = pandas.DataFrame(placed, columns=names, index=index_of(x))
    total = means.var(0).sum()
    frame.attrs["share"] = (placed.var(0) / total if total else np.zeros(2)).tolist()
    return frame


def interpolate(
    vae: VAE, a: Any, b: Any, c: Any = None, *, steps: int = 9, seed: int = 0
) -> xarray.Dataset:
    """From one datum to another: the mean of p(x|z) on the way between their latents.

    The way is straight in unconstrained space, from the mean of the guide there for a row of `a` to
    that for the same row of `b`. So it stays on the support of the prior, and it ends at what the
    model keeps of the two data.

    Arguments:
        vae: A VAE with continuous latents.
        a: Data of shape ``(N, *X)``, NaN where missing: where the ways start.
        b: As many data: where they end.
        c: What a conditional VAE is conditional on, a row for each pair, the same all the way.
        steps: How many points a way has, at equal distances, with both ends.
        seed: The seed of the draws, where a mean is not known.

    Returns:
        A dataset with ``mean``, over pair, step and the dimensions of the data (the mode where
        there is no mean, as of classes), and ``z``, the latents, over pair, step and the dimensions
        of the latents. The coordinate ``share`` of each step goes from 0 in `a` to 1 in `b`.

    Raises:
        DataError: The data do not fit the likelihood, or there are more of `a` than of `b`, or
            fewer.
        TypeError: `vae` is no VAE.
        ValueError: The latents are discrete, or `steps` is no whole number from 2.
    """
    whole_number("steps", steps, at_least=2)
    if not isinstance(vae, VAE):
        raise TypeError(f"interpolate needs a VAE; got {type(vae).__name__}")
    if vae.is_discrete:
        raise ValueError(
            "interpolate needs latents that are continuous; got a prior on "
            f"{vae.prior.support}; decode each of their values in its place"
        )
    starts, ends = vae.check(a, c), vae.check(b, c)
    if len(starts) != len(ends):
        raise DataError(
            f"interpolate needs as many rows of b as of a; got {len(ends)} and {len(starts)}; give "
            "both ends of a pair the same place"
        )

    shares = torch.linspace(0, 1, steps, dtype=torch.float64).to(vae.reference)
    places = list(starts.chunks(rows_at_once(vae, steps)))
    with torch.no_grad(), seeded(seed), mode(vae, training=False):
        ways = [_way(vae, starts, ends, place, shares) for place in places]
    z, mean = (
        joined(zip(places, parts, strict=True), len(starts)).numpy(force=True)
        for parts in zip(*ways, strict=True)
    )
    leading = "pair", "step"
    found = features({"mean": mean}, leading, starts).merge(dataset({"z": z}, leading, "latent"))
    return found.assign_coords(share=("step", shares.numpy(force=True)))


def _way(vae: VAE, starts: Rows, ends: Rows, place: slice, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of some pairs, of shape ``(N, steps, *Z)``, and the mean of p(x|z) for each."""
    start, c = _guide_mean(vae, starts, place)
    end, _ = _guide_mean(vae, ends, place)
    z = torch.lerp(start, end, shares.reshape(-1, *[1] * start.dim()))
    if vae.bijection is not None:
        z = vae.bijection(z.double())  # in single precision it would reach the edge
    return z.transpose(0, 1), _mean(vae.likelihood_of(z, c)).transpose(0, 1)


def _guide_mean(vae: VAE, rows: Rows, place: slice) -> tuple[Tensor, Tensor | None]:
    """The means in unconstrained space, of shape ``(N, *U)``, and c as the parts read it."""
    x, *given = rows.batch(place, like=vae.reference)
    c = vae.encode_condition(len(x), *given)
    return mean_or_average(vae.unconstrained_guide_of(x, c), AVERAGED), c
