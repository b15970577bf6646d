"""Which genes tell two kinds of cells apart: do the known marker genes come first?

    python benchmarks/markers.py pbmc3k.npz

The file holds ``counts`` (cells, genes) and ``genes``, their names. Cells are clustered by k-means
of posterior means; of the clusters with the most CD79A (B cells) and LYZ (monocytes) some cells are
compared.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans

import pyro_vae as pv

NUMBER = 60  # cells of each group
MARKERS = {
    "B cells": ["CD79A", "CD79B", "LINC00926", "TCL1A", "CD74", "HLA-DRA"],
    "monocytes": ["LYZ", "S100A9", "S100A8", "CST3", "FCN1", "LST1", "TYROBP", "FTL"],
}


def main() -> None:
    """Fit, cluster, compare, and say where known markers stand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--tolerance", type=float)
    given = parser.parse_args()
    with np.load(given.path) as file:
        counts, genes = file["counts"].astype(np.float32), file["genes"].astype(str)
    x = pd.DataFrame(counts, columns=genes)
    depth = counts.sum(1) / counts.sum(1).mean()
    vae = pv.build(
        x,
        c=depth,
        condition={"exposure": 0},
        latent=10,
        likelihood={"name": "negative_binomial", "total_count": "learned"},
        hidden=[128],
    )
    pv.fit(vae, x, depth, epochs=40, progress=False)

    means = vae.encode(x, depth).mean.numpy(force=True)
    cluster = KMeans(8, n_init=5, random_state=0).fit_predict(means)
    typical = (x / depth[:, None]).groupby(cluster).mean()
    groups = [
        np.flatnonzero(cluster == typical[gene].idxmax())[:NUMBER] for gene in ("CD79A", "LYZ")
    ]

    def log_rate(z: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """At the same depth for all cells."""
        return vae.decode(z, torch.ones(len(x))).mean.log()

    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        a, b = (x.iloc[group] for group in groups)
        c = tuple(depth[group] for group in groups)
        table = pv.contrast(
            vae,
            a,
            b,
            log_rate,
            c=c,
            delta=math.log(2),
            tolerance=given.tolerance,
            names=vae.columns,
        )
    print(f"{table.selected.sum()} of {len(table)} genes, {time.perf_counter() - began:.0f} s")
    for warning in said:
        print(warning.message)
    for (kind, known), side in zip(MARKERS.items(), (1, -1), strict=True):
        own = table[table.effect * side > 0]
        places = [own.index.get_loc(gene) + 1 for gene in known if gene in own.index]
        print(f"{kind}: {', '.join(own.index[:12])}")
        print(f"  places of {', '.join(known)}: {places} of {len(own)}")


if __name__ == "__main__":
    main()
