"""Tables whose cells hide by their own value: root mean squared error of what is filled in.

    python benchmarks/missing.py uci_tabular.npz --tables banknote concrete --seeds 0 1

The protocol is that of table 1 of Ipsen et al. (2021, https://arxiv.org/abs/2006.12871): columns
standardised, the last one (the target) left out; in the first half of the columns every value above
the column's mean is missing. A latent dimension fewer than columns, two layers of 128 tanh units,
20 particles, batches of 16, Adam at 1e-3; in place of 100,000 steps there are 30,000. The VAE is
built from the number of columns alone: built from data it would start at the centre of what was
seen, which lies below the mean that the protocol's standardised columns give away. The file holds
an array for each table.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import pyro_vae as pv

TABLES = ("banknote", "concrete", "wine_red", "wine_white", "breast_cancer")
METHODS = {
    "miwae": None,  # any cell may hide, for no reason
    "logistic": "logistic",
    "self_masking": "self_masking",
    "known": {"name": "self_masking", "direction": "high"},
}
NETWORK = {"name": "mlp", "hidden": [128, 128], "activation": "tanh"}
BATCH = 16
RATE = 1e-3


def main() -> None:
    """A line for each table, method and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--tables", nargs="+", default=TABLES)
    parser.add_argument("--methods", nargs="+", default=tuple(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=30_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(given.path) as file:
        tables = {name: file[name][:, :-1].astype(float) for name in given.tables}
    print("table          method        seed   rmse   of means    s")
    for name, values in tables.items():
        full = (values - values.mean(0)) / values.std(0)
        x = hidden(full)
        for method in given.methods:
            for seed in given.seeds:
                started = time.perf_counter()
                error = rmse(filled(x, method, given.steps, seed), full, x)
                of_means = rmse(np.where(np.isnan(x), np.nanmean(x, 0), x), full, x)
                took = time.perf_counter() - started
                print(
                    f"{name:14} {method:13} {seed:4d} {error:6.3f} {of_means:10.3f} {took:4.0f}",
                    flush=True,
                )


def hidden(full: np.ndarray) -> np.ndarray:
    """The table with holes."""
    x = full.copy()
    half = full.shape[1] // 2
    x[:, :half][full[:, :half] > full[:, :half].mean(0)] = np.nan
    return x


def filled(x: np.ndarray, method: str, steps: int, seed: int) -> np.ndarray:
    """The table, its holes filled by a VAE."""
    columns = x.shape[1]
    spec = {
        "event": [columns],
        "latent": [columns - 1],
        "likelihood": {"name": "normal", "network": NETWORK},
        "guide": {"name": "normal", "network": NETWORK},
    }
    if method != "miwae":
        spec["missingness"] = METHODS[method]
    vae = pv.build(spec, seed=seed)
    epochs = -(-steps // -(-len(x) // BATCH))
    pv.fit(
        vae,
        x,
        loss="iwae",
        particles=20,
        batch_size=BATCH,
        learning_rate=RATE,
        epochs=epochs,
        seed=seed,
        progress=False,
    )
    return np.asarray(vae.impute(x, num_samples=2000, seed=seed))


def rmse(guess: np.ndarray, full: np.ndarray, x: np.ndarray) -> float:
    """Over the cells that are missing."""
    holes = np.isnan(x)
    return float(np.sqrt(np.mean((guess - full)[holes] ** 2)))


if __name__ == "__main__":
    main()
