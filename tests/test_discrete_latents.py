"""Discrete latents: sums over them are exact."""

import itertools

import numpy as np
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy.special import logsumexp
from setting import place, rounding

import pyro_vae as pv
from pyro_vae.training.adapters import Tempered

pytestmark = pytest.mark.usefixtures("device")
X = np.random.default_rng(0).poisson(4.0, (30, 3))
PRIORS = {
    "one_hot": ({"name": "one_hot", "learned": True}, [4]),
    "rows of one_hot": ("one_hot", [2, 3]),
    "categorical": ({"name": "categorical", "categories": 3}, [2]),
    "bernoulli": ("bernoulli", [4]),
    "binomial": ({"name": "binomial", "total_count": 2}, [2]),
}


def values(prior, latent):
    if "one_hot" in str(prior):
        rows = [np.eye(latent[-1])] * (latent[0] if len(latent) == 2 else 1)
        return np.stack([np.reshape(v, latent) for v in itertools.product(*rows)])
    top = 2 if prior == "bernoulli" else 3
    return np.array(list(itertools.product(range(top), repeat=latent[0])), dtype=float)


def discrete(case):
    prior, latent = PRIORS[case]
    vae = place(pv.build(X, latent=latent, prior=prior, likelihood="poisson", hidden=[6]))
    pv.fit(vae, X, epochs=2, progress=False)
    return vae, place(torch.as_tensor(values(prior, latent)))


def array(tensor):
    return tensor.detach().cpu().double().numpy()


@pytest.mark.parametrize("case", PRIORS)
@pytest.mark.parametrize("max_bytes", [1, 10_000, 2**28])
def test_evidence_equals_brute_force(case, max_bytes):
    vae, z = discrete(case)
    x, atol = place(torch.as_tensor(X, dtype=torch.float64)), rounding(1e-10, 1e-4)
    log_joint = np.stack([array(vae.prior().log_prob(v) + vae.decode(v).log_prob(x)) for v in z])
    result = pv.log_evidence(vae, X, num_samples=17, max_bytes=max_bytes)
    np.testing.assert_allclose(result.log_evidence, logsumexp(log_joint, 0), rtol=0, atol=atol)
    q = np.stack([array(vae.encode(X).log_prob(v)) for v in z])
    np.testing.assert_allclose(logsumexp(q, 0), 0, atol=atol)
    np.testing.assert_allclose(result.elbo, (np.exp(q) * (log_joint - q)).sum(0), rtol=0, atol=atol)
    assert (result.se == 0).all()
    assert (result.ess == len(z)).all()
    assert result.attrs["flagged"] == 0


@pytest.mark.uses_store
@pytest.mark.parametrize("case", PRIORS)
def test_the_elbo_of_training_is_exact(case):
    vae, _ = discrete(case)
    x = place(torch.as_tensor(X, dtype=torch.float64))
    exact = pv.log_evidence(vae, X).elbo.sum()
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, x)
    np.testing.assert_allclose(-loss, exact, rtol=rounding(1e-10, 1e-5))


@pytest.mark.uses_store
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_beta_weighs_the_kl_of_an_enumerated_latent(beta):
    """Against the sum over all values, written out: the enumeration has a scale of its own for each
    site.
    """
    vae, values = discrete("one_hot")
    x = place(torch.as_tensor(X, dtype=torch.float64))
    log_q, log_likelihood, log_prior = (
        torch.stack([density(v).detach() + 0 * x[:, 0] for v in values])
        for density in (
            vae.encode(X).log_prob,
            lambda v: vae.decode(v).log_prob(x),
            vae.prior().log_prob,
        )
    )
    exact = -(log_q.exp() * (log_likelihood - beta * (log_q - log_prior))).sum()
    tempered = Tempered()
    tempered.beta = beta
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(tempered(vae.model), tempered(vae.guide), x)
    np.testing.assert_allclose(float(loss), float(exact), rtol=rounding(1e-12, 1e-5))


def test_elbo_means_the_exact_one():
    losses = [
        pv.fit(
            place(pv.build(X, latent=3, prior="one_hot", likelihood="poisson")),
            X,
            loss=loss,
            epochs=3,
            progress=False,
        ).loss
        for loss in ("elbo", "enum")
    ]
    assert losses[0].equals(losses[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_clusters_are_found(dtype):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.poisson(2.0, (100, 3)), rng.poisson(20.0, (100, 3))])
    vae = pv.build(
        x, latent=2, prior={"name": "one_hot", "learned": True}, likelihood="poisson", hidden=[]
    )
    vae = place(vae).to(dtype)
    pv.fit(vae, x, epochs=150, learning_rate=0.03, progress=False)
    cluster = vae.encode(x).probs.argmax(-1)
    assert len(set(cluster[:100].tolist())) == len(set(cluster[100:].tolist())) == 1
    assert cluster[0] != cluster[-1]


def test_terms_and_samples_draw():
    vae, _ = discrete("one_hot")
    assert pv.terms(vae, X, num_samples=5).log_weight.shape == (5, 30)
    assert vae.sample(7).shape == (7, 3)
    assert vae.reconstruct(X[:4]).shape == (4, 3)
    with pytest.raises(TypeError, match="refine needs a guide Amortised"):
        vae.refine(X[:4])


@pytest.mark.parametrize(
    "options", [{"loss": "iwae"}, {"loss": "mean_field"}, {"free_bits": 0.1}], ids=str
)
def test_losses_that_draw_are_refused(options):
    vae, _ = discrete("one_hot")
    with pytest.raises(
        ValueError,
        match="the latents are discrete, and sums over them exact; use loss='elbo' and no f",
    ):
        pv.fit(vae, X, **options)


REFUSED = {
    "a guide over real numbers": (
        {"prior": "one_hot", "guide": "normal"},
        "is discrete, so the guide must be too; got Normal(3,); use a guide 'one_hot'",
    ),
    "no finite number of states": (
        {"prior": "poisson"},
        "is discrete and has no finite number of states",
    ),
    "too many states": (
        {"prior": "bernoulli", "latent": 20},
        "has 1048576 states, too many to sum over",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_summed_is_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        pv.build(X, **{"latent": 3, "likelihood": "poisson", **options})
    assert message in str(caught.value)
