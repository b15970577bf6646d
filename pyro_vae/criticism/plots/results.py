"""Pictures of results: log p(x), its bounds, the guide against MCMC, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...evidence.pareto import KHAT_LIMIT
from .figure import new_figure

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def bounds(curves: Mapping[str, Mapping[int, xarray.Dataset]]) -> Figure:
    """The mean of log p(x) against the number of samples K, with a band of two standard errors.

    All estimators together on the left; the best of them on a scale of its own on the right.

    Arguments:
        curves: For each estimator, results of :func:`~pyro_vae.log_evidence` by K.
    """
    best = max(curves, key=lambda label: curves[label][max(curves[label])].attrs["mean"])
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    for number, (label, results) in enumerate(curves.items()):
        for axes in (left, right) if label == best else (left,):
            _draw_curve(axes, label, results, f"C{number}")
    left.set_ylabel(r"mean of log $\hat p_K(x)$ in nats")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="samples K for each datum")
        axes.legend(frameon=False, loc="lower right")
    return figure


def _draw_curve(axes: Axes, label: str, results: Mapping[int, xarray.Dataset], colour: str) -> None:
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
    figure = new_figure(11.0, 3.4)
    left, middle, right = figure.subplots(1, 3)
    for axes, name, exact, label in (
        (left, "mean_error", 0.0, "guide's mean less MCMC's, in posterior sd"),
        (middle, "sd_ratio", 1.0, "guide's sd over MCMC's"),
    ):
        axes.hist(comparison[name].values.ravel(), bins=40, color="C0", alpha=0.8)
        axes.axvline(exact, color="black", linewidth=1.0, linestyle="--")
        axes.set(xlabel=label, ylabel="data and latents" if axes is left else "")
    _draw_kl(right, comparison)
    return figure


def _draw_kl(axes: Axes, comparison: xarray.Dataset) -> None:
    """KL by datum, in increasing order, with two standard errors."""
    order = np.argsort(comparison.kl.values)
    kl = comparison.kl.values[order]
    error = comparison.kl_se.values[order]
    kl_is = comparison.kl_is.values[order]
    for word, colour in (("estimate", "C0"), ("at least", "C3")):
        group = kl_is == word
        if group.any():
            axes.errorbar(
                np.flatnonzero(group),
                kl[group],
                2 * error[group],
                fmt=".",
                color=colour,
                elinewidth=0.8,
                label=word,
            )
    axes.set(
        xlabel="data, in order",
        ylabel="KL(q‖p) in nats ± 2 SE",
        ylim=(min(0.0, float(kl.min())), None),
    )
    axes.legend(frameon=False, loc="upper left")


def calibration(found: xarray.Dataset) -> Figure:
    """The ranks of true latents among draws of the guide: their distribution function less that of
    a uniform, inside a band where an exact guide stays.

    The band holds a whole curve with 95 % (Massart, 1990). A curve that rises first: many truths
    lie low among the draws.

    Arguments:
        found: What :func:`~pyro_vae.calibrate` gave.
    """
    figure = new_figure(5.5, 3.6)
    axes = figure.subplots()
    at = np.linspace(0, 1, 201)
    band = math.sqrt(math.log(2 / 0.05) / (2 * found.sizes["simulation"]))
    axes.fill_between(at, -band, band, color="0.85", label="95 % of exact guides")

    for number, name in enumerate(found.quantity.values):
        rank = np.sort(found["rank"].values[:, number])
        share = np.searchsorted(rank, at, side="right") / len(rank)
        whole = name == "log_joint"  # the others are one latent dimension each
        axes.plot(
            at,
            share - at,
            color="black" if whole else f"C{number % 10}",
            linewidth=1.6 if whole else 1.0,
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


def evidence(result: xarray.Dataset) -> Figure:
    """log p(x) of all data, the k-hat that says which to trust, and the mean of log p_K against K.

    Arguments:
        result: What :func:`~pyro_vae.log_evidence` gave, or
            :func:`~pyro_vae.annealed_log_evidence`.
    """
    _require("evidence", result, "curve", "log_evidence or annealed_log_evidence")
    figure = new_figure(12.5, 3.4)
    left, middle, right = figure.subplots(1, 3)

    values = result.log_evidence.values
    left.hist(values[np.isfinite(values)], bins=40, color="C0", alpha=0.8)
    left.axvline(result.attrs["mean"], color="black", linewidth=1.0, linestyle="--")
    left.set(xlabel="log p(x) in nats, dashed: the mean", ylabel="data")

    khat = result.khat.values
    known = np.isfinite(khat)
    colours = np.where(khat[known] > KHAT_LIMIT, "C3", "C0")
    middle.scatter(np.flatnonzero(known), khat[known], s=8, c=colours)
    middle.axhline(KHAT_LIMIT, color="black", linewidth=1.0, linestyle="--")
    middle.set(xlabel="datum", ylabel=f"k-hat, above {KHAT_LIMIT}: a lower bound only")

    _draw_rise(right, result)
    return figure


def _require(who: str, result: object, name: str, source: str) -> None:
    """Raise unless `result` is a data set with a variable `name`."""
    import xarray

    if not isinstance(result, xarray.Dataset) or name not in result:
        raise TypeError(
            f"plots.{who} needs what {source} gave; got {type(result).__name__} without {name!r}"
        )


def _draw_rise(axes: Axes, result: xarray.Dataset) -> None:
    """The mean over data of log p_K against K.

    The band is two standard errors: of the last value, and of how far the curve still has to rise
    to it.
    """
    draws = result["num_samples" if "num_samples" in result else "chains"]
    last = result.log_evidence.values
    particles = result.particles.values
    complete = result.curve.notnull().all("datum").values & (particles < int(draws.min()))
    curve = result.curve.values[complete]

    at = np.append(particles[complete], int(draws.max()))
    mean = np.append(curve.mean(1), last.mean())
    rise = np.append((curve - last).std(1), 0.0) / math.sqrt(result.sizes["datum"])
    error = 2 * np.hypot(rise, result.attrs["mean_mc_se"])

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
    _require("bidirectional", found, "upper", "bidirectional_log_evidence")
    figure = new_figure(9.0, 3.4)
    left, right = figure.subplots(1, 2)
    order = np.argsort(found.log_evidence.values)
    at = np.arange(len(order))
    left.plot(at, found.upper.values[order], ".", color="C3", markersize=5, label="upper bound")
    lower = found.log_evidence.values[order]
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
