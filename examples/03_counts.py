"""Which likelihood do single-cell counts want?
============================================

Which likelihood do single-cell counts want? Poisson, negative binomial and zero-inflated, by log
p(x) of new cells.

The three are densities over the same counts, so log p(x) may be compared, cell by cell. The
simulated cells are negative binomial: a Poisson must lose, and extra zeros must bring nothing. The
standard errors are over the choice of cells. They do not show what importance sampling still
misses. k-hat does: where it is above 0.7, log p(x) is a lower bound rather than an estimate.

Run it: python examples/03_counts.py [--data FILE.npz]   (with an array "counts" of shape (cells,
genes))"""

from pathlib import Path

import numpy as np
import torch
import typer
import xarray
from matplotlib.figure import Figure

import pyro_vae as pv

LIKELIHOODS = {
    # learned: one dispersion per gene
    "negative binomial": {"name": "negative_binomial", "total_count": "learned"},
    "zero-inflated": {"name": "zero_inflated_negative_binomial", "total_count": "learned"},
    "Poisson": {"name": "poisson"},
}


def main(small: bool = False, data: Path | None = None, out: Path = Path("runs/examples")) -> None:
    """Fit the three, score held-out cells, compare them in pairs, draw."""
    if data is None:
        x = simulated(500 if small else 2000)
    else:
        x = np.load(data)["counts"].astype(np.float32)
    x = np.random.default_rng(0).permutation(x)
    train, validation, test = np.split(x, [int(0.7 * len(x)), int(0.8 * len(x))])
    print(
        f"{len(train)} cells to train, {len(test)} to score, {x.shape[1]} genes; nats per cell ± SE"
    )
    print("likelihood           log p(x)       | minus neg. binom. | minus ELBO | k-hat > 0.7")

    scores: dict[str, xarray.Dataset] = {}
    for label, likelihood in LIKELIHOODS.items():
        vae = pv.build(
            train,
            latent=4 if data is None else 10,
            likelihood=likelihood,
            guide="student_t",
            hidden=[64],
        )
        pv.fit(vae, train, validation=validation, epochs=8 if small else 100, learning_rate=3e-3)
        scores[label] = pv.log_evidence(vae, test, num_samples=100 if small else 1000)
        report(label, scores[label], scores["negative binomial"])

    out.mkdir(parents=True, exist_ok=True)
    picture(scores).savefig(out / "03_counts.png")
    spread, spread_error = difference(scores["negative binomial"], scores["Poisson"])
    zeros, zeros_error = difference(scores["zero-inflated"], scores["negative binomial"])
    unsure = max(recovered(score) for score in scores.values())
    assert spread - 5 * spread_error > unsure, "counts that vary more than a Poisson must say so"
    if data is None:
        assert zeros + 3 * zeros_error < 0.1 * spread, (
            "extra zeros must hardly help where there are none"
        )


def report(label: str, score: xarray.Dataset, reference: xarray.Dataset) -> None:
    """A line of the table."""
    mean, error = difference(score, reference)
    print(
        f"{label:18s}{score.attrs['mean']:9.2f} ± {score.attrs['mean_se']:.2f} |{mean:8.2f} ± "
        f"{error:.2f} |{recovered(score):6.2f} |{score.attrs['flagged'] / len(score.datum):5.0%}"
    )


def simulated(cells: int, genes: int = 60, types: int = 4) -> np.ndarray:
    """Negative-binomial counts of a few cell types, each cell read to a depth of its own."""
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.5, 6.0, (types, genes)) + 0.1
    depth = rng.lognormal(0.0, 0.3, (cells, 1))
    rate = depth * profile[rng.integers(types, size=cells)]
    return rng.poisson(rng.gamma(2.0, rate / 2.0)).astype(np.float32)


def difference(one: xarray.Dataset, other: xarray.Dataset) -> tuple[float, float]:
    """The mean of a difference, cell by cell, and its standard error."""
    pairs = (one.log_evidence - other.log_evidence).values
    return float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs)))


def recovered(score: xarray.Dataset) -> float:
    """How far importance sampling is above the ELBO, in the mean: a rough measure of what it may
    still miss where k-hat is above 0.7.
    """
    return float((score.log_evidence - score.elbo).mean())


def picture(scores: dict[str, xarray.Dataset]) -> Figure:
    """The share of cells below each difference from the negative binomial; the scale is linear from
    -1 to 1.
    """
    figure = Figure(figsize=(6.0, 3.5), dpi=120, layout="constrained")
    axes = figure.subplots()

    for label in ("Poisson", "zero-inflated"):
        mean, error = difference(scores[label], scores["negative binomial"])
        pairs = (scores[label] - scores["negative binomial"]).log_evidence
        axes.ecdf(pairs, label=f"{label}, mean {mean:.2f} ± {error:.2f}")

    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set(
        xlabel="log p(x) minus that of the negative binomial, nats",
        ylabel="share of held-out cells",
    )
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
