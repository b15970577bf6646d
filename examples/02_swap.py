"""Four priors times three likelihoods
===================================

Four priors times three likelihoods, swapped by name: which model of 8 x 8 digits has the largest
log p(x)?

All three likelihoods are probabilities of the grey levels 0..16, so log p(x) may be compared. The
same digits are scored each time, so differences are taken digit by digit: their standard errors are
far smaller than those of the means. Above a k-hat of 0.7 log p(x) is a lower bound rather than an
estimate; the picture shows for how many digits.

Run it: python examples/02_swap.py [--data FILE.npy]   (grey levels 0..16 of shape (images, 64))
"""

from pathlib import Path

import numpy as np
import torch
import typer
import xarray
from matplotlib.figure import Figure

import pyro_vae as pv

PRIORS = {
    "normal": "normal",
    "mixture": {"name": "mixture", "components": 10, "learned": True},
    "vamp": {"name": "vamp", "components": 50},
    "spline flow": {"name": "spline_flow", "learned": True},
}
LIKELIHOODS = {
    "binomial": "binomial",
    "beta-binomial": "beta_binomial",
    "discretized logistic": {"name": "discretized_logistic", "levels": 17},
}
Scores = dict[tuple[str, str], xarray.Dataset]


def main(small: bool = False, data: Path | None = None, out: Path = Path("runs/examples")) -> None:
    """Fit each pair, score held-out digits, compare with the first prior digit by digit, draw a
    picture.
    """
    x = pv.data.load("digits") if data is None else np.load(data)
    x = np.random.default_rng(0).permutation(x)
    train, validation, test = np.split(
        x[:600] if small else x, [-150, -100] if small else [-420, -240]
    )
    priors = {label: PRIORS[label] for label in list(PRIORS)[: 2 if small else None]}

    print(
        "likelihood            prior         log p(x) ± SE, nats   minus normal prior   k-hat > 0.7"
    )
    scores: Scores = {}
    for likelihood, prior in ((one, two) for one in LIKELIHOODS for two in priors):
        vae = pv.build(
            train, latent=8, prior=priors[prior], likelihood=LIKELIHOODS[likelihood], hidden=[200]
        )
        pv.fit(vae, train, validation=validation, epochs=5 if small else 60)
        score = scores[likelihood, prior] = pv.log_evidence(
            vae, test, num_samples=50 if small else 500
        )
        mean, error = difference(score, scores[likelihood, "normal"])
        print(
            f"{likelihood:21s} {prior:12s} {score.attrs['mean']:9.2f} ± "
            f"{score.attrs['mean_se']:.2f}{mean:17.2f} ± "
            f"{error:.2f}{score.attrs['flagged'] / len(test):15.0%}"
        )

    out.mkdir(parents=True, exist_ok=True)
    picture(scores, list(priors)).savefig(out / "02_swap.png")
    for prior in priors:
        mean, error = difference(scores["beta-binomial", prior], scores["binomial", prior])
        assert mean - 5 * error > 0, "strokes vary more than a binomial allows"


def difference(one: xarray.Dataset, other: xarray.Dataset) -> tuple[float, float]:
    """The mean of a difference, digit by digit, and its standard error."""
    pairs = (one.log_evidence - other.log_evidence).values
    return float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs)))


def picture(scores: Scores, priors: list[str]) -> Figure:
    """A panel for each likelihood: what the other priors gain over the normal one."""
    figure = Figure(figsize=(10.0, 3.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(LIKELIHOODS), sharex=True, sharey=True)

    for axes, likelihood in zip(panels, LIKELIHOODS, strict=True):
        normal = scores[likelihood, "normal"]
        gains = np.array([difference(scores[likelihood, prior], normal) for prior in priors])
        axes.errorbar(gains[:, 0], range(len(priors)), xerr=2 * gains[:, 1], fmt="o", capsize=3)
        for row, prior in enumerate(priors):
            share = scores[likelihood, prior].attrs["flagged"] / len(normal.datum)
            where = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(f"k-hat > 0.7: {share:.0%}", (gains[row, 0], row), **where)
        axes.axvline(0, color="0.6", linewidth=1, zorder=0)
        level = f"{normal.attrs['mean']:.1f} ± {normal.attrs['mean_se']:.1f} nats"
        title = f"{likelihood}\nnormal prior: {level}"
        axes.set(
            xlabel="gain in log p(x), nats ± 2 SE", title=title, ylim=(len(priors) - 0.5, -0.7)
        )
        axes.margins(x=0.4)
    panels[0].set_yticks(range(len(priors)), priors)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
