"""Counts of single cells: an AnnData in, latents and corrected means back into it.
================================================================================

An AnnData as single-cell tools make them has raw counts in a layer, and of each cell its batch, its
type and its depth. Two batches measure the same three types with different genes lifted. A VAE
reads the layer, is told batch and depth as c, and its latents go back into obsm, where scanpy and
others look for them. They must tell the types, and must not tell the batches.

Run it: python examples/25_anndata.py
"""

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas
import torch
import typer
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import pyro_vae as pv


def cells(num: int) -> anndata.AnnData:
    """Counts of three types of cells in two batches: X normalised, the counts in a layer."""
    rng = np.random.default_rng(0)
    kind, batch = rng.integers(3, size=num), rng.integers(2, size=num)
    profiles = rng.gamma(0.7, 2.0, (3, 60))
    lifted = np.stack([np.ones(60), np.exp(rng.normal(0, 0.6, 60))])
    rate = profiles[kind] * lifted[batch]
    depth = rng.lognormal(6.0, 0.3, num)
    counts = rng.poisson(rate / rate.sum(1, keepdims=True) * depth[:, None]).astype(np.float32)
    obs = pandas.DataFrame(
        {"batch": pandas.Categorical(batch.astype(str)), "type": pandas.Categorical(kind)},
        index=[f"cell{number}" for number in range(num)],
    )
    obs["depth"] = counts.sum(1)
    var = pandas.DataFrame(index=[f"gene{number}" for number in range(60)])
    found = anndata.AnnData(np.log1p(counts), obs=obs, var=var, layers={"counts": counts})
    found.obsm["X_drawn"] = rng.normal(size=(num, 2))
    return found


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Make a file, read its layer, fit, put the latents where others look."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "25_anndata.h5ad"
    cells(400 if small else 1500).write_h5ad(path)
    adata = anndata.read_h5ad(path)

    x = pv.data.as_rows(adata, layer="counts")
    c = adata.obs[["batch", "depth"]]
    vae = pv.build(
        x, c=c, latent=5, likelihood="negative_binomial", condition={"exposure": "depth"}
    )
    pv.fit(vae, x, c, epochs=40 if small else 100, learning_rate=3e-3, progress=False)
    with torch.no_grad():
        adata.obsm["X_vae"] = vae.encode(x, c).mean.numpy()
    scores = pv.log_evidence(vae, x, c, num_samples=200)
    adata.obs["log_evidence"] = scores.log_evidence.values
    adata.write_h5ad(path)

    again = anndata.read_h5ad(path)
    told = {
        what: accuracy(again.obsm["X_vae"], again.obs[what].cat.codes) for what in ("type", "batch")
    }
    raw = accuracy(again.X, again.obs["batch"].cat.codes)
    print(f"types told by the latents: {told['type']:.2f}; batches {told['batch']:.2f} of cells")
    print(f"batches told by the normalised counts: {raw:.2f}")
    picture(again).savefig(out / "25_anndata.png")
    assert again.obsm["X_vae"].shape == (len(again), 5)
    assert told["type"] > 0.95
    assert told["batch"] < 0.65 < raw
    assert list(again.layers) == ["counts"]


def accuracy(features: np.ndarray, labels: pandas.Series) -> float:
    """The share of cells whose label a linear classifier finds, by cross-validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = LogisticRegression(max_iter=300)
        return float(cross_val_score(classifier, features, labels, cv=3).mean())


def picture(adata: anndata.AnnData) -> Figure:
    """The first two principal axes of the latents, by type and by batch."""
    z = adata.obsm["X_vae"] - adata.obsm["X_vae"].mean(0)
    points = z @ np.linalg.svd(z, full_matrices=False)[2][:2].T
    figure = Figure(figsize=(8, 3.6), dpi=120, layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("type", "batch"), strict=True):
        axes.scatter(*points.T, c=adata.obs[what].cat.codes, s=6, cmap="viridis")
        axes.set(title=f"latents by {what}", xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
