"""Means over the posterior
========================

Means over the posterior, with a guide that is wrong: three ways, beside the exact answer.

How many falls a year does a ward have to expect, and is it more than five? Counts of 60 wards are
Poisson, their rates gamma, so that each posterior is a gamma known in closed form. The guide is too
simple: log-normal, of one width for all wards, its location linear in the count. The plain mean
over its draws is as wrong as it is, and does not say so. `expect` weighs the draws: its means come
with a standard error, and with a flag where that is not to be trusted; with a tolerance it climbs
to better proposals there, and `posterior=` takes draws of MCMC.

Run it: python examples/17_posterior_means.py
"""

import warnings
from pathlib import Path

import numpy as np
import torch
import typer
import xarray
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

import pyro_vae as pv

SHAPE, RATE = 2.0, 0.5  # of the rates of wards
MANY = 5.0  # falls a year
NAMES = ["rate", "more than 5"]


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Fit, find the means in four ways, hold them against the truth, draw a picture."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(SHAPE, 1 / RATE, (20 if small else 60, 1)))
    exact = stats.gamma(SHAPE + x, scale=1 / (RATE + 1))
    truth = np.concatenate([exact.mean(), exact.sf(MANY)], axis=1)
    torch.manual_seed(seed)
    vae = pv.VAE(
        pv.Gamma((1,), concentration=SHAPE, rate=RATE),
        pv.Amortised(torch.nn.Identity(), pv.Poisson((1,), links={"rate": "identity"})),
        pv.Amortised(pv.MLP(1, 1, hidden=[]), pv.Normal((1,), scale=0.25)),
    )
    pv.fit(vae, x, epochs=200, learning_rate=0.02, seed=seed, progress=False)

    with torch.no_grad():
        plain = questions(vae.encode(x).sample(torch.Size([20_000])), x).mean(0).numpy()
    draws = 500 if small else 2000
    options = {"names": NAMES, "seed": seed}
    chains = pv.sample_posterior(vae, x, num_samples=draws, warmup=200, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the flags, which the table shows
        found = {
            "guide's draws weighed": pv.expect(vae, x, questions, num_samples=500, **options),
            "with a tolerance": pv.expect(vae, x, questions, tolerance=0.05, **options),
            "draws of MCMC": pv.expect(vae, x, questions, posterior=chains, **options),
        }
    print(f"{len(x)} wards; mean distance from the exact answer, and that in standard errors")
    print("                         rate   P(more than 5)   in SE   flagged")
    off = np.abs(plain - truth).mean(0)
    print(f"guide's draws         {off[0]:7.3f} {off[1]:16.3f}    none      none")
    in_errors = {}
    for name, result in found.items():
        apart = result["mean"].values - truth
        off, flagged = np.abs(apart).mean(0), result.flag.values != ""
        in_errors[name] = np.sqrt(np.mean((apart / result.se.values)[~flagged] ** 2))
        print(
            f"{name:21} {off[0]:7.3f} {off[1]:16.3f} {in_errors[name]:7.2f} {flagged.mean():9.0%}"
        )
        assert off[0] < 0.5 * np.abs(plain - truth).mean(0)[0]
        assert 0.6 < in_errors[name] < 1.6, "standard errors are about as large as the errors"
    assert (found["with a tolerance"].flag != "").mean() < 0.05

    out.mkdir(parents=True, exist_ok=True)
    picture(plain, found["guide's draws weighed"], truth).savefig(out / "17_posterior_means.png")


def questions(z: Tensor, x: Tensor) -> Tensor:
    """The rate, and whether it is more than five: two numbers for each draw."""
    return torch.cat([z, (z > MANY).to(z)], dim=-1)


def picture(plain: np.ndarray, found: xarray.Dataset, truth: np.ndarray) -> Figure:
    """Both answers to both questions against the exact one; bars are two standard errors."""
    figure = Figure(figsize=(9.5, 4.2), dpi=120, layout="constrained")
    titles = "expected falls a year", "probability of more than 5"
    for number, (axes, title) in enumerate(zip(figure.subplots(1, 2), titles, strict=True)):
        exact, mean = truth[:, number], found["mean"].values[:, number]
        error = 2 * found.se.values[:, number]
        axes.axline((0, 0), slope=1, color="0.7")
        axes.plot(exact, plain[:, number], "s", color="C1", label="mean of the guide")
        axes.errorbar(exact, mean, error, fmt="o", ms=4, color="C0", label="expect")
        flagged = found.flag.values[:, number] != ""
        axes.plot(exact[flagged], mean[flagged], "o", ms=11, mfc="none", color="C3")
        axes.set(xlabel="exact", ylabel="estimate", title=title)
        axes.legend(frameon=False)
    figure.supxlabel("red circles: flagged", fontsize="small", color="C3")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
