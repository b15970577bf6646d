"""Mass nearer to the edge of a support than numbers can tell is lost, and the light says so."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoNormal
from scipy.special import betaln, comb

import pyro_vae as pv
from pyro_vae.density.target import Target
from pyro_vae.density.traced import Traced


def exact(a, y, num):
    """log p(y) of a beta binomial."""
    return math.log(comb(num, y)) + betaln(a + y, a + num - y) - betaln(a, a)


def binomial(a):
    def model(y):
        p = pyro.sample("p", dist.Beta(torch.tensor(a), a))
        pyro.sample("y", dist.Binomial(10, p), obs=y)

    return model


@pytest.mark.parametrize(("a", "y", "flag"), [(0.05, 10, "edge"), (0.05, 0, ""), (0.3, 10, "")])
def test_a_global_latent(a, y, flag):
    """At 1 a Beta(0.05, 0.05) loses 0.17 nats in double precision too; near 0 numbers are dense."""
    model = binomial(a)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = pv.log_evidence(
            (model, AutoNormal(model)), (torch.tensor(float(y)),), tolerance=0.1
        )
    assert found.flag == flag
    error = float(found.log_evidence) - exact(a, y, 10)
    assert (error < -0.1) if flag else (abs(error) < 4 * found.se)


def test_latents_of_each_datum_in_single_precision():
    def model(y):
        with pyro.plate("data", len(y)):
            p = pyro.sample("p", dist.Beta(torch.tensor(0.1, dtype=y.dtype), 0.1))
            pyro.sample("y", dist.Binomial(10, p), obs=y)

    def guide(y):
        with pyro.plate("data", len(y)):
            pyro.sample("p", dist.Beta(0.1 + y, 10.1 - y))

    y = torch.tensor([0.0, 10.0, 5.0], dtype=torch.float32)
    with pytest.warns(UserWarning, match="of 1 mass lies nearer to the edge of a support than"):
        found = pv.log_evidence((model, guide), y, tolerance=0.05)
    assert found.flag.values.tolist() == ["", "edge", ""]
    assert found.attrs["flagged_edge"] == 1


def test_draws_for_bridge_sampling():
    draws = {"p": np.random.default_rng(0).beta(10.05, 0.05, size=(4, 500))}
    with pytest.warns(UserWarning, match="compute in double precision, or write the model by the"):
        found = pv.bridge_log_evidence(binomial(0.05), (torch.tensor(10.0),), draws)
    assert found.flag == "edge"


@pytest.mark.parametrize(
    "prior",
    [
        dist.Gamma(0.1, 1.0),
        dist.LogNormal(0.0, 20.0),
        dist.Uniform(5.0, 6.0),
        dist.Dirichlet(torch.full((3,), 0.1)),
        dist.Normal(0.0, 1e6),
    ],
    ids=str,
)
def test_other_supports_hold_their_draws(prior):
    """Numbers are dense at 0, and a simplex has an edge only where all parts are at theirs."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]), obs=x)

    target = Target(Traced(model, model, (torch.zeros(4),)))
    assert target.at_edge(target.draw_prior(500)).double().mean() < 0.01


def test_at_the_edge_is_where_another_step_changes_nothing():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(1.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]), obs=x)

    target = Target(Traced(model, model, (torch.zeros(1),)))
    u = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 36.0], [30.0, 30.0], [-40.0, -600.0]])
    assert target.at_edge(u[:, None])[:, 0].tolist() == [False, True, True, False, False]
