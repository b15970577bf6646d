"""A VAE given the label
=====================

A VAE given the label: p(x | c). It draws the digit it is asked for, and by Bayes' rule it is a
classifier.

By Bayes' rule p(c | x) is proportional to p(x | c) p(c), so ten numbers log p(x | c) classify a
digit. Without latents the same rule is naive Bayes: independent binomial pixels given the label.
Averaged over c, the ten densities give p(x). Its log is at most log 10 nats below log p(x | c), and
may be compared with log p(x) of a VAE that never saw a label.

Run it: python examples/07_conditional_digits.py
"""

from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from scipy.special import logsumexp
from scipy.stats import binom
from sklearn.datasets import load_digits

import pyro_vae as pv


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Fit with and without the label, compare log p(x), classify held-out digits, draw digits."""
    x, c = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[: 700 if small else None]
    x = x[order].astype(np.float32)
    c = c[order]
    cut = 500 if small else 1300
    train, test = x[:cut], x[cut:]
    label, truth = c[:cut], c[cut:]
    options = {"latent": 6, "likelihood": "beta_binomial", "guide": "student_t", "hidden": [200]}
    epochs, num_samples = (40, 30) if small else (100, 300)

    vae = pv.build(train, c=label, **options)
    pv.fit(vae, train, label, epochs=epochs, learning_rate=3e-3)
    blind = pv.build(train, **options)
    pv.fit(blind, train, epochs=epochs, learning_rate=3e-3)

    given = np.stack(
        [evidence(vae, test, num_samples, np.full(len(test), digit)) for digit in range(10)]
    )
    own = given[truth, np.arange(len(test))]
    without = evidence(blind, test, num_samples)
    mixed = logsumexp(given, axis=0) - np.log(10)
    print("log p(x | c), own label       {:8.2f} ± {:.2f} nats per digit".format(*mean(own)))
    print("log p(x), mixed over c        {:8.2f} ± {:.2f}".format(*mean(mixed)))
    print("log p(x), without labels      {:8.2f} ± {:.2f}".format(*mean(without)))
    print("mixed minus without labels    {:8.2f} ± {:.2f}".format(*mean(mixed - without)))

    right = given.argmax(0) == truth
    right_naive = naive_bayes(train, label, test).argmax(0) == truth
    print("classified by log p(x | c)    {:8.1%} ± {:.1%}".format(*mean(right)))
    print("classified by naive Bayes     {:8.1%} ± {:.1%}".format(*mean(right_naive)))

    out.mkdir(parents=True, exist_ok=True)
    picture(vae).savefig(out / "07_conditional_digits.png")
    told, told_error = mean(own - mixed)
    gain, error = mean(right.astype(float) - right_naive)
    assert told > 5 * told_error, "the label must tell something of the digit"
    assert small or gain > 3 * error, (
        "with latents it must classify better than with independent pixels"
    )


def evidence(
    vae: pv.VAE, x: np.ndarray, num_samples: int, c: np.ndarray | None = None
) -> np.ndarray:
    """log p(x), or log p(x | c), of each digit. The guide knows little of wrong labels: there it is
    a lower bound.
    """
    return pv.log_evidence(vae, x, c, num_samples=num_samples).log_evidence.values


def mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def naive_bayes(x: np.ndarray, c: np.ndarray, new: np.ndarray) -> np.ndarray:
    """log p(x | c) of independent binomial pixels, exact."""
    rates = [(x[c == digit].sum(0) + 1) / (16 * (c == digit).sum() + 2) for digit in range(10)]
    return np.stack([binom.logpmf(new, 16, rate).sum(1) for rate in rates])


def picture(vae: pv.VAE) -> Figure:
    """Ten draws of z, a column each, decoded under every label."""
    torch.manual_seed(0)
    z = vae.prior().sample(torch.Size([10])).repeat(10, 1)
    with torch.no_grad():
        images = vae.decode(z, np.repeat(np.arange(10), 10)).mean.reshape(10, 10, 8, 8)
    framed = np.pad(images.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)])

    figure = Figure(figsize=(6.0, 6.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(framed.transpose(0, 2, 1, 3).reshape(100, 100), cmap="gray_r", vmin=0, vmax=16)
    axes.set_yticks(np.arange(10) * 10 + 4.5, range(10))
    axes.set_xticks([])
    axes.set(
        ylabel="label c",
        xlabel="ten draws of z, the same in each row",
        title="means of p(x | z, c)",
    )
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
