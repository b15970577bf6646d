"""Every prior with every likelihood and guide: what fits together trains, what does not is refused
by its supports.
"""

import itertools
import warnings

import numpy as np
import pytest
import torch

import pyro_vae as pv

RNG = np.random.default_rng(0)
PRIORS = {
    "normal": "normal",
    "gamma": "gamma",
    "beta": "beta",
    "dirichlet": "dirichlet",
    "mixture": {"name": "mixture", "components": 3},
    "vamp": {"name": "vamp", "components": 5},
    "spline_flow": {"name": "spline_flow", "hidden": [8]},
    "von_mises_fisher": {"name": "von_mises_fisher", "learned": True},
}
COUNTS = RNG.poisson(4.0, (40, 4))
DATA = {
    "normal": RNG.normal(size=(40, 4)),
    "student_t": RNG.standard_t(3, (40, 4)),
    "bernoulli": RNG.integers(0, 2, (40, 4)),
    "beta": RNG.beta(2, 2, (40, 4)),
    "gamma": RNG.gamma(2.0, 1.0, (40, 4)),
    "poisson": COUNTS,
    "zero_inflated_negative_binomial": COUNTS,
    "categorical": COUNTS % 3,
    "multinomial": COUNTS,
    "multivariate_normal": RNG.normal(size=(40, 4)),
}
GUIDES = {
    "normal": "normal",
    "multivariate_normal": "multivariate_normal",
    "autoregressive_flow": {"name": "autoregressive_flow", "hidden": [8]},
    "mixture": {"name": "mixture", "components": 3},
}


def grid():
    """All of them; in the fast lane each prior with each likelihood once, with one guide or
    another.
    """
    for cell in itertools.product(*map(enumerate, (PRIORS, DATA, GUIDES))):
        place, names = zip(*cell, strict=True)
        fast = sum(place) % len(GUIDES) == 0
        yield pytest.param(*names, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("prior", "likelihood", "guide"), list(grid()))
def test_twenty_steps_without_nan(prior, likelihood, guide):
    x = DATA[likelihood].astype(np.float32)
    vae = pv.build(
        x, latent=3, prior=PRIORS[prior], likelihood=likelihood, guide=GUIDES[guide], hidden=[8]
    ).float()
    history = pv.fit(vae, x, epochs=4, batch_size=8, progress=False)
    assert np.isfinite(history.loss).all()
    assert all(bool(p.isfinite().all()) for p in vae.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert np.isfinite(pv.log_evidence(vae, x[:5], num_samples=10).log_evidence).all()


REFUSED = {
    "data outside the support": (
        lambda: pv.build(DATA["normal"], likelihood="poisson"),
        "Poisson(4,) needs whole numbers from 0; got",
    ),
    "discrete prior, real guide": (
        lambda: pv.build(COUNTS, latent=3, prior="one_hot", guide="normal", likelihood="poisson"),
        "the prior OneHot(3,) is discrete, so the guide must be too; got Normal(3,)",
    ),
    "real prior, discrete guide": (
        lambda: pv.build(COUNTS, latent=3, guide="one_hot", likelihood="poisson"),
        "the guide lives in unconstrained space; OneHot(3,) has support OneHot()",
    ),
    "real prior, positive guide": (
        lambda: pv.build(COUNTS, latent=3, guide="gamma", likelihood="poisson"),
        "the guide lives in unconstrained space; Gamma(3,) has support",
    ),
    "guide of another size": (
        lambda: pv.VAE(
            pv.Dirichlet((3,), concentration=1.0),
            pv.Amortised(pv.MLP(3, 4), pv.Poisson((4,))),
            pv.Amortised(pv.MLP(4, 6), pv.Normal((3,))),
        ),
        "Dirichlet(3,) has shape (2,) in unconstrained space, where the guide lives, and the "
        "guide has shape (3,)",
    ),
    "vamp of a planar flow": (
        lambda: pv.build(COUNTS, latent=3, prior="vamp", guide="planar_flow", likelihood="poisson"),
        "Vamp(3,) needs the density of the guide at any z, and PlanarFlow(3,) knows that of its "
        "own draws only",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_its_supports(case):
    make, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert message in str(caught.value)
    assert torch.is_grad_enabled()
