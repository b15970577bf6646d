"""Constrained priors against conjugate marginals, datum by datum, in single and double precision."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_vae as pv
from pyro_vae.conditionals.links import link


class Through(nn.Module):
    """A decoder that hands z on unchanged: what the head's link will do is undone before."""

    def __init__(self, undo):
        super().__init__()
        self.undo = undo

    def forward(self, z):
        return self.undo(z)


class Constant(nn.Module):
    """An encoder that sees nothing: the guide is one distribution, wide enough to cover every posterior."""

    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", torch.as_tensor(values, dtype=torch.get_default_dtype()))

    def forward(self, x):
        return self.values.expand(*x.shape[:-1], -1)


def vae(prior, likelihood, loc, scale):
    guide = pv.Amortised(Constant([loc] * len(prior.event_shape)), pv.Normal((1,), scale=scale))
    return pv.VAE(prior, likelihood, guide)


def gamma_poisson(concentration):
    rate = link(pv.Poisson.domain("rate"))
    origin = float(rate.inv(torch.tensor(1.0, dtype=torch.float64)))
    undo = Through(lambda z: rate.inv(z.double().clamp(min=2e-6)).to(z.dtype) - origin)
    parts = pv.Gamma((1,), concentration=concentration, rate=1.0), pv.Amortised(undo, pv.Poisson((1,)))
    x = np.arange(0, 12)[:, None]
    return vae(*parts, loc=0.5, scale=2.5), x, stats.nbinom(concentration, 0.5).logpmf(x[:, 0])


def beta_binomial(concentration):
    undo = Through(lambda z: torch.logit(z.double(), eps=1e-12).to(z.dtype))
    prior = pv.Beta((1,), concentration1=concentration, concentration0=concentration)
    parts = prior, pv.Amortised(undo, pv.Binomial((1,), total_count=10))
    x = np.arange(0, 11)[:, None]
    return vae(*parts, loc=0.0, scale=3.0), x, stats.betabinom(10, concentration, concentration).logpmf(x[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [gamma_poisson, beta_binomial])
def test_evidence_equals_the_conjugate_marginal(make, dtype):
    model, x, exact = make(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = pv.log_evidence(model.to(dtype), x, num_samples=40_000)
    trusted = result.khat.values < 0.7
    assert trusted.mean() >= 0.9
    assert (np.abs(result.log_evidence - exact) < 4.5 * result.se + 1e-5)[trusted].all()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: pv.Gamma((2,), concentration=0.3, rate=1.0), id="gamma"),
        pytest.param(lambda: pv.Beta((2,), concentration1=0.5, concentration0=0.5), id="beta"),
        pytest.param(lambda: pv.Dirichlet((3,), concentration=0.3), id="dirichlet"),
    ],
)
def test_no_density_is_gained_at_the_edge_in_single_precision(make):
    """A likelihood that ignores z: log p(x) is known, and whatever the guide draws must not raise it."""
    likelihood = pv.Normal((1,), loc=0.0, scale=1.0)
    guide = pv.Amortised(Constant([0.0, 0.0]), pv.Normal((2,), scale=6.0))
    model = pv.VAE(make(), likelihood, guide).float()
    x = np.zeros((20, 1))
    exact = stats.norm.logpdf(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = pv.log_evidence(model, x, num_samples=5000)
        weights = pv.terms(model, x, num_samples=5000).log_weight
    assert np.isfinite(result.log_evidence).all()
    assert not weights.isposinf().any()
    assert (result.log_evidence < exact + 4.5 * result.se).all()
    assert (result.log_evidence > exact - 4.5 * result.se - 0.05).all()  # what lies beyond double precision is lost
