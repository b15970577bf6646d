"""The demo: a VAE of 8 x 8 digits, fitted and judged."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray
from rich.console import Console
from rich.table import Table

from .. import data
from ..conditionals.counts import Binomial
from ..criticism import plots
from ..criticism.report import report
from ..evidence.evidence import log_evidence
from ..evidence.pareto import KHAT_LIMIT
from ..spec.build import build
from ..spec.checkpoint import save
from ..training.fit import fit
from ..vae import VAE

NUM_SAMPLES = (1, 10, 100, 5000)
MCMC_DATA = 50


def demo(out: Path, epochs: int, num_samples: int) -> None:
    """Fit, print a table of log p(x) and baselines, write the model, four pictures and a report.

    Arguments:
        out: The folder for the model and the pictures.
        epochs: At most so many passes over the data.
        num_samples: The largest number of samples for log p(x).
    """
    console = Console()
    digits = _Digits.load()
    vae = build(
        digits.train,
        latent=8,
        prior="normal",
        likelihood={"name": "binomial", "total_count": 16},
        hidden=[200, 200],
    )
    console.print(
        "[bold]Digits[/bold]: 1797 images of 8 x 8 grey levels 0..16. p(z) normal, p(x|z) "
        "binomial, q(z|x) normal."
    )
    began = time.perf_counter()
    history = fit(
        vae, digits.train, validation=digits.validation, epochs=epochs, batch_size=64, patience=40
    )
    best = history.validation.min()
    took = time.perf_counter() - began
    console.print(
        f"Trained {len(history)} epochs in {took:.0f} s; the best validation loss is {best:.2f} "
        "nats."
    )
    curves = _curves(vae, digits.test, [k for k in NUM_SAMPLES if k < num_samples] + [num_samples])
    console.print(_table(curves, _independent_pixels(digits)))
    console.print(_verdict(curves["importance sampling"][num_samples]))
    _write(out, vae, history, digits, curves)
    console.print(
        f"Held against MCMC on {MCMC_DATA} digits, the guide and its calibration: the report takes "
        "a moment."
    )
    report(
        vae,
        digits.test,
        out / "report.html",
        history=history,
        labels=digits.test_labels,
        num_mcmc=MCMC_DATA,
    )
    console.print(f"The model, four pictures and report.html are in {out}.")


@dataclass(frozen=True)
class _Digits:
    """scikit-learn's digits, shuffled and split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def load(cls) -> _Digits:
        from sklearn.datasets import load_digits

        x = data.load("digits")
        order = np.random.default_rng(0).permutation(len(x))
        x, labels = x[order], load_digits().target[order]
        return cls(x[:1200], x[1200:1437], x[1437:], labels[1437:])


def _curves(
    vae: VAE, x: np.ndarray, num_samples: list[int]
) -> dict[str, dict[int, xarray.Dataset]]:
    """log p(x) by importance sampling, and by naive sampling: the same estimator with the prior as
    guide.
    """

    def prior_guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", vae.prior())

    pairs: dict[str, Any] = {"importance sampling": vae, "naive sampling": (vae.model, prior_guide)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table shows k-hat
        return {
            name: {k: log_evidence(pair, x, num_samples=k) for k in num_samples}
            for name, pair in pairs.items()
        }


def _independent_pixels(digits: _Digits) -> np.ndarray:
    """log p(x) of the test data where every pixel is a binomial of its own, with add-one smoothing."""
    rate = torch.as_tensor(
        (digits.train.sum(0) + 1) / (16 * len(digits.train) + 2), dtype=torch.float64
    )
    model = Binomial((64,), total_count=16, logits=torch.logit(rate))
    return model().log_prob(torch.as_tensor(digits.test)).numpy()


def _table(curves: dict[str, dict[int, xarray.Dataset]], independent: np.ndarray) -> Table:
    table = Table(
        "estimate on 360 test digits", title="log p(x) in nats per datum", title_justify="left"
    )
    table.add_column("K", justify="right")
    table.add_column("mean ± SE", justify="right")
    table.add_column(f"k-hat > {KHAT_LIMIT}", justify="right")
    largest = max(curves["importance sampling"])
    elbo = curves["importance sampling"][largest]["elbo"].values
    table.add_row("ELBO, the bound it was trained on", "", _mean_se(elbo), "", end_section=True)
    for name, results in curves.items():
        for k, result in results.items():
            known = result["khat"].notnull().all()
            share = f"{float((result['khat'] > KHAT_LIMIT).mean()):.0%}" if known else "unknown"
            mean = f"{result.attrs['mean']:.2f} ± {result.attrs['mean_se']:.2f}"
            table.add_row(f"log p(x), {name}", str(k), mean, share, end_section=k == largest)
    table.add_row("independent pixels, exact", "", _mean_se(independent), "")
    return table


def _mean_se(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def _verdict(result: xarray.Dataset) -> str:
    flagged, num = result.attrs["flagged"], result.sizes["datum"]
    return (
        f"SE is over test digits and draws of z. log p(x) of {num - flagged} digits can be "
        f"trusted; that of {flagged} is a lower bound only: their weights have a tail too heavy "
        f"for K = {result.attrs['num_samples']} (k-hat above {KHAT_LIMIT}), for the guide is "
        "narrower than the posterior. Naive sampling shows what no guide costs."
    )


def _write(
    out: Path, vae: VAE, history: Any, digits: _Digits, curves: dict[str, dict[int, xarray.Dataset]]
) -> None:
    save(vae, out / "model.safetensors")
    history.to_csv(out / "history.csv", index=False)
    plots.reconstructions(vae, digits.test[:12]).savefig(out / "reconstructions.png")
    plots.samples(vae).savefig(out / "samples.png")
    plots.latent_space(vae, digits.test, digits.test_labels).savefig(out / "latent_space.png")
    plots.bounds(curves).savefig(out / "bounds.png")
