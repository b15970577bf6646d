"""A likelihood starts at the center and the unit of the data, and its density is in their units."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sklearn import datasets

import pyro_vae as pv
from pyro_vae.conditionals.base import Conditional
from tests.setting import setting

TABLES = ["iris", "wine", "diabetes", "breast_cancer"]
REAL = ["normal", "laplace", "student_t", "logistic", "multivariate_normal", "low_rank_normal"]
FLOWS = ["autoregressive_flow", "spline_flow", "coupling_flow"]
POSITIVE = [
    "log_normal", "gamma", "exponential", "half_normal", "half_cauchy", "truncated_normal",
    "censored_normal", "tweedie", "zero_inflated_gamma", "zero_inflated_log_normal",
]  # fmt: skip
MIXTURES = [
    {"name": "mixture", "components": 2},
    {"name": "mixture", "components": 2, "each": "element"},
]
COLUMNS = {
    "name": "columns",
    "blocks": [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "student_t"}],
}
SCALE = np.array([1e-3, 1e3, 30.0])
SHIFT = np.array([0.02, -5.0, 3e4])


def trained(x, **options):
    """The last loss of a VAE trained on data as they are, in nats per datum."""
    vae = pv.build(x, latent=2, hidden=[16], **options)
    return vae, pv.fit(vae, x, epochs=5, progress=False).loss.iloc[-1]


def three_columns(positive=False):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1))
    x = np.hstack([z, 0.5 * z, -z]) + 0.5 * rng.normal(size=(200, 3))
    return np.exp(x) if positive else x


@pytest.mark.parametrize("table", TABLES)
def test_unscaled_tables_train_as_standardised_ones(table):
    x = getattr(datasets, f"load_{table}")().data
    x = x * 10.0 ** np.linspace(-3, 3, x.shape[1])
    sd = x.std(0)
    by_hand = trained((x - x.mean(0)) / sd)[1] + np.log(sd).sum()
    as_they_are = trained(x)[1]
    assert abs(as_they_are - by_hand) < 0.05
    alone = np.log(sd).sum() + x.shape[1] * 0.5 * math.log(2 * math.pi * math.e)
    assert as_they_are < alone + 0.1 * x.shape[1]  # a normal for each column


@pytest.mark.parametrize("likelihood", [*REAL, *FLOWS, *MIXTURES, COLUMNS, *POSITIVE], ids=str)
def test_every_family_starts_where_standardised_data_would(likelihood):
    positive = likelihood in POSITIVE
    x = three_columns(positive)
    other = x * SCALE + (0 if positive else SHIFT)
    first, loss = trained(x, likelihood=likelihood)
    second, in_other_units = trained(other, likelihood=likelihood)
    jacobian = np.log(SCALE).sum()
    assert abs(in_other_units - jacobian - loss) < 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few draws
        evidence = [
            pv.log_evidence(vae, data[:5], num_samples=20).log_evidence.values
            for vae, data in ((first, x), (second, other))
        ]
    np.testing.assert_allclose(evidence[1] + jacobian, evidence[0], atol=0.02)


@pytest.mark.parametrize(
    ("likelihood", "exact"),
    [
        (pv.Normal((2,), center=[5.0, -3.0], unit=[10.0, 0.1]), scipy.stats.norm),
        (pv.Laplace((2,), center=[5.0, -3.0], unit=[10.0, 0.1]), scipy.stats.laplace),
        (pv.Logistic((2,), center=[5.0, -3.0], unit=[10.0, 0.1]), scipy.stats.logistic),
        (pv.StudentT((2,), center=[5.0, -3.0], unit=[10.0, 0.1]), scipy.stats.t(4.0)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_context_of_zeros_is_the_standard_distribution_in_units(likelihood, exact):
    x = torch.tensor([[4.0, -3.05], [30.0, -2.8]])
    found = likelihood(torch.zeros(2, likelihood.num_params)).log_prob(x)
    scaled = (x.numpy() - [5.0, -3.0]) / [10.0, 0.1]
    np.testing.assert_allclose(found, (exact.logpdf(scaled) - np.log([10.0, 0.1])).sum(1))


def test_positive_families_have_a_unit_alone():
    zeros = torch.zeros(1, 2)
    x = torch.tensor([[3.0, 0.02]])
    unit = np.array([10.0, 0.1])
    gamma = pv.Gamma((2,), concentration=2.0, unit=unit)(zeros).log_prob(x)
    np.testing.assert_allclose(gamma, scipy.stats.gamma(2.0, scale=unit).logpdf(x).sum(1))
    half = pv.HalfCauchy((2,), unit=unit)(zeros).log_prob(x)
    np.testing.assert_allclose(half, scipy.stats.halfcauchy(scale=unit).logpdf(x).sum(1))
    log_normal = pv.LogNormal((2,), center=[2.0, -3.0], unit=[0.5, 2.0])(torch.zeros(1, 4))
    exact = scipy.stats.lognorm([0.5, 2.0], scale=np.exp([2.0, -3.0])).logpdf(x).sum(1)
    np.testing.assert_allclose(log_normal.log_prob(x), exact)
    with pytest.raises(ValueError, match="Gamma has no parameter center"):
        pv.Gamma((2,), center=1.0)


def test_correlated_families_scale_their_matrices():
    center, unit = torch.tensor([5.0, -3.0]), torch.tensor([10.0, 0.1])
    read = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    standard = pv.MultivariateNormal((2,))(read)
    whole = pv.MultivariateNormal((2,), center=center, unit=unit)(read)
    exact = unit[:, None] * standard.covariance_matrix * unit
    torch.testing.assert_close(whole.covariance_matrix, exact)
    torch.testing.assert_close(whole.mean, center + unit * standard.mean)
    read = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    standard = pv.LowRankNormal((2,))(read)
    low = pv.LowRankNormal((2,), center=center, unit=unit)(read)
    exact = unit[:, None] * standard.covariance_matrix * unit
    torch.testing.assert_close(low.covariance_matrix, exact)


def test_fixed_parameters_are_in_the_units_of_the_data():
    x = three_columns() * SCALE + SHIFT
    vae = pv.build(x, likelihood={"name": "normal", "scale": 7.0}, latent=2)
    decoded = vae.decode(torch.zeros(1, 2)).base_dist
    torch.testing.assert_close(decoded.scale, torch.full((1, 3), 7.0))
    assert bool(((decoded.loc - torch.tensor(x.mean(0))).abs() < torch.tensor(3 * SCALE)).all())


def test_spec_and_file_carry_them(tmp_path):
    x = three_columns() * SCALE + SHIFT
    vae = pv.build(x, likelihood="normal", latent=2, hidden=[8])
    spec = pv.describe(vae)["likelihood"]
    assert (np.abs(spec["center"] - x.mean(0)) < 1e-4 * SCALE).all()
    np.testing.assert_allclose(spec["unit"], x.std(0), rtol=1e-5)
    again = pv.build(pv.describe(vae))
    again.load_state_dict(vae.state_dict())
    pv.save(vae, tmp_path / "a.pvae")
    loaded = pv.load(tmp_path / "a.pvae")
    for other in (again, loaded):
        assert torch.equal(other.decode(torch.ones(1, 2)).mean, vae.decode(torch.ones(1, 2)).mean)
    as_they_are = pv.build(x, likelihood={"name": "normal", "center": 0.0, "unit": 1.0}, latent=2)
    assert bool((as_they_are.decode(torch.zeros(1, 2)).mean.abs() < 1.0).all())


def test_single_precision_survives_the_file(tmp_path):
    with setting(torch.float32):
        x = three_columns() * SCALE + SHIFT
        vae = pv.build(x, latent=2, hidden=[8]).double()
        pv.save(vae, tmp_path / "a.pvae")
        z = torch.ones(1, 2, dtype=torch.float64)
        assert torch.equal(pv.load(tmp_path / "a.pvae").decode(z).mean, vae.decode(z).mean)


def test_columns_without_spread_and_missing_cells():
    x = np.array([[1.0, 5.0, np.nan], [2.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    spec = pv.describe(pv.build(x, latent=1))["likelihood"]
    assert spec["center"] == [1.5, 5.0, 0.0]
    assert spec["unit"] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("likelihood", ["normal", "log_normal", "gamma", "half_cauchy"])
@pytest.mark.parametrize("bad", [math.inf, -1.0, 0.0])
def test_what_does_not_fit_is_refused_by_its_cell(likelihood, bad):
    x = three_columns(positive=True)
    x[3, 1] = bad
    if likelihood == "normal" and bad != math.inf:
        pv.build(x, likelihood=likelihood, latent=2)
    elif likelihood != "half_cauchy" or bad != 0:
        with pytest.raises(pv.DataError, match="row 3, column 1"):
            pv.build(x, likelihood=likelihood, latent=2)


def test_units_that_make_no_sense():
    with pytest.raises(ValueError, match="unit must be above 0; got 0"):
        pv.Normal((2,), unit=0.0)
    with pytest.raises(ValueError, match=r"center must be a number, or numbers of shape \(2,\)"):
        pv.Normal((2,), center=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="unit must be finite"):
        pv.SplineFlow((2,), unit=[1.0, math.nan])


def test_a_column_that_training_did_not_reach_is_named():
    rng = np.random.default_rng(0)
    columns = {"age": rng.normal(45, 12, 200), "income": rng.normal(3000, 800, 200)}
    x = pd.DataFrame(columns)
    likelihood = pv.Amortised(pv.MLP(2, 4, hidden=[8]), pv.Normal((2,)))
    guide = pv.Amortised(pv.MLP(2, 4, hidden=[8]), pv.Normal((2,)))
    guide.network.standardize(torch.tensor(x.mean().values), torch.tensor(x.std().values))
    vae = pv.VAE(pv.Normal((2,), loc=0.0, scale=1.0), likelihood, guide)
    with pytest.warns(UserWarning, match=r"not reached the scale .*column 'income'"):
        pv.fit(vae, x, epochs=10, progress=False)


def test_all_continuous_families_without_bounds_have_units():
    free = [*REAL, *POSITIVE, "horseshoe_like"]
    families = {name: Conditional.registry[name] for name in free}
    assert all(cls.units is not None for cls in families.values())


def test_counts_start_at_their_mean():
    x, unit = torch.tensor([[3.0, 9900.0]]), np.array([2.5, 1e4])
    poisson = pv.Poisson((2,), unit=unit)(torch.zeros(1, 2)).log_prob(x)
    np.testing.assert_allclose(poisson, scipy.stats.poisson(unit).logpmf(x).sum(1))
    negative_binomial = pv.NegativeBinomial((2,), total_count=3.0, unit=unit)(torch.zeros(1, 2))
    exact = scipy.stats.nbinom(3.0, 1 / (1 + unit)).logpmf(x).sum(1)
    np.testing.assert_allclose(negative_binomial.log_prob(x), exact)
    for name in ("zero_inflated_poisson", "zero_inflated_negative_binomial"):
        head = Conditional.registry[name]((2,), unit=unit)
        cell = head(torch.zeros(1, head.num_params)).base_dist
        assert cell.gate_logits.unique().tolist() == [-2.0]
        torch.testing.assert_close(cell.base_dist.mean, torch.tensor(unit)[None])


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "multinomial"])
def test_guides_of_counts_see_logarithms(likelihood, tmp_path):
    x = np.random.default_rng(0).poisson([3.0, 2000.0, 0.1], (50, 3))
    vae = pv.build(x, latent=2, likelihood=likelihood, hidden=[4])
    assert pv.describe(vae)["guide"]["network"]["log1p"] is True
    network = vae.posterior.network
    torch.testing.assert_close(network.mean, torch.tensor(np.log1p(x).mean(0)))
    torch.testing.assert_close(network.sd, torch.tensor(np.log1p(x).std(0)))
    torch.testing.assert_close(network(network.typical), network.layers(torch.zeros(1, 3))[0])
    pv.save(vae, tmp_path / "a.pvae")
    assert torch.equal(pv.load(tmp_path / "a.pvae").encode(x).mean, vae.encode(x).mean)

    as_they_are = {"name": "normal", "network": {"name": "mlp", "hidden": [4], "log1p": False}}
    vae = pv.build(x, latent=2, likelihood=likelihood, guide=as_they_are)
    torch.testing.assert_close(vae.posterior.network.mean, torch.tensor(x.mean(0)))


def test_logarithms_of_numbers_below_zero():
    """What a guide sees beside counts, such as a condition, may be negative."""
    x = np.random.default_rng(0).poisson(3.0, (50, 3))
    c = np.random.default_rng(1).normal(size=(50, 2))
    vae = pv.build(x, c=c, latent=2, likelihood="poisson", hidden=[4])
    seen = np.hstack([np.log1p(x), np.sign(c) * np.log1p(np.abs(c))])
    torch.testing.assert_close(vae.posterior.network.mean, torch.tensor(seen.mean(0)))
    torch.testing.assert_close(vae.likelihood.network.mean[2:], torch.tensor(c.mean(0)))
    pv.fit(vae, x, c, epochs=2, progress=False)


def test_real_numbers_and_known_totals_are_seen_as_they_are():
    for likelihood in ("normal", "binomial", "bernoulli"):
        x = np.random.default_rng(0).integers(2, size=(50, 3))
        vae = pv.build(x, latent=2, likelihood=likelihood, hidden=[4])
        assert pv.describe(vae)["guide"]["network"]["log1p"] is False
    with pytest.raises(ValueError, match="log1p must be true or false; got 1"):
        pv.MLP(2, 3, log1p=1)
