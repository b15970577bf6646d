"""ELBO, importance-weighted bounds and weights: against the linear-Gaussian closed form and against
Pyro.
"""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from setting import place, rounding
from truth import LinearGaussian

import pyro_vae as pv

pytestmark = pytest.mark.usefixtures("device")
MODEL = LinearGaussian.with_diagonal_posterior(features=6, latents=3)
X = MODEL.draw(20)


def pyro_loss(elbo, vae, x, seed):
    """Minus Pyro's loss from a given seed; the evaluation mode and the store are the caller's
    affair.
    """
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return -elbo.loss(vae.model, vae.guide, place(torch.as_tensor(x)))


@pytest.mark.parametrize("num_samples", [1, 3, 50])
def test_with_the_exact_posterior_every_weight_is_the_evidence(num_samples):
    terms = pv.terms(MODEL.vae(), X, num_samples=num_samples, seed=3)
    assert terms.log_weight.shape == (num_samples, 20)
    expected = torch.as_tensor(MODEL.log_evidence(X)).expand(num_samples, -1)
    torch.testing.assert_close(
        terms.log_weight.cpu().double(), expected, rtol=0, atol=rounding(1e-10, 1e-4)
    )


@torch.no_grad()
def test_bounds_are_ordered_in_the_mean():
    """Over 200 rounds, each with K particles of its own."""
    vae = MODEL.vae(shrink=0.6, shift=0.5)
    truth, rounds = MODEL.log_evidence(X).mean(), 200

    def bounds(bound, k, seed):
        drawn = pv.terms(vae, X, num_samples=rounds * k, seed=seed)
        parts = (drawn.log_likelihood, drawn.log_prior, drawn.log_guide)
        groups = zip(*(part.split(k) for part in parts), strict=True)
        return [float(bound(type(drawn)(*group)).mean()) for group in groups]

    means = []
    for k in (1, 2, 4, 8, 16):
        found = bounds(pv.iwae, k, seed=k)
        means.append((np.mean(found), np.std(found, ddof=1) / math.sqrt(rounds)))
    means.append((truth, 0.0))
    elbo = np.mean(bounds(pv.elbo, 4, seed=0))
    assert abs(elbo - means[0][0]) < 4 * math.hypot(means[0][1], means[0][1] / 2)
    for (low, low_error), (high, high_error) in itertools.pairwise(means):
        assert low < high + 4 * math.hypot(low_error, high_error), means
    assert means[0][0] < means[-2][0] - 4 * math.hypot(means[0][1], means[-2][1]), (
        "the test has no power"
    )


@torch.no_grad()
def test_elbo_has_its_closed_form():
    """log p(x) minus KL between Gaussians with the same covariance and means `shift` sds apart."""
    shift, k = 0.5, 20_000
    log_weight = pv.terms(MODEL.vae(shift=shift), X, num_samples=k).log_weight.cpu().double()
    error = log_weight.std(0) / math.sqrt(k)
    expected = torch.as_tensor(MODEL.log_evidence(X)) - 3 * shift**2 / 2
    assert ((log_weight.mean(0) - expected).abs() < 4.5 * error).all()


@torch.no_grad()
@pytest.mark.parametrize("num_samples", [1, 7])
def test_elbo_equals_trace_elbo(num_samples):
    vae = MODEL.vae(shrink=0.6, shift=0.5)
    theirs = pyro_loss(
        Trace_ELBO(num_samples, max_plate_nesting=1, vectorize_particles=num_samples > 1),
        vae,
        X,
        seed=5,
    )
    ours = pv.elbo(pv.terms(vae, X, num_samples=num_samples, seed=5)).sum()
    assert float(ours) == pytest.approx(theirs, rel=rounding(1e-10, 1e-5))


@torch.no_grad()
def test_iwae_equals_renyi_elbo():
    vae = MODEL.vae(shrink=0.6, shift=0.5)
    elbo = RenyiELBO(alpha=0, num_particles=7, max_plate_nesting=1, vectorize_particles=True)
    ours = pv.iwae(pv.terms(vae, X, num_samples=7, seed=5)).sum()
    assert float(ours) == pytest.approx(pyro_loss(elbo, vae, X, seed=5), rel=rounding(1e-10, 1e-5))


def test_gradients_equal_those_of_trace_elbo():
    vae = MODEL.vae(shrink=0.6, shift=0.5)
    parameters = list(vae.parameters())
    ours = torch.autograd.grad(-pv.elbo(pv.terms(vae, X, num_samples=7, seed=5)).sum(), parameters)
    with pyro.get_param_store().scope():
        torch.manual_seed(5)
        elbo = Trace_ELBO(7, max_plate_nesting=1, vectorize_particles=True)
        elbo.loss_and_grads(vae.model, vae.guide, place(torch.as_tensor(X)))
    tolerance = rounding(1e-10, 1e-4)
    for mine, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_mean_field_elbo_agrees_in_the_mean():
    vae = MODEL.vae(shrink=0.6, shift=0.5)
    k = 20_000
    theirs = pyro_loss(
        TraceMeanField_ELBO(k, max_plate_nesting=1, vectorize_particles=True), vae, X, seed=5
    )
    total = pv.terms(vae, X, num_samples=k, seed=6).log_weight.sum(1)
    assert abs(float(total.mean()) - theirs) < 4.5 * math.sqrt(2) * float(total.std()) / math.sqrt(
        k
    )


def test_ess_is_between_one_and_k():
    ess = pv.ess(pv.terms(MODEL.vae(), X, num_samples=9))
    assert torch.allclose(ess, torch.full_like(ess, 9.0))
    ess = pv.ess(pv.terms(MODEL.vae(shrink=0.3), X, num_samples=9))
    assert (ess >= 1).all()
    assert (ess < 9).all()


def test_evidence_by_quadrature_of_a_bernoulli_model():
    """One latent, a network, a Bernoulli likelihood: nothing is conjugate, so integrate
    numerically.
    """
    vae = place(
        pv.VAE(
            pv.Normal((1,), loc=0.0, scale=1.0),
            pv.Amortised(pv.MLP(1, 5, hidden=[4]), pv.Bernoulli((5,))),
            pv.Amortised(pv.MLP(5, 2, hidden=()), pv.Normal((1,))),
        )
    )
    x = vae.sample(30)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    with torch.no_grad():
        log_likelihood = vae.decode(torch.as_tensor(nodes)[:, None, None]).log_prob(x)
        log_node = torch.as_tensor(np.log(weights / weights.sum()))[:, None]
        exact = (log_likelihood.cpu() + log_node).logsumexp(0).numpy()
    evidence = pv.log_evidence(vae, x, num_samples=20_000)
    assert (np.abs(evidence.log_evidence - exact) < 4.5 * evidence.se).all()


class TestPairs:
    """Any pair of Pyro functions with one data plate takes the place of a VAE: on the CPU, where
    its data are read.
    """

    scale = 0.7

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            first = pyro.sample("first", pyro.distributions.Normal(0.0, 1.0))
            second = pyro.sample("second", pyro.distributions.Normal(first, 1.0))
            pyro.sample("x", pyro.distributions.Normal(second, self.scale), obs=x)

    def guide(self, x):
        variance = 1 / (1 / 2 + 1 / self.scale**2)
        with pyro.plate("data", len(x), dim=-1):
            mean = variance * x / self.scale**2
            second = pyro.sample("second", pyro.distributions.Normal(mean, variance**0.5))
            pyro.sample("first", pyro.distributions.Normal(second / 2, 0.5**0.5))

    def test_two_sites_with_the_exact_guide(self):
        x = torch.randn(10)
        expected = pyro.distributions.Normal(0.0, (2 + self.scale**2) ** 0.5).log_prob(x)
        log_weight = pv.terms((self.model, self.guide), x, num_samples=4).log_weight
        torch.testing.assert_close(
            log_weight, expected.expand(4, -1), rtol=0, atol=rounding(1e-12, 1e-5)
        )
        evidence = pv.log_evidence((self.model, self.guide), x, num_samples=30)
        np.testing.assert_allclose(evidence.log_evidence, expected, atol=rounding(1e-12, 1e-5))

    def test_scales_do_not_count_and_masks_do(self):
        x = torch.randn(10)
        plain = pv.terms((self.model, self.guide), x, seed=1).log_weight
        scaled = pv.terms(
            tuple(pyro.poutine.scale(f, 3.0) for f in (self.model, self.guide)), x, seed=1
        ).log_weight
        torch.testing.assert_close(plain, scaled)
        mask = torch.arange(10) % 2 == 0
        masked = pv.terms(
            tuple(pyro.poutine.mask(f, mask) for f in (self.model, self.guide)), x, seed=1
        ).log_weight
        torch.testing.assert_close(masked, torch.where(mask, plain, 0.0))

    def test_subsampled_plate_is_not_weighted(self):
        def model(x):
            with pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1):
                z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
                pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1):
                pyro.sample("z", pyro.distributions.Normal(x / 2, 0.5**0.5))

        x = torch.randn(10)
        expected = pyro.distributions.Normal(0.0, 2**0.5).log_prob(x)
        torch.testing.assert_close(
            pv.terms((model, guide), x, num_samples=3).log_weight, expected.expand(3, -1)
        )

    def test_a_global_latent_is_refused(self):
        def model(x):
            mean = pyro.sample("mean", pyro.distributions.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", pyro.distributions.Normal(mean, 1.0), obs=x)

        def guide(x):
            pyro.sample("mean", pyro.distributions.Normal(0.0, 1.0))

        with pytest.raises(ValueError, match=r"site 'mean' does not; put it inside pyro\.plate"):
            pv.terms((model, guide), torch.randn(4))

    def test_different_latents_are_refused(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("first", pyro.distributions.Normal(0.0, 1.0))

        with pytest.raises(
            ValueError, match=r"same latent sites; got \['first', 'second'\] and \['first'\]"
        ):
            pv.terms((self.model, guide), torch.randn(4))

    def test_a_model_without_observation_is_refused(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

        with pytest.raises(ValueError, match="the model observes nothing"):
            pv.terms((model, model), torch.randn(4))

    def test_neither_vae_nor_pair_is_refused(self):
        with pytest.raises(TypeError, match="needs a VAE or a pair"):
            pv.terms(torch.nn.Linear(2, 2), torch.randn(4))

    @pytest.mark.uses_store
    def test_the_parameters_of_a_pair_are_those_in_the_store(self):
        def guide(x):
            loc = pyro.param("loc", torch.tensor(0.0))
            with pyro.plate("data", len(x)):
                pyro.sample("z", pyro.distributions.Normal(loc, 0.1))

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
                pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

        pyro.get_param_store()["loc"] = torch.tensor(5.0)
        terms = pv.terms((model, guide), torch.zeros(4), num_samples=2)
        assert (terms.log_prior < -10).all()
        assert list(pyro.get_param_store().keys()) == ["loc"]


@pytest.mark.parametrize("num_samples", [0, -3, 2.5, True, "10"])
def test_num_samples_is_a_whole_number(num_samples):
    with pytest.raises(ValueError, match="num_samples must be a whole number from 1; got"):
        pv.log_evidence(MODEL.vae(), X, num_samples=num_samples)
