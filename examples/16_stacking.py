"""Which of three models? All of them
==================================

Which of three models? All of them: a mixture with the weights that do best on held-out data.

Three VAEs of 178 wines by 13 measurements: normal or Student's t, two latents or six. On a few
dozen held-out wines their log p(x) differ by less than can be told apart, and the one that is best
there need not be best on others. The weights of `stack` are chosen on one part of the wines; the
mixture, made by `average`, and each model alone are then compared on another part, which neither
has seen.

Run it: python examples/16_stacking.py
"""

from pathlib import Path

import numpy as np
import pandas
import torch
import typer
from matplotlib.figure import Figure
from sklearn.datasets import load_wine

import pyro_vae as pv

NORMAL = {"name": "normal", "scale": "learned"}
STUDENT = {"name": "student_t", "scale": "learned", "df": 4.0}
KINDS = {"normal, 2": (NORMAL, 2), "Student's t, 2": (STUDENT, 2), "normal, 6": (NORMAL, 6)}


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Fit three models, weigh them, compare the mixture with each of them, draw a picture."""
    x = np.random.default_rng(seed).permutation(load_wine().data)
    x = (x - x.mean(0)) / x.std(0)
    train, held_out, test = x[:72], x[72:125], x[125:]
    models = {name: fitted(train, *kind, small, seed) for name, kind in KINDS.items()}
    options = {"num_samples": 100} if small else {"num_samples": 100, "tolerance": 0.2}

    weights = pv.stack(models, held_out, **options)
    both = pv.average(models, weights)
    results = {"average": both.log_evidence(test, **options)}
    results |= {name: pv.log_evidence(vae, test, **options) for name, vae in models.items()}
    table = pv.compare_models(results)
    gain, error = weights.attrs["difference"], weights.attrs["difference_se"]
    best = weights.attrs["best"]
    print(f"nats per wine; {len(held_out)} to weigh, {len(test)} others to compare")
    print(f"where they were weighed: average less the best, {best!r}: {gain:.2f} ± {error:.2f}\n")
    shown = table[["log_evidence", "se", "difference", "difference_se"]].assign(weight=weights)
    print(shown.round(3).to_string())

    score = {name: result.log_evidence.values for name, result in results.items()}
    chosen = score["average"] - score[best]
    chosen_error = chosen.std(ddof=1) / np.sqrt(len(test))
    print(f"\non new wines: average less {best!r}: {chosen.mean():.2f} ± {chosen_error:.2f}")
    out.mkdir(parents=True, exist_ok=True)
    picture(weights, score).savefig(out / "16_stacking.png")
    singles = table.drop("average")
    average = table.loc["average"]
    assert abs(weights.sum() - 1) < 1e-9
    assert gain >= 0
    assert average.log_evidence > singles.log_evidence.mean()
    assert average.difference > -3 * average.difference_se - 1e-9, "it is no worse than the best"


def fitted(x: np.ndarray, likelihood: dict, latent: int, small: bool, seed: int) -> pv.VAE:
    """A VAE of the measurements."""
    vae = pv.build(
        x, latent=latent, likelihood=likelihood, guide="student_t", hidden=[32], seed=seed
    )
    pv.fit(vae, x, epochs=40 if small else 200, learning_rate=3e-3, progress=False, seed=seed)
    return vae


def picture(weights: pandas.Series, score: dict[str, np.ndarray]) -> Figure:
    """The weights, and log p(x) of each model less that of the average, wine by wine."""
    figure = Figure(figsize=(9.5, 3.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 2.2])
    order = score["average"].argsort()
    right.axhline(0, color="0.4")
    for number, (name, weight) in enumerate(weights.items()):
        left.barh(number, weight, color=f"C{number}")
        left.annotate(f" {weight:.2f}", (weight, number), va="center")
        less = (score[name] - score["average"])[order]
        right.plot(less, "os^"[number], color=f"C{number}", label=f"{name}: {less.mean():+.2f}")
    left.set_yticks(range(len(weights)), weights.index)
    left.invert_yaxis()
    left.set(xlabel="weight", xlim=(0, 1.15), title="likelihood, latents")
    right.set(xlabel="new wines, by log p(x) of the average", ylabel="nats above the average")
    right.legend(title="mean", frameon=False)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
