"""One table, five kinds of columns
================================

One table with real, count, binary, categorical and ordinal columns: a family for each block, one
VAE for all.

Two hidden causes make nine columns, and a tenth of the cells is missing. The VAE must beat nine
independent columns in log p(x) of new rows, and knowing the other columns it must fill in a hidden
one better than its marginal does.

Run it: python examples/06_columns.py
"""

from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from scipy.stats import norm

import pyro_vae as pv

BLOCKS = [
    {"columns": [0, 1, 2], "name": "normal", "scale": "learned"},
    {"columns": [3, 4], "name": "negative_binomial", "total_count": "learned"},
    {"columns": [5, 6], "name": "bernoulli"},
    {"columns": [7], "name": "categorical", "categories": 3},
    {"columns": [8], "name": "ordinal", "categories": 5, "cutpoints": "learned"},
]
NAMES = [
    "real 1",
    "real 2",
    "real 3",
    "count 1",
    "count 2",
    "binary 1",
    "binary 2",
    "class",
    "grade",
]
REAL = 3  # so many columns are real


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Fit, score new rows, hide each column of them in turn and fill it in, draw a picture."""
    rng = np.random.default_rng(0)
    x = simulated(rng, 1500 if small else 4000)
    train = x[:-500]
    test = x[-500:]
    train = np.where(rng.random(train.shape) < 0.1, np.nan, train)
    vae = pv.build(train, latent=2, likelihood={"name": "columns", "blocks": BLOCKS}, hidden=[64])
    pv.fit(vae, train, epochs=30 if small else 100, learning_rate=5e-3)
    num_samples = 100 if small else 1000

    score = pv.log_evidence(vae, test, num_samples=num_samples)
    standalone = independent(train, test)
    gain, error = mean(score.log_evidence.values - standalone)
    print(f"{len(train)} rows to train, {len(test)} to score; nats per row ± SE")
    print(f"log p(x), VAE          {score.attrs['mean']:7.2f} ± {score.attrs['mean_se']:.2f}")
    print("independent columns    {:7.2f} ± {:.2f}".format(*mean(standalone)))
    print(
        f"difference, row by row {gain:7.2f} ± {error:.2f}, k-hat > 0.7: "
        f"{score.attrs['flagged'] / len(test):.0%}"
    )

    print("error of a hidden column ± SE (numbers: squared, classes: share of wrong ones)")
    errors = np.array(
        [hidden_column(vae, train, test, column, num_samples) for column in range(len(NAMES))]
    )
    for name, (ours, theirs) in zip(NAMES, errors, strict=True):
        line = "  {:9s} VAE {:7.3f} ± {:.3f}   marginal {:7.3f} ± {:.3f}"
        print(line.format(name, *mean(ours), *mean(theirs)))
    out.mkdir(parents=True, exist_ok=True)
    picture(errors).savefig(out / "06_columns.png")
    assert gain > 5 * error, "columns with common causes are not independent"
    for name, (ours, theirs) in zip(NAMES, errors, strict=True):
        less, less_error = mean(theirs - ours)
        assert less > 2 * less_error, f"{name} must be imputed better than by its marginal"


def simulated(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Two causes for each row, and columns of every kind that follow them."""
    z = rng.normal(size=(rows, 2))
    along = np.array(
        [
            [1.0, 0.0, 0.7, 0.8, -0.6, 1.5, -1.5, 1.5, 1.2],
            [0.0, 1.0, 0.7, 0.4, 0.8, 1.5, 1.5, -1.0, -1.2],
        ]
    )
    h = z @ along

    real = h[:, :3] + 0.4 * rng.normal(size=(rows, 3))
    count = rng.poisson(np.exp(1.0 + h[:, 3:5]))
    binary = rng.random((rows, 2)) < 1 / (1 + np.exp(-2 * h[:, 5:7]))
    kind = np.argmax(
        np.stack([h[:, 7], -h[:, 7], 0.5 + z[:, 1]], 1) + rng.gumbel(size=(rows, 3)), 1
    )
    grade = np.digitize(h[:, 8] + 0.4 * rng.logistic(size=rows), [-1.5, -0.5, 0.5, 1.5])
    return np.column_stack([real, count, binary, kind, grade]).astype(np.float32)


def frequencies(column: np.ndarray) -> np.ndarray:
    """The probability of each whole number in a column, never 0: the best that can be known without
    the other columns.
    """
    counted = np.bincount(column[~np.isnan(column)].astype(int), minlength=1000) + 1e-3
    return counted / counted.sum()


def independent(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """log p(x) of each row under independent columns: normals; frequencies for whole numbers."""
    real = norm.logpdf(
        test[:, :REAL], np.nanmean(train[:, :REAL], 0), np.nanstd(train[:, :REAL], 0)
    ).sum(1)
    rest = [
        np.log(frequencies(train[:, i])[test[:, i].astype(int)]) for i in range(REAL, len(NAMES))
    ]
    return real + np.sum(rest, 0)


def hidden_column(
    vae: pv.VAE, train: np.ndarray, test: np.ndarray, column: int, num_samples: int
) -> np.ndarray:
    """The error of each row when a column is hidden: by the VAE, and by the marginal; shape (2,
    rows).

    Numbers are filled in by their mean, and the error is squared. Classes are filled in by the most
    probable one, and the error is 1 where it is wrong.
    """
    truth = test[:, column]
    seen = test.copy()
    seen[:, column] = np.nan

    number = "real" in NAMES[column] or "count" in NAMES[column]
    if number:
        ours = vae.impute(seen, num_samples=num_samples).numpy()[:, column]
        return (np.stack([ours, np.full_like(truth, np.nanmean(train[:, column]))]) - truth) ** 2
    draws = vae.impute(seen, num_samples=num_samples, draws=101).numpy()[:, :, column]
    ours = np.stack([(draws == value).sum(0) for value in range(5)]).argmax(0)
    return np.stack([ours != truth, frequencies(train[:, column]).argmax() != truth]).astype(float)


def mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def picture(errors: np.ndarray) -> Figure:
    """The error of each hidden column as a share of that of its marginal."""
    figure = Figure(figsize=(6.0, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row, (ours, theirs) in enumerate(errors):
        ratio = ours.mean() / theirs.mean()
        _, error = mean((ours - ratio * theirs) / theirs.mean())  # of a ratio, by the delta method
        axes.errorbar(ratio, row, xerr=2 * error, fmt="o", color="C0", capsize=3)

    axes.axvline(1, color="0.6", linewidth=1)
    axes.set(
        xlabel="error of the VAE / error of the marginal, ± 2 SE",
        xlim=(0, 1.1),
        title="one column hidden",
    )
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.invert_yaxis()
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
