"""Which likelihood do single-cell counts want? Poisson, negative binomial and zero-inflated, by log p(x) of new cells.

The three are densities over the same counts, so log p(x) may be compared, cell by cell. The simulated cells are
negative binomial: a Poisson must lose, and extra zeros must buy nothing. The standard errors are over the choice of
cells. What importance sampling still misses they do not show: that is what k-hat is for, and where it is above 0.7
log p(x) is a lower bound rather than an estimate.

Run it: python examples/03_counts.py [--data FILE.npz]   (with an array "counts" of shape (cells, genes))
"""

from pathlib import Path

import numpy as np
import typer
import xarray
from matplotlib.figure import Figure

import pyro_vae as pv

LIKELIHOODS = {
    "negative binomial": {"name": "negative_binomial", "total_count": "learned"},  # one dispersion per gene
    "zero-inflated": {"name": "zero_inflated_negative_binomial", "total_count": "learned"},
    "Poisson": {"name": "poisson"},
}


def main(small: bool = False, data: Path | None = None, out: Path = Path("runs/examples")) -> None:
    """Fit the three, score held-out cells, compare them in pairs, draw."""
    x = simulated(600 if small else 2000) if data is None else np.load(data)["counts"].astype(np.float32)
    x = np.random.default_rng(0).permutation(x)
    train, validation, test = np.split(x, [int(0.7 * len(x)), int(0.8 * len(x))])
    print(f"{len(train)} cells to train, {len(test)} to score, {x.shape[1]} genes; log p(x) in nats per cell ± SE")

    scores: dict[str, xarray.Dataset] = {}
    for label, likelihood in LIKELIHOODS.items():
        vae = pv.build(train, latent=4, likelihood=likelihood, guide="student_t", hidden=[64])
        pv.fit(vae, train, validation=validation, epochs=20 if small else 200, learning_rate=3e-3)
        scores[label] = pv.log_evidence(vae, test, num_samples=300 if small else 2000)
        attrs, flagged = scores[label].attrs, scores[label].attrs["flagged"] / len(test)
        mean, error = difference(scores[label], scores["negative binomial"])
        print(
            f"{label:18s} {attrs['mean']:9.2f} ± {attrs['mean_se']:.2f}   k-hat > 0.7: {flagged:4.0%}   "
            f"minus negative binomial {mean:8.2f} ± {error:.2f}"
        )

    out.mkdir(parents=True, exist_ok=True)
    picture(scores).savefig(out / "03_counts.png")
    mean, error = difference(scores["Poisson"], scores["negative binomial"])
    assert mean + 5 * error < 0, "counts that vary more than a Poisson must say so"
    if data is None:
        mean, error = difference(scores["zero-inflated"], scores["negative binomial"])
        assert mean - 3 * error < 0.5, "extra zeros must not help where there are none"


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


def picture(scores: dict[str, xarray.Dataset]) -> Figure:
    """Every cell: how far the others are from the negative binomial."""
    reference = scores["negative binomial"]
    figure = Figure(figsize=(6.0, 3.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    pairs = {label: (score - reference).log_evidence.values for label, score in scores.items()}
    pairs.pop("negative binomial")
    for label, values in pairs.items():
        axes.hist(values, bins=40, alpha=0.6, label=label)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set(xlabel="log p(x) minus that of the negative binomial, nats", ylabel="held-out cells")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    typer.run(main)
