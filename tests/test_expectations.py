"""Means over the posterior: against closed forms, exact sums and MCMC."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_conjugate import gamma_poisson
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.criticism import posterior_means

RNG = np.random.default_rng(0)
MODEL = LinearGaussian(RNG.normal(size=(5, 2)), RNG.normal(size=5), RNG.uniform(0.2, 1, 5))
X = MODEL.draw(1000)
COVARIANCE, GAIN = MODEL.posterior()
MEAN = (X - MODEL.bias) @ GAIN.T
BAD = {"shrink": 0.3, "shift": 2.0}


def squares_too(z, x):
    return torch.cat([z, z**2, z.prod(-1, keepdim=True)], -1)


EXACT = np.hstack(
    [MEAN, MEAN**2 + np.diag(COVARIANCE), MEAN.prod(1, keepdims=True) + COVARIANCE[0, 1]]
)


@pytest.mark.parametrize("guide", [{}, {"shrink": 0.7, "shift": 0.5}], ids=["exact", "narrow"])
def test_moments_of_the_linear_gaussian(guide):
    found = pv.expect(MODEL.vae(**guide), X, squares_too)
    assert found["mean"].dims == ("datum", "output")
    away = np.abs(found["mean"].values - EXACT) / found.se.values
    good = found.flag.values == ""
    assert good.mean() > 0.99
    assert (away[good] < 4).mean() >= 0.99
    assert 0.93 <= (away[good] < 1.96).mean() <= 0.97
    np.testing.assert_allclose(
        found.sd.values[:, :2], np.tile(np.sqrt(np.diag(COVARIANCE)), (len(X), 1)), rtol=0.25
    )


def test_what_a_bad_guide_gives_is_flagged_and_a_tolerance_mends_it():
    vae, x = MODEL.vae(**BAD), X[:100]
    with pytest.warns(UserWarning, match="means of .* of 500 numbers cannot be trusted"):
        bad = pv.expect(vae, x, squares_too)
    assert (bad.flag.values == "heavy tail").mean() > 0.9
    found = pv.expect(vae, x, squares_too, tolerance=0.05)
    assert (found.flag.values == "").all()
    away = np.abs(found["mean"].values - EXACT[:100]) / found.se.values
    assert (away < 4).mean() >= 0.99
    assert 0.93 <= (away < 1.96).mean() <= 0.97
    assert (found.se.values < 0.1 * found.sd.values).all()


def test_it_rests_on_the_draws_of_log_evidence():
    """What is kept changes no estimate, and has its effective sample size."""
    vae, x = MODEL.vae(shrink=0.6), X[:20]
    evidence = pv.log_evidence(vae, x, tolerance=0.05)
    found = pv.expect(vae, x, lambda z, x: z[..., 0], tolerance=0.05)
    assert evidence.equals(pv.log_evidence(vae, x, tolerance=0.05))
    assert found["mean"].dims == ("datum",)
    assert (found.num_samples.values > 0).all()


def test_a_constrained_prior():
    """The posterior of a gamma rate of counts is a gamma."""
    vae, x, _ = gamma_poisson(2.0)
    found = pv.expect(vae, x, lambda z, x: z[..., 0], tolerance=0.02)
    away = np.abs(found["mean"].values - (2.0 + x[:, 0]) / 2.0) / found.se.values
    assert (away[found.flag.values == ""] < 4).all()
    assert (found.flag.values == "").mean() > 0.9


def test_discrete_latents_are_summed_over():
    x = RNG.normal(size=(7, 3))
    vae = pv.build(x, latent=4, prior="one_hot", hidden=[5])
    found = pv.expect(vae, x, lambda z, x: z)
    log_joint = vae.log_joint(
        torch.as_tensor(x), torch.eye(4)[:, None].expand(4, 7, 4), None
    ).detach()
    np.testing.assert_allclose(found["mean"], log_joint.softmax(0).T, rtol=1e-10)
    assert (found.se == 0).all()
    assert (found.flag == "").all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:means of")
def test_it_agrees_with_hmc():
    rng = np.random.default_rng(1)
    x = rng.poisson(np.exp(rng.normal(size=(200, 2)) @ rng.normal(size=(2, 4))))
    vae = pv.build(x, latent=2, likelihood="poisson", hidden=[10])
    pv.fit(vae, x, epochs=20, progress=False)
    tree = pv.sample_posterior(vae, x[:25], num_samples=400, warmup=200, progress=False)
    rate = lambda z, x: vae.decode(z).mean  # noqa: E731
    chains = pv.expect(vae, x[:25], rate, posterior=tree)
    weighed = pv.expect(vae, x[:25], rate, tolerance=0.05)
    both = (chains.flag.values == "") & (weighed.flag.values == "")
    error = np.hypot(chains.se.values, weighed.se.values)
    away = (np.abs(chains["mean"] - weighed["mean"]).values / error)[both]
    assert both.mean() > 0.9
    assert (away < 4).mean() >= 0.99
    with pytest.raises(pv.DataError, match="expect needs the data that the posterior was drawn"):
        pv.expect(vae, x[1:26], rate, posterior=tree)


@pytest.mark.filterwarnings("ignore:means of")
def test_a_condition_is_given_beside_x():
    x, c = RNG.normal(size=(30, 2)), RNG.normal(size=(30, 1))
    vae = pv.build(x, c=c, latent=1, hidden=[4])
    seen = []

    def f(z, x, c):
        seen.append((x, c))
        return vae.decode(z, c).mean

    found = pv.expect(vae, x, f, c, num_samples=50)
    assert found["mean"].shape == (30, 2)
    for of_x, of_c in seen:
        rows = [np.flatnonzero(np.isclose(x[:, 0], first))[0] for first in of_x[:, 0].tolist()]
        np.testing.assert_allclose(c[rows], of_c)


def test_several_latents_of_a_pair():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([len(x)]))
            b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x / 6, 1.0))
            pyro.sample("b", dist.Normal(x / 3, 1.0))

    x = torch.tensor([-1.0, 0.0, 3.0])
    f = lambda z, x: torch.stack([z["a"], z["b"], z["a"] + 2 * z["b"]], -1)  # noqa: E731
    found = pv.expect((model, guide), x, f, num_samples=4000)
    exact = x.numpy()[:, None] * np.array([1, 2, 5]) / 6
    assert (np.abs(found["mean"] - exact) < 4 * found.se).all()


@pytest.mark.filterwarnings("ignore:means of")
def test_more_latents_than_wide_distributions_are_drawn_for():
    x = RNG.normal(size=(5, 3))
    vae = pv.build(x, latent=101, hidden=[4])
    found = pv.expect(vae, x, lambda z, x: z[..., :2], num_samples=60)
    assert found["mean"].notnull().all()
    with pytest.raises(ValueError, match="a tolerance needs proposals beside the guide"):
        pv.expect(vae, x, lambda z, x: z[..., :2], tolerance=0.1)


@pytest.mark.filterwarnings("ignore:means of")
def test_a_function_may_draw():
    vae = MODEL.vae()
    before = torch.get_rng_state()
    f = lambda z, x: vae.decode(z).sample()  # noqa: E731
    found = pv.expect(vae, X[:5], f, num_samples=200)
    assert found.equals(pv.expect(vae, X[:5], f, num_samples=200))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:chains of", "ignore:means of")
def test_chains_that_say_little_of_f_are_flagged():
    tree = pv.sample_posterior(MODEL.vae(), X[:4], num_samples=6, warmup=50, progress=False)
    found = pv.expect(MODEL.vae(), X[:4], lambda z, x: z, posterior=tree)
    assert (found.flag == "not mixed").all()


@pytest.mark.filterwarnings("ignore:means of")
def test_a_mean_that_is_no_number_is_flagged():
    found = pv.expect(MODEL.vae(), X[:5], lambda z, x: z[..., 0].log(), num_samples=200)
    assert (found.flag == "not finite").all()
    assert found.attrs["flagged_not_finite"] == 5


def test_f_may_write_where_it_likes():
    f = lambda z, x: z[..., 0].mul_(2)  # noqa: E731
    twice = pv.expect(MODEL.vae(), X[:5], f, num_samples=200)
    once = pv.expect(MODEL.vae(), X[:5], lambda z, x: z[..., 0], num_samples=200)
    np.testing.assert_allclose(twice["mean"], 2 * once["mean"])


@pytest.mark.filterwarnings("ignore:means of")
def test_blocks_names_and_state(monkeypatch):
    frame = pd.DataFrame(X[:70], columns=list("abcde"))
    vae = MODEL.vae()
    f = lambda z, x: vae.decode(z).mean  # noqa: E731
    before = torch.get_rng_state()
    found = pv.expect(vae, frame, f, num_samples=100, names=list("abcde"))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.output.values.tolist() == list("abcde")
    monkeypatch.setattr(posterior_means, "NUMBERS", 1)
    again = pv.expect(vae, frame, f, num_samples=100)
    for name in ("mean", "se", "khat"):
        np.testing.assert_allclose(again[name], found[name], rtol=1e-9)
    assert not found["mean"].equals(pv.expect(vae, frame, f, num_samples=100, seed=1)["mean"])


@pytest.mark.filterwarnings("ignore:means of")
@pytest.mark.parametrize(
    ("spread", "least", "most"), [(1.5, 0.0, 0.05), (3.0, 0.0, 0.3), (6.0, 0.9, 1.0)]
)
def test_a_mean_that_rests_on_few_draws_is_flagged(spread, least, most):
    """The mean of a log-normal of scale s: known up to s = 3, beyond that no draw finds it."""
    slope = spread / np.sqrt(COVARIANCE[0, 0])
    found = pv.expect(MODEL.vae(), X[:200], lambda z, x: torch.exp(slope * z[..., 0]))
    exact = np.exp(slope * MEAN[:200, 0] + spread**2 / 2)
    flagged = found.flag.values == "dominated"
    assert least <= flagged.mean() <= most
    if most < 1:
        away = np.abs(found["mean"].values - exact)[~flagged] / found.se.values[~flagged]
        assert (away < 4).mean() > 0.95


def test_a_constant_is_known():
    found = pv.expect(MODEL.vae(), X[:3], lambda z, x: torch.ones(z.shape[:2]))
    np.testing.assert_allclose(found["mean"], 1.0)
    np.testing.assert_allclose(found.se, 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("f", "options", "kind", "message"),
    [
        (None, {}, TypeError, "expect needs f as a function of z and x; got NoneType"),
        (lambda z, x: z.sum(), {}, ValueError, r"of shape \(1, 1\), or \(1, 1, '...'\), where z"),
        (lambda z, x: x, {}, ValueError, "and expand what depends on x alone"),
        (lambda z, x: z * 1j, {}, ValueError, "f must give real numbers .* got torch.complex128"),
        (lambda z, x: z[..., :0], {}, ValueError, "f must give real numbers"),
        (lambda z, x: "a", {}, ValueError, "f must give numbers, a tensor; got str"),
        (lambda z, x: z, {"names": ["a"]}, ValueError, r"1 names do not fit outputs of f of sha"),
        (lambda z, x: z, {"posterior": 3, "tolerance": 1.0}, ValueError, "tolerance is for draws"),
        (lambda z, x: z, {"tolerance": 0}, ValueError, "tolerance must be a standard error"),
        (lambda z, x: z, {"num_samples": 1}, ValueError, "num_samples must be a whole number from"),
        (lambda z, x: z, {"posterior": 3}, TypeError, "expect needs posterior as sample_posterior"),
    ],
)
def test_errors(f, options, kind, message):
    with pytest.raises(kind, match=message):
        pv.expect(MODEL.vae(), X[:3], f, **options)
