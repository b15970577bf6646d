"""Half of a table is missing
==========================

Half of a table is missing: how well does a VAE fill it in, and does it know how unsure it is?

The protocol of MIWAE (Mattei & Frellsen, 2019, https://arxiv.org/abs/1812.02633): breast cancer,
569 x 30 and standardised, half of the cells hidden at random. With NaN for what is missing,
``loss="iwae"`` is the MIWAE bound. The authors' notebook ends at a mean squared error of 0.287; the
mean of each column gives 1.03.

The degrees of freedom of the likelihood are fixed: with fewer than 1, the mean that we impute would
not exist. The intervals of multiple imputation are too narrow: draws from one trained VAE do not
include the uncertainty of its parameters.

Run it: python examples/04_missing_data.py [--data FILE.npy]   (a table of shape (rows, columns))
"""

import time
from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer

import pyro_vae as pv

LEVELS = np.linspace(0.1, 0.9, 9)  # of the intervals: 10 %, ..., 90 %


def main(
    small: bool = False, data: Path | None = None, out: Path = Path("runs/examples"), seed: int = 0
) -> None:
    """Hide cells, fit, impute by the mean and by a hundred draws, compare with the truth, draw a
    picture.
    """
    truth = load_breast_cancer().data if data is None else np.load(data)
    truth = (truth - truth.mean(0)) / truth.std(0)
    x = with_holes(truth)
    hidden = np.isnan(x)

    start = time.perf_counter()
    vae = pv.build(
        x,
        latent=10,
        prior={"name": "normal", "loc": 0.0, "scale": 1.0},
        likelihood={"name": "student_t", "df": 4.0},
        guide="student_t",
        hidden=[128],
        seed=seed,
    )
    pv.fit(vae, x, loss="iwae", particles=20, epochs=6 if small else 300, batch_size=32, seed=seed)
    mean = vae.impute(x, num_samples=100 if small else 10_000).numpy()
    draws = vae.impute(x, num_samples=100 if small else 2_000, draws=100).numpy()
    seconds = time.perf_counter() - start

    square = (mean - truth)[hidden] ** 2
    columns = (np.nanmean(x, 0) - truth)[hidden] ** 2
    difference, error = over_rows(square - columns, hidden)
    covered = [over_rows(inside(draws, truth, level)[hidden], hidden) for level in LEVELS]
    print(
        f"mean squared error of {hidden.sum()} hidden cells ± SE over rows, seed {seed}, "
        f"{seconds:.0f} s"
    )
    print("  VAE          {:.3f} ± {:.3f}".format(*over_rows(square, hidden)))
    print("  column means {:.3f} ± {:.3f}".format(*over_rows(columns, hidden)))
    print(f"  difference   {difference:.3f} ± {error:.3f}")
    print(
        "90% intervals of 100 imputations hold {:.1%} ± {:.1%} of the hidden values".format(
            *covered[-1]
        )
    )

    out.mkdir(parents=True, exist_ok=True)
    picture(truth[hidden], mean[hidden], np.array(covered)).savefig(out / "04_missing_data.png")
    assert difference + 5 * error < 0, "imputation must beat the mean of each column"
    assert small or data or square.mean() <= 0.30, "the published error is 0.287"


def with_holes(table: np.ndarray) -> np.ndarray:
    """Half of the cells are NaN: those of the authors' notebook, by its own generator."""
    np.random.seed(1234)  # noqa: NPY002
    hidden = np.random.choice(table.size, table.size // 2, replace=False)  # noqa: NPY002
    x = table.copy()
    x.flat[hidden] = np.nan
    return x


def over_rows(values: np.ndarray, hidden: np.ndarray) -> tuple[float, float]:
    """The mean over hidden cells, and its standard error: rows are independent, the cells of one
    row are not.
    """
    row = np.nonzero(hidden)[0]
    sums = np.bincount(row, values - values.mean())
    return float(values.mean()), float(np.sqrt((sums**2).sum()) / len(values))


def inside(draws: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """Whether the truth lies in the central interval of the imputations."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (low <= truth) & (truth <= high)


def picture(truth: np.ndarray, mean: np.ndarray, covered: np.ndarray) -> Figure:
    """Imputed against true values, and how often intervals hold the truth against how often they
    should.
    """
    figure = Figure(figsize=(9.0, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    cells = left.hexbin(truth, mean, gridsize=120, bins="log", mincnt=1, extent=(-3, 13, -3, 13))
    left.axline((0, 0), slope=1, color="0.3", linewidth=1)
    left.set(
        xlabel="true value, standard deviations", ylabel="imputed mean", xlim=(-3, 5), ylim=(-3, 5)
    )
    left.set(title=f"hidden cells ({np.mean(truth > 5):.1%} lie further right)", aspect="equal")
    figure.colorbar(cells, ax=left, label="cells", shrink=0.8)

    right.errorbar(
        LEVELS,
        covered[:, 0],
        yerr=2 * covered[:, 1],
        fmt="o-",
        markersize=4,
        label="± 2 SE over rows",
    )
    right.axline((0, 0), slope=1, color="0.3", linewidth=1, label="as they should be")
    right.set(
        xlabel="nominal level of the interval",
        ylabel="share that holds the truth",
        title="100 imputations",
    )
    right.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    right.legend(frameon=False, loc="upper left")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
