"""Pictures of a model: what it reconstructs, what it draws, its latents, its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...distributions.summaries import mean_of, mode_of
from ...guards import mode, seeded
from ...vae import VAE
from ..latents import embed
from .figure import new_figure

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST = 64  # pixels of a flat row that is shown as an image
NAMED = 40  # features whose names can be read beside each other


def reconstructions(vae: VAE, x: Any, *, seed: int = 0) -> Figure:
    """Each datum above its reconstruction.

    Arguments:
        vae: A VAE over square images.
        x: Data of shape ``(N, *X)``.
        seed: The seed of the draws from the guide.
    """
    above = _as_images(vae.check(x).take(slice(None)))
    below = _as_images(vae.reconstruct(x, seed=seed))
    limits = float(above.min()), float(above.max())

    figure = new_figure(0.75 * len(above), 2.0)
    grid = figure.subplots(2, len(above), squeeze=False)
    for row, images in zip(grid, (above, below), strict=True):
        for axes, image in zip(row, images, strict=True):
            _show(axes, image, limits)
    grid[0][0].set_ylabel("data")
    grid[1][0].set_ylabel("model")
    return figure


def samples(vae: VAE, *, rows: int = 5, columns: int = 12, seed: int = 0) -> Figure:
    """What the model makes of draws from its prior: the mean of p(x|z), or its mode where it has no
    mean.

    Arguments:
        vae: A VAE over square images.
        rows: The number of rows of images.
        columns: The number of columns of images.
        seed: The seed of the draws from the prior.
    """
    with torch.no_grad(), seeded(seed), mode(vae, training=False):
        decoded = vae.decode(vae.prior_of(None).expand(torch.Size([rows * columns])).sample())
        mean = mean_of(decoded)
        known = mean.isfinite()
        images = _as_images(mean if known.all() else torch.where(known, mean, mode_of(decoded)))

    figure = new_figure(0.6 * columns, 0.6 * rows)
    limits = float(images.min()), float(images.max())
    for axes, image in zip(figure.subplots(rows, columns).flat, images, strict=True):
        _show(axes, image, limits)
    return figure


def _as_images(x: Tensor) -> np.ndarray:
    """Data of shape ``(N, *X)`` as N images, where X is a square, flat or not."""
    images = x.reshape(len(x), -1).numpy(force=True)
    side = math.isqrt(images.shape[1])
    if side * side != images.shape[1]:
        raise ValueError(f"a picture needs square images; got data of shape {tuple(x.shape[1:])}")
    return images.reshape(-1, side, side)


def _show(axes: Axes, image: np.ndarray, limits: tuple[float, float]) -> None:
    axes.imshow(image, cmap="gray_r", vmin=limits[0], vmax=limits[1])
    axes.set_xticks([])
    axes.set_yticks([])


def latent_space(vae: VAE, x: Any, labels: Sequence[Any] | np.ndarray) -> Figure:
    """Where the guide puts the data: means of q(z|x), as :func:`~pyro_vae.embed` places them.

    Arguments:
        vae: A VAE.
        x: Data of shape ``(N, *X)``.
        labels: A class for each datum; it gives the colour of the point, nothing else.
    """
    labels, placed = np.asarray(labels), embed(vae, x)
    if len(labels) != len(placed):
        raise ValueError(
            f"latent_space needs a label for each datum; got {len(labels)} labels, {len(placed)} "
            "data"
        )

    figure = new_figure(6.0, 5.0)
    axes = figure.subplots()
    for label in np.unique(labels):
        across, up = placed.to_numpy()[labels == label].T
        axes.scatter(across, up, s=14, alpha=0.8, color=_colour(label, labels), label=str(label))
    across, up = (str(name).replace("_", " ") for name in placed)
    axes.set(xlabel=across, ylabel=up, title="means of q(z | x)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def traversal(found: xarray.Dataset) -> Figure:
    """What each latent dimension does: of square images from 8 x 8 a row of them for each, else how
    far the mean of each feature goes.

    Arguments:
        found: What :func:`~pyro_vae.traverse` gave.
    """
    if "quantile" not in found.coords or "mean" not in found:
        raise TypeError(f"traversal needs what traverse gave; got {list(found)}")
    means = found["mean"].values.reshape(found.sizes["dimension"], found.sizes["step"], -1)
    names = [f"z {number}" for number in found.dimension.values]
    if means.shape[2] >= SMALLEST and math.isqrt(means.shape[2]) ** 2 == means.shape[2]:
        return _rows_of_images(means, names)
    features = found["feature"].values if "feature" in found.coords else np.arange(means.shape[2])
    return _changes(means[:, -1] - means[:, 0], names, features)


def interpolation(found: xarray.Dataset) -> Figure:
    """From one image to another: a row for each pair.

    Arguments:
        found: What :func:`~pyro_vae.interpolate` gave for square images.
    """
    if "share" not in found.coords or "mean" not in found:
        raise TypeError(f"interpolation needs what interpolate gave; got {list(found)}")
    means = found["mean"].values.reshape(found.sizes["pair"], found.sizes["step"], -1)
    return _rows_of_images(means, [f"pair {number}" for number in found.pair.values])


def _rows_of_images(means: np.ndarray, names: list[str]) -> Figure:
    num, steps, _ = means.shape
    figure = new_figure(0.75 * steps + 0.5, 0.75 * num)
    limits = float(means.min()), float(means.max())
    grid = figure.subplots(num, steps, squeeze=False)
    for row, name, mean in zip(grid, names, means, strict=True):
        row[0].set_ylabel(name)
        for axes, image in zip(row, _as_images(torch.as_tensor(mean)), strict=True):
            _show(axes, image, limits)
    return figure


def _changes(change: np.ndarray, names: list[str], features: np.ndarray) -> Figure:
    """A cell for each feature and dimension, of shape ``(dimensions, features)``: as features have
    units of their own, each is in units of its largest change.
    """
    largest = np.abs(change).max(0)
    relative = change / np.where(largest > 0, largest, 1.0)
    height = max(2.0, 0.22 * min(len(features), NAMED) + 0.8)
    figure = new_figure(0.5 * len(names) + 4.0, height)
    axes = figure.subplots()
    shown = axes.imshow(relative.T, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names)
    if len(features) <= NAMED:
        axes.set_yticks(range(len(features)), [str(feature) for feature in features])
    label = "change of the mean, in units\nof its largest over latents"
    figure.colorbar(shown, ax=axes, label=label)
    return figure


def _colour(label: Any, labels: np.ndarray) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](int(np.searchsorted(np.unique(labels), label)) % 10)


def training(history: pandas.DataFrame) -> Figure:
    """Loss and validation loss by epoch; the KL of the guide from the prior and the mutual
    information of x and z.

    Arguments:
        history: What :func:`~pyro_vae.fit` gave.
    """
    figure = new_figure(9.0, 3.2)
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("loss", "validation")), (right, ("kl", "mutual_information"))):
        for name in names:
            if name in history:
                axes.plot(history.epoch, history[name], label=name.replace("_", " "))
        axes.set(xlabel="epoch", ylabel="nats per datum")
        axes.legend(frameon=False)

    # the first tenth of the epochs would set the scale
    settled = history.filter(items=["loss", "validation"]).iloc[len(history) // 10 :].values
    spread = np.ptp(settled)
    left.set_ylim(settled.min() - 0.05 * spread - 1e-3, settled.max() + 0.1 * spread + 1e-3)
    return figure
