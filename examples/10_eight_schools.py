"""Eight schools
=============

Did coaching help, and did it help each school alike? The evidence for three models that are no
VAE.

Eight schools coached pupils for a test, and each estimated an effect with its own standard error
(Rubin, 1981; Gelman et al., Bayesian Data Analysis, section 5.5). Three models say how effects
are related:

* one: all schools have the same effect;
* own: each has its own, and those of others say nothing of it;
* hierarchy: effects are drawn about a common mean, with a spread that is learnt.

log p(data) of each is found twice: by importance sampling from an AutoNormal guide, with a
tolerance, and by bridge sampling from draws of NUTS. A quadrature says what is right.

Run it: python examples/10_eight_schools.py
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pyro
import torch
import typer
from matplotlib.figure import Figure
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, stats
from torch import Tensor

import pyro_vae as pv

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
WIDTH = 10.0  # what is thought possible before: of a mean, of an effect, and of a spread


def one(effect: Tensor, error: Tensor) -> None:
    """All schools have one effect."""
    mu = pyro.sample("mu", dist.Normal(0.0, WIDTH))
    with pyro.plate("schools", len(effect)):
        pyro.sample("effect", dist.Normal(mu, error), obs=effect)


def own(effect: Tensor, error: Tensor) -> None:
    """Each school has its own."""
    with pyro.plate("schools", len(effect)):
        theta = pyro.sample("theta", dist.Normal(0.0, WIDTH))
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


def hierarchy(effect: Tensor, error: Tensor) -> None:
    """Effects lie about a common mean."""
    mu = pyro.sample("mu", dist.Normal(0.0, WIDTH))
    tau = pyro.sample("tau", dist.HalfCauchy(WIDTH))
    with pyro.plate("schools", len(effect)):
        away = pyro.sample("away", dist.Normal(0.0, 1.0))
        pyro.sample("effect", dist.Normal(mu + tau * away, error), obs=effect)


MODELS = {"one": one, "own": own, "hierarchy": hierarchy}


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Find log p(data) of each model in two ways, and compare the models."""
    data = EFFECT, ERROR
    by_guide, by_bridge, draws = {}, {}, {}
    for name, model in MODELS.items():
        guide = fitted(model, data, steps=300 if small else 1000)
        by_guide[name] = pv.log_evidence((model, guide), data, tolerance=0.02)
        mcmc = MCMC(
            NUTS(model), num_samples=500 if small else 2000, warmup_steps=300, disable_progbar=True
        )
        mcmc.run(*data)
        by_bridge[name] = pv.bridge_log_evidence(model, data, mcmc)
        draws[name] = mcmc.get_samples()

    table = pv.compare_models(by_guide)
    table["bridge"] = [float(by_bridge[name].log_evidence) for name in table.index]
    table["bridge_se"] = [float(by_bridge[name].se) for name in table.index]
    table["exact"] = [exact(name) for name in table.index]
    shown = ["log_evidence", "se", "bridge", "bridge_se", "exact", "probability", "probability_se"]
    print("log p(effects of eight schools) in nats; models that were equally probable before")
    print(table[shown].round(3).to_string())
    factor = pv.log_bayes_factor(by_guide["one"], by_guide["own"])
    odds = np.exp(float(factor.log_bayes_factor))
    print(f"The data are {odds:.0f} times as probable with one effect as with eight of their own.")

    out.mkdir(parents=True, exist_ok=True)
    picture(table, draws).savefig(out / "10_eight_schools.png")
    for way in ("log_evidence", "bridge"):
        error = table["se" if way == "log_evidence" else "bridge_se"]
        assert ((table[way] - table.exact).abs() < 4 * error).all(), way
    assert (table.flagged == 0).all()


def fitted(model: Callable, data: tuple[Tensor, ...], steps: int) -> AutoNormal:
    """A guide that Pyro makes of the model, and trains."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*data)
    return guide


def exact(name: str) -> float:
    """log p(data): what is normal in closed form, and over the spread by quadrature."""
    effect, error = EFFECT.double().numpy(), ERROR.double().numpy()

    def density(spread: float, shared: float) -> float:
        covariance = np.diag(error**2 + spread**2) + shared**2
        return stats.multivariate_normal(np.zeros(8), covariance).pdf(effect)

    if name == "one":
        return np.log(density(0.0, WIDTH))
    if name == "own":
        return np.log(density(WIDTH, 0.0))
    prior = stats.halfcauchy(scale=WIDTH)
    total = integrate.quad(lambda tau: density(tau, WIDTH) * prior.pdf(tau), 0, np.inf, limit=400)
    return np.log(total[0])


def picture(table: pandas.DataFrame, draws: dict) -> Figure:
    """The probability of each model, and what each says of each school."""
    effects = {
        "one": draws["one"]["mu"][:, None].expand(-1, 8),
        "own": draws["own"]["theta"],
        "hierarchy": draws["hierarchy"]["mu"][:, None]
        + draws["hierarchy"]["tau"][:, None] * draws["hierarchy"]["away"],
    }
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.4))
    left.bar(table.index, table.probability, yerr=2 * table.probability_se, color="#4477aa")
    left.set(ylabel="probability of the model", ylim=(0, 1))

    schools = np.arange(8)
    right.errorbar(
        schools - 0.3, EFFECT, ERROR, fmt="o", color="0.6", label="as estimated by the school"
    )
    for number, (name, values) in enumerate(effects.items()):
        mean, sd = values.mean(0), values.std(0)
        right.errorbar(schools - 0.1 + 0.2 * number, mean, sd, fmt=".", label=name)
    right.set(xticks=schools, xticklabels="ABCDEFGH", xlabel="school", ylabel="effect, mean and sd")
    right.legend(frameon=False, fontsize="small", ncols=2)
    return figure


if __name__ == "__main__":
    typer.run(main)
