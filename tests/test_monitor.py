"""The collapse monitor, against closed forms of the linear-Gaussian model, and its warning."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.training import monitor
from pyro_vae.training.monitor import Watch, Watched

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(128)


def picked(vae, x):
    """The rows that are looked at."""
    return vae.check(x).batch(Watched(len(x)).index, like=vae.reference)


def seen(vae, x=X):
    return Watch(vae)(picked(vae, x))


def test_kl_equals_the_closed_form():
    vae = TRUTH.vae()
    covariance, gain = TRUTH.posterior()
    mean, variance = (X - TRUTH.bias) @ gain.T, np.diag(covariance)
    exact = 0.5 * (variance + mean**2 - 1 - np.log(variance))
    result = seen(vae)
    np.testing.assert_allclose([result["kl_0"], result["kl_1"]], exact.mean(0), rtol=1e-8)
    np.testing.assert_allclose(result["kl"], exact.sum(1).mean(), rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"latent": 1}, {"kl_0"}),
        ({"latent": 3}, {"kl_0", "kl_1", "kl_2"}),
        ({"latent": 2, "guide": {"name": "multivariate_normal"}}, set()),
        ({"latent": 3, "prior": "one_hot"}, set()),
    ],
    ids=["one", "three", "dependent", "a class"],
)
def test_kl_of_each_dimension_where_they_factorise(options, columns):
    result = seen(pv.build(X, hidden=[4], **options))
    assert {name for name in result if name.startswith("kl_")} == columns
    if columns:
        np.testing.assert_allclose(sum(result[name] for name in columns), result["kl"], rtol=1e-10)


def test_active_units_are_those_that_move_with_x():
    truth = LinearGaussian(TRUTH.weight * [1.0, 1e-3], TRUTH.bias, TRUTH.noise)
    assert seen(TRUTH.vae())["active_units"] == 2
    assert seen(truth.vae())["active_units"] == 1


def test_a_guide_without_a_mean_is_active_where_it_follows_x():
    x = np.random.default_rng(0).normal(size=(128, 1))
    reads = torch.nn.Linear(1, 1)
    torch.nn.init.ones_(reads.weight)
    guide = pv.Amortised(reads, pv.StudentT((1,), df=0.7, scale=1.0))
    vae = pv.VAE(pv.Normal((1,), loc=0.0, scale=1.0), pv.Normal((1,), loc=0.0, scale=1.0), guide)
    assert Watch(vae)(picked(vae, x))["active_units"] == 1


@pytest.mark.parametrize("prior", ["half_cauchy", "horseshoe_like", "student_t"])
def test_a_prior_without_a_variance_is_no_collapse(prior):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(300, 6))
    vae = pv.build(
        x, latent=2, prior=prior, likelihood={"name": "normal", "scale": "learned"}, hidden=[32]
    )
    history = pv.fit(vae, x, epochs=60, learning_rate=1e-2, progress=False)
    assert history.active_units.iloc[-1] == 2


@pytest.mark.parametrize("prior", ["normal", "gamma", "laplace", "half_cauchy"])
def test_ranks_are_those_among_draws_where_the_prior_has_no_cdf(prior, monkeypatch):
    torch.manual_seed(0)
    prior = pv.build({"event": [3], "latent": [2], "prior": prior}).prior_of(None)
    z = prior.expand([8, 100]).sample()
    known = monitor._ranks(z, prior.expand([100]))
    torch.testing.assert_close(known, prior.base_dist.cdf(z))
    monkeypatch.setattr(monitor, "element_of", lambda prior: None)
    drawn = monitor._ranks(z, prior.expand([100]))
    of_draws = 0.5 / (100 * monitor.PRIOR_DRAWS) ** 0.5  # the largest sd of a share
    assert (known - drawn).abs().max() < 4 * of_draws + 1 / monitor.QUANTILES


def test_one_row_tells_nothing_of_activity():
    assert math.isnan(Watch(TRUTH.vae())(picked(TRUTH.vae(), X[:1]))["active_units"])


def test_mutual_information():
    """That of independent normals, half a log of prior over posterior variance each, up to the cap
    of log 50.
    """
    truth = LinearGaussian(TRUTH.weight * 0.3, TRUTH.bias, TRUTH.noise)
    covariance, _ = truth.posterior()
    exact = -0.5 * np.log(np.diag(covariance)).sum()
    found = [seen(truth.vae(), truth.draw(50, seed=s))["mutual_information"] for s in range(20)]
    assert abs(np.mean(found) - exact) < 5 * np.std(found, ddof=1) / 20**0.5 + 0.02
    assert seen(TRUTH.vae())["mutual_information"] <= math.log(50)
    assert abs(seen(collapsed())["mutual_information"]) < 1e-9


def collapsed():
    vae = TRUTH.vae()
    vae.posterior = pv.Normal((2,), loc=0.0, scale=1.0)
    return vae


def test_the_history_has_it_and_a_collapse_is_told():
    x = np.random.default_rng(0).normal(size=(300, 3))  # nothing to learn
    vae = pv.build(x, latent=2, likelihood={"name": "normal", "scale": "learned"}, hidden=[8])
    with pytest.warns(
        UserWarning, match="posterior collapse: after 60 epochs no latent dimension moves with x"
    ):
        history = pv.fit(vae, x, epochs=60, beta=5.0, learning_rate=1e-2, progress=False)
    assert {"kl", "kl_0", "kl_1", "mutual_information", "active_units"} <= set(history)
    assert history.kl.iloc[-1] < 0.05


def test_free_bits_keep_the_latent_in_use():
    x = TRUTH.draw(300)
    kl = {}
    for free_bits in (None, 2.0):
        vae = pv.build(x, latent=2, likelihood={"name": "normal", "scale": 3.0}, hidden=[8])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            kl[free_bits] = pv.fit(
                vae, x, epochs=40, free_bits=free_bits, learning_rate=1e-2, progress=False
            ).kl.iloc[-1]
    assert kl[2.0] > 2.0 > kl[None]


def test_free_bits_change_the_elbo_only():
    with pytest.raises(
        ValueError, match="free_bits changes the KL term of loss='elbo'; got loss='iwae'"
    ):
        pv.fit(TRUTH.vae(), X, loss="iwae", free_bits=1.0)


def prior_and_guide(prior, guide):
    marks = pytest.mark.slow if (prior, guide) == ("vamp", "spline_flow") else ()
    return pytest.param(prior, guide, marks=marks)


PRIORS = ("normal", "gamma", "dirichlet", "mixture", "vamp")
GUIDES = ("normal", "spline_flow", "planar_flow", "mixture")


@pytest.mark.parametrize(
    ("prior", "guide"), [prior_and_guide(*pair) for pair in itertools.product(PRIORS, GUIDES)]
)
def test_any_prior_and_guide(prior, guide):
    x = np.random.default_rng(0).poisson(4.0, (40, 3))
    if (prior, guide) == ("vamp", "planar_flow"):
        return  # refused
    vae = pv.build(x, latent=3, prior=prior, guide=guide, likelihood="poisson", hidden=[8])
    result = seen(vae, x)
    assert math.isnan(result["mutual_information"]) == (guide == "planar_flow")
    assert math.isfinite(result["kl"])
    assert 0 <= result["active_units"] <= 3


def test_it_changes_nothing():
    vae, state = TRUTH.vae(), torch.random.get_rng_state()
    seen(vae)
    assert torch.equal(state, torch.random.get_rng_state())
