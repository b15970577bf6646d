"""What the catalogue says that a loss maximises, against the loss at the start of a fit."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from formulas import normal
from scipy import special
from truth import Direct

import pyro_vae as pv
from pyro_vae.training.losses import losses

EXTENSIONS = Path(__file__).parents[1] / "docs" / "_ext"
ROWS, X, NOISE, LOC, SCALE = 20_000, 1.3, 0.5, 0.5, 1.1  # x given z is N(z, NOISE^2)


@pytest.fixture
def maximised(monkeypatch):
    """The formulas of the catalogue."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    import catalogue

    return catalogue.MAXIMISED


def of_normals():
    """x around z, and a guide that reads nothing of x."""
    likelihood = Direct((1,), pv.Normal((1,), scale=NOISE))
    guide = pv.Amortised(pv.MLP((1,), 1, hidden=[]), pv.Normal((1,), scale=SCALE))
    with torch.no_grad():
        for parameter, value in zip(guide.parameters(), (0.0, LOC), strict=True):
            parameter.fill_(value)
    return pv.VAE(pv.Normal((1,), loc=0.0, scale=1.0), likelihood, guide)


def start(name, vae, x):
    """The loss of all rows before the first step, in nats per datum."""
    options = {"epochs": 1, "batch_size": len(x), "learning_rate": 1e-12, "compile": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a guide that does not depend on x
        return pv.fit(vae, x, loss=name, progress=False, **options).loss.iloc[0]


def log_weights(*draws):
    """log w of draws of the guide, each of shape ``(ROWS, *draws)``."""
    z = LOC + SCALE * np.random.default_rng(0).normal(size=(ROWS, *draws))
    return normal(z, 0, 1) + normal(X, z, NOISE**2) - normal(z, LOC, SCALE**2), z


def log_mean(values, axis):
    return special.logsumexp(values, axis) - np.log(np.prod([values.shape[i] for i in np.r_[axis]]))


def mean_field(log_w, z):
    kl = np.log(1 / SCALE) + (SCALE**2 + LOC**2 - 1) / 2
    return normal(X, z, NOISE**2) - kl


# name: (the shape of the draws for a datum, the formula for each datum of draws)
BOUNDS = {
    "elbo": ((), lambda log_w, z: log_w),
    "mean_field": ((), mean_field),
    "iwae": ((16,), lambda log_w, z: log_mean(log_w, 1)),
    "renyi": ((16,), lambda log_w, z: log_mean(0.5 * log_w, 1) / (1 - 0.5)),
    "stl": ((16,), lambda log_w, z: log_mean(log_w, 1)),
    "dreg": ((16,), lambda log_w, z: log_mean(log_w, 1)),
    "miwae": ((8, 8), lambda log_w, z: log_mean(log_w, 2).mean(1)),
    "piwae": ((8, 8), lambda log_w, z: log_mean(log_w, (1, 2))),
}
OTHERWISE = {"wake_sleep", "mcem"}  # they report minus the ELBO: see test_losses and test_em


@pytest.mark.parametrize("name", BOUNDS)
def test_a_loss_is_minus_what_it_maximises(name, maximised):
    draws, formula = BOUNDS[name]
    assert name in maximised
    truths = formula(*log_weights(*draws))
    found = start(name, of_normals(), np.full((ROWS, 1), X))
    se = np.sqrt(2 / ROWS) * truths.std()  # of both, as the loss is of as many draws
    assert se < 0.05
    assert abs(found + truths.mean()) < 4 * se


def test_enum_sums_over_all_values():
    x = np.random.default_rng(0).integers(0, 2, (7, 4)).astype(float)
    vae = pv.build(x, latent=3, prior="one_hot", likelihood="bernoulli", hidden=[5])
    with torch.no_grad():
        log_q = vae.posterior(torch.as_tensor(x)).logits
        log_p = vae.decode(torch.eye(3)).log_prob(torch.as_tensor(x)[:, None])
    log_w = (log_p - np.log(3) - log_q).numpy()
    truth = (log_q.exp().numpy() * log_w).sum(1).mean()
    for name in ("enum", "elbo"):
        np.testing.assert_allclose(start(name, vae, x), -truth, rtol=1e-6)


def test_every_loss_has_a_formula(maximised):
    assert set(maximised) == set(losses) == {*BOUNDS, *OTHERWISE, "enum"}
