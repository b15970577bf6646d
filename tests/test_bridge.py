"""Bridge sampling, bounds from both sides, and the self-test: against closed forms."""

import functools
import math
import warnings

import numpy as np
import pandas
import pytest
import torch
from scipy import stats
from truth import LinearGaussian
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.cli import selftest
from pyro_vae.criticism import plots
from pyro_vae.evidence.optimal_bridge import bridged

SMALL = LinearGaussian.with_diagonal_posterior(features=8, latents=3)


@pytest.mark.parametrize("guide", [{"shrink": 1.2}, {"shrink": 0.2}, {"shift": 3.0}], ids=str)
@pytest.mark.parametrize(
    "latents", [2, *(pytest.param(num, marks=pytest.mark.slow) for num in (10, 50))]
)
def test_bridge_meets_the_truth_whatever_the_guide(latents, guide):
    model = LinearGaussian.with_diagonal_posterior(features=latents + 10, latents=latents)
    x = model.draw(30)
    vae = model.vae(**guide)
    posterior = pv.sample_posterior(vae, x, num_samples=300, warmup=300)
    found = pv.bridge_log_evidence(vae, x, posterior)
    z = ((found.log_evidence - model.log_evidence(x)) / found.se).values
    assert (np.abs(z) < 4).all()
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert 0.6 < z.std() < 1.5  # 30 data: 1 +- 4 / sqrt(60)
    assert found.attrs["flagged"] == 0


@pytest.mark.slow
def test_without_a_warp_no_overlap_is_flagged():
    x = SMALL.draw(20)
    vae = SMALL.vae(shift=8.0)
    posterior = pv.sample_posterior(vae, x, num_samples=300, warmup=300)
    with pytest.warns(UserWarning, match="leave warp=True"):
        found = pv.bridge_log_evidence(vae, x, posterior, warp=False)
    assert found.attrs["flagged"] >= 19
    exact = pv.bridge_log_evidence(SMALL.vae(), x, posterior, warp=False)
    assert (np.abs(exact.log_evidence - SMALL.log_evidence(x)) < 4 * exact.se + 1e-10).all()


def test_bridge_is_told_apart_from_other_data():
    x = SMALL.draw(3)
    vae = SMALL.vae()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        posterior = pv.sample_posterior(vae, x, num_samples=50, warmup=50)
        few = pv.sample_posterior(vae, x, num_samples=4, warmup=50)
    with pytest.raises(pv.DataError, match="the data that the posterior was drawn for"):
        pv.bridge_log_evidence(vae, x + 1, posterior)
    with pytest.raises(TypeError, match="needs posterior as sample_posterior gives it"):
        pv.bridge_log_evidence(vae, x, posterior["posterior"].to_dataset())
    with pytest.raises(
        ValueError, match="at least 50 draws of the posterior, 8 of each chain; got 16, 4 of each"
    ):
        pv.bridge_log_evidence(vae, x, few)


@functools.cache
def both_sides(num_distributions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.bidirectional_log_evidence(
            SMALL.vae(shrink=0.5, shift=1.0),
            num_simulations=200,
            num_distributions=num_distributions,
            num_steps=5,
        )


class TestBothSides:
    """On data that the model makes, the truth lies between the bounds."""

    @pytest.mark.slow
    def test_they_hold_the_truth(self):
        found = [both_sides(num) for num in (10, 100)]
        for bounds in found:
            gap, error = bounds.attrs["gap"], bounds.attrs["gap_se"]
            assert gap > -3 * error
        assert found[1].attrs["gap"] < found[0].attrs["gap"]
        assert found[1].attrs["gap"] < 0.1

    def test_each_is_a_bound_in_the_mean(self):
        model = SMALL
        rng = np.random.default_rng(5)
        z = rng.normal(size=(200, 3))
        x = z @ model.weight.T + model.bias + rng.normal(size=(200, 8)) * np.sqrt(model.noise)
        exact = model.log_evidence(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            bounds = pv.annealed_log_evidence(
                model.vae(shrink=0.5), x, z=z, num_distributions=20, num_steps=5
            )
        below, above = exact - bounds.log_evidence.values, bounds.upper.values - exact
        assert below.mean() > -4 * below.std() / np.sqrt(200)
        assert above.mean() > -4 * above.std() / np.sqrt(200)
        np.testing.assert_allclose(bounds.gap, above + below)

    def test_who_is_refused(self):
        with pytest.raises(TypeError, match="bidirectional_log_evidence needs a VAE"):
            pv.bidirectional_log_evidence((lambda x: None, lambda x: None))
        classes = pv.build(np.eye(4), latent=2, prior="one_hot", likelihood="bernoulli", hidden=[4])
        with pytest.raises(TypeError, match="sums over discrete ones"):
            pv.bidirectional_log_evidence(classes)

    def test_pictures(self, tmp_path):
        plots.bidirectional(both_sides(10)).savefig(tmp_path / "both.png")
        vae, x = SMALL.vae(shrink=1.3), SMALL.draw(40)
        for name, result in {
            "plain": pv.log_evidence(vae, x, num_samples=300),
            "ladder": pv.log_evidence(SMALL.vae(shift=1.5), x, tolerance=0.1),
            "annealed": both_sides(10),
        }.items():
            plots.evidence(result).savefig(tmp_path / f"{name}.png")
        with pytest.raises(
            TypeError, match=r"plots\.bidirectional needs what bidirectional_log_evidence gave"
        ):
            plots.bidirectional(pv.log_evidence(vae, x))
        assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())


def test_a_guide_without_a_density_is_named():
    x = np.random.default_rng(0).normal(size=(5, 4))
    vae = pv.build(x, latent=2, guide="planar_flow", hidden=[4])
    with pytest.raises(TypeError, match=r"no density at draws of others.*start='prior'"):
        pv.annealed_log_evidence(vae, x, num_distributions=2)


class TestSelfTest:
    @pytest.mark.slow
    def test_every_estimator_passes(self):
        found = selftest.check_estimators(seed=3)
        assert len(found) == 20
        assert found.passed.all(), found[~found.passed]
        assert (found.se > 0).all()

    def test_a_wrong_estimate_fails(self, monkeypatch):
        def off_by_a_twentieth(case, seed):
            found = pv.log_evidence(case.pair(1.3), case.x, num_samples=2000, seed=seed)
            return found.assign(log_evidence=found.log_evidence + 0.05)

        monkeypatch.setattr(selftest, "ESTIMATORS", {"wrong": off_by_a_twentieth})
        assert not selftest.check_estimators().passed.any()
        result = CliRunner().invoke(cli.app, ["check"])
        assert result.exit_code == 1
        assert "FAIL" in result.output

    def test_what_is_not_a_number_fails(self, monkeypatch):
        def nothing(case, seed):
            found = pv.log_evidence(case.pair(1.3), case.x, num_samples=100, seed=seed)
            return found.assign(log_evidence=found.log_evidence * np.nan)

        monkeypatch.setattr(selftest, "ESTIMATORS", {"nothing": nothing})
        assert not selftest.check_estimators().passed.any()

    def test_all_passed_is_exit_code_0(self, monkeypatch):
        row = {"model": "m", "estimator": "e", "error": 0.0, "se": 0.1, "z": 0.0, "worst": 1.0}
        found = pandas.DataFrame([{**row, "passed": True, "seconds": 0.1}])
        monkeypatch.setattr(selftest, "check_estimators", lambda seed: found)
        result = CliRunner().invoke(cli.app, ["check"])
        assert result.exit_code == 0
        assert "1 of 1 passed" in result.output


@pytest.mark.parametrize("freedom", [4.0, 10.0, math.inf])
@pytest.mark.parametrize("scale", [0.7, 0.9, 1.3])
def test_right_draws_are_hardly_ever_refuted(freedom, scale):
    """A posterior with heavier tails than the normal it is held against, 400 times."""
    posterior = stats.t(freedom) if freedom < math.inf else stats.norm()
    proposal = stats.norm(scale=scale)
    draws = posterior.rvs((4, 250, 400), random_state=0)
    drawn = proposal.rvs((1000, 400), random_state=1)
    ratios = (torch.as_tensor(posterior.logpdf(u) - proposal.logpdf(u)) for u in (draws, drawn))
    found = bridged(*ratios)
    assert float(found["refuted"].double().mean()) <= 0.005
    z = found["log_evidence"] / found["se"]
    assert abs(float(z.mean())) < 0.3
