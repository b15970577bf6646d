"""The guide against MCMC, and the gaps of the ELBO: closed forms of the linear-Gaussian model."""

import numpy as np
import pyro
import pytest
import torch
import xarray
from pyro import distributions as dist
from pyro import poutine
from truth import LinearGaussian, affine

import pyro_vae as pv
from pyro_vae.criticism.posteriors import summarize

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(40)


def exact_posterior(num=4000, seed=0):
    """Independent draws of the exact posterior in place of MCMC."""
    covariance, gain = TRUTH.posterior()
    noise = np.random.default_rng(seed).multivariate_normal(
        np.zeros(2), covariance, size=(4, num // 4, len(X))
    )
    z = ("chain", "draw", "datum", "latent"), (X - TRUTH.bias) @ gain.T + noise
    return xarray.DataTree.from_dict({"posterior": xarray.Dataset({"z": z})})


def compared(vae, **options):
    return pv.compare_posteriors(vae, X, exact_posterior(), **options)


def test_an_exact_guide_is_not_told_from_the_posterior():
    found = compared(TRUTH.vae())
    z = found.mean_error / found.mean_error_se
    assert np.abs(z).max() < 4.5
    assert 0.8 < z.std() < 1.2
    np.testing.assert_allclose(found.sd_ratio, 1.0, atol=5 * (1 / 8000 + 1 / 4000) ** 0.5)
    assert found.correlation_missed.max() < 5 * (1 / 4000 + 1 / 2000) ** 0.5
    assert found.wasserstein.max() < 0.1
    assert abs(float(found.c2st.mean()) - 0.5) < 5 * 0.5 / (1000 * len(X)) ** 0.5
    assert abs(float(found.coverage.mean()) - 0.9) < 0.01
    np.testing.assert_allclose(found.kl, 0.0, atol=1e-10)


@pytest.mark.slow
def test_a_guide_that_is_shifted_and_narrow():
    """Means one posterior sd too high, sds 0.6 of the posterior's: every measure says so, with its
    sign and size.
    """
    found = compared(TRUTH.vae(shrink=0.6, shift=1.0), num_samples=20_000)
    np.testing.assert_allclose(found.mean_error, 1.0, atol=0.1)
    np.testing.assert_allclose(found.sd_ratio, 0.6, atol=0.03)
    exact = 2 * (-np.log(0.6) + (0.6**2 + 1) / 2 - 0.5)
    assert (np.abs(found.kl - exact) < 4.5 * found.kl_se).all()
    assert (found.c2st > 0.7).all()
    assert (found.coverage < 0.75).all()
    assert (found.wasserstein > 0.4).all()


@pytest.mark.parametrize(
    ("shrink", "shift"),
    [
        pytest.param(1.3, 0.0, marks=pytest.mark.slow),
        (1.2, 0.5),
        pytest.param(1.5, -0.7, marks=pytest.mark.slow),
    ],
)
def test_kl_equals_the_closed_form(shrink, shift):
    found = compared(TRUTH.vae(shrink=shrink, shift=shift), num_samples=5000)
    exact = 2 * (-np.log(shrink) + (shrink**2 + shift**2) / 2 - 0.5)
    z = (found.kl - exact) / found.kl_se
    assert np.abs(z).max() < 4.5
    assert 0.7 < z.std() < 1.3
    assert (found.khat < 0.7).all()
    np.testing.assert_allclose(found.sd_ratio, shrink, atol=0.1)
    np.testing.assert_allclose(found.mean_error, shift, atol=0.15)


@pytest.mark.parametrize(
    ("shrink", "shift"),
    [
        pytest.param(0.3, 8.0, id="off", marks=pytest.mark.slow),
        pytest.param(0.05, 0.0, id="narrow", marks=pytest.mark.slow),
        pytest.param(1.0, 30.0, id="far", marks=pytest.mark.slow),
    ],
)
def test_kl_of_a_guide_that_is_far_off_is_right(shrink, shift):
    """Its own weights cannot know log p(x): draws of the posterior do."""
    found = compared(TRUTH.vae(shrink=shrink, shift=shift))
    exact = 2 * (-np.log(shrink) + (shrink**2 + shift**2) / 2 - 0.5)
    assert (found.khat > 0.7).mean() > 0.8
    assert (found.kl_is == "estimate").all()
    assert (np.abs(found.kl - exact) < 4.5 * found.kl_se).all()


def test_kl_is_a_lower_bound_where_nothing_else_is_known():
    """Too few draws of the posterior for bridge sampling."""
    judge = exact_posterior(num=24)
    found = pv.compare_posteriors(TRUTH.vae(shrink=0.3, shift=8.0), X, judge)
    assert (found.kl_is == "at least").mean() > 0.8


@pytest.mark.slow
def test_a_guide_that_is_rotated_misses_the_correlation():
    """A diagonal guide with the exact marginals of a correlated posterior: only the correlation is
    missed.
    """
    truth = LinearGaussian(
        TRUTH.weight @ np.array([[1.0, 0.8], [0.0, 0.6]]), TRUTH.bias, TRUTH.noise
    )
    covariance, gain = truth.posterior()
    vae = truth.vae()
    vae.posterior = pv.Amortised(
        affine(gain, -gain @ truth.bias),
        pv.Normal((2,), scale=torch.as_tensor(np.sqrt(np.diag(covariance)))),
    )
    post = pv.sample_posterior(vae, X, num_samples=1000, warmup=200)
    found = pv.compare_posteriors(vae, X, post)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert abs(correlation) > 0.3
    np.testing.assert_allclose(found.correlation_missed, abs(correlation), atol=0.12)
    assert np.abs(found.mean_error / found.mean_error_se).max() < 5
    np.testing.assert_allclose(found.sd_ratio, 1.0, atol=0.15)


def test_the_summary_names_what_an_exact_guide_gives():
    table = summarize(compared(TRUTH.vae(shrink=0.8)))
    assert list(table.columns) == ["exact", "median", "quantile_90", "worst"]
    assert table.exact["sd_ratio"] == 1.0
    assert table["worst"]["sd_ratio"] < table["median"]["sd_ratio"] < 0.85
    assert table.loc["kl", "worst"] >= table.loc["kl", "median"] > 0


def test_the_median_of_three_is_the_second():
    values = xarray.Dataset(
        {name: ("datum", [0.1, 0.2, 0.3]) for name in ("mean_error", "wasserstein", "kl")}
    )
    rest = {
        name: ("datum", [1.1, 1.2, 1.3])
        for name in ("sd_ratio", "correlation_missed", "c2st", "coverage")
    }
    table = summarize(values.assign(rest))
    np.testing.assert_allclose(table["median"][["mean_error", "kl", "sd_ratio"]], [0.2, 0.2, 1.2])
    np.testing.assert_allclose(table["worst"][["mean_error", "kl", "sd_ratio"]], [0.3, 0.3, 1.3])


def test_draws_of_the_guide_are_no_judge():
    vae = TRUTH.vae()
    with pytest.raises(
        TypeError, match="needs draws of MCMC; this tree has draws of the guide in their place"
    ):
        pv.compare_posteriors(vae, X, pv.to_datatree(vae, X, num_samples=50))
    with pytest.raises(
        TypeError,
        match="compare_posteriors needs posterior as sample_posterior gives it, a tree; got Dat",
    ):
        pv.compare_posteriors(vae, X, exact_posterior()["posterior"].to_dataset())
    with pytest.raises(
        ValueError, match="compare_posteriors needs at least 20 draws of MCMC; got 4 chains of 4"
    ):
        pv.compare_posteriors(vae, X, exact_posterior(num=16))


def test_other_data_are_refused():
    tree = pv.sample_posterior(TRUTH.vae(), X, num_samples=200, warmup=100)
    with pytest.raises(
        pv.DataError,
        match="needs the data that the posterior was drawn for: its observed_data are oth",
    ):
        pv.compare_posteriors(TRUTH.vae(), X[::-1].copy(), tree)
    with pytest.raises(
        pv.DataError,
        match="needs the data that the posterior was drawn for: 40 data of 2 latents; got 39",
    ):
        pv.compare_posteriors(TRUTH.vae(), X[:39], exact_posterior())


@pytest.mark.parametrize(
    "judged_by", [pv.compare_posteriors, pv.bridge_log_evidence, pv.to_datatree]
)
def test_draws_of_a_model_that_has_changed_since_are_refused(judged_by):
    """Another guide is welcome: the draws are not its."""
    vae = TRUTH.vae()
    tree = pv.sample_posterior(vae, X[:4], num_samples=200, warmup=100)
    judged_by(TRUTH.vae(shift=0.1), X[:4], posterior=tree)
    with torch.no_grad():
        next(vae.likelihood.parameters()).add_(3.0)
    with pytest.raises(ValueError, match="draws from the posterior of this very model"):
        judged_by(vae, X[:4], posterior=tree)


# gaps


def log_evidence_se(found, num=2000):
    """For weights that are nearly equal, twice the gap is the variance of their logarithm."""
    return (2 * found.approximation_gap / num) ** 0.5 + 1e-6


def test_gaps_of_an_exact_family_are_amortisation_only():
    """The guide is shifted and narrow; its family holds the exact posterior."""
    vae = TRUTH.vae()
    covariance, gain = TRUTH.posterior()
    network = affine(
        np.vstack([gain, np.zeros_like(gain)]),
        np.concatenate([-gain @ TRUTH.bias + 0.3, np.zeros(2)]),
    )
    vae = pv.VAE(vae.prior, vae.likelihood, pv.Amortised(network, pv.Normal((2,))))
    sd = 1.0  # what a context of zeros gives
    found = pv.gaps(vae, X, steps=400, num_samples=2000)
    variance = np.diag(covariance)
    exact = (-np.log(sd / np.sqrt(variance)) + (sd**2 + 0.3**2) / (2 * variance) - 0.5).sum()
    error = np.abs(found.log_evidence - TRUTH.log_evidence(X))
    assert (error < 5 * log_evidence_se(found)).all()
    assert (np.abs(found.approximation_gap) < 0.02).all()  # what 400 steps of Adam leave
    assert (np.abs(found.amortisation_gap - exact) < 4.5 * found.amortisation_gap_se).all()
    assert abs(found.attrs["amortisation_gap"] - exact) < 0.05 * exact
    assert found.attrs["amortisation_gap_mean_se"] < 0.1


def test_a_family_that_cannot_follow_has_an_approximation_gap():
    """A diagonal guide for a correlated posterior: KL in closed form, from the diagonal of the
    precision.
    """
    truth = LinearGaussian(
        TRUTH.weight @ np.array([[1.0, 0.8], [0.0, 0.6]]), TRUTH.bias, TRUTH.noise
    )
    covariance, gain = truth.posterior()
    network = affine(
        np.vstack([gain, np.zeros_like(gain)]), np.concatenate([-gain @ truth.bias, np.zeros(2)])
    )
    vae = truth.vae()
    vae = pv.VAE(vae.prior, vae.likelihood, pv.Amortised(network, pv.Normal((2,))))
    found = pv.gaps(vae, X, steps=400, num_samples=4000)
    precision = np.linalg.inv(covariance)
    exact = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert abs(found.attrs["approximation_gap"] - exact) < 0.02
    assert (found.amortisation_gap > -4 * found.amortisation_gap_se).all()


def test_gaps_of_a_family_that_is_far_off_rest_on_the_true_evidence():
    """A diagonal guide for latents that are nearly a line: the weights of the best are wild."""
    weight = TRUTH.weight @ np.array([[1.0, 0.0], [0.0, 0.0]])
    truth = LinearGaussian(weight @ np.array([[5.0, 5.0], [0.0, 0.0]]), TRUTH.bias, TRUTH.noise)
    _, gain = truth.posterior()
    network = affine(
        np.vstack([gain, np.zeros_like(gain)]), np.concatenate([-gain @ truth.bias, np.zeros(2)])
    )
    vae = truth.vae()
    vae = pv.VAE(vae.prior, vae.likelihood, pv.Amortised(network, pv.Normal((2,))))
    x = truth.draw(20)
    found = pv.gaps(vae, x, steps=400, num_samples=1000)
    assert (found.khat > 0.5).any()
    assert (found.flag == "").all()
    error = np.hypot(found.approximation_gap_se, log_evidence_se(found, 1000))
    assert (np.abs(found.log_evidence - truth.log_evidence(x)) < 4.5 * error).all()


def test_what_has_no_gaps():
    vae = TRUTH.vae()
    vae.posterior = pv.Normal((2,), loc=0.0, scale=1.0)
    with pytest.raises(TypeError, match="refine needs a guide Amortised"):
        pv.gaps(vae, X)


def pair_of(truth, step=lambda mean, z: mean, family=dist.Normal):
    """A pair with a site for each of two latents; the guide is shifted and of standard deviation 1,
    and `step` says where its second latent is, given the first.
    """
    weight, bias, noise = (
        torch.as_tensor(part) for part in (truth.weight, truth.bias, truth.noise)
    )
    gain = torch.as_tensor(truth.posterior()[1])

    def model(x):
        with pyro.plate("rows", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = torch.cat([a[..., None], b], -1) @ weight.T + bias
            pyro.sample("x", dist.Normal(mean, noise.sqrt()).to_event(1), obs=x)

    def guide(x):
        mean = (x - bias) @ gain.T + 0.3
        with pyro.plate("rows", len(x), dim=-1):
            a = pyro.sample("a", family(mean[:, 0], 1.0))
            pyro.sample("b", dist.Normal(step(mean[:, 1], a)[..., None], 1.0).to_event(1))

    return model, guide


def test_gaps_of_a_pair_whose_family_is_exact():
    found = pv.gaps(pair_of(TRUTH), X, steps=400, num_samples=2000)
    variance = np.diag(TRUTH.posterior()[0])
    exact = (0.5 * np.log(variance) + (1 + 0.3**2) / (2 * variance) - 0.5).sum()
    assert (np.abs(found.log_evidence - TRUTH.log_evidence(X)) < 5 * log_evidence_se(found)).all()
    assert (np.abs(found.approximation_gap) < 0.02).all()  # what 400 steps of Adam leave
    assert (np.abs(found.amortisation_gap - exact) < 4.5 * found.amortisation_gap_se).all()


@pytest.mark.parametrize("follows", [False, True])
def test_gaps_of_a_pair_keep_what_one_latent_makes_of_another(follows):
    truth = LinearGaussian(
        TRUTH.weight @ np.array([[1.0, 0.8], [0.0, 0.6]]), TRUTH.bias, TRUTH.noise
    )
    covariance, _ = truth.posterior()
    slope = covariance[0, 1] / covariance[0, 0] if follows else 0.0
    pair = pair_of(truth, step=lambda mean, z: mean + slope * z)
    found = pv.gaps(pair, X, steps=400, num_samples=2000)
    precision = np.linalg.inv(covariance)
    alone = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert abs(found.attrs["approximation_gap"] - (0.0 if follows else alone)) < 0.02
    assert (found.amortisation_gap > -4 * found.amortisation_gap_se).all()


@pytest.mark.parametrize("by", ["scale_tril", "covariance_matrix"])
def test_gaps_of_a_pair_with_a_full_normal(by):
    """The family holds the posterior, which is correlated."""
    mix = np.array([[1.0, 0.8], [0.0, 0.6]])
    truth = LinearGaussian(TRUTH.weight @ mix, TRUTH.bias, TRUTH.noise)
    vae = truth.vae()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            normal = dist.MultivariateNormal(torch.zeros(len(x), 2), **{by: torch.eye(2)})
            pyro.sample("z", normal)

    pair = poutine.mask(vae.model, mask=True), guide
    found = pv.gaps(pair, X[:20], steps=600, num_samples=2000)
    assert (np.abs(found.log_evidence - truth.log_evidence(X[:20])) < 0.05).all()
    assert (np.abs(found.approximation_gap) < 0.05).all()


def test_a_guide_that_cannot_be_moved_has_no_gaps():
    def made_of_another(mean, sd):
        moved = [dist.transforms.AffineTransform(mean, sd)]
        return dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand(mean.shape), moved)

    with pytest.raises(TypeError, match="can be moved; got TransformedDistribution at site 'a'"):
        pv.gaps(pair_of(TRUTH, family=made_of_another), X)
