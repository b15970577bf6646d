"""Pictures. Each function returns a matplotlib figure and leaves pyplot's state alone;
``figure.savefig(path)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray
from torch import Tensor

from ..distributions.summaries import mean_of, mode_of
from ..guards import mode, seeded
from ..vae import VAE

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


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


def reconstructions(vae: VAE, x: Any, *, seed: int = 0) -> Figure:
    """Each datum above what the model keeps of it.

    Arguments:
        vae: A VAE over square images.
        x: Data of shape ``(N, *X)``.
        seed: The seed of the draws from the guide.
    """
    above = _as_images(vae.check(x).take(slice(None)))
    below = _as_images(vae.reconstruct(x, seed=seed))
    figure = _figure(0.75 * len(above), 2.0)
    grid = figure.subplots(2, len(above), squeeze=False)
    for row, images in zip(grid, (above, below), strict=True):
        for axes, image in zip(row, images, strict=True):
            _show(axes, image, (float(above.min()), float(above.max())))
    grid[0][0].set_ylabel("data")
    grid[1][0].set_ylabel("model")
    return figure


def samples(vae: VAE, *, rows: int = 5, columns: int = 12, seed: int = 0) -> Figure:
    """What the model makes of draws from its prior: the mean of p(x|z), or its mode where it has no
    mean.

    Arguments:
        vae: A VAE over square images.
        rows: Rows of images.
        columns: Columns of images.
        seed: The seed of the draws from the prior.
    """
    with torch.no_grad(), seeded(seed), mode(vae, training=False):
        decoded = vae.decode(vae.prior_of(None).expand(torch.Size([rows * columns])).sample())
        mean = mean_of(decoded)
        known = mean.isfinite()
        images = _as_images(mean if known.all() else torch.where(known, mean, mode_of(decoded)))
    figure = _figure(0.6 * columns, 0.6 * rows)
    for axes, image in zip(figure.subplots(rows, columns).flat, images, strict=True):
        _show(axes, image, (float(images.min()), float(images.max())))
    return figure


def latent_space(vae: VAE, x: Any, labels: Sequence[Any] | np.ndarray) -> Figure:
    """Where the guide puts the data: means of q(z|x), along their first two principal axes.

    Arguments:
        vae: A VAE.
        x: Data of shape ``(N, *X)``.
        labels: A class for each datum; they colour the points and play no other part.
    """
    labels = np.asarray(labels)
    with torch.no_grad(), seeded(0), mode(vae, training=False):
        z = vae.encode(x).sample(torch.Size([64])).mean(0).flatten(1).double()
    if len(labels) != len(z) or z.shape[1] < 2:
        got = f"{len(labels)} labels, {len(z)} data, {z.shape[1]} latents"
        raise ValueError(
            f"latent_space needs a label for each datum, and two latents or more; got {got}"
        )
    centred = z - z.mean(0)
    *_, directions = torch.linalg.svd(centred, full_matrices=False)
    plane = (centred @ directions[:2].T).numpy(force=True)
    figure = _figure(6.0, 5.0)
    axes = figure.subplots()
    for label in np.unique(labels):
        across, up = plane[labels == label].T
        axes.scatter(across, up, s=14, alpha=0.8, color=_colour(label, labels), label=str(label))
    axes.set(
        xlabel="first principal axis", ylabel="second principal axis", title="means of q(z | x)"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _colour(label: Any, labels: np.ndarray) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](int(np.searchsorted(np.unique(labels), label)) % 10)


def bounds(curves: Mapping[str, Mapping[int, xarray.Dataset]]) -> Figure:
    """The mean of log p(x) against the number of samples K, with a band of two standard errors.

    All estimators together on the left; the best of them on a scale of its own on the right.

    Arguments:
        curves: For each estimator, results of :func:`~pyro_vae.log_evidence` by K.
    """
    best = max(curves, key=lambda label: curves[label][max(curves[label])].attrs["mean"])
    figure = _figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    for number, (label, results) in enumerate(curves.items()):
        for axes in (left, right) if label == best else (left,):
            _curve(axes, label, results, f"C{number}")
    left.set_ylabel(r"mean of log $\hat p_K(x)$ in nats")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="samples K for each datum")
        axes.legend(frameon=False, loc="lower right")
    return figure


def _curve(axes: Axes, label: str, results: Mapping[int, xarray.Dataset], colour: str) -> None:
    num_samples = sorted(results)
    mean = np.array([results[k].attrs["mean"] for k in num_samples])
    error = 2 * np.array([results[k].attrs["mean_se"] for k in num_samples])
    axes.plot(num_samples, mean, marker="o", color=colour, label=f"{label} ± 2 SE")
    axes.fill_between(num_samples, mean - error, mean + error, color=colour, alpha=0.2)


def posteriors(comparison: xarray.Dataset) -> Figure:
    """The guide against MCMC: errors of the means, ratios of the standard deviations, KL by datum.

    Arguments:
        comparison: What :func:`~pyro_vae.compare_posteriors` gave.
    """
    figure = _figure(11.0, 3.4)
    left, middle, right = figure.subplots(1, 3)
    for axes, name, exact, label in (
        (left, "mean_error", 0.0, "guide's mean less MCMC's, in posterior sd"),
        (middle, "sd_ratio", 1.0, "guide's sd over MCMC's"),
    ):
        axes.hist(comparison[name].values.ravel(), bins=40, color="C0", alpha=0.8)
        axes.axvline(exact, color="black", linewidth=1.0, linestyle="--")
        axes.set(xlabel=label, ylabel="data and latents" if axes is left else "")
    order = np.argsort(comparison.kl.values)
    kl, error, trusted = (comparison[name].values[order] for name in ("kl", "kl_se", "khat"))
    for light, colour, label in (
        (trusted <= 0.7, "C0", "k-hat ≤ 0.7"),
        (trusted > 0.7, "C3", "k-hat > 0.7: at least"),
    ):
        if light.any():
            at = np.flatnonzero(light)
            right.errorbar(
                at, kl[light], 2 * error[light], fmt=".", color=colour, elinewidth=0.8, label=label
            )
    right.set(
        xlabel="data, in order",
        ylabel="KL(q‖p) in nats ± 2 SE",
        ylim=(min(0.0, float(kl.min())), None),
    )
    right.legend(frameon=False, loc="upper left")
    return figure


def calibration(found: xarray.Dataset) -> Figure:
    """Ranks against uniform: their distribution function less the diagonal, inside a band where the
    guide is right.

    The band holds a whole curve with 95 % (Massart, 1990). A curve that rises first: truths lie low
    among the draws.

    Arguments:
        found: What :func:`~pyro_vae.calibrate` gave.
    """
    figure = _figure(5.5, 3.6)
    axes = figure.subplots()
    at = np.linspace(0, 1, 201)
    band = math.sqrt(math.log(2 / 0.05) / (2 * found.sizes["simulation"]))
    axes.fill_between(at, -band, band, color="0.85", label="95 % of exact guides")
    for number, name in enumerate(found.quantity.values):
        rank = np.sort(found["rank"].values[:, number])
        share = np.searchsorted(rank, at, side="right") / len(rank)
        last = name == "log_joint"
        axes.plot(
            at,
            share - at,
            color="black" if last else f"C{number % 10}",
            linewidth=1.6 if last else 1.0,
            label=name,
        )
    verdict = "not rejected" if found.attrs["calibrated"] else "rejected"
    axes.set(
        xlabel="rank of the truth",
        ylabel="ECDF less the diagonal",
        title=f"p = {found.attrs['p_value']:.2g}: {verdict}",
    )
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    return figure


def training(history: pandas.DataFrame) -> Figure:
    """Loss and validation loss by epoch; the KL of the guide from the prior, and what it tells of
    x.

    Arguments:
        history: What :func:`~pyro_vae.fit` gave.
    """
    figure = _figure(9.0, 3.2)
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("loss", "validation")), (right, ("kl", "mutual_information"))):
        for name in (name for name in names if name in history):
            axes.plot(history.epoch, history[name], label=name.replace("_", " "))
        axes.set(xlabel="epoch", ylabel="nats per datum")
        axes.legend(frameon=False)
    losses = (
        history.filter(items=["loss", "validation"]).iloc[len(history) // 10 :].values
    )  # not the first steps
    left.set_ylim(
        losses.min() - 0.05 * np.ptp(losses) - 1e-3, losses.max() + 0.1 * np.ptp(losses) + 1e-3
    )
    return figure


def evidence(result: xarray.Dataset) -> Figure:
    """log p(x) of all data, the k-hat that says which to trust, and the mean of log p_K against K.

    Arguments:
        result: What :func:`~pyro_vae.log_evidence` gave, or
            :func:`~pyro_vae.annealed_log_evidence`.
    """
    _needs("evidence", result, "curve", "log_evidence or annealed_log_evidence")
    figure = _figure(12.5, 3.4)
    left, middle, right = figure.subplots(1, 3)
    values, shape = result.log_evidence.values, result.khat.values
    left.hist(values[np.isfinite(values)], bins=40, color="C0", alpha=0.8)
    left.axvline(result.attrs["mean"], color="black", linewidth=1.0, linestyle="--")
    left.set(xlabel="log p(x) in nats, dashed: the mean", ylabel="data")
    known = np.isfinite(shape)
    middle.scatter(
        np.flatnonzero(known), shape[known], s=8, c=np.where(shape[known] > 0.7, "C3", "C0")
    )
    middle.axhline(0.7, color="black", linewidth=1.0, linestyle="--")
    middle.set(xlabel="datum", ylabel="k-hat, above 0.7: a lower bound only")
    _rising(right, result)
    return figure


def _needs(who: str, result: Any, name: str, source: str) -> None:
    if not isinstance(result, xarray.Dataset) or name not in result:
        raise TypeError(
            f"plots.{who} needs what {source} gave; got {type(result).__name__} without {name!r}"
        )


def _rising(axes: Axes, result: xarray.Dataset) -> None:
    """The mean of log p_K over data, with a band of two standard errors of what it still rises to
    the last.
    """
    draws = result["num_samples" if "num_samples" in result else "chains"]
    last, num = result.log_evidence.values, result.sizes["datum"]
    whole = result.curve.notnull().all("datum").values & (
        result.particles.values < int(draws.min())
    )
    curve, at = (
        result.curve.values[whole],
        np.append(result.particles.values[whole], int(draws.max())),
    )
    mean = np.append(curve.mean(1), last.mean())
    missing = np.append((curve - last).std(1), 0.0) / math.sqrt(num)
    error = 2 * np.hypot(missing, result.attrs["mean_mc_se"])
    axes.plot(at, mean, marker="o", markersize=4, color="C0")
    axes.fill_between(
        at, mean - error, mean + error, color="C0", alpha=0.25, label="± 2 SE, for these data"
    )
    axes.set(
        xscale="log", xlabel="samples K for each datum", ylabel=r"mean of log $\hat p_K(x)$ in nats"
    )
    axes.legend(frameon=False, loc="lower right")


def bidirectional(found: xarray.Dataset) -> Figure:
    """Lower and upper bounds of log p(x) of simulated data, and the gap between them.

    Arguments:
        found: What :func:`~pyro_vae.bidirectional_log_evidence` gave.
    """
    _needs("bidirectional", found, "upper", "bidirectional_log_evidence")
    figure = _figure(9.0, 3.4)
    left, right = figure.subplots(1, 2)
    order = np.argsort(found.log_evidence.values)
    lower, upper = found.log_evidence.values[order], found.upper.values[order]
    at = np.arange(len(order))
    left.plot(at, upper, ".", color="C3", markersize=5, label="upper bound")
    left.plot(at, lower, ".", color="C0", markersize=5, label="lower bound")
    left.set(xlabel="simulated data, in order", ylabel="log p(x) in nats")
    left.legend(frameon=False, loc="upper left")
    right.hist(found.gap.values, bins=40, color="C0", alpha=0.8)
    right.axvline(found.attrs["gap"], color="black", linewidth=1.0, linestyle="--")
    right.set(
        xlabel="upper less lower bound, in nats",
        ylabel="data",
        title=f"mean gap {found.attrs['gap']:.3f} ± {found.attrs['gap_se']:.3f}",
    )
    return figure
