"""How good is a guide?
====================

How good is a guide? Three guides for one model, compared with MCMC and with the best of their
family.

The decoder of a VAE of digits is fitted once and then held fixed, so that there is one posterior
for each digit. A diagonal normal, a full normal and a spline flow are fitted to it. On digits that
none of them has seen, we measure:

* the gap between log p(x) and the ELBO, in two parts: what no member of the family can close
  (approximation), and what is lost because one network serves all digits (amortisation; Cremer et
  al., 2018);
* the distance from the draws of batched HMC, in standard deviations of the posterior.

Run it: python examples/09_guides_on_trial.py
"""

from pathlib import Path

import numpy as np
import pandas
import torch
import typer
import xarray
from matplotlib.figure import Figure

import pyro_vae as pv

GUIDES = {"normal": {}, "multivariate_normal": {}, "spline_flow": {"hidden": [32]}}


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Fit a decoder, fit three guides to it, compare them."""
    x = pv.data.load("digits").astype(np.float32)
    x = x[np.random.default_rng(0).permutation(len(x))]
    train = x[:1200]
    test = x[1437 : 1437 + (8 if small else 60)]
    epochs = 20 if small else 100
    model = pv.build(train, latent=6, likelihood="beta_binomial", hidden=[200])
    pv.fit(model, train, epochs=epochs, batch_size=64)
    for part in (model.prior, model.likelihood):
        part.requires_grad_(False)

    vaes = {name: guided(model, train, name, epochs) for name in GUIDES}
    posterior = pv.sample_posterior(model, test, num_samples=200 if small else 1000, warmup=300)
    steps = 50 if small else 400
    found = {
        name: pv.gaps(vae, test, steps=steps, num_samples=500 if small else 2000)
        for name, vae in vaes.items()
    }
    apart = {name: pv.compare_posteriors(vae, test, posterior) for name, vae in vaes.items()}

    table = pandas.DataFrame({name: row(found[name], apart[name]) for name in GUIDES}).T
    print(
        f"{len(test)} digits; gaps in nats, the mean over digits; distances in posterior sd, "
        "medians"
    )
    print(table.round(2).to_string())
    out.mkdir(parents=True, exist_ok=True)
    picture(found).savefig(out / "09_guides_on_trial.png")

    for name, gap in found.items():
        for kind in ("approximation_gap", "amortisation_gap"):
            assert (gap[kind] > -4 * gap[f"{kind}_se"]).all(), f"{name}: no gap is negative"
    closed = (found["normal"] - found["spline_flow"]).approximation_gap.values
    assert small or closed.mean() > 2 * closed.std(ddof=1) / len(closed) ** 0.5, (
        "a flow follows the posterior closer"
    )


def guided(model: pv.VAE, x: np.ndarray, name: str, epochs: int) -> pv.VAE:
    """The same model with another guide, fitted to it."""
    torch.manual_seed(0)
    head = pv.Conditional.registry[name](model.prior.event_shape, **GUIDES[name])
    network = pv.MLP(x.shape[1], head.num_params, hidden=[200])
    network.standardize(torch.as_tensor(x.mean(0)), torch.as_tensor(x.std(0)))

    vae = pv.VAE(model.prior, model.likelihood, pv.Amortised(network, head))
    pv.fit(vae, x, epochs=epochs, batch_size=64)
    return vae


def row(gap: xarray.Dataset, apart: xarray.Dataset) -> dict[str, float]:
    """The row of one guide in the table."""
    return {
        "log p(x)": gap.attrs["log_evidence"],
        "approximation": gap.attrs["approximation_gap"],
        "± SE": gap.attrs["approximation_gap_mean_se"],
        "amortisation": gap.attrs["amortisation_gap"],
        "± SE ": gap.attrs["amortisation_gap_mean_se"],
        "|mean error|": float(np.abs(apart.mean_error).median()),
        "sd ratio": float(apart.sd_ratio.median()),
        "correlation missed": float(apart.correlation_missed.median()),
        "coverage of 90 %": float(apart.coverage.median()),
    }


def picture(found: dict[str, xarray.Dataset]) -> Figure:
    """The gap between log p(x) and the ELBO of each guide, in its two parts."""
    figure = Figure(figsize=(8.0, 2.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    names = list(found)
    left = np.zeros(len(names))
    for number, kind in enumerate(("approximation_gap", "amortisation_gap")):
        width = np.array([found[name].attrs[kind] for name in names])
        error = [2 * found[name].attrs[f"{kind}_mean_se"] for name in names]
        axes.barh(
            names, width, left=left, xerr=error, color=f"C{number}", label=kind.replace("_", " ")
        )
        left += width

    axes.invert_yaxis()
    axes.set(xlabel="log p(x) less the ELBO, in nats ± 2 SE", title="what the guide loses")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
