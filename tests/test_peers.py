"""Defects seen in peers: each test here would fail for a library that has one of them."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats
from truth import Direct, LinearGaussian

import pyro_vae as pv

MODEL = LinearGaussian.with_diagonal_posterior(features=6, latents=2)
X = MODEL.draw(150)
TRUTH = MODEL.log_evidence(X)


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **kwargs)


# Samples in chunks that do not divide their number (scvi-tools: + 0.18 nat for 1000 samples in
# chunks of 300)


@pytest.mark.parametrize("num_samples", [1, 63, 65, 300, 1000, 4097])
@pytest.mark.parametrize("rows", [64, 70, 150])
def test_every_draw_counts_once(rows, num_samples):
    """With an exact guide all weights are p(x), so any wrong count shows in full."""
    result = pv.log_evidence(MODEL.vae(), X[:rows], num_samples=num_samples)
    np.testing.assert_allclose(result.log_evidence, TRUTH[:rows], atol=1e-9)
    np.testing.assert_allclose(result.ess, num_samples, rtol=1e-9)
    annealed = pv.annealed_log_evidence(
        MODEL.vae(), X[:3], num_distributions=2, chains=max(1, num_samples // 10)
    )
    np.testing.assert_allclose(annealed.log_evidence, TRUTH[:3], atol=1e-9)


@pytest.mark.parametrize("max_bytes", [1, 10_000, 123_456, 10_000_000])
def test_memory_in_pieces_of_any_size(max_bytes):
    result = pv.log_evidence(MODEL.vae(), X[:70], num_samples=1000, max_bytes=max_bytes)
    np.testing.assert_allclose(result.log_evidence, TRUTH[:70], atol=1e-9)
    rough = pv.log_evidence(MODEL.vae(shrink=1.3), X[:70], num_samples=1000, max_bytes=max_bytes)
    z = (rough.log_evidence - TRUTH[:70]) / rough.se
    assert abs(float(z.mean())) < 4 / math.sqrt(70)
    assert float(np.abs(rough.log_evidence - TRUTH[:70]).max()) < 0.1


# The mean over a dataset is that of the last minibatch (scvi-tools #1032), or one of means over
# unequal batches


@pytest.mark.parametrize("num", [1, 63, 65, 129, 150])
def test_the_mean_is_over_data_and_not_over_batches(num):
    """The last datum is far out: with a mean over tiles it would weigh as much as 64 others."""
    x = X[:num].copy()
    x[-1] += 30.0
    exact = MODEL.log_evidence(x)
    result = pv.log_evidence(MODEL.vae(), x, num_samples=10)
    assert result.attrs["mean"] == pytest.approx(exact.mean(), abs=1e-9)
    assert result.sizes["datum"] == num
    if num > 64:
        tiles = np.mean([exact[start : start + 64].mean() for start in range(0, num, 64)])
        assert abs(tiles - exact.mean()) > 0.5
        assert abs(exact[64 * ((num - 1) // 64) :].mean() - exact.mean()) > 0.5


# N(0, I) in place of the prior (scvi-tools, with a mixture prior of its own)


PRIORS = {
    "normal": (lambda: pv.Normal((1,), loc=1.0, scale=0.5), stats.norm(1.0, 0.5).pdf),
    "laplace": (lambda: pv.Laplace((1,), loc=0.0, scale=1.0), stats.laplace().pdf),
    "student_t": (lambda: pv.StudentT((1,), df=3.0, loc=0.0, scale=1.0), stats.t(3.0).pdf),
    "logistic": (lambda: pv.Logistic((1,), loc=0.0, scale=1.0), stats.logistic().pdf),
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_that_is_swapped_is_the_prior(name):
    """The truth by quadrature; the same VAE before and after."""
    make, density = PRIORS[name]
    likelihood = Direct((1,), lambda z: pyro.distributions.Normal(z, 0.7).to_event(1))
    guide = pv.StudentT((1,), df=3.0, loc=0.5, scale=1.0)
    vae = pv.VAE(pv.Normal((1,), loc=0.0, scale=1.0), likelihood, guide)
    x = np.linspace(-2, 3, 12)[:, None]
    before = pv.log_evidence(vae, x, num_samples=4000)
    assert (
        np.abs(before.log_evidence - stats.norm(0, math.sqrt(1.49)).logpdf(x[:, 0]))
        < 4.5 * before.se
    ).all()
    vae.prior = make()
    joint = lambda z, v: density(z) * stats.norm.pdf(v, z, 0.7)  # noqa: E731
    exact = [
        math.log(integrate.quad(joint, -12, 12, args=(v,), points=[v, 0.0])[0]) for v in x[:, 0]
    ]
    for result in (
        pv.log_evidence(vae, x, num_samples=4000),
        quiet(vae, x, num_samples=500, tolerance=0.03),
        pv.annealed_log_evidence(vae, x, num_distributions=30, chains=100, num_steps=3),
    ):
        assert (np.abs(result.log_evidence - exact) < 4.5 * result.se).all()
    far = np.abs(before.log_evidence - exact) / before.se
    assert float(far.max()) > 8, "the standard normal would not pass"


def test_a_mixture_prior():
    """x = z + noise under a mixture of normals: a mixture of normals again."""
    prior = pv.Mixture((1,), components=3, learned=True)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 2)
    likelihood = Direct((1,), lambda z: pyro.distributions.Normal(z, 0.7).to_event(1))
    vae = pv.VAE(prior, likelihood, pv.StudentT((1,), df=2.0, loc=0.0, scale=2.0))
    grid = torch.linspace(-30, 30, 60_001)
    x = np.linspace(-3, 3, 12)[:, None]
    with torch.no_grad():
        density = prior().log_prob(grid[:, None]).exp().numpy()
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    exact = [math.log(np.trapezoid(density * stats.norm.pdf(v, grid, 0.7), grid)) for v in x[:, 0]]
    result = pv.log_evidence(vae, x, num_samples=20_000)
    assert (np.abs(result.log_evidence - exact) < 4.5 * result.se + 1e-4).all()
    assert np.abs(exact - stats.norm(0, math.sqrt(1.49)).logpdf(x[:, 0])).max() > 0.3


# Evaluation that changes the model (pyroVED steps the optimiser on test data)


JUDGES = {
    "log_evidence": lambda vae, x: pv.log_evidence(vae, x, num_samples=20),
    "tolerance": lambda vae, x: quiet(vae, x, num_samples=25, tolerance=0.3),
    "annealed": lambda vae, x: pv.annealed_log_evidence(vae, x, num_distributions=3, chains=4),
    "terms": lambda vae, x: pv.terms(vae, x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
}


@pytest.mark.uses_store
@pytest.mark.parametrize("judge", JUDGES)
def test_judging_a_model_changes_nothing(judge):
    """Parameters, buffers, gradients, optimiser state, modes, random state and parameter store are
    as before.
    """
    x = np.random.default_rng(0).normal(size=(40, 5))
    vae = pv.build(x, latent=[2], prior="normal", likelihood="normal", hidden=[8])
    optimiser = torch.optim.Adam(vae.parameters(), 1e-2)
    (-pv.elbo(pv.terms(vae, x)).mean()).backward()
    optimiser.step()
    pyro.param("mine", torch.ones(2))
    vae.train()
    vae.prior.eval()
    modes = [part.training for part in vae.modules()]
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in vae.parameters()]
    moments = {
        (n, name): value.clone()
        for n, of in enumerate(optimiser.state.values())
        for name, value in of.items()
    }
    assert moments
    random = torch.get_rng_state()
    JUDGES[judge](vae, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in vae.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    for parameter, gradient in zip(vae.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad
    after = {
        (n, name): value
        for n, of in enumerate(optimiser.state.values())
        for name, value in of.items()
    }
    assert all(torch.equal(value, moments[key]) for key, value in after.items())
    assert list(pyro.get_param_store().keys()) == ["mine"]


# Constants that are dropped (pythae, "mse"): an ELBO that is no bound


@pytest.mark.parametrize("noise", [0.05, 1.0, 20.0])
def test_the_elbo_is_a_bound_at_any_noise(noise):
    """By the closed form: with an exact guide it is log p(x), else below by the KL divergence."""
    model = LinearGaussian(MODEL.weight, MODEL.bias, np.full(6, noise))
    x = model.draw(50)
    covariance, _ = model.posterior()
    sd = np.sqrt(np.diag(covariance))
    terms = pv.terms(model.vae(shrink=1.2), x, num_samples=4000)
    precision = np.linalg.inv(covariance)
    kl = 0.5 * (np.diag(precision) @ (1.2 * sd) ** 2 - 2 - 4 * math.log(1.2) - 2 * np.log(sd).sum())
    kl += 0.5 * np.linalg.slogdet(covariance)[1]
    error = (pv.elbo(terms).detach().numpy() - (model.log_evidence(x) - kl)) / (
        terms.log_weight.detach().std(0).numpy() / math.sqrt(4000)
    )
    assert np.abs(error).max() < 4.5
    assert kl > 0.01


DENSITIES = {
    "normal": (lambda: pv.Normal((1,), loc=0.3, scale=2.0), np.linspace(-40, 40, 20_001)),
    "laplace": (lambda: pv.Laplace((1,), loc=0.3, scale=2.0), np.linspace(-80, 80, 40_001)),
    "gamma": (lambda: pv.Gamma((1,), concentration=2.5, rate=0.7), np.linspace(1e-9, 80, 40_001)),
    "beta": (
        lambda: pv.Beta((1,), concentration1=2.0, concentration0=3.0),
        np.linspace(1e-9, 1 - 1e-9, 20_001),
    ),
    "poisson": (lambda: pv.Poisson((1,), rate=4.0), np.arange(100)),
    "bernoulli": (lambda: pv.Bernoulli((1,), logits=-0.8), np.arange(2)),
    "binomial": (lambda: pv.Binomial((1,), total_count=7, logits=-0.8), np.arange(8)),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_likelihoods_are_normalised(name):
    """A likelihood that does not look at z: p(x) must sum, or integrate, to one over all x."""
    make, x = DENSITIES[name]
    vae = pv.VAE(pv.Normal((1,), loc=0.0, scale=1.0), make(), pv.Normal((1,), loc=0.0, scale=1.0))
    density = np.exp(pv.log_evidence(vae, x[:, None], num_samples=1).log_evidence.values)
    discrete = np.issubdtype(x.dtype, np.integer)
    total = density.sum() if discrete else np.trapezoid(density, x)
    assert total == pytest.approx(1.0, abs=1e-4)
