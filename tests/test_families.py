"""Every family's log density against scipy, at points that hypothesis draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

import pyro_vae as pv

real = st.floats(-20, 20)
positive = st.floats(0.05, 20)
logit = st.floats(-8, 8)
quantile = st.floats(0.001, 0.999)


def zero_inflated(count, total_count, logits, gate_logits):
    base = stats.nbinom(total_count, special.expit(-logits))
    gate = special.expit(gate_logits)
    return np.logaddexp(np.log(gate) if count == 0 else -np.inf, np.log1p(-gate) + base.logpmf(count))


def continuous_bernoulli(x, logits):
    """The normalising constant by quadrature, as nothing in scipy knows this family."""
    normaliser, _ = integrate.quad(lambda t: np.exp(t * logits), 0, 1, epsabs=0, epsrel=1e-11)
    return x * logits - np.log(normaliser)


# name: (parameters, the same distribution by scipy); the point x is a quantile of it
QUANTILE_FAMILIES = {
    "normal": ({"loc": real, "scale": positive}, lambda loc, scale: stats.norm(loc, scale)),
    "laplace": ({"loc": real, "scale": positive}, lambda loc, scale: stats.laplace(loc, scale)),
    "student_t": (
        {"df": st.floats(0.5, 30), "loc": real, "scale": positive},
        lambda df, loc, scale: stats.t(df, loc, scale),
    ),
    "logistic": ({"loc": real, "scale": positive}, lambda loc, scale: stats.logistic(loc, scale)),
    "log_normal": (
        {"loc": st.floats(-3, 3), "scale": st.floats(0.1, 3)},
        lambda loc, scale: stats.lognorm(scale, scale=np.exp(loc)),
    ),
    "gamma": (
        {"concentration": st.floats(0.3, 20), "rate": positive},
        lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
    ),
    "beta": (
        {"concentration1": st.floats(0.3, 20), "concentration0": st.floats(0.3, 20)},
        lambda concentration1, concentration0: stats.beta(concentration1, concentration0),
    ),
    "uniform": (
        {"low": st.floats(-20, 0), "high": st.floats(0.1, 20)},
        lambda low, high: stats.uniform(low, high - low),
    ),
    "bernoulli": ({"logits": logit}, lambda logits: stats.bernoulli(special.expit(logits))),
    "binomial": (
        {"total_count": st.integers(1, 50), "logits": logit},
        lambda total_count, logits: stats.binom(total_count, special.expit(logits)),
    ),
    "poisson": ({"rate": st.floats(0.01, 200)}, lambda rate: stats.poisson(rate)),
    "negative_binomial": (
        {"total_count": st.floats(0.1, 20), "logits": st.floats(-5, 3)},
        lambda total_count, logits: stats.nbinom(total_count, special.expit(-logits)),
    ),
}


def log_prob(name, x, **parameters):
    head = pv.Conditional.registry[name]((), **parameters)
    return float(head().log_prob(torch.as_tensor(x, dtype=torch.float64)))


@pytest.mark.parametrize("name", QUANTILE_FAMILIES)
@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data())
def test_log_density_equals_scipy(name, data):
    strategies, scipy_family = QUANTILE_FAMILIES[name]
    parameters = {key: data.draw(strategy, label=key) for key, strategy in strategies.items()}
    reference = scipy_family(**parameters)
    x = float(reference.ppf(data.draw(quantile, label="quantile")))
    discrete = hasattr(reference, "logpmf") and hasattr(reference.dist, "pmf")
    expected = reference.logpmf(x) if discrete else reference.logpdf(x)
    np.testing.assert_allclose(log_prob(name, x, **parameters), expected, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(x=st.floats(0, 1), logits=logit)
def test_continuous_bernoulli_equals_quadrature(x, logits):
    actual = log_prob("continuous_bernoulli", x, logits=logits)
    np.testing.assert_allclose(actual, continuous_bernoulli(x, logits), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(count=st.integers(0, 60), total_count=st.floats(0.1, 20), logits=st.floats(-5, 3), gate_logits=st.floats(-5, 5))
def test_zero_inflated_negative_binomial_equals_scipy(count, total_count, logits, gate_logits):
    parameters = {"total_count": total_count, "logits": logits, "gate_logits": gate_logits}
    actual = log_prob("zero_inflated_negative_binomial", count, **parameters)
    np.testing.assert_allclose(actual, zero_inflated(count, **parameters), rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(concentration=st.lists(st.floats(0.3, 20), min_size=2, max_size=5), seed=st.integers(0, 2**20))
def test_dirichlet_equals_scipy(concentration, seed):
    x = np.random.default_rng(seed).dirichlet(np.add(concentration, 1.0))
    x = x / x.sum()
    head = pv.Dirichlet((len(concentration),), concentration=concentration)
    expected = stats.dirichlet(concentration).logpdf(x)
    np.testing.assert_allclose(float(head().log_prob(torch.as_tensor(x))), expected, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(logits=st.lists(logit, min_size=2, max_size=6), data=st.data())
def test_categorical_equals_softmax(logits, data):
    x = data.draw(st.integers(0, len(logits) - 1))
    head = pv.Categorical((), categories=len(logits), logits=logits)
    actual = float(head().log_prob(torch.tensor(float(x))))
    np.testing.assert_allclose(actual, special.log_softmax(logits)[x], rtol=1e-6, atol=1e-9)


def test_every_family_is_compared():
    apart = {"continuous_bernoulli", "zero_inflated_negative_binomial", "dirichlet", "categorical"}
    assert set(QUANTILE_FAMILIES) | apart == set(pv.Conditional.registry)


@pytest.mark.parametrize("total", [1, 3])
def test_counts_sum_to_one(total):
    counts = torch.arange(3000.0)[:, None]
    for head in (
        pv.Poisson((1,), rate=3.0),
        pv.NegativeBinomial((1,), total_count=total, logits=1.0),
        pv.ZeroInflatedNegativeBinomial((1,), total_count=total, logits=1.0, gate_logits=0.3),
    ):
        torch.testing.assert_close(head().log_prob(counts).logsumexp(0), torch.tensor(0.0), atol=1e-10, rtol=0)
