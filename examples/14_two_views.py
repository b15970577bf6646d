"""An image beside a table
=======================

An image beside a table: digits, and the shadows that they throw to the side and downwards.

The table of a digit has the sums of its eight rows and of its eight columns of pixels, measured
with noise. In training a third of all images and tables are missing. Convolutions read and write
the image, perceptrons the table, and a product of experts puts together what is seen. How well does
it know z where the image, the table or both are seen, against one normal guide that reads all
eighty numbers, the missing ones at their mean? The likelihood is the same for both. Linear
regression, fitted to the digits that are whole, imagines images about as well: they are nearly a
linear map of their shadows. It has no answer where other cells are missing.

Run it: python examples/14_two_views.py
"""

from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression

import pyro_vae as pv

IMAGE = {"columns": list(range(64)), "shape": [1, 8, 8]}
TABLE = {"columns": list(range(64, 80))}
SEEN = {
    "image": IMAGE["columns"],
    "table": TABLE["columns"],
    "both": IMAGE["columns"] + TABLE["columns"],
}
NOISE = 4.0  # sd of the sums, in grey levels; those of a digit go up to 128

DECODER = {"name": "conv_decoder", "channels": [32, 16]}
LIKELIHOOD = {
    "name": "columns",
    "blocks": [
        IMAGE | {"name": "binomial", "total_count": 16.0, "network": DECODER},
        TABLE | {"name": "normal"},
    ],
}
GUIDES = {
    "one normal": "normal",
    "an expert for each": {
        "name": "product_of_experts",
        "blocks": [
            IMAGE | {"network": {"name": "conv_encoder", "channels": [32, 64]}},
            TABLE | {"network": {"name": "mlp", "hidden": [100]}},
        ],
    },
}


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Fit both guides, score each view, imagine images from their shadows, draw a picture."""
    x = with_shadows(seed)
    train, test = x[:1400].copy(), x[1400:1500] if small else x[1400:]
    missing = np.random.default_rng(seed).integers(3, size=len(train))  # image, table, neither
    train[np.ix_(missing == 0, SEEN["image"])] = np.nan
    train[np.ix_(missing == 1, SEEN["table"])] = np.nan

    bounds, imagined = {}, {}
    for name, guide in GUIDES.items():
        vae = pv.build(train, latent=8, likelihood=LIKELIHOOD, guide=guide, hidden=[100], seed=seed)
        epochs = 15 if small else 60
        pv.fit(vae, train, epochs=epochs, learning_rate=4e-3, batch_size=100, seed=seed)
        bounds[name] = {seen: bound(vae, only(test, seen), seed) for seen in SEEN}
        imputed = vae.impute(only(test, "table"), num_samples=200, seed=seed)
        imagined[name] = imputed[:, :64].numpy()
    draws = vae.impute(only(test[:10], "table"), num_samples=200, draws=2, seed=seed)

    gains = {seen: bounds["an expert for each"][seen] - bounds["one normal"][seen] for seen in SEEN}
    print("bounds of log p(what is seen), nats per digit: one normal guide, and what experts gain")
    for seen, gain in gains.items():
        before = bounds["one normal"][seen].mean()
        print("  {:6}{:9.2f} {:+7.2f} ± {:.2f}".format(seen, before, *mean(gain)))
    errors = {name: squared(test, images) for name, images in imagined.items()}
    print("mean squared error of images from their tables, grey levels of 16")
    for name, error in (errors | baselines(train, test)).items():
        print("  {:20}{:6.2f} ± {:.2f}".format(name, *mean(error)))

    out.mkdir(parents=True, exist_ok=True)
    rows = {"digit": test[:10, :64]}
    rows |= {name: images[:10] for name, images in imagined.items()}
    rows |= {"a draw": draws[0, :, :64].numpy(), "another": draws[1, :, :64].numpy()}
    picture(rows, gains).savefig(out / "14_two_views.png")

    gain, error = mean(gains["table"])
    assert gain > 3 * error, "an expert of the table knows more of z than a guide of all columns"
    better, error = mean(errors["one normal"] - errors["an expert for each"])
    assert better > 3 * error, "so it imagines better images"
    assert (
        baselines(train, test)["the mean image"] > 2 * errors["an expert for each"].mean()
    ).any()


def with_shadows(seed: int) -> np.ndarray:
    """Digits of 64 pixels in random order, each beside the noisy sums of its rows and columns."""
    rng = np.random.default_rng(seed)
    pixels = rng.permutation(load_digits().data)
    images = pixels.reshape(-1, 8, 8)
    sums = np.hstack([images.sum(2), images.sum(1)])
    return np.hstack([pixels, sums + rng.normal(0, NOISE, sums.shape)])


def only(x: np.ndarray, seen: str) -> np.ndarray:
    """The data where the other view is missing."""
    view = np.full_like(x, np.nan)
    view[:, SEEN[seen]] = x[:, SEEN[seen]]
    return view


def bound(vae: pv.VAE, x: np.ndarray, seed: int) -> np.ndarray:
    """The importance-weighted bound of log p(what is seen) by 100 draws of the guide."""
    with torch.no_grad():
        return pv.iwae(pv.terms(vae, x, num_samples=100, seed=seed)).numpy()


def squared(test: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The squared error of each image, per pixel."""
    return ((images - test[:, :64]) ** 2).mean(1)


def baselines(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """The squared errors of images that need no VAE."""
    whole = train[~np.isnan(train).any(1)]
    linear = LinearRegression().fit(whole[:, 64:], whole[:, :64]).predict(test[:, 64:])
    average = np.broadcast_to(whole[:, :64].mean(0), linear.shape)
    return {"linear regression": squared(test, linear), "the mean image": squared(test, average)}


def mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def picture(rows: dict[str, np.ndarray], gains: dict[str, np.ndarray]) -> Figure:
    """Ten digits and what was imagined of them from their shadows; what experts gain."""
    figure = Figure(figsize=(11, 3.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2.2, 1])
    framed = np.pad(
        np.stack([images.reshape(10, 8, 8) for images in rows.values()]),
        [(0, 0), (0, 0), (1, 1), (1, 1)],
        constant_values=8,
    )
    tall = 10 * len(rows)
    left.imshow(framed.transpose(0, 2, 1, 3).reshape(tall, 100), cmap="gray", vmin=0, vmax=16)
    left.set_yticks(np.arange(len(rows)) * 10 + 4.5, list(rows))
    left.set_xticks([])
    left.set_title("images imputed from the table alone")

    found = [mean(gain) for gain in gains.values()]
    right.errorbar(
        [gain for gain, _ in found],
        np.arange(len(found)),
        xerr=[2 * error for _, error in found],
        fmt="o",
    )
    right.axvline(0, color="gray", linewidth=0.8)
    right.set_yticks(np.arange(len(found)), [f"{seen} seen" for seen in gains])
    right.set_ylim(len(found) - 0.5, -0.5)
    right.set(xlabel="gain of experts, nats per digit (± 2 se)")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
