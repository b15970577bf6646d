"""Simulation-based calibration tells right guides from wrong ones; predictive checks tell right
models.
"""

import numpy as np
import pandas
import pyro
import pytest
import torch
import xarray
from pyro import distributions as dist
from scipy import stats
from truth import LinearGaussian, affine

import pyro_vae as pv

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)


def test_an_exact_guide_is_accepted():
    found = pv.calibrate(TRUTH.vae())
    assert found.attrs["p_value"] > 1e-3
    assert found.attrs["calibrated"]
    assert list(found.quantity.values) == ["z_0", "z_1", "log_joint"]
    assert found["rank"].shape == (500, 3)
    assert ((found["rank"] > 0) & (found["rank"] < 1)).all()


def test_an_exact_guide_is_accepted_as_often_as_it_should_be():
    """The single p-values are uniform over seeds: the least of 40 is no miracle."""
    found = [
        pv.calibrate(TRUTH.vae(), num_simulations=100, num_samples=49, seed=seed)
        for seed in range(40)
    ]
    lean = np.concatenate([each.p_location.values for each in found])
    assert lean.min() > 1e-4
    assert 0.35 < np.mean(lean) < 0.65


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        ({"shift": 0.5}, "p_location"),
        ({"shift": -0.5}, "p_location"),
        ({"shrink": 0.6}, "p_spread"),
        ({"shrink": 1.7}, "p_spread"),
    ],
)
def test_a_biased_or_misjudged_spread_is_rejected(wrong, test):
    found = pv.calibrate(TRUTH.vae(**wrong))
    assert found.attrs["p_value"] < 1e-6
    assert not found.attrs["calibrated"]
    assert (found[test].sel(quantity=["z_0", "z_1"]) < 1e-6).all()


def test_a_missed_correlation_is_seen_by_the_joint_density():
    truth = LinearGaussian(
        TRUTH.weight @ np.array([[1.0, 0.95], [0.0, 0.3]]), TRUTH.bias, TRUTH.noise
    )
    covariance, gain = truth.posterior()
    vae = truth.vae()
    scale = torch.as_tensor(np.sqrt(np.diag(covariance)))
    vae.posterior = pv.Amortised(affine(gain, -gain @ truth.bias), pv.Normal((2,), scale=scale))
    found = pv.calibrate(vae, num_simulations=1000)
    assert (found.p_location.sel(quantity=["z_0", "z_1"]) > 1e-3).all()
    assert float(found.p_location.sel(quantity="log_joint")) < 1e-6


CORRELATED = LinearGaussian(
    np.array([[1.2, 0.5], [0.5, 1.2], [1.0, 1.0]]), np.zeros(3), np.full(3, 0.25)
)


def guided(kind):
    """The true model, with a correlated guide that is right or has one fault."""
    covariance, gain = CORRELATED.posterior()
    sd = np.sqrt(np.diag(covariance))
    assert covariance[0, 1] / sd.prod() < -0.7
    shift = {"biased": 0.5, "far": 1.0}.get(kind, 0.0) * sd
    covariance = covariance * (0.36 if kind == "narrow" else 1.0)
    if kind == "rotated":
        covariance = covariance * np.array([[1.0, -1.0], [-1.0, 1.0]])
    scale_tril = torch.as_tensor(np.linalg.cholesky(covariance))
    vae = CORRELATED.vae()
    vae.posterior = pv.Amortised(
        affine(gain, shift), pv.MultivariateNormal((2,), scale_tril=scale_tril)
    )
    return vae


SEES = {
    "sbc": {"biased", "far", "narrow", "rotated"},
    "vsbc": {"biased", "far"},
    "tarp": {"biased", "far", "narrow", "rotated"},
}


@pytest.mark.parametrize("kind", ["right", "biased", "far", "narrow", "rotated"])
@pytest.mark.parametrize("method", SEES)
def test_what_each_method_sees(method, kind):
    """The table of the decision on calibration."""
    for seed in range(3):
        found = pv.calibrate(guided(kind), method=method, num_simulations=1000, seed=seed)
        if kind in SEES[method]:
            assert found.attrs["p_value"] < 1e-6
        else:
            assert found.attrs["p_value"] > 1e-3
        assert found.attrs["method"] == method


@pytest.mark.parametrize("kind", ["narrow", "rotated"])
def test_symmetry_is_all_that_vsbc_asks(kind):
    """The p-values of wrong spreads are those of right ones: uniform over seeds."""
    found = [
        pv.calibrate(
            guided(kind), method="vsbc", num_simulations=100, num_samples=49, seed=seed
        ).p_symmetry.values[0]
        for seed in range(40)
    ]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_a_distance_in_many_latents_is_uniform_for_few_draws():
    truth = LinearGaussian.with_diagonal_posterior(14, 12)
    found = [
        pv.calibrate(truth.vae(), method="tarp", num_simulations=200, num_samples=25, seed=seed)
        for seed in range(20)
    ]
    assert stats.kstest(
        np.concatenate([each["rank"] for each in found])[:, 0], "uniform"
    ).pvalue > (1e-3)
    assert list(found[0].quantity.values) == ["joint"]


def pair(kind="right", observe=lambda x: x):
    """The same model given c, with a site for each latent, and a guide of two steps."""
    covariance, gain = (torch.as_tensor(part) for part in CORRELATED.posterior())
    weight = torch.as_tensor(CORRELATED.weight)
    shrink, sign = 0.6 if kind == "narrow" else 1.0, -1 if kind == "rotated" else 1

    def model(x, c):
        with pyro.plate("rows", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(c, 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = pyro.deterministic("mean", torch.cat([a[..., None], b], -1) @ weight.T)
            pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=observe(x))

    def guide(x, c):
        m = (x - c[:, None] * weight[:, 0]) @ gain.T
        slope = sign * covariance[0, 1] / covariance[0, 0]
        rest = covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]
        with pyro.plate("rows", len(x), dim=-1):
            at = m[:, 0] + c
            a = pyro.sample("a", dist.Normal(at, shrink * covariance[0, 0].sqrt()))
            b = (m[:, 1] + slope * (a - at))[..., None]
            pyro.sample("b", dist.Normal(b, shrink * rest.sqrt()).to_event(1))

    return model, guide


@pytest.mark.parametrize("kind", ["right", "narrow", "rotated"])
@pytest.mark.parametrize("method", SEES)
def test_pairs_with_latents_of_any_name(method, kind):
    found = pv.calibrate(pair(kind), x=np.zeros((7, 3)), c=np.arange(7.0), method=method)
    assert found.sizes["simulation"] == 500
    assert (
        list(found.quantity.values)
        == {"sbc": ["a", "b_0", "log_joint"], "vsbc": ["a", "b_0"], "tarp": ["joint"]}[method]
    )
    p_value = found.attrs["p_value"]
    assert p_value < 1e-6 if kind in SEES[method] else p_value > 1e-3


def test_a_vae_as_a_pair_or_a_problem_is_the_same():
    vae, x = TRUTH.vae(), TRUTH.draw(7)
    found = [
        pv.calibrate(vae, num_simulations=50),
        pv.calibrate((vae.model, vae.guide), x=x, num_simulations=50),
        pv.calibrate(pv.Problem.of(vae, x), num_simulations=50),
    ]
    for other in found[1:]:
        xarray.testing.assert_allclose(found[0], other)


@pytest.mark.parametrize("observe", [lambda x: x**2, lambda x: None, lambda x: x[:, :1]])
def test_a_model_that_does_not_observe_x_itself_is_refused(observe):
    with pytest.raises(ValueError, match="calibrate needs a model that observes x, unchanged, at"):
        pv.calibrate(pair(observe=observe), x=np.full((7, 3), 2.0), c=np.ones(7))


def test_a_factor_beside_x_is_refused():
    model, guide = pair()

    def penalised(x, c):
        model(x, c)
        with pyro.plate("more", len(x), dim=-1):
            pyro.factor("penalty", x[:, 0])

    with pytest.raises(ValueError, match="got one that observes 'y', 'penalty'; write it with one"):
        pv.calibrate((penalised, guide), x=np.zeros((7, 3)), c=np.ones(7))
    with pytest.raises(pv.DataError, match="give x of shape"):
        pv.calibrate((model, guide))


@pytest.mark.slow
def test_mcmc_as_the_control_of_a_pair():
    found = pv.calibrate(
        pair("narrow"),
        x=np.zeros((1, 3)),
        c=np.ones(1),
        kernel="hmc",
        num_simulations=200,
        num_samples=39,
    )
    assert found.attrs["calibrated"]


@pytest.mark.slow
def test_mcmc_as_the_control():
    found = pv.calibrate(TRUTH.vae(shrink=0.5), kernel="hmc", num_simulations=200, num_samples=39)
    assert found.attrs["calibrated"]


def test_a_conditional_vae_is_simulated_for_the_c_given():
    x, c = TRUTH.draw(60), np.arange(60) % 3
    vae = pv.build(x, c=c, latent=2, likelihood={"name": "normal", "scale": 0.5}, hidden=[8])
    found = pv.calibrate(vae, c, num_simulations=50, num_samples=29)
    assert found["rank"].shape == (50, 3)
    with pytest.raises(pv.DataError, match="this VAE is conditional: give c"):
        pv.calibrate(vae)


def test_what_cannot_be_calibrated():
    x, c = TRUTH.draw(60), np.arange(60) % 3
    with pytest.raises(pv.DataError):
        pv.calibrate(pv.build(x, c=c, latent=2, hidden=[4]), [])
    with pytest.raises(
        TypeError, match=r"needs a VAE or a pair \(model, guide\) of Pyro functions"
    ):
        pv.calibrate("a")
    x = np.random.default_rng(0).poisson(2.0, (20, 3))
    with pytest.raises(TypeError, match="calibrate needs continuous latents"):
        pv.calibrate(pv.build(x, latent=3, prior="one_hot", likelihood="poisson", hidden=[4]))
    with pytest.raises(ValueError, match="method must be 'sbc', 'vsbc', 'tarp'; got 'ks'"):
        pv.calibrate(TRUTH.vae(), method="ks")
    many = LinearGaussian.with_diagonal_posterior(14, 13)
    with pytest.raises(ValueError, match="tarp needs num_samples of at least twice the 13 latents"):
        pv.calibrate(many.vae(), method="tarp", num_simulations=20, num_samples=25)
    with pytest.raises(ValueError, match="num_simulations must be a whole number from 20; got 3"):
        pv.calibrate(TRUTH.vae(), num_simulations=3)


def test_predictions_of_the_true_model_and_of_a_wrong_one():
    x = TRUTH.draw(400)
    right = pv.check_predictions(TRUTH.vae(), x)
    assert list(right.columns) == ["observed", "mean", "sd", "p_value"]
    assert (right.p_value.loc[["mean", "sd", "min", "max"]] > 0.01).all()
    np.testing.assert_allclose(right.observed["sd"], x.std())
    noisy = LinearGaussian(TRUTH.weight, TRUTH.bias, 4 * TRUTH.noise)
    wrong = pv.check_predictions(
        noisy.vae(), x, statistics={"sd": np.nanstd, "residual": lambda y: np.nanmax(np.abs(y))}
    )
    assert wrong.p_value["sd"] < 0.02
    assert wrong["mean"]["sd"] > wrong.observed["sd"]


def test_predictions_of_pairs():
    """The pair of a VAE predicts what the VAE does; one with c and two sites, what it should."""
    vae, x = TRUTH.vae(), TRUTH.draw(50)
    ours, theirs = (pv.check_predictions(each, x) for each in (vae, (vae.model, vae.guide)))
    pandas.testing.assert_frame_equal(ours, theirs)

    c = np.linspace(-1, 1, 300)
    x = CORRELATED.draw(300) + c[:, None] * CORRELATED.weight[:, 0]
    statistics = {"mean": np.mean, "of c": lambda x: float(np.mean(x[:, 0] * c)), "sd": np.std}
    right = pv.check_predictions(pair(), x, c, statistics=statistics)
    assert (right.p_value > 0.01).all()
    wrong = pv.check_predictions(pair(), 3 * x, c, statistics=statistics)
    assert wrong.p_value["sd"] < 0.02


def test_a_statistic_that_is_nan_says_nothing():
    x = TRUTH.draw(20)
    x[0, 0] = np.nan
    table = pv.check_predictions(
        TRUTH.vae(), x, statistics={"mean": np.mean, "seen": np.nanmean}, num_samples=50
    )
    assert np.isnan(table.p_value["mean"])
    assert table.p_value["seen"] > 0
    with pytest.raises(
        TypeError, match="check_predictions needs statistics as functions by name; got"
    ):
        pv.check_predictions(TRUTH.vae(), x, statistics={"a": "mean"})


def test_missing_cells_are_left_out_of_predictions():
    x = TRUTH.draw(50)
    x[::2, 0] = np.nan
    counted = []
    pv.check_predictions(
        TRUTH.vae(), x, statistics={"seen": lambda y: counted.append(np.isnan(y).sum()) or 0.0}
    )
    assert set(counted) == {25}
