"""Modes far from the guide: found with a tolerance, or said to be missed."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence.budget import Budget
from pyro_vae.evidence.climb import Climb
from pyro_vae.evidence.search import Ends
from pyro_vae.evidence.weights import from_blocks

WEIGHT = 1.5
X = torch.tensor([[2.0, 2.5], [3.0, 2.1], [2.2, 3.1]])


def folded(noise):
    """A model whose data do not show the signs of z, with four modes, and a guide of one."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(WEIGHT * z.abs(), noise).to_event(1), obs=x)

    def guide(x):
        precision = 1 + WEIGHT**2 / noise**2
        with pyro.plate("data", len(x), dim=-1):
            mean = WEIGHT * x / noise**2 / precision
            pyro.sample("z", dist.Normal(mean, precision**-0.5).to_event(1))

    return model, guide


def exact(x, noise):
    """log p(x), twice a skew normal in each dimension."""
    scale = math.sqrt(WEIGHT**2 + noise**2)
    skew = stats.norm.logcdf(x * WEIGHT / (noise * scale))
    return (math.log(2) + stats.norm(0, scale).logpdf(x) + skew).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_modes_are_found(seed):
    found = pv.log_evidence(folded(0.3), X, tolerance=0.2, seed=seed)
    assert (found.flag == "").all()
    assert (np.abs(found.log_evidence - exact(X.numpy(), 0.3)) < 4 * found.se).all()


def test_what_nothing_explains_is_refuted(monkeypatch):
    """No other proposal is tried: what remains is the guide, too low by log 4 where it is sure."""
    nothing = lambda climb, left: (left[:0], None)  # noqa: E731
    monkeypatch.setattr(Climb, "_refined", nothing)
    monkeypatch.setattr(Budget, "distributions", property(lambda budget: []))
    with pytest.warns(UserWarning, match="of 3 other draws refute it"):
        found = pv.log_evidence(folded(0.1), X, tolerance=0.05)
    assert (found.flag == "refuted").all()
    assert found.attrs["flagged_refuted"] == 3


def test_a_guide_that_is_right_is_left_alone():
    truth = LinearGaussian.with_diagonal_posterior(12, 4)
    x = truth.draw(50)
    found = pv.log_evidence(truth.vae(shrink=1.1), x, tolerance=0.05)
    assert (found.rung == "guide").all()
    assert (found.flag == "").all()
    assert found.attrs["seconds_search"] > 0


def ends(log_joint):
    log_joint = torch.tensor(log_joint)[:, None].double()
    return Ends(torch.zeros(len(log_joint), 1, 1), log_joint)


@pytest.mark.parametrize(
    ("log_joint", "explained"),
    [
        ([0.0] * 5, True),  # weights like all others
        ([math.log(101.0), *[0.0] * 4], True),  # one place that a tenth of the sum lies in
        ([math.log(101.0)] * 2 + [0.0] * 3, False),  # two of them
        ([math.log(99.0)] * 2 + [0.0] * 3, True),
        ([-math.inf] * 5, True),  # places without mass
        ([math.inf] * 2 + [0.0] * 3, True),  # no number
    ],
)
def test_draws_explain_what_they_could_not_have_missed(log_joint, explained):
    """1,000 draws of weight 1."""
    weights = from_blocks([torch.zeros(1000, 1).double()], 1e-16)
    found = ends(log_joint)
    assert bool(found.explained(torch.zeros_like(found.log_joint), weights)) == explained


def test_a_global_latent_with_two_modes():
    """Of all data at once too."""

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(2 * z.abs(), 0.5), obs=y)

    def guide(y):
        pyro.sample("z", dist.Normal(y.mean() / 2, 0.05))

    y = torch.tensor([3.1, 4.0, 3.6, 3.9, 4.4, 3.3])
    covariance = 4 + 0.25 * np.eye(6)
    both_signs = math.log(2)  # the other has no mass on the wrong side
    known = both_signs + stats.multivariate_normal(np.zeros(6), covariance).logpdf(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = pv.log_evidence((model, guide), (y,), tolerance=0.05)
    assert abs(found.log_evidence - known) < 4 * found.se
    assert found.flag == ""
