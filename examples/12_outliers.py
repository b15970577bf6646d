"""Outliers that log p(x) cannot see
=================================

Outliers, and those that log p(x) cannot see: images that are smoother than the training data.

Two models, of handwritten digits and of small patches of a photograph, are shown images of other
kinds beside some that they should know. Each image gets a p-value, from its rank among ordinary
images that were held out. The model of digits finds all that are no digits. The model of patches
finds digits, and no smooth patch: flat grey, a blurred patch, a patch of another, softer photograph
have a higher log p(x) than the patches that it learned (Nalisnick et al., 2019,
https://arxiv.org/abs/1810.09136). The regret (Xiao et al., 2020, https://arxiv.org/abs/2003.02977)
leans the right way, and is not enough here.

Run it: python examples/12_outliers.py
"""

from pathlib import Path

import numpy as np
import pandas
import torch
import typer
from matplotlib.figure import Figure, SubFigure
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_digits, load_sample_image
from sklearn.feature_extraction.image import extract_patches_2d

import pyro_vae as pv

Images = dict[str, np.ndarray]  # by kind, each of shape (N, 64)


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Fit both models, rank images of several kinds, tell which are found, draw a picture."""
    num, epochs = (40, 20) if small else (100, 60)
    digits = np.random.default_rng(0).permutation(load_digits().data)
    china, flower = patches("china.jpg", len(digits)), patches("flower.jpg", num)

    shuffled = np.random.default_rng(1).permuted(digits[:num], axis=1)
    digit_kinds = kinds(digits[:num], "digits")
    digit_kinds |= {"shuffled": shuffled, "photograph": 16 * china[:num]}
    digit_kinds = {name: images.round() for name, images in digit_kinds.items()}
    photo_kinds = kinds(china[:num], "photograph") | {"softer": flower, "digits": digits[:num] / 16}
    found = {
        "digits": judged(digits, digit_kinds, "beta_binomial", epochs),
        "photograph": judged(china, photo_kinds, "normal", epochs),
    }
    for name, frame in found.items():
        print(f"trained on the {name}: score in nats and p-value, their medians; share found")
        medians = frame.groupby("kind", sort=False)[["score", "p_value", "regret_p"]].median()
        share = frame.groupby("kind", sort=False).outlier.mean()
        print(medians.assign(found=share).round(3).to_string(), end="\n\n")
    out.mkdir(parents=True, exist_ok=True)
    picture(found, {"digits": digit_kinds, "photograph": photo_kinds}).savefig(
        out / "12_outliers.png"
    )

    of_digits, of_photos = (
        frame.groupby("kind", sort=False).outlier.mean() for frame in found.values()
    )
    assert of_digits["digits"] < 0.2
    assert (of_digits.drop("digits") > 0.8).all()
    assert of_photos["digits"] > 0.8
    score = found["photograph"].groupby("kind").score.median()
    for smooth in ("blurred", "flat grey", "softer"):
        assert score[smooth] > score["photograph"], "smooth images score too high"
        assert of_photos[smooth] < 0.05, "and are not found"


def patches(name: str, num: int) -> np.ndarray:
    """Patches of 8 x 8 pixels of a photograph at half its size, in grey from 0 to 1."""
    grey = load_sample_image(name)[:426].mean(2) / 255
    half = grey.reshape(213, 2, 320, 2).mean((1, 3))
    return extract_patches_2d(half, (8, 8), max_patches=num, random_state=0).reshape(num, 64)


def kinds(images: np.ndarray, name: str) -> Images:
    """The images, and smoother ones made of them."""
    blurred = uniform_filter(images.reshape(-1, 8, 8), (0, 3, 3)).reshape(images.shape)
    flat = np.broadcast_to(images.mean(1, keepdims=True), images.shape)
    return {name: images, "blurred": blurred, "flat grey": flat}


def judged(data: np.ndarray, shown: Images, likelihood: str, epochs: int) -> pandas.DataFrame:
    """A model of the last two thirds of the data; images of each kind among those before them."""
    num = len(next(iter(shown.values())))
    train, ordinary = data[600:], data[num:600]
    vae = pv.build(train, latent=8, likelihood=likelihood, hidden=[200])
    pv.fit(vae, train, epochs=epochs, learning_rate=3e-3)
    x = np.concatenate(list(shown.values()))
    found = pv.outliers(vae, x, reference=ordinary, num_samples=50)
    regret = pv.outliers(vae, x, reference=ordinary, score="regret", num_samples=50)
    return found.assign(regret_p=regret.p_value, kind=np.repeat(list(shown), num))


def picture(found: dict[str, pandas.DataFrame], shown: dict[str, Images]) -> Figure:
    """For each model, some images of each kind, and log p(x) of all."""
    figure = Figure(figsize=(11, 3.0), dpi=120, layout="constrained")
    for part, name in zip(figure.subfigures(1, 2), found, strict=True):
        panel(part, found[name], shown[name])
        part.suptitle(f"trained on the {name}")
    return figure


def panel(part: SubFigure, found: pandas.DataFrame, shown: Images) -> None:
    """Five images of each kind beside a box of their log p(x)."""
    left, right = part.subplots(1, 2, width_ratios=[1.1, 1])
    rows = [images[:5].reshape(5, 8, 8) / max(1, images.max()) for images in shown.values()]
    framed = np.pad(np.stack(rows), [(0, 0), (0, 0), (1, 1), (1, 1)])
    tall = 10 * len(rows)
    left.imshow(framed.transpose(0, 2, 1, 3).reshape(tall, 50), cmap="gray", vmin=0, vmax=1)
    left.set_yticks(np.arange(len(rows)) * 10 + 4.5, list(shown))
    left.set_xticks([])

    of_kind = [found[found.kind == kind] for kind in shown]
    right.boxplot([rows.score for rows in of_kind], orientation="horizontal", sym=".")
    told = [f"{rows.outlier.mean():.0%} found" for rows in of_kind]
    right.set_yticks(np.arange(1, len(told) + 1), told)
    right.set_ylim(len(told) + 0.5, 0.5)
    right.set_xscale("symlog", linthresh=100)
    right.set(xlabel="log p(x), nats")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
