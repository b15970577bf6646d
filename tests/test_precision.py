"""Single precision: what it would lose is computed in double, or refused."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from setting import setting
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.density.precision import precise
from pyro_vae.density.problem import Problem

RNG = np.random.default_rng(0)
COUNTS = {  # the likelihood, data, and the exact log p of each cell
    "784 pixels of 16 bits": (
        lambda: pv.Binomial((784,), total_count=65535.0, logits=math.log(3 / 7)),
        RNG.binomial(65535, 0.3, (5, 784)),
        lambda x: stats.binom.logpmf(x, 65535, 0.3),
    ),
    "2,000 counts near 1e4": (
        lambda: pv.Poisson((2000,), rate=1e4),
        RNG.poisson(1e4, (5, 2000)),
        lambda x: stats.poisson.logpmf(x, 1e4),
    ),
    "counts near 1e6": (
        lambda: pv.Poisson((5,), rate=1e6),
        RNG.poisson(1e6, (5, 5)),
        lambda x: stats.poisson.logpmf(x, 1e6),
    ),
    "a negative binomial that is nearly Poisson": (
        lambda: pv.NegativeBinomial((10,), total_count=1e6, logits=math.log(5e-6)),
        RNG.poisson(5, (5, 10)),
        lambda x: stats.nbinom.logpmf(x, 1e6, 1 / (1 + 5e-6)),
    ),
}
ESTIMATORS = {
    "importance": lambda vae, x: pv.log_evidence(vae, x, num_samples=30),
    "tolerance": lambda vae, x: pv.log_evidence(vae, x, num_samples=200, tolerance=0.05),
    "annealed": lambda vae, x: pv.annealed_log_evidence(vae, x, num_distributions=3, chains=25),
}


def independent(likelihood):
    """A VAE whose data do not depend on z, with its prior as the guide: exact at any K."""
    prior = pv.Normal((1,), loc=0.0, scale=1.0)
    return pv.VAE(prior, likelihood, pv.Normal((1,), loc=0.0, scale=1.0)).float()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", COUNTS)
def test_no_nats_are_lost_in_single_precision(name, estimator):
    likelihood, x, exact = COUNTS[name]
    vae = independent(likelihood())
    found = ESTIMATORS[estimator](vae, x)
    assert np.abs(found.log_evidence - exact(x).sum(1)).max() < 0.005  # a tenth of the tolerance
    assert (found.flag == "").all()
    assert vae.reference.dtype == torch.float32  # a copy computed


def test_a_model_that_loses_nothing_stays_in_single_precision():
    truth = LinearGaussian.with_diagonal_posterior(6, 2)
    with setting(torch.float32):
        problem = Problem.of(truth.vae(), truth.draw(40))
        state = torch.get_rng_state()
        same = precise(problem, 0.05)
        assert torch.equal(torch.get_rng_state(), state)
    assert same.vae is problem.vae
    assert 0 < same.lost < 0.005
    assert precise(problem, 1e-9).like.dtype == torch.float64


def test_what_rounding_merges_is_refused():
    x = np.stack([RNG.normal(size=40), 1.7e9 + np.tile([0, 10, -20, 30], 10)], 1)
    said = "needs values that single precision can tell apart; got in column 1 values 50 apart"
    with setting(torch.float32):
        with pytest.raises(pv.DataError, match=said):
            pv.build(x, latent=1)
        vae = pv.build(x - [0, 1.7e9], latent=1)
        with pytest.raises(pv.DataError, match=said):
            pv.log_evidence(vae, x)
    assert len(Problem.of(vae.double(), x)) == 40


@pytest.mark.parametrize(
    "column",
    [np.full(20, 1.7e9), 1e6 + np.arange(20) % 2, 2000 + np.arange(20) / 7, np.full(20, 0.1)],
    ids=["constant", "whole", "years", "rounded"],
)
def test_what_rounding_does_not_merge_is_taken(column):
    with setting(torch.float32):
        assert len(Problem.of(pv.build(column[:, None], latent=1), column[:, None])) == 20


def test_half_precision_is_refused():
    vae = pv.build(RNG.normal(size=(20, 3)), latent=1).bfloat16()
    with pytest.raises(TypeError, match=r"got \S+ in bfloat16; vae.float\(\) brings them back"):
        pv.log_evidence(vae, RNG.normal(size=(20, 3)))
