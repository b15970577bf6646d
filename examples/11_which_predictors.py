"""Which predictors belong in a regression?
========================================

Which predictors belong in a regression? Every subset is a model, and the evidence weighs them.

The progression of diabetes a year on, of 442 patients, on five of the measurements that
scikit-learn has (Efron et al., 2004, https://doi.org/10.1214/009053604000000067). Each of the 32
subsets gives a linear regression with an unknown error variance. Its log p(y) comes from an
AutoMultivariateNormal guide that was trained for a moment only: with a tolerance that is enough,
since draws beside the guide's make up for it. The prior is conjugate, so that what is right is
known: y has a multivariate Student-t distribution.

A predictor's probability is that of all models with it. No model is chosen, none is left out.

Run it: python examples/11_which_predictors.py
"""

import itertools
from pathlib import Path

import numpy as np
import pandas
import pyro
import torch
import typer
import xarray
from matplotlib.figure import Figure
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import stats
from sklearn.datasets import load_diabetes
from torch import Tensor

import pyro_vae as pv

PREDICTORS = ("age", "sex", "bmi", "bp", "s5")
SHAPE, RATE = 2.0, 1.0  # of the inverse gamma prior of the error variance
WIDTH = 0.5  # of a coefficient's prior, in standard deviations of the error


def regression(design: Tensor, y: Tensor) -> None:
    """Linear, with an unknown error variance; without a column, an error alone."""
    variance = pyro.sample("variance", dist.InverseGamma(SHAPE, RATE))
    size = design.shape[1]
    weight = y.new_zeros(())
    if size:
        prior = dist.Normal(y.new_zeros(size), WIDTH * variance.sqrt()).to_event(1)
        weight = design @ pyro.sample("weight", prior)
    with pyro.plate("patients", len(y)):
        pyro.sample("y", dist.Normal(weight, variance.sqrt()), obs=y)


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Find log p(y) of every subset of predictors, and the probability of each predictor."""
    everything = load_diabetes(as_frame=True, scaled=False)
    known = PREDICTORS[2:] if small else PREDICTORS
    table = everything.data[list(known)]
    x = torch.tensor(((table - table.mean()) / table.std()).to_numpy())
    y = torch.tensor(everything.target.to_numpy())
    y = (y - y.mean()) / y.std()

    named = {", ".join(known[i] for i in s) or "none": s for s in subsets(len(known))}
    models = pv.compare_models({name: evidence(x, y, s) for name, s in named.items()})
    models["exact"] = [exact(x.numpy()[:, list(named[name])], y.numpy()) for name in models.index]
    shown = ["log_evidence", "se", "exact", "probability", "probability_se"]
    print(f"log p(y) in nats of {len(models)} models; the eight best")
    print(models[shown].head(8).round(3).to_string())

    included = {
        name: models.probability[[name in label.split(", ") for label in models.index]].sum()
        for name in known
    }
    print("\nthe probability that a predictor belongs in the regression")
    print(pandas.Series(included).round(3).to_string())
    out.mkdir(parents=True, exist_ok=True)
    picture(included, models).savefig(out / "11_which_predictors.png")

    z = (models.log_evidence - models.exact) / models.se
    assert (z.abs() < 4).all()
    assert (models.flagged == 0).all()


def subsets(num: int) -> list[tuple[int, ...]]:
    """All subsets of so many predictors."""
    sizes = range(num + 1)
    return [subset for size in sizes for subset in itertools.combinations(range(num), size)]


def evidence(x: Tensor, y: Tensor, subset: tuple[int, ...]) -> xarray.Dataset:
    """log p(y) of the regression on some columns."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    data = x[:, list(subset)], y
    guide = AutoMultivariateNormal(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(100):
        svi.step(*data)
    return pv.log_evidence((regression, guide), data, tolerance=0.02)


def exact(design: np.ndarray, y: np.ndarray) -> float:
    """log p(y) in closed form."""
    shape = np.eye(len(y)) + WIDTH**2 * design @ design.T
    return stats.multivariate_t(shape=RATE / SHAPE * shape, df=2 * SHAPE).logpdf(y)


def picture(included: dict[str, float], models: pandas.DataFrame) -> Figure:
    """The probability of each predictor, and the error of each log p(y)."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(list(included), list(included.values()), color="#4477aa")
    left.set(xlabel="probability that it belongs", xlim=(0, 1))
    error = models.log_evidence - models.exact
    right.errorbar(models.exact, error, 2 * models.se, fmt=".", color="#4477aa")
    right.axhline(0, color="0.6", linewidth=1)
    right.set(xlabel="log p(y), exact, nats", ylabel="estimate less exact, 2 se")
    return figure


if __name__ == "__main__":
    typer.run(main)
