"""The command demo: a VAE of 8 x 8 digits, from the data to a report."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from .terminal import console, write_json

if TYPE_CHECKING:
    import pandas

NUM_SAMPLES = (1, 10, 100, 5000)
MCMC_DATA = 50

Curves = dict[str, dict[int, xarray.Dataset]]  # results by estimator and number of samples


def demo(out: Path, epochs: int, num_samples: int, device: str, *, as_json: bool) -> None:
    """Fit, evaluate and report."""
    digits = _Digits.load()
    shown = Console(stderr=True) if as_json else console()
    say = shown.print
    say(
        "[bold]Digits[/bold]: 1797 images of 8 x 8 grey levels 0..16. p(z) normal, p(x|z) "
        "binomial, q(z|x) normal."
    )

    vae, history, seconds = _fitted(digits, epochs, device)
    say(
        f"Trained {len(history)} epochs in {seconds:.0f} s; the best validation loss is "
        f"{history.validation.min():.2f} nats."
    )

    curves = _curves(vae, digits.test, [k for k in NUM_SAMPLES if k < num_samples] + [num_samples])
    say(_table(curves, _independent_pixels(digits)))
    say(_verdict(curves["importance sampling"][num_samples]))

    _write(out, vae, history, digits, curves)
    say(
        f"The report compares the guide with MCMC on {MCMC_DATA} digits and tests its calibration; "
        "this takes a moment."
    )
    report(
        vae,
        digits.test,
        out / "report.html",
        history=history,
        labels=digits.test_labels,
        num_mcmc=MCMC_DATA,
    )
    say(f"The model, four pictures and report.html are in {out}.")
    if as_json:
        best = curves["importance sampling"][num_samples].attrs
        score = {key: best[key] for key in ("mean", "mean_se", "flagged")}
        write_json({"out": out, "epochs": len(history), "log_evidence": score})


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
        x = x[order]
        labels = load_digits().target[order]
        return cls(x[:1200], x[1200:1437], x[1437:], labels[1437:])


def _fitted(digits: _Digits, epochs: int, device: str) -> tuple[VAE, pandas.DataFrame, float]:
    """A trained VAE, its history, and the seconds that training took."""
    vae = build(
        digits.train,
        latent=8,
        prior="normal",
        likelihood={"name": "binomial", "total_count": 16},
        hidden=[200, 200],
        device=device,
    )
    start = time.perf_counter()
    history = fit(
        vae, digits.train, validation=digits.validation, epochs=epochs, batch_size=64, patience=40
    )
    return vae, history, time.perf_counter() - start


def _curves(vae: VAE, x: np.ndarray, num_samples: list[int]) -> Curves:
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
    """log p(x) of the test data with an independent binomial for each pixel, by add-one
    smoothing.
    """
    rate = torch.as_tensor(
        (digits.train.sum(0) + 1) / (16 * len(digits.train) + 2), dtype=torch.float64
    )
    model = Binomial((64,), total_count=16, logits=torch.logit(rate))
    return model().log_prob(torch.as_tensor(digits.test)).numpy()


def _table(curves: Curves, independent: np.ndarray) -> Table:
    table = Table(
        "estimate on 360 test digits", title="log p(x) in nats per datum", title_justify="left"
    )
    for column in ("K", "mean ± SE", f"k-hat > {KHAT_LIMIT}"):
        table.add_column(column, justify="right")

    largest = max(curves["importance sampling"])
    elbo = curves["importance sampling"][largest]["elbo"].values
    table.add_row("ELBO, the bound it was trained on", "", _mean_se(elbo), "", end_section=True)
    for name, results in curves.items():
        for k, result in results.items():
            mean = f"{result.attrs['mean']:.2f} ± {result.attrs['mean_se']:.2f}"
            cells = (f"log p(x), {name}", str(k), mean, _share_above_limit(result))
            table.add_row(*cells, end_section=k == largest)
    table.add_row("independent pixels, exact", "", _mean_se(independent), "")
    return table


def _share_above_limit(result: xarray.Dataset) -> str:
    """The share of data whose k-hat is above the limit; few samples leave k-hat unknown."""
    if result["khat"].isnull().any():
        return "unknown"
    return f"{float((result['khat'] > KHAT_LIMIT).mean()):.0%}"


def _mean_se(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def _verdict(result: xarray.Dataset) -> str:
    flagged = result.attrs["flagged"]
    trusted = result.sizes["datum"] - flagged
    return (
        f"The SE is over test digits and draws of z. log p(x) of {trusted} digits can be trusted; "
        f"that of {flagged} is only a lower bound: for K = {result.attrs['num_samples']} their "
        "weights have too heavy a tail, or wider draws refute them, since the guide is narrower "
        "than the posterior. Naive sampling shows how much worse it is without a guide."
    )


def _write(out: Path, vae: VAE, history: pandas.DataFrame, digits: _Digits, curves: Curves) -> None:
    save(vae, out / "model.safetensors")
    history.to_csv(out / "history.csv", index=False)
    plots.reconstructions(vae, digits.test[:12]).savefig(out / "reconstructions.png")
    plots.samples(vae).savefig(out / "samples.png")
    plots.latent_space(vae, digits.test, digits.test_labels).savefig(out / "latent_space.png")
    plots.bounds(curves).savefig(out / "bounds.png")
