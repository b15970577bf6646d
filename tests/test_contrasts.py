"""Differences between groups: against Welch's test by scipy, and by simulated studies."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from truth import LinearGaussian

import pyro_vae as pv

RNG = np.random.default_rng(0)
FEATURES, NULL = 12, 8
LOADING = RNG.normal(size=(FEATURES, 2))
LOADING[:NULL, 0] = 0.0  # these features know nothing of the first latent
LOADING[NULL:, 0] = [1.0, -0.8, 1.2, 0.9]
MODEL = LinearGaussian(LOADING, RNG.normal(size=FEATURES), RNG.uniform(0.5, 1.0, FEATURES))
VAE = MODEL.vae()


def study(seed, shift, num=(60, 40)):
    """Two groups, the first latent of which differs by `shift`."""
    rng = np.random.default_rng(seed)
    groups = []
    for size, centre in zip(num, (shift, 0.0), strict=True):
        z = rng.normal(size=(size, 2)) + np.array([centre, 0.0])
        noise = rng.normal(size=(size, FEATURES)) * np.sqrt(MODEL.noise)
        groups.append(z @ MODEL.weight.T + MODEL.bias + noise)
    return groups


def rate(z, x):
    return VAE.decode(z).mean


def posterior_rates(x):
    _, gain = MODEL.posterior()
    return (x - MODEL.bias) @ gain.T @ MODEL.weight.T + MODEL.bias


def test_it_is_the_test_of_welch_on_posterior_means():
    a, b = study(0, 1.0)
    table = pv.contrast(VAE, a, b, rate, num_samples=4000).sort_index()
    exact = stats.ttest_ind(posterior_rates(a), posterior_rates(b), equal_var=False)
    np.testing.assert_allclose(table.p_value, exact.pvalue, rtol=0.1, atol=0.01)
    np.testing.assert_allclose(table.effect / table.se, exact.statistic, atol=0.1)
    np.testing.assert_allclose(table.mean_a, posterior_rates(a).mean(0), atol=0.02)
    np.testing.assert_allclose(table.probability, 1 - table.p_value / 2, rtol=1e-12)
    np.testing.assert_allclose(table.fdr, stats.false_discovery_control(table.p_value))
    assert (table.selected == (table.fdr <= 0.05)).all()
    assert table.attrs == {"num_a": 60, "num_b": 40, "delta": 0.0, "fdr": 0.05}


def test_the_surest_come_first():
    a, b = study(0, 1.5)
    table = pv.contrast(VAE, a, b, rate, num_samples=200)
    assert table.p_value.is_monotonic_increasing
    assert set(table.index[: FEATURES - NULL]) == set(range(NULL, FEATURES))


def test_small_effects_count_as_none():
    a, b = study(0, 1.5)
    all_of_them = pv.contrast(VAE, a, b, rate, num_samples=200)
    large = all_of_them.effect.abs().nlargest(2).iloc[1]
    some = pv.contrast(VAE, a, b, rate, delta=large, num_samples=200)
    assert some.selected.sum() < all_of_them.selected.sum()
    assert (some.effect[some.selected].abs() > large).all()
    at_the_edge = some.sort_index().p_value[(all_of_them.sort_index().effect.abs() - large) < 0]
    assert (at_the_edge >= 0.5).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:means over")
@pytest.mark.parametrize("shift", [0.0, 0.7], ids=["no effect at all", "four of twelve"])
def test_realised_false_discoveries(shift):
    """Over 200 studies the share of false ones among the selected is what was allowed."""
    shares, power = [], []
    for seed in range(200):
        table = pv.contrast(VAE, *study(seed, shift), rate, fdr=0.1, num_samples=60)
        false = table.selected[table.index < NULL] if shift else table.selected
        shares.append(false.sum() / max(1, table.selected.sum()))
        power.append(table.selected[table.index >= NULL].mean())
    error = np.std(shares) / 200**0.5
    print(np.mean(shares), error, np.mean(power))
    assert np.mean(shares) <= 0.1 + 2 * error
    assert shift == 0 or np.mean(power) > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_realised_false_discoveries_of_a_trained_model():
    """Four of twenty features differ by a factor of two. The model's smoothing makes small null
    effects sure, so that the rate holds beyond what counts as none, and not for 0.
    """
    rng = np.random.default_rng(0)
    base, ratio = rng.uniform(2, 8, 20), np.where(np.arange(20) < 4, 2.0, 1.0)
    draw = lambda num, factor: rng.poisson(base * factor * rng.gamma(10, 0.1, (num, 1)))  # noqa: E731
    x = np.vstack([draw(150, ratio), draw(150, 1.0)])
    likelihood = {"name": "poisson", "links": {"rate": "exp"}}
    vae = pv.build(x, latent=4, likelihood=likelihood, hidden=[32])
    pv.fit(vae, x, epochs=60, learning_rate=1e-2, progress=False)
    log_rate = lambda z, x: vae.decode(z).mean.log()  # noqa: E731
    shares = {0.0: [], 0.25: []}
    for _ in range(100):
        a, b = draw(100, ratio), draw(100, 1.0)
        for delta, found in shares.items():
            table = pv.contrast(vae, a, b, log_rate, delta=delta, num_samples=60)
            false = table.selected[table.index >= 4].sum()
            found.append(
                [false / max(1, table.selected.sum()), table.selected[table.index < 4].mean()]
            )
    (none, _), (beyond, power) = (np.mean(found, 0) for found in shares.values())
    print(none, beyond, power)
    assert beyond <= 0.05
    assert power > 0.9


@pytest.mark.filterwarnings("ignore:means over")
def test_batches_are_averaged_over():
    """Each group comes from a batch of its own: in their own batches they differ, in both not."""
    rng = np.random.default_rng(0)
    batch = np.repeat([0.0, 1.0], 150)
    z = rng.normal(size=(300, 1))
    x = z * np.array([1.0, -1.0]) + 3.0 * batch[:, None] + 0.3 * rng.normal(size=(300, 2))
    vae = pv.build(x, c=batch, condition={"size": 1}, latent=1, hidden=[16])
    pv.fit(vae, x, batch, epochs=60, learning_rate=1e-2, progress=False)
    a, b = x[:150], x[150:]
    f = lambda z, x, c: vae.decode(z, c).mean  # noqa: E731
    options = {"c": (batch[:150], batch[150:]), "num_samples": 100}
    own = pv.contrast(vae, a, b, f, **options)
    np.testing.assert_allclose(own.effect, [-3.0, -3.0], atol=0.5)
    averaged = pv.contrast(vae, a, b, f, over=np.array([0.0, 1.0]), **options)
    assert (averaged.effect.abs() < 0.7).all()
    np.testing.assert_allclose(averaged.mean_a, 1.5, atol=0.5)


@pytest.mark.filterwarnings("ignore:means over")
def test_what_is_constant_has_no_effect():
    a, b = study(0, 1.0)
    f = lambda z, x: torch.stack([torch.ones_like(z[..., 0]), z[..., 0]], -1)  # noqa: E731
    table = pv.contrast(VAE, a, b, f, num_samples=100).sort_index()
    assert table.p_value[0] == 1.0
    assert not table.selected[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": -1}, "delta must be an effect from 0, in units of f; got -1"),
        ({"fdr": 1.0}, "fdr must be a rate between 0 and 1, such as 0.05; got 1.0"),
        ({"c": np.zeros(100)}, "contrast needs c as a pair, that of a and that of b; got ndarray"),
        ({"over": np.zeros(2)}, "over needs a conditional VAE"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        pv.contrast(VAE, *study(0, 1.0), rate, **options)


def test_other_outputs_for_the_other_group_are_refused():
    a, b = study(0, 1.0)
    f = lambda z, x: z if np.isclose(a[:, 0], float(x[0, 0])).any() else z[..., :1]  # noqa: E731
    with pytest.raises(ValueError, match="same outputs of f for both groups; got 2 for a and 1"):
        pv.contrast(VAE, a, b, f, num_samples=200)
    with pytest.raises(TypeError, match="contrast needs a VAE, and a and b beside it; got Probl"):
        pv.contrast(pv.Problem.of(VAE, a), a, b, f)


@pytest.mark.filterwarnings("ignore:means over the posterior")
def test_a_mean_that_is_no_number_is_refused():
    a, b = study(0, 1.0)
    f = lambda z, x: torch.where(x[:, :1] == a[3, 0], torch.nan, z)  # noqa: E731
    with pytest.raises(ValueError, match="that of output 0 is nan for row 3 of a; leave the row"):
        pv.contrast(VAE, a, b, f, num_samples=200)


def test_means_that_are_no_numbers_are_refused():
    a, b = study(0, 1.0)
    f = lambda z, x: z.log()  # noqa: E731
    with (
        pytest.warns(UserWarning, match="means over the posterior cannot be trusted: .* of 120 of"),
        pytest.raises(ValueError, match="that of output 0 is nan for row 0 of a; leave the output"),
    ):
        pv.contrast(VAE, a, b, f, num_samples=200)


@pytest.mark.filterwarnings("ignore:means over the posterior")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, "output 1 (column 'colour', if f gives the columns)"),
        (["height", "colour"], "output 'colour'"),
    ],
)
def test_a_column_of_classes_is_named(names, said):
    x = pd.DataFrame({"height": RNG.normal(size=30), "colour": ["red", "green", "blue"] * 10})
    vae = pv.build(x, latent=1, hidden=[])
    said = f"{said} is nan for row 0 of a; leave the output (a class has no mean) out, or have"
    with pytest.raises(ValueError, match=re.escape(said)):
        pv.contrast(
            vae, x[:15], x[15:], lambda z, x: vae.decode(z).mean, names=names, num_samples=50
        )


def test_a_group_of_one_is_refused():
    a, b = study(0, 1.0)
    with pytest.raises(ValueError, match="at least two data in each group; a has 1"):
        pv.contrast(VAE, a[:1], b, rate, num_samples=200)
