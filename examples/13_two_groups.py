"""Which pixels tell eights from threes?
=====================================

Which pixels tell eights from threes? A contrast of two groups, and the latents behind it.

A model of all handwritten digits, without their labels, says for each image what its pixels are in
the mean over the posterior. Two groups of images are then compared pixel by pixel: how large the
difference is, how sure its direction, and which may be called different if one in twenty of those
calls may be wrong. Two halves of the same group must differ nowhere.

Run it: python examples/13_two_groups.py
"""

from pathlib import Path

import numpy as np
import pandas
import torch
import typer
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import pyro_vae as pv

SMALLEST = 1.0  # grey level of 16: less counts as no difference


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Fit, compare threes with eights and eights with eights, draw a picture."""
    digits = load_digits()
    x, label = digits.data, digits.target
    vae = pv.build(x, latent=8, likelihood="beta_binomial", hidden=[200])
    pv.fit(vae, x, epochs=20 if small else 60, learning_rate=3e-3)

    num, draws = (40, 200) if small else (100, 1000)
    threes, eights, others = x[label == 3][:num], x[label == 8][:num], x[label == 8][-num // 2 :]
    pixels = lambda z, x: vae.decode(z).mean  # noqa: E731
    differ = pv.contrast(vae, eights, threes, pixels, delta=SMALLEST, num_samples=draws)
    same = pv.contrast(vae, eights[: num // 2], others, pixels, delta=SMALLEST, num_samples=draws)
    print("the surest pixels (row, column) where eights differ from threes, in grey levels of 16")
    for pixel, row in differ.head(8).iterrows():
        print(f"  {divmod(pixel, 8)}: {row.effect:+5.1f} ± {row.se:.1f}")
    print(f"different: {differ.selected.sum()} of 64; between halves of the eights, ", end="")
    print(f"{same.selected.sum()} of 64")

    out.mkdir(parents=True, exist_ok=True)
    picture(threes, eights, differ).savefig(out / "13_two_groups.png")
    raw = eights.mean(0) - threes.mean(0)
    assert np.corrcoef(raw, differ.sort_index().effect)[0, 1] > 0.95
    assert 5 <= differ.selected.sum() <= 50
    assert same.selected.sum() <= 3
    surest = differ.head(3).index
    assert (np.abs(raw[surest]) > np.abs(raw).mean()).all()


def picture(threes: np.ndarray, eights: np.ndarray, differ: pandas.DataFrame) -> Figure:
    """The mean image of each group, the effect, and where it is called different."""
    differ = differ.sort_index()
    effect = differ.effect.to_numpy().reshape(8, 8)
    largest = np.abs(effect).max()
    figure = Figure(figsize=(10, 2.8), dpi=120, layout="constrained")
    first, second, third, fourth = figure.subplots(1, 4)
    for axes, group, name in ((first, threes, "threes"), (second, eights, "eights")):
        axes.imshow(group.mean(0).reshape(8, 8), cmap="gray", vmin=0, vmax=16)
        axes.set_title(f"mean of {len(group)} {name}")
    shown = third.imshow(effect, cmap="RdBu_r", vmin=-largest, vmax=largest)
    figure.colorbar(shown, ax=third, label="grey levels")
    third.set_title("eights less threes")
    selected = np.where(differ.selected.to_numpy().reshape(8, 8), effect, np.nan)
    fourth.imshow(selected, cmap="RdBu_r", vmin=-largest, vmax=largest)
    fourth.set_title(f"beyond {SMALLEST:g}, FDR {differ.attrs['fdr']:.0%}")
    for axes in (first, second, third, fourth):
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
