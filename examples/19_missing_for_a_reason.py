"""Cells missing for a reason
==========================

Two of four columns are not seen where they are high: does a VAE that knows so fill them in?

High incomes are not told, heavy patients are not weighed: a cell is missing by its own value. A VAE
of what is seen alone takes the rest for typical. With p(s | x) as a part it learns which values
hide (Ipsen et al., 2021, https://arxiv.org/abs/2006.12871). Whether they are the high ones or the
low ones is hardly in the data; here it is said.

The data have one factor in four columns, so that the truth is known, and the decoder is linear.

Run it: python examples/19_missing_for_a_reason.py
"""

from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure

import pyro_vae as pv

HIDE = 2  # columns that hide
LIMIT = 0.3  # what is higher is missing in nine cases of ten
LINEAR = {"name": "normal", "scale": "learned", "network": {"name": "mlp", "hidden": []}}
REASONS = {
    "no reason": None,
    "its own value": "self_masking",
    "high values": {"name": "self_masking", "direction": "high"},
    "all values": "logistic",
}


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Hide cells, fit with each reason, impute, compare with the truth, draw a picture."""
    truth, x = data(200 if small else 1000)
    hidden = np.isnan(x)
    print(f"mean error ± SE over rows, and root mean square, of {hidden.sum()} hidden cells")
    filled, models = {}, {}
    for name, reason in REASONS.items():
        vae = pv.build(x, latent=1, likelihood=LINEAR, missingness=reason, hidden=[32], seed=seed)
        pv.fit(
            vae,
            x,
            loss="iwae",
            epochs=10 if small else 120,
            learning_rate=5e-3,
            seed=seed,
            progress=False,
        )
        models[name] = vae
        filled[name] = np.asarray(vae.impute(x, seed=seed))
        off, error = over_rows((filled[name] - truth)[hidden], hidden)
        square = np.sqrt(np.mean((filled[name] - truth)[hidden] ** 2))
        print(f"  {name:14} {off:6.3f} ± {error:.3f}   {square:.3f}")

    known = models["high values"].missingness
    chance = known.log_chance(torch.tensor([[1.0] * 4]), torch.ones(1, 4, dtype=torch.bool)).exp()
    shown = ", ".join(f"{p:.2f}" for p in chance[0].tolist())
    print(f"chance that a value of 1 is missing, by column: {shown}; it is 0.90, 0.90, 0, 0")
    out.mkdir(parents=True, exist_ok=True)
    picture(truth, x, filled, models).savefig(out / "19_missing_for_a_reason.png")
    none, high = (
        abs((filled[name] - truth)[hidden].mean()) for name in ("no reason", "high values")
    )
    assert high < (1.0 if small else 0.3) * none, "who knows the reason must be less wrong"


def data(num: int) -> tuple[np.ndarray, np.ndarray]:
    """A table, and the same with holes."""
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(num, 1))
    truth = factor * np.array([[1.0, 0.9, 1.1, 0.8]]) + 0.4 * rng.normal(size=(num, 4))
    hides = (truth > LIMIT) & (rng.random(truth.shape) < 0.9)
    hides[:, HIDE:] = False
    return truth, np.where(hides, np.nan, truth)


def over_rows(values: np.ndarray, hidden: np.ndarray) -> tuple[float, float]:
    """The mean over hidden cells, and its standard error: cells of one row belong together."""
    sums = np.bincount(np.nonzero(hidden)[0], values - values.mean())
    return float(values.mean()), float(np.sqrt((sums**2).sum()) / len(values))


def picture(
    truth: np.ndarray, x: np.ndarray, filled: dict[str, np.ndarray], models: dict[str, pv.VAE]
) -> Figure:
    """Imputed against true values of the first column, and the chance of being missing."""
    figure = Figure(figsize=(9.0, 4.0), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    hidden = np.isnan(x[:, 0])
    for name in ("no reason", "high values"):
        left.plot(truth[hidden, 0], filled[name][hidden, 0], ".", markersize=4, label=name)
    left.axline((1, 1), slope=1, color="0.3", linewidth=1)
    left.set(xlabel="true value of a hidden cell", ylabel="imputed")
    left.legend(frameon=False, title="missing for")

    grid = np.linspace(-2, 3, 200)
    rows = torch.zeros(len(grid), 4, dtype=torch.get_default_dtype())
    rows[:, 0] = torch.as_tensor(grid)
    missing = torch.ones_like(rows, dtype=torch.bool)
    for name in ("its own value", "high values"):
        chance = models[name].missingness.log_chance(rows, missing)[:, 0].exp()
        right.plot(grid, chance.numpy(force=True), label=name)
    right.plot(grid, 0.9 * (grid > LIMIT), color="0.3", linewidth=1, label="truth")
    right.set(xlabel="value of the first column", ylabel="chance that it is missing")
    right.legend(frameon=False)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
