"""What eight latents of digits mean
=================================

What eight latents of digits mean: what each of them does, where the digits lie, and what lies
between two of them.

`traverse` moves one latent at a time and decodes, the dimension with the largest KL first. `embed`
puts the means of the guide into a plane, by their first two principal components. `interpolate`
goes from one digit to another, straight through the latents, and decodes on the way.

Run it: python examples/18_latent_space.py
"""

from pathlib import Path

import numpy as np
import pandas
import torch
import typer
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import pyro_vae as pv

PAIRS = [(0, 6), (1, 7), (3, 8), (4, 9), (5, 2)]


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Fit without labels, look at the latents in three ways, draw one picture."""
    x, label = load_digits(return_X_y=True)
    train, test, label = x[:1300], x[1300:], label[1300:]
    vae = pv.build(train, latent=8, likelihood="beta_binomial", hidden=[200], seed=seed)
    epochs = 15 if small else 100
    pv.fit(vae, train, epochs=epochs, learning_rate=3e-3, seed=seed, progress=False)

    moved = pv.traverse(vae, test)
    placed = pv.embed(vae, test)
    last = [np.flatnonzero(label == digit)[-1] for digit in range(10)]
    starts, ends = np.array([(last[one], last[other]) for one, other in PAIRS]).T
    ways = pv.interpolate(vae, test[starts], test[ends])

    change = np.abs(moved["mean"].isel(step=-1) - moved["mean"].isel(step=0)).mean("feature")
    print("latent   KL in nats   grey levels (of 16) that a pixel changes in the mean")
    for number, kl, far in zip(moved.dimension.values, moved.kl.values, change.values, strict=True):
        print(f"{number:6} {kl:12.2f} {far:10.2f}")
    share = sum(placed.attrs["share"])
    half = len(test) // 2
    near = KNeighborsClassifier(5).fit(placed[:half], label[:half])
    right = near.predict(placed[half:]) == label[half:]
    error = right.std(ddof=1) / np.sqrt(len(right))
    print(
        f"the plane has {share:.0%} of the variance of the means; there the five nearest ", end=""
    )
    print(f"neighbours name {right.mean():.0%} ± {error:.0%} of the digits")

    out.mkdir(parents=True, exist_ok=True)
    picture(moved, placed, ways, label).savefig(out / "18_latent_space.png")
    ended = np.abs(ways["mean"].isel(step=[0, -1]).values - test[np.stack([starts, ends], 1)])
    apart = np.abs(test[starts] - test[ends])
    assert ended.mean() < 0.7 * apart.mean(), "a way ends near the digits"
    assert right.mean() > 0.1 + 5 * error, "classes lie apart, though no label was seen"
    assert (np.diff(moved.kl) <= 0).all()


def picture(
    moved: xarray.Dataset, placed: pandas.DataFrame, ways: xarray.Dataset, label: np.ndarray
) -> Figure:
    """The traversals, the plane, and the ways between pairs."""
    figure = Figure(figsize=(13, 4.2), dpi=120, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[7, 8, 9])
    show(left, moved["mean"].values, [f"z {number}" for number in moved.dimension.values])
    left.set_title("one latent moves from quantile 0.02 to 0.98")
    across, up = placed.to_numpy().T
    for digit in range(10):
        of_digit = label == digit
        middle.scatter(across[of_digit], up[of_digit], s=8, color=f"C{digit}", alpha=0.5)
        centre = np.median(across[of_digit]), np.median(up[of_digit])
        middle.annotate(str(digit), centre, fontsize=16, weight="bold", color=f"C{digit}")
    middle.set(title="where the guide puts held-out digits", xticks=[], yticks=[])
    middle.set(xlabel="first component", ylabel="second component")
    show(right, ways["mean"].values, [f"{one} to {other}" for one, other in PAIRS])
    right.set_title("from one digit to another")
    return figure


def show(axes: Axes, means: np.ndarray, names: list[str]) -> None:
    """Images of shape ``(rows, columns, 64)`` as a grid with names of its rows."""
    rows, columns, _ = means.shape
    images = np.pad(means.reshape(rows, columns, 8, 8), [(0, 0), (0, 0), (1, 1), (1, 1)])
    grid = images.transpose(0, 2, 1, 3).reshape(10 * rows, 10 * columns)
    axes.imshow(grid, cmap="gray_r", vmin=0, vmax=16)
    axes.set_yticks(np.arange(rows) * 10 + 4.5, names)
    axes.set_xticks([])


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
