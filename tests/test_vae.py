"""The VAE itself: parts that fit, shapes, supports, and Pyro's own tools on its model and guide."""

import copy
import io
import pickle

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import biject_to
from truth import LinearGaussian

import pyro_vae as pv

MODEL = LinearGaussian.with_diagonal_posterior(features=6, latents=3)
X = MODEL.draw(20)

PRIORS = {
    "normal": lambda: pv.Normal((3,), loc=0.0, scale=1.0),
    "gamma": lambda: pv.Gamma((3,), concentration=2.0, rate=1.0),
    "log_normal": lambda: pv.LogNormal((3,), loc=0.0, scale=1.0),
    "beta": lambda: pv.Beta((3,), concentration1=2.0, concentration0=2.0),
    "uniform": lambda: pv.Uniform((3,), low=-1.0, high=2.0),
    "dirichlet": lambda: pv.Dirichlet((3,), concentration=1.0),
}


def with_prior(prior):
    latents = biject_to(prior().support).inverse_shape(prior.event_shape)
    likelihood = pv.Amortised(pv.MLP(prior.event_shape, 5, hidden=[8]), pv.Poisson((5,)))
    return pv.VAE(
        prior, likelihood, pv.Amortised(pv.MLP(5, 2 * latents[0], hidden=[8]), pv.Normal(latents))
    )


def digits_vae(seed=0):
    return pv.build({"event": [5], "latent": [2], "likelihood": "poisson"}, hidden=[8], seed=seed)


class TestShapes:
    def test_model_and_guide_are_pyro_functions(self):
        vae = MODEL.vae()
        with pyro.get_param_store().scope():
            trace = poutine.trace(vae.model).get_trace(torch.as_tensor(X))
            guide = poutine.trace(vae.guide).get_trace(torch.as_tensor(X))
        for nodes, names in ((trace.nodes, ("z", "x")), (guide.nodes, ("z",))):
            for name in names:
                (frame,) = nodes[name]["cond_indep_stack"]
                assert (frame.name, frame.dim, frame.size) == ("data", -1, 20)
        assert trace.nodes["x"]["is_observed"]
        assert trace.nodes["z"]["value"].shape == (20, 3)

    def test_model_draws(self):
        vae = MODEL.vae()
        with pyro.get_param_store().scope():
            assert vae.model(size=7).shape == (7, 6)
            for arguments in ({}, {"x": torch.as_tensor(X), "size": 3}):
                with pytest.raises(
                    ValueError, match="model needs data x to observe, or size= to draw; got"
                ):
                    vae.model(**arguments)
            with pytest.raises(ValueError, match="size must be a whole number from 1; got 0"):
                vae.model(size=0)

    def test_arrays(self):
        vae = MODEL.vae()
        assert vae.sample(7).shape == (7, 6)
        assert vae.encode(X).batch_shape == (20,)
        assert vae.encode(X).event_shape == (3,)
        assert vae.decode(np.zeros((2, 7, 3))).batch_shape == (2, 7)
        assert vae.reconstruct(X).shape == (20, 6)

    def test_sample_has_the_moments_of_the_model(self):
        x = MODEL.vae().sample(200_000)
        covariance = torch.as_tensor(MODEL.weight @ MODEL.weight.T + np.diag(MODEL.noise))
        torch.testing.assert_close(x.mean(0), torch.as_tensor(MODEL.bias), atol=0.05, rtol=0)
        torch.testing.assert_close(x.T.cov(), covariance, atol=0.15, rtol=0.03)
        assert torch.equal(MODEL.vae().sample(5), MODEL.vae().sample(5))

    def test_reconstruction_is_the_decoded_posterior(self):
        covariance, gain = MODEL.posterior()
        expected = (X - MODEL.bias) @ gain.T @ MODEL.weight.T + MODEL.bias
        spread = np.sqrt(np.diag(MODEL.weight @ covariance @ MODEL.weight.T) / 40_000)
        actual = MODEL.vae().reconstruct(X, num_samples=40_000).numpy()
        assert (np.abs(actual - expected) < 5 * spread).all()

    def test_reconstruction_of_classes_is_the_mode(self):
        vae = pv.build(
            {"event": [5], "latent": [2], "likelihood": {"name": "categorical", "categories": 4}}
        )
        x = torch.randint(4, (6, 5))
        assert set(vae.reconstruct(x).unique().tolist()) <= {0, 1, 2, 3}

    def test_encode_and_decode_are_for_evaluation(self):
        """Dropout is off and batch statistics stand still, whatever mode the VAE is in; the mode
        stays.
        """
        vae = digits_vae()
        vae.posterior.network.layers.insert(1, torch.nn.BatchNorm1d(8))
        vae.likelihood.network.layers.insert(1, torch.nn.Dropout(0.5))
        x = vae.sample(6)
        before = {key: value.clone() for key, value in vae.state_dict().items()}
        assert torch.equal(vae.encode(x).mean, vae.encode(x).mean)
        assert torch.equal(vae.decode(torch.ones(4, 2)).mean, vae.decode(torch.ones(4, 2)).mean)
        assert all(torch.equal(value, vae.state_dict()[key]) for key, value in before.items())
        assert vae.training

    def test_zero_inflated_counts_of_any_size(self):
        """Pyro refuses a probability that has rounded to 1; the logits are fine."""
        head = pv.ZeroInflatedNegativeBinomial(
            (1,), total_count=1.0, logits=40.0, gate_logits=0.0
        ).float()
        assert head().log_prob(head().sample((5,))).isfinite().all()
        assert head().mean.isfinite().all()

    def test_single_precision(self):
        vae = digits_vae().float()
        assert vae.encode(np.ones((2, 5))).sample().dtype == torch.float32
        assert pv.log_evidence(vae, np.ones((2, 5)), num_samples=5).log_evidence.dtype == np.float64


class TestSupports:
    @pytest.mark.parametrize("name", PRIORS)
    def test_the_guide_follows_the_prior(self, name):
        vae = with_prior(PRIORS[name]())
        x = vae.sample(40)
        q = vae.encode(x)
        z = q.rsample()
        assert vae.prior().support.check(z).all()
        assert q.log_prob(z).isfinite().all()
        assert q.batch_shape == (40,)
        assert q.event_shape == (3,)

    @pytest.mark.parametrize("name", PRIORS)
    def test_density_includes_the_jacobian(self, name):
        """Change of variables with autograd's Jacobian; a simplex has one coordinate less than
        numbers.
        """
        vae = with_prior(PRIORS[name]())
        x = vae.sample(1)
        unconstrained, push = vae.posterior(x), biject_to(vae.prior().support)
        u = unconstrained.sample()
        jacobian = torch.autograd.functional.jacobian(lambda u: push(u)[: len(u)], u[0])
        expected = unconstrained.log_prob(u) - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(vae.encode(x).log_prob(push(u)), expected)

    @pytest.mark.parametrize("name", PRIORS)
    def test_trains_and_scores(self, name):
        vae = with_prior(PRIORS[name]())
        x = vae.sample(64)
        history = pv.fit(vae, x, epochs=5, batch_size=32, progress=False)
        assert history.loss.notnull().all()
        evidence = pv.log_evidence(vae, x[:8], num_samples=24)
        assert evidence.log_evidence.notnull().all()
        assert evidence.khat.isnull().all()  # 24 samples say nothing about a tail


class TestParts:
    ERRORS = {
        "latents": (
            lambda: with_parts(guide=pv.Amortised(pv.MLP(5, 4), pv.Normal((2,)))),
            "prior and guide describe different latents: (3,) and (2,)",
        ),
        "simplex": (
            lambda: with_parts(prior=pv.Dirichlet((3,), concentration=1.0)),
            "Dirichlet(3,) has shape (2,) in unconstrained space, where the guide lives, and the "
            "guide has shape (3,)",
        ),
        "prior": (
            lambda: with_parts(prior=pv.Normal((3,))),
            "Normal(3,) reads 6 numbers per datum (loc, scale); got no c",
        ),
        "discrete": (
            lambda: with_parts(prior=pv.Poisson((3,), rate=1.0)),
            "the prior Poisson(3,) is discrete",
        ),
        "decoder": (
            lambda: with_parts(likelihood=pv.Amortised(pv.MLP(2, 5), pv.Poisson((5,)))),
            "Poisson(5,) cannot take a context of shape (2, 3, 3): MLP reads a context of shape "
            "('*', 2); got (2, 3, 3)",
        ),
        "head": (
            lambda: with_parts(likelihood=pv.Amortised(pv.MLP(3, 4), pv.Poisson((5,)))),
            "Poisson(5,) reads 5 numbers per datum (rate); got a context of shape (2, 3, 4)",
        ),
        "encoder": (
            lambda: with_parts(guide=pv.Amortised(pv.MLP(4, 6), pv.Normal((3,)))),
            "the guide Normal(3,) cannot take a context of shape (2, 3, 5)",
        ),
        "support": (
            lambda: with_parts(guide=pv.Amortised(pv.MLP(5, 6), pv.Gamma((3,)))),
            "the guide lives in unconstrained space; Gamma(3,) has support",
        ),
        "dtype": (
            lambda: with_parts(guide=pv.Amortised(pv.MLP(5, 6), pv.Normal((3,))).float()),
            "the parts must share one dtype; got ['torch.float32', 'torch.float64']",
        ),
        "two dimensions only": (
            lambda: with_parts(guide=pv.Amortised(torch.nn.Conv2d(1, 1, 1), pv.Normal((3,)))),
            "a network must take any leading shape: see pyro_vae.fold",
        ),
        "leading shape": (
            lambda: with_parts(
                guide=pv.Amortised(
                    torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(15, 6)), pv.Normal((3,))
                )
            ),
            "the guide must give batch shape (2, 3) and event shape (3,) for a context of shape "
            "(2, 3, 5)",
        ),
    }

    def test_parts_are_conditionals(self):
        for parts in (
            {"guide": "normal"},
            {"likelihood": torch.nn.Linear(3, 5)},
            {"prior": pyro.distributions.Normal(0, 1)},
        ):
            (role,) = parts
            with pytest.raises(
                TypeError,
                match=f"VAE needs its {role} as a Conditional; got .*; pyro_vae.build takes",
            ):
                with_parts(**parts)
        for arguments in ((pv.Normal((3,)), torch.nn.Linear(3, 6)), (lambda x: x, pv.Normal((3,)))):
            with pytest.raises(TypeError, match=r"Amortised needs its (head|network) as a"):
                pv.Amortised(*arguments)

    @pytest.mark.parametrize("case", ERRORS)
    def test_parts_that_do_not_fit_are_refused(self, case):
        call, message = self.ERRORS[case]
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            call()
        assert message in str(caught.value)


def with_parts(prior=None, likelihood=None, guide=None):
    return pv.VAE(
        prior or pv.Normal((3,), loc=0.0, scale=1.0),
        likelihood or pv.Amortised(pv.MLP(3, 5), pv.Poisson((5,))),
        guide or pv.Amortised(pv.MLP(5, 6), pv.Normal((3,))),
    )


@pytest.mark.uses_store
class TestPyro:
    """Pyro's own inference, on model and guide as they are."""

    @pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()])
    def test_svi(self, elbo):
        vae = MODEL.vae(shrink=0.5, shift=1.0)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        x = torch.as_tensor(X)
        before = [p.detach().clone() for p in vae.parameters()]
        losses = [svi.step(x) for _ in range(300)]
        assert np.mean(losses[-50:]) < np.mean(losses[:50])
        assert all(not torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))

    def test_two_models_and_a_copy_train_independently_under_svi(self):
        vaes = [digits_vae(0), digits_vae(1)]
        x = vaes[0].sample(16)
        vaes.append(copy.deepcopy(vaes[0]))
        for vae in vaes:
            before = {other: [p.detach().clone() for p in other.parameters()] for other in vaes}
            svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
            svi.step(x)
            svi.step(x)
            for other in vaes:
                same = [
                    torch.equal(p, q)
                    for p, q in zip(other.parameters(), before[other], strict=True)
                ]
                assert all(same) if other is not vae else not any(same)

    def test_a_replaced_part_is_trained(self):
        vae = digits_vae()
        x = vae.sample(16)
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
        vae.likelihood = digits_vae(1).likelihood
        before = [p.detach().clone() for p in vae.likelihood.parameters()]
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
        assert not any(
            torch.equal(p, q) for p, q in zip(vae.likelihood.parameters(), before, strict=True)
        )

    def test_predictive(self):
        vae = MODEL.vae()
        assert Predictive(vae.model, num_samples=4)(size=7)["x"].shape == (4, 7, 6)
        posterior = Predictive(vae.model, guide=vae.guide, num_samples=4)(torch.as_tensor(X))
        assert posterior["x"].shape == (4, 20, 6)
        latents = Predictive(vae.guide, num_samples=4)(torch.as_tensor(X))["z"]
        new = Predictive(vae.model, posterior_samples={"z": latents})(size=20)["x"]
        assert new.shape == (4, 20, 6)

    def test_importance(self):
        vae = MODEL.vae()
        posterior = Importance(vae.model, guide=vae.guide, num_samples=5).run(torch.as_tensor(X))
        expected = torch.full((5,), float(MODEL.log_evidence(X).sum()))
        torch.testing.assert_close(
            torch.stack(posterior.log_weights).detach(), expected, rtol=0, atol=1e-9
        )

    @pytest.mark.slow
    def test_nuts(self):
        vae = MODEL.vae()
        mcmc = MCMC(NUTS(vae.model), num_samples=400, warmup_steps=200, disable_progbar=True)
        mcmc.run(torch.as_tensor(X[:2]))
        z = mcmc.get_samples()["z"]
        covariance, gain = MODEL.posterior()
        mean = torch.as_tensor((X[:2] - MODEL.bias) @ gain.T)
        ess = pyro.ops.stats.effective_sample_size(z[None])
        assert ess.min() > 50, "the chain has not mixed"
        sd = torch.as_tensor(np.sqrt(np.diag(covariance)))
        assert ((z.mean(0) - mean).abs() < 5 * sd / ess.sqrt()).all()

    def test_condition_and_replay(self):
        vae = MODEL.vae()
        conditioned = poutine.condition(vae.model, data={"x": torch.as_tensor(X)})
        trace = poutine.trace(conditioned).get_trace(size=20)
        assert trace.nodes["x"]["is_observed"]
        guide_trace = poutine.trace(vae.guide).get_trace(torch.as_tensor(X))
        replayed = poutine.trace(poutine.replay(conditioned, trace=guide_trace)).get_trace(size=20)
        weight = replayed.log_prob_sum() - guide_trace.log_prob_sum()
        assert weight.item() == pytest.approx(MODEL.log_evidence(X).sum(), rel=1e-12)


class TestCopies:
    @pytest.mark.uses_store
    def test_pickle_after_training_by_pyro(self):
        vae = digits_vae()
        x = vae.sample(16)
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
        again = pickle.loads(pickle.dumps(vae))
        assert torch.equal(again.encode(x).mean, vae.encode(x).mean)
        assert again._name != vae._name

    def test_state_dict_round_trip(self):
        vae, other = digits_vae(0), digits_vae(1)
        buffer = io.BytesIO()
        torch.save(vae.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        x = vae.sample(16)
        assert pv.log_evidence(vae, x, num_samples=9).equals(
            pv.log_evidence(other, x, num_samples=9)
        )

    def test_frozen_parameters_stay(self):
        vae = digits_vae()
        vae.likelihood.requires_grad_(False)
        before = [p.detach().clone() for p in vae.parameters()]
        pv.fit(vae, vae.sample(32), epochs=2, progress=False)
        for (name, p), q in zip(vae.named_parameters(), before, strict=True):
            assert torch.equal(p, q) == name.startswith("likelihood"), name
