"""Weights of data: what a loss counts for each."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.density.direct import Direct
from pyro_vae.guards import seeded
from pyro_vae.training.losses import objective

X = np.random.default_rng(0).poisson(3.0, (40, 3))
WEIGHTS = np.random.default_rng(1).gamma(1.0, size=40)
NAMES = ["elbo", "mean_field", "iwae", "renyi"]


def counts(**parts):
    return pv.build(X, **{"latent": 2, "hidden": [6], "likelihood": "poisson", **parts})


def fit(vae, x=X, **options):
    return pv.fit(vae, x, **{"epochs": 2, "batch_size": 16, "progress": False, **options})


@pytest.mark.parametrize("prior", ["normal", "gamma"])
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_weighed_sum_of_those_of_each_datum(name, prior):
    vae = counts(prior=prior)
    elbo = objective(vae, name, 4, 1.0, None)

    def loss(weights):
        with seeded(0):
            densities = Direct(vae, (torch.tensor(X, dtype=torch.float64),), missing=False)
            densities.weights = weights
            return float(elbo.evaluate(densities, 1.0).detach())

    each = [loss(one) for one in torch.eye(40)]
    assert loss(torch.tensor(WEIGHTS)) == pytest.approx(WEIGHTS @ each, rel=1e-10)
    assert loss(None) == pytest.approx(sum(each), rel=1e-10)


def test_weights_of_a_split_frame_and_of_any_size():
    series = pd.Series(WEIGHTS, index=np.arange(100, 140))
    assert (
        fit(counts(), weights=series).loss.tolist() == fit(counts(), weights=WEIGHTS).loss.tolist()
    )
    huge = fit(counts(), weights=np.full(40, 1e308)).loss.tolist()
    assert huge == fit(counts()).loss.tolist()


def test_only_ratios_matter_and_ones_change_nothing():
    history, same, scaled = (
        fit(counts(), weights=w).loss.tolist() for w in (None, np.ones(40), np.full(40, 8.0))
    )
    assert same == scaled == history
    one, other = (fit(counts(), weights=w).loss.tolist() for w in (WEIGHTS, 4 * WEIGHTS))
    assert one == pytest.approx(other, rel=1e-12)


def test_data_of_weight_0_are_not_learned():
    """Two groups of data: the model is that of the one that counts."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1))
    x = z + 0.3 * rng.normal(size=(200, 2)) + 5 * (np.arange(200) >= 100)[:, None]
    vae = pv.build(x, latent=1, hidden=[8])
    pv.fit(vae, x, weights=np.arange(200) < 100, epochs=100, learning_rate=0.01, progress=False)
    drawn = vae.sample(4000)
    assert bool((drawn.mean(0).abs() < 0.4).all())
    assert bool((drawn.std(0) < 1.5).all())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(39), r"must have shape \(40,\), one for each datum; got \(39,\)"),
        (np.where(np.arange(40) == 3, -1.0, 1.0), r"must be numbers from 0; got -1.0 at row 3"),
        (np.where(np.arange(40) == 5, np.nan, 1.0), r"got nan at row 5"),
        (np.zeros(40), "must not all be zero"),
        ("balanced", "must be numbers; got 'balanced'"),
    ],
)
def test_what_are_no_weights_is_refused(weights, message):
    with pytest.raises(pv.DataError, match=message):
        fit(counts(), weights=weights)


@pytest.mark.parametrize("options", [{"loss": "wake_sleep"}, {"loss": "dreg"}, {"free_bits": 0.1}])
def test_losses_that_know_no_weights_are_named(options):
    with pytest.raises(ValueError, match="weights count in elbo, mean_field, iwae and renyi"):
        fit(counts(), weights=WEIGHTS, **options)
    with pytest.raises(ValueError, match="of continuous latents"):
        fit(counts(prior="one_hot"), weights=WEIGHTS)


def test_a_run_of_other_weights_is_not_resumed(tmp_path):
    whole, resumed = counts(), counts()
    fit(whole, epochs=4, weights=WEIGHTS)
    fit(counts(), weights=WEIGHTS, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="is of a run with weights"):
        fit(counts(), checkpoint=tmp_path, resume=True)
    fit(resumed, epochs=4, weights=WEIGHTS, checkpoint=tmp_path, resume=True)
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)
