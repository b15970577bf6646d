"""Your own loop over Pyro's SVI, and what Pyro says of the model.
===============================================================

A VAE's model and guide are Pyro functions, so all of a training loop can be yours: the optimiser,
the batches, what is logged. Here the loop finds the factors behind the wine data, and reaches the
likelihood of scikit-learn's factor analysis, the exact maximum. Pyro's own tools then tell the
structure of the model: which site depends on which, and a drawing with its plate.

Run it: python examples/20_own_svi_loop.py
"""

from pathlib import Path

import numpy as np
import pyro
import torch
import typer
from matplotlib.figure import Figure
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.inspect import get_dependencies
from sklearn.datasets import load_wine
from sklearn.decomposition import FactorAnalysis
from sklearn.preprocessing import StandardScaler

import pyro_vae as pv


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Train by a loop of one's own, compare with the exact maximum, inspect the model."""
    x = torch.as_tensor(StandardScaler().fit_transform(load_wine().data)).float()
    shared = {"name": "normal", "scale": "learned"}  # one for each column, whatever z is
    vae = pv.build(x, latent=2, likelihood=shared, guide=shared, hidden=[])

    pyro.clear_param_store()
    epochs = 300
    decay = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.99}
    schedule = pyro.optim.ExponentialLR(decay)
    svi = SVI(vae.model, vae.guide, schedule, TraceMeanField_ELBO())
    losses = []
    for _ in range(epochs):
        batches = torch.randperm(len(x)).split(60)
        losses.append(sum(svi.step(x[batch]) for batch in batches) / len(x))  # nats per datum
        schedule.step()
    found = float(pv.log_evidence(vae, x).log_evidence.mean())
    best = FactorAnalysis(2, tol=1e-6, svd_method="lapack").fit(x.double().numpy()).score(x)
    print(f"log p(x) in the mean: {found:.3f} nats by the loop, {best:.3f} at the maximum")

    dependencies = get_dependencies(vae.model, (x[:5],))
    print("a priori x depends on", sorted(dependencies["prior_dependencies"]["x"]))
    drawing = pyro.render_model(vae.model, (x[:5],), render_distributions=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "20_own_svi_loop.dot").write_text(drawing.source)  # drawing.render(...) needs Graphviz
    picture(losses, best).savefig(out / "20_own_svi_loop.png")

    assert -0.1 < found - best < 0.02
    assert dependencies["prior_dependencies"] == {"z": {"z": set()}, "x": {"x": set(), "z": set()}}
    assert dependencies["posterior_dependencies"] == {"z": {"z": set(), "x": set()}}
    assert "cluster_data" in drawing.source
    assert "z -> x" in drawing.source


def picture(losses: list[float], best: float) -> Figure:
    """The loss of each epoch, and the lowest that any linear VAE can have."""
    figure = Figure(figsize=(6, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, len(losses) + 1), losses, label="own loop")
    axes.axhline(-best, color="black", linestyle="dashed", label="factor analysis, exact")
    axes.set(xlabel="epoch", ylabel="loss in nats per datum", xscale="log")
    axes.legend()
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
