"""Does the warning light of log p(x) tell the truth, where the truth is known in closed form?

Conjugate models, whose log p(x) is known, under guides that are good, bad, or good in all that a
few draws show: fitted ones of four families, one narrowed to a fifth after it was fitted, and one
moved by three of its standard deviations. Each in single and in double precision, without a
tolerance and with one.

Of the data that are not flagged: how many there are, the share of them within 4 standard errors of
the truth, and the standard deviation of their z-scores, each over all guides and both precisions of
a model, and then over all models of a guide.

Run it: python benchmarks/light.py [names of models] [--data 200] [--samples 1000] [--folder FOLDER]
"""

import argparse
import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyro import distributions as dist
from scipy import special, stats
from torch import Tensor, nn
from torch.distributions import biject_to

import pyro_vae as pv

CONCENTRATIONS = (0.1, 0.3, 0.5, 2.0)
GUIDES = ("normal", "multivariate_normal", "student_t", "spline_flow", "narrow", "shifted")
TOO_SLOW = {("linear gaussian 50", "spline_flow")}  # some seconds for each datum
MOVED = {"narrow": {"shrink": 0.2}, "shifted": {"shift": 3.0}}  # what is done to a fitted normal
PRECISIONS = (torch.float64, torch.float32)
TOLERANCE = 0.05
NOISE = 0.5  # the sd of x given z, of the normal models


class Direct(pv.Conditional):
    """A likelihood whose parameter is z itself."""

    def __init__(self, event_shape: tuple[int, ...], make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.event_shape, self.make = torch.Size(event_shape), make

    def forward(self, z: Tensor) -> object:
        return self.make(z)

    @classmethod
    def example(cls) -> "Direct":
        return cls((1,), lambda z: dist.Normal(z, 1.0).to_event(1))


class Logs(nn.Module):
    """The logs of positive data, whose own variance may be infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Moved(pv.Conditional):
    """A normal conditional, narrowed and moved by so many of its standard deviations."""

    def __init__(self, normal: pv.Conditional, shrink: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.normal, self.shrink, self.shift = normal, shrink, shift
        self.event_shape = normal.event_shape

    def forward(self, context: Tensor) -> object:
        base = self.normal(context).base_dist
        moved = dist.Normal(base.loc + self.shift * base.scale, self.shrink * base.scale)
        return moved.to_event(len(self.event_shape))

    @classmethod
    def example(cls) -> "Moved":
        return cls(pv.Amortised(pv.MLP(1, 2), pv.Normal((1,))))


@dataclass(frozen=True)
class Known:
    """A prior and a likelihood, data drawn from them, and log p(x) of each."""

    prior: pv.Conditional
    likelihood: pv.Conditional
    x: np.ndarray
    log_evidence: np.ndarray

    @classmethod
    def named(cls, name: str, num: int, seed: int = 0) -> "Known":
        """Such as "dirichlet multinomial 0.3" or "linear gaussian 10"."""
        family, _, number = name.rpartition(" ")
        return MODELS[family](float(number), num, np.random.default_rng(seed))


def beta_binomial(a: float, num: int, rng: np.random.Generator) -> Known:
    """Successes of 10, by a chance that is Beta(a, a)."""
    x = rng.binomial(10, rng.beta(a, a, (num, 1)))
    prior = pv.Beta((1,), concentration1=a, concentration0=a)
    likelihood = Direct((1,), lambda z: dist.Binomial(10, z, validate_args=False).to_event(1))
    return Known(prior, likelihood, x, stats.betabinom(10, a, a).logpmf(x[:, 0]))


def gamma_poisson(a: float, num: int, rng: np.random.Generator) -> Known:
    """Counts whose rate is Gamma(a, 1)."""
    x = rng.poisson(rng.gamma(a, 1.0, (num, 1)))
    prior = pv.Gamma((1,), concentration=a, rate=1.0)
    likelihood = Direct((1,), lambda z: dist.Poisson(z, validate_args=False).to_event(1))
    return Known(prior, likelihood, x, stats.nbinom(a, 0.5).logpmf(x[:, 0]))


def gamma_exponential(a: float, num: int, rng: np.random.Generator) -> Known:
    """Waiting times whose rate is Gamma(a, 1)."""
    x = rng.exponential(1 / rng.gamma(a, 1.0, (num, 1))).clip(max=1e30)
    prior = pv.Gamma((1,), concentration=a, rate=1.0)
    likelihood = Direct((1,), lambda z: dist.Exponential(z, validate_args=False).to_event(1))
    return Known(prior, likelihood, x, stats.lomax(a).logpdf(x[:, 0]))


def dirichlet_multinomial(a: float, num: int, rng: np.random.Generator) -> Known:
    """Twelve words of five kinds, whose shares are Dirichlet(a)."""
    total, size = 12, 5
    x = np.array([rng.multinomial(total, p) for p in rng.dirichlet([a] * size, num)])
    each = special.gammaln(x + a) - special.gammaln(x + 1) - special.gammaln(a)
    outer = special.gammaln(total + 1) + special.gammaln(size * a)
    exact = outer - special.gammaln(total + size * a) + each.sum(1)
    likelihood = Direct((size,), lambda z: dist.Multinomial(total, z, validate_args=False))
    return Known(pv.Dirichlet((size,), concentration=a), likelihood, x, exact)


def linear_gaussian(latents: float, num: int, rng: np.random.Generator) -> Known:
    """One latent is normal beside normal; more are factor analysis."""
    q = int(latents)
    features = 1 if q == 1 else q + 4
    weight = np.ones((1, 1)) if q == 1 else rng.normal(size=(features, q))
    marginal = stats.multivariate_normal(
        np.zeros(features), weight @ weight.T + NOISE**2 * np.eye(features)
    )
    x = marginal.rvs(num, random_state=rng).reshape(num, features)
    decoder = torch.as_tensor(weight.T)
    likelihood = Direct((features,), lambda z: dist.Normal(z @ decoder.to(z), NOISE).to_event(1))
    return Known(pv.Normal((q,), loc=0.0, scale=1.0), likelihood, x, marginal.logpdf(x).reshape(-1))


MODELS = {
    "beta binomial": beta_binomial,
    "gamma poisson": gamma_poisson,
    "gamma exponential": gamma_exponential,
    "dirichlet multinomial": dirichlet_multinomial,
    "linear gaussian": linear_gaussian,
}
NAMES = [
    *(f"{name} {a}" for name in list(MODELS)[:-1] for a in CONCENTRATIONS),
    *(f"linear gaussian {q}" for q in (1, 2, 10, 50)),
]


def fitted(known: Known, guide: str) -> pv.VAE:
    """The model with a guide that is fitted, and perhaps spoilt after that; in double precision."""
    latents = biject_to(known.prior.support).inverse_shape(known.prior.event_shape)
    head = pv.Conditional.registry["normal" if guide in MOVED else guide](latents)
    heavy = known.x.max() > 1e3
    seen = np.log(known.x) if heavy else known.x
    network = pv.MLP(known.x.shape[1], head.num_params, hidden=[64])
    network.standardize(torch.as_tensor(seen.mean(0)), torch.as_tensor(seen.std(0)))
    whole = nn.Sequential(Logs(), network) if heavy else network
    vae = pv.VAE(known.prior, known.likelihood, pv.Amortised(whole, head)).double()
    pv.fit(
        vae,
        known.x,
        epochs=40,
        batch_size=50,
        particles=4,
        learning_rate=lambda epoch: 5e-3 * 0.5 ** (epoch / 10),
        progress=False,
    )
    if guide in MOVED:
        vae.posterior = Moved(vae.posterior, **MOVED[guide])
    return vae


def z_scores(
    vae: pv.VAE, known: Known, tolerance: float | None, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """The error of each datum in standard errors, and which are flagged."""
    found = pv.log_evidence(vae, known.x, num_samples=num_samples, tolerance=tolerance)
    error = found.log_evidence.values - known.log_evidence
    rounding = 1e-6 * (1 + np.abs(known.log_evidence))  # of the truth, and of single precision
    return error / np.hypot(found.se.values, rounding), found.flag.values != ""


def measure(names: list[str], data: int, num_samples: int) -> pd.DataFrame:
    """A row for each datum in each cell of the grid."""
    rows = []
    for name, guide in itertools.product(names, GUIDES):
        if (name, guide) in TOO_SLOW:
            continue
        torch.manual_seed(0)
        known = Known.named(name, data)
        vae = fitted(known, guide)
        for dtype, tolerance in itertools.product(
            (torch.float64, torch.float32), (None, TOLERANCE)
        ):
            z, flagged = z_scores(copy.deepcopy(vae).to(dtype), known, tolerance, num_samples)
            cell = {
                "model": name,
                "guide": guide,
                "dtype": str(dtype)[6:],
                "tolerance": tolerance or np.nan,
            }
            rows.append(pd.DataFrame({**cell, "z": z, "flagged": flagged}))
    return pd.concat(rows, ignore_index=True)


def summary(found: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the data that are not flagged, by model or by guide, without and with a tolerance."""
    parts = {}
    for tolerance, some in found.groupby(found.tolerance.notna()):
        groups = some.groupby(by, sort=False)
        kept = some[~some.flagged].groupby(by, sort=False).z
        parts["with" if tolerance else "without"] = pd.DataFrame(
            {
                "unflagged": 1 - groups.flagged.mean(),
                "within 4 se": kept.agg(lambda z: (z.abs() < 4).mean()),
                "sd of z": kept.std(),
            }
        )
    found = pd.concat(parts, axis=1).round(3)
    return found.set_axis([f"{side}: {what}" for side, what in found.columns], axis=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=NAMES, help="; ".join(NAMES))
    parser.add_argument("--data", type=int, default=200)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the two tables are written, as CSV")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 120)
    found = measure(given.models, given.data, given.samples)
    for by in ("model", "guide"):
        table = summary(found, by)
        print(table.to_string(), "\n")
        if given.folder is not None:
            table.to_csv(given.folder / f"light_by_{by}.csv", float_format="%.3f")
