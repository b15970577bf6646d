"""Values under a detection limit
==============================

Values under a detection limit: three ways to learn a distribution of which a part is not seen.

Six concentrations (their logarithms) with two common causes. Of a value under the limit of its
column, 20 to 60 % of them, no more is known than that. A censored normal takes this for what it is;
the usual habits are to write half the limit, or to leave out the rows. All three are the same VAE
but for this. As the data are simulated, each is held against the truth: densities, correlations,
and log p(x) of new rows seen in full.

Run it: python examples/15_detection_limits.py
"""

import copy
import math
from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from scipy import stats

import pyro_vae as pv

LOADINGS = np.array([[0.9, 0.0], [0.8, 0.3], [0.7, -0.3], [0.0, 0.9], [0.4, 0.7], [-0.5, 0.6]])
MEAN = np.array([0.0, 1.0, -1.0, 2.0, 0.5, 0.0])
UNDER = np.array([0.5, 0.2, 0.6, 0.3, 0.4, 0.6])  # the share of a column under its limit
TRUTH = stats.multivariate_normal(MEAN, LOADINGS @ LOADINGS.T + 0.16 * np.eye(6))
SD = np.sqrt(TRUTH.cov.diagonal())
LIMITS = stats.norm(MEAN, SD).ppf(UNDER)
PAIRS = np.triu_indices(6, 1)
SHOWN = 0  # the column in the picture


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Fit three models, compare them with each other and with the truth, draw a picture."""
    rng = np.random.default_rng(seed)
    x = TRUTH.rvs(1000 if small else 4000, random_state=rng)
    test = TRUTH.rvs(20 if small else 200, random_state=rng)
    whole = x[(x > LIMITS).all(1)]
    half = np.where(x > LIMITS, x, LIMITS - math.log(2))
    steps = 200 if small else 1500
    models = {
        "censored": fitted(np.maximum(x, LIMITS), LIMITS.tolist(), steps, seed),
        "half the limit": fitted(half, -math.inf, steps, seed),
        "rows left out": fitted(whole, -math.inf, steps, seed),
    }
    print(
        f"{len(x)} rows, {len(whole)} with no value under a limit; held-out data as they are seen"
    )
    try:
        pv.compare_models(models, np.maximum(test, LIMITS))
        refused = False
    except ValueError as reason:
        print(f"refused: {reason!s:.140} ...")
        refused = True
    same = {name: with_limits(vae, LIMITS) for name, vae in models.items()}
    options = {"num_samples": 100, "tolerance": 0.5 if small else 0.2}
    table = pv.compare_models(same, np.maximum(test, LIMITS), **options)
    print(table[["log_evidence", "se", "difference", "difference_se"]].round(3).to_string())

    print("\nheld-out data in full: nats below the truth ± SE; largest errors against the truth")
    gap, error, off = {}, {}, {}
    free = {name: with_limits(vae, -math.inf) for name, vae in models.items()}
    drawn = {name: vae.sample(50_000, seed=seed).numpy() for name, vae in free.items()}
    for name, vae in free.items():
        below = TRUTH.logpdf(test) - pv.log_evidence(vae, test, **options).log_evidence.values
        gap[name], error[name] = below.mean(), below.std(ddof=1) / math.sqrt(len(test))
        mean = np.abs((drawn[name].mean(0) - MEAN) / SD).max()
        off[name] = np.abs(correlations(np.cov(drawn[name].T)) - correlations(TRUTH.cov)).max()
        print(f"{name:15} {gap[name]:6.2f} ± {error[name]:.2f}   ", end="")
        print(f"mean {mean:.2f} standard deviations, correlation {off[name]:.2f}")

    out.mkdir(parents=True, exist_ok=True)
    picture(drawn).savefig(out / "15_detection_limits.png")
    assert refused, "a density is not comparable with probabilities of single points"
    assert gap["rows left out"] > gap["censored"] + 3 * error["rows left out"]
    if not small:
        assert off["rows left out"] > 3 * off["censored"]
        worse = table.loc["half the limit"]
        assert worse.difference < -2 * worse.difference_se
        assert gap["censored"] < 0.1
        assert off["half the limit"] > 2 * off["censored"]


def fitted(x: np.ndarray, low: list[float] | float, steps: int, seed: int) -> pv.VAE:
    """A linear decoder, as the truth has; without a limit the censored normal is a normal."""
    likelihood = {"name": "censored_normal", "low": low, "scale": "learned"}
    likelihood["network"] = {"name": "mlp", "hidden": []}
    vae = pv.build(x, latent=2, likelihood=likelihood, hidden=[32], seed=seed)
    epochs = min(steps // -(-len(x) // 128), steps // 5)
    pv.fit(vae, x, epochs=epochs, learning_rate=1e-2, progress=False, seed=seed)
    return vae


def with_limits(vae: pv.VAE, low: np.ndarray | float) -> pv.VAE:
    """The same model, seen through other limits."""
    vae = copy.deepcopy(vae)
    vae.likelihood.head.low.copy_(torch.as_tensor(low))
    return vae


def correlations(covariance: np.ndarray) -> np.ndarray:
    """Those of all pairs of columns."""
    sd = np.sqrt(covariance.diagonal())
    return (covariance / np.outer(sd, sd))[PAIRS]


def picture(drawn: dict[str, np.ndarray]) -> Figure:
    """The density of a column by each model, and the correlations, beside the truth."""
    figure = Figure(figsize=(9.5, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    grid = np.linspace(-3, 3, 200) * SD[SHOWN] + MEAN[SHOWN]
    left.fill_between(grid, stats.norm(MEAN[SHOWN], SD[SHOWN]).pdf(grid), color="0.85")
    left.axvline(LIMITS[SHOWN], color="0.4", linestyle=":")
    left.annotate(" limit", (LIMITS[SHOWN], 0.01), color="0.4")
    right.axline((0, 0), slope=1, color="0.7")
    for (name, x), marker in zip(drawn.items(), "os^", strict=True):
        left.plot(grid, stats.gaussian_kde(x[:5000, SHOWN])(grid), label=name)
        found = correlations(np.cov(x.T))
        right.plot(correlations(TRUTH.cov), found, marker, label=name, alpha=0.8)
    left.set(xlabel="log concentration", ylabel="density", title="grey: the truth", ylim=(0, None))
    right.set(xlabel="true correlation", ylabel="correlation in the model")
    right.set_title("all pairs of columns")
    left.legend(frameon=False)
    right.legend(frameon=False)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
