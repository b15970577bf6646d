"""What a report says of its own lights and measures: what each means, and what to do."""

from __future__ import annotations

EVIDENCE = (
    "A datum is flagged where its importance weights cannot support their mean: k-hat above 0.7, "
    "few effective samples, or draws of a wider distribution that contradict the guide's. Good: "
    "less than 5 % of the data are flagged; check: less than 30 %. To do: "
    "tolerance=0.05 (--tolerance 0.05) gives flagged data better proposals; a guide such as "
    "spline_flow, or training with loss='iwae', leaves fewer flagged."
)
EXACT = "No sampling was needed: there are so few values of the latents that all were tried."
MIXED = (
    "Chains have mixed where R-hat and bulk ESS say that all four explored the same distribution, "
    "and long enough (Vehtari et al., 2021). Good: those of all data; check: of more than 90 %. To "
    "do: sample_posterior with a longer warmup, or kernel='nuts'."
)
GUIDE = (
    "Good: a typical mean is off by less than 0.2 posterior standard deviations, and less than a "
    "tenth of the guide's standard deviations are below 0.8 of the posterior's; check: means off "
    "by less than 0.5. To do: train longer, give the guide a larger network or another family "
    "(low_rank_normal, spline_flow), or vae.refine for a few data. gaps tells which of these helps."
)
CALIBRATION = (
    "Simulation-based calibration (Talts et al., 2018): data are simulated from the model, and "
    "the rank of each true latent among draws of the guide is uniform if the guide is the "
    "posterior. Good: nothing speaks against it. Bad: the ranks are not uniform. Many ranks at "
    "both ends mean a guide that is too narrow, many in the middle one that is too wide, many "
    "at one end a shift. With many simulations even a small error is found: the comparison with "
    "MCMC says how large it is. The picture shows the distribution function of the ranks less "
    "that of a uniform; the grey band holds 95 % of curves of an exact guide. A curve that rises "
    "first: many truths lie low among the draws."
)
PREDICTIONS = (
    "Each statistic of the data beside that of 200 data sets drawn given them. p says how far "
    "out among these it lies: near 0, the model misses this feature of the data, and another "
    "likelihood may not. The data are used twice, so p of a true model lies closer to 1/2 than "
    "a uniform number (Gelman et al., 1996)."
)
LOWEST = (
    "The data with the lowest log p(x), by their rows, counted from 0: outliers, errors of the "
    "data, or what the model misses."
)
COMPARED = "Guide and MCMC, over data and, where a measure has one for each, latents."
MEASURES = {
    "exact": "what a guide that is the posterior would give",
    "median, quantile 90, worst": "over data and latents; a tenth of them exceed quantile 90",
    "mean error": "mean of the guide less that of MCMC, in posterior standard deviations",
    "sd ratio": "standard deviation of the guide over that of MCMC; below 1 is too narrow",
    "correlation missed": "the largest difference of two correlations of latents",
    "wasserstein": "the sliced distance of the two, in posterior standard deviations",
    "c2st": "how often a classifier tells draws of the guide from those of MCMC; 0.5 is a guess",
    "coverage": "the share of MCMC's draws inside the guide's central 90 % intervals",
    "kl": "KL(q || p) of guide and posterior, in nats",
}


def sampled(*, num_samples: int, tolerance: float | None, seed: int) -> str:
    """How log p(x) was estimated."""
    text = f"Importance sampling from the guide, K = {num_samples}"
    if tolerance is None:
        return f"{text}, seed {seed}."
    return f"{text}, seed {seed}; where its error is above {tolerance:g} nats, better proposals."
