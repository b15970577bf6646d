"""Refinement: it reaches the exact posterior where the guide's family holds it, and never makes a
datum worse.
"""

import numpy as np
import pyro
import pytest
import torch
from torch import nn
from truth import LinearGaussian

import pyro_vae as pv

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(20)


def wrong():
    """The exact model with a guide that reads nothing of x."""
    vae = TRUTH.vae()
    vae.posterior = pv.Amortised(pv.MLP(6, 4, hidden=[8]), pv.Normal((2,)))
    return vae


def elbo(vae, q):
    z = q.sample((4000,))
    return (vae.log_joint(torch.as_tensor(X), z, None) - q.log_prob(z)).mean(0).detach().numpy()


def test_it_reaches_the_exact_posterior():
    q = wrong().refine(X, steps=400, learning_rate=0.05, particles=16)
    covariance, gain = TRUTH.posterior()
    sd = np.sqrt(np.diag(covariance))
    mean = (X - TRUTH.bias) @ gain.T
    assert np.abs((q.mean.numpy() - mean) / sd).max() < 0.2
    assert np.abs(q.stddev.numpy() / sd - 1).max() < 0.15
    assert np.abs(elbo(wrong(), q) - TRUTH.log_evidence(X)).max() < 0.1


@pytest.mark.parametrize(
    "guide", ["normal", "multivariate_normal", "mixture", "spline_flow", "planar_flow"]
)
@pytest.mark.parametrize("prior", ["normal", "gamma", "dirichlet"])
def test_no_datum_gets_worse(prior, guide):
    counts = np.random.default_rng(0).poisson(4.0, (20, 3))
    vae = pv.build(counts, latent=3, prior=prior, guide=guide, likelihood="poisson", hidden=[8])
    before = [p.detach().clone() for p in vae.parameters()]
    state = torch.random.get_rng_state()
    # A sensible one, and one that ruins all it touches.
    for steps, learning_rate in (
        (3, 0.05),
        (3, 50.0),
    ):
        refined, amortised = (
            vae.refine(counts, steps=steps, learning_rate=learning_rate),
            vae.encode(counts),
        )
        bound = {}
        for name, q in (("refined", refined), ("amortised", amortised)):
            torch.manual_seed(0)
            z = q.sample((2000,))
            weight = (
                vae.log_joint(torch.as_tensor(counts).double(), z, None) - q.log_prob(z)
            ).detach()
            bound[name] = weight.mean(0), weight.std(0) / 2000**0.5
        error = (bound["refined"][1] ** 2 + bound["amortised"][1] ** 2).sqrt()
        assert (bound["refined"][0] > bound["amortised"][0] - 5 * error - 0.05).all()
    torch.random.set_rng_state(state)
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))
    assert all(p.grad is None for p in vae.parameters())


def test_as_a_guide_it_sharpens_the_evidence():
    vae = wrong()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", vae.refine(x, steps=100))

    evidence = pv.log_evidence((vae.model, guide), X, num_samples=1000)
    assert (np.abs(evidence.log_evidence - TRUTH.log_evidence(X)) < 5 * evidence.se).all()
    assert (evidence.khat < 0.7).mean() > 0.8


def test_it_runs_without_gradients_around_it():
    for around in (torch.no_grad(), torch.inference_mode()):
        vae = wrong()
        with around:
            q = vae.refine(X, steps=3)
        assert not q.mean.requires_grad


def test_what_cannot_be_refined():
    vae = TRUTH.vae()
    vae.posterior = pv.Normal((2,), loc=0.0, scale=1.0)
    with pytest.raises(
        TypeError, match=r"refine needs a guide Amortised\(network, head\) over continuous latents"
    ):
        vae.refine(X)
    with pytest.raises(ValueError, match="steps must be a whole number from 1; got 0"):
        TRUTH.vae().refine(X, steps=0)
    with pytest.raises(ValueError, match="learning_rate must be a finite number above 0; got 'a'"):
        TRUTH.vae().refine(X, learning_rate="a")
    assert isinstance(vae.likelihood.network, nn.Module)
