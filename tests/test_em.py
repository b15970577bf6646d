"""Monte Carlo EM: its gradient is that of log p(x), and it learns where a bound is loose."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from truth import LinearGaussian

import pyro_vae as pv

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)


@pytest.mark.uses_store
def test_the_gradient_is_that_of_log_evidence():
    """From an exact guide, whose draws the transitions leave exact: against autograd through the
    closed form.
    """
    x, vae = torch.as_tensor(TRUTH.draw(5)), TRUTH.vae()
    weight, bias = vae.likelihood.network.layers[0].weight, vae.likelihood.network.layers[0].bias
    covariance = weight @ weight.T + torch.diag(torch.as_tensor(TRUTH.noise))
    exact = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x).sum()
    expected = torch.autograd.grad(exact, (weight, bias))
    torch.manual_seed(0)
    found = []
    for _ in range(30):
        vae.zero_grad()
        pv.MonteCarloEM(200).loss_and_grads(vae.model, vae.guide, x)
        found.append(torch.cat([-weight.grad.flatten(), -bias.grad]))
    found, expected = torch.stack(found), torch.cat([part.flatten() for part in expected])
    z = (found.mean(0) - expected) / (found.std(0) / len(found) ** 0.5)
    assert z.abs().max() < 5


@pytest.mark.slow
def test_it_reaches_the_likelihood_of_factor_analysis():
    """A correlated posterior, which a diagonal guide bounds loosely, is no matter here."""
    truth = LinearGaussian(
        TRUTH.weight @ np.array([[1.0, 0.9], [0.0, 0.5]]), TRUTH.bias, TRUTH.noise
    )
    x = truth.draw(500)
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, 6, hidden=()), pv.Normal((6,), scale="learned")),
        pv.Amortised(pv.MLP(6, 4, hidden=()), pv.Normal((2,))),
    )
    history = pv.fit(
        vae,
        x,
        loss="mcem",
        epochs=100,
        batch_size=100,
        learning_rate=lambda e: 2e-2 * 0.5 ** (e / 25),
        progress=False,
    )
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    layer, scale = (
        vae.likelihood.network.layers[0],
        vae.likelihood(torch.zeros(2)).base_dist.scale.detach().numpy(),
    )
    learned = LinearGaussian(layer.weight.detach().numpy(), layer.bias.detach().numpy(), scale**2)
    assert (
        learned.log_evidence(x).mean()
        > FactorAnalysis(2, tol=1e-5, max_iter=20_000).fit(x).score(x) - 0.02
    )


@pytest.mark.parametrize(
    ("prior", "likelihood"),
    [("gamma", "poisson"), ("normal", "normal"), ("log_normal", "binomial")],
)
def test_a_proposal_beyond_what_the_model_knows_is_rejected(prior, likelihood):
    """The first steps of an untrained model reach rates and values that are infinite."""
    x = pv.data.load("digits")[:300]
    torch.manual_seed(0)
    vae = pv.build(x, latent=2, prior=prior, likelihood=likelihood, hidden=[30]).float()
    assert np.isfinite(pv.fit(vae, x, loss="mcem", epochs=3, progress=False).loss).all()


def test_any_prior_missing_cells_and_conditions():
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, (60, 4)).astype(float)
    x[rng.random(x.shape) < 0.2] = np.nan
    for prior in ("gamma", "dirichlet", {"name": "mixture", "components": 3}):
        vae = pv.build(
            x, c=np.arange(60) % 2, latent=3, prior=prior, likelihood="poisson", hidden=[8]
        )
        before = {name: p.detach().clone() for name, p in vae.named_parameters()}
        history = pv.fit(vae, x, np.arange(60) % 2, loss="mcem", epochs=3, progress=False)
        assert np.isfinite(history.loss).all()
        for name, p in vae.named_parameters():
            assert not torch.equal(p, before[name]), name


def test_chains_see_the_model_as_it_is_judged():
    """Layers that differ in training, such as batch statistics, are updated by the M-step alone."""
    x = TRUTH.draw(40)
    norm = torch.nn.BatchNorm1d(2)
    decoder = torch.nn.Sequential(Folded(norm), torch.nn.Linear(2, 6))
    guide = pv.Amortised(pv.MLP(6, 4, hidden=()), pv.Normal((2,)))
    prior = pv.Normal((2,), loc=0.0, scale=1.0)
    vae = pv.VAE(prior, pv.Amortised(decoder, pv.Normal((6,), scale=1.0)), guide)
    pv.fit(vae, x, loss="mcem", epochs=1, batch_size=40, progress=False)
    assert int(norm.num_batches_tracked) <= 3


class Folded(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z):
        return pv.fold(self.layer, z, 1)


def test_what_it_refuses():
    x = np.random.default_rng(0).poisson(2.0, (20, 3))
    with pytest.raises(ValueError, match="the latents are discrete, and sums over them exact"):
        pv.fit(pv.build(x, latent=3, prior="one_hot", likelihood="poisson"), x, loss="mcem")
    with pytest.raises(ValueError, match="loss='mcem' has none"):
        pv.fit(pv.build(x, latent=3, likelihood="poisson"), x, loss="mcem", beta=2.0)
    with pytest.raises(ValueError, match="transitions must be a whole number from 1; got 0"):
        pv.MonteCarloEM(transitions=0)
