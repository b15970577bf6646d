"""A linear VAE is factor analysis
===============================

A linear VAE is factor analysis: same likelihood, same log p(x) for each datum.

With a normal prior, a linear decoder and one learned noise scale per feature, the model is factor
analysis. Its true posterior is normal, so the guide can be exact, the ELBO has no gap at its
optimum, and scikit-learn knows the answer.

Run it: python examples/01_factor_analysis.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from sklearn.decomposition import FactorAnalysis

import pyro_vae as pv

LATENTS = 2


def main(path: str = "factor_analysis.png") -> None:
    """Fit both, compare, draw."""
    x = load_wine().data
    x = (x - x.mean(0)) / x.std(0)
    features = x.shape[1]

    vae = pv.VAE(
        prior=pv.Normal((LATENTS,), loc=0.0, scale=1.0),
        likelihood=pv.Amortised(
            pv.MLP(LATENTS, features, hidden=()), pv.Normal((features,), scale="learned")
        ),
        guide=pv.Amortised(
            pv.MLP(features, LATENTS, hidden=()), pv.Normal((LATENTS,), scale="learned")
        ),
    )
    pv.fit(
        vae,
        x,
        loss="mean_field",
        epochs=400,
        batch_size=100,
        learning_rate=lambda epoch: 0.02 * 0.99**epoch,
    )
    evidence = pv.log_evidence(vae, x, num_samples=1000)
    analysis = FactorAnalysis(LATENTS, tol=1e-8, max_iter=10_000, svd_method="lapack").fit(x)

    ours = evidence.attrs["mean"]
    theirs = analysis.score(x)
    print(f"mean log p(x): VAE {ours:.3f}, factor analysis {theirs:.3f} nats per datum")
    difference = evidence.log_evidence.values - analysis.score_samples(x)
    print(f"datum by datum they differ by {np.abs(difference).mean():.3f} nats in the mean")
    assert theirs - 0.05 * features < ours < theirs + 0.01, (
        "the VAE must reach the maximum likelihood, not pass it"
    )
    assert np.abs(difference).mean() < 0.5
    picture(analysis.score_samples(x), evidence).savefig(path)


def picture(exact: np.ndarray, evidence: object) -> Figure:
    """log p(x) of every datum, by both."""
    figure = Figure(figsize=(4.5, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.errorbar(exact, evidence.log_evidence, yerr=2 * evidence.se, fmt=".", markersize=4)
    axes.axline((exact.mean(), exact.mean()), slope=1, color="0.7", zorder=0)
    axes.set(
        xlabel="factor analysis, exact",
        ylabel="linear VAE, importance sampling",
        title="log p(x) of 178 wines",
    )
    return figure


if __name__ == "__main__":
    main()
