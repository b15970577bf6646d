"""Outliers: p-values that are uniform on the model's own data, whatever is missing and however bad
the guide, exact where they are known, and no more false alarms than allowed.
"""

import warnings

import numpy as np
import pandas
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from truth import LinearGaussian, affine

import pyro_vae as pv
from pyro_vae.criticism.ranks import SCORES, Trial, p_values
from pyro_vae.progress import Progress

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
UNLIKELY = 1e-3


def exact(x, truth=TRUTH):
    """The chance of a density of what is seen as low as that of x: that of a chi-square."""
    covariance = truth.weight @ truth.weight.T + np.diag(truth.noise)
    found = []
    for row in x:
        seen = ~np.isnan(row)
        off = row[seen] - truth.bias[seen]
        found.append(
            stats.chi2.sf(off @ np.linalg.solve(covariance[np.ix_(seen, seen)], off), seen.sum())
        )
    return np.array(found)


def with_holes(x, seed=0, share=0.5):
    """The same with cells missing at random, at least one seen in each row."""
    missing = np.random.default_rng(seed).random(x.shape) < share
    missing[missing.all(1), 0] = False
    return np.where(missing, np.nan, x)


def given_c():
    """A linear model whose mean, prior and spread depend on a number c, with an untrained guide."""
    pyro.set_rng_seed(1)
    return pv.VAE(
        pv.Amortised(pv.MLP(1, 1), pv.Normal((1,), scale=1.0)),
        pv.Amortised(pv.MLP(2, 8, hidden=[8]), pv.Normal((4,))),
        pv.Amortised(pv.MLP(5, 2, hidden=[8]), pv.Normal((1,))),
        condition=pv.Condition(size=1, seen_by=["prior", "likelihood", "guide"]),
    )


def uniform(p_value):
    return stats.kstest(p_value, "uniform").pvalue > UNLIKELY


# p-values


def test_p_values_are_those_of_chi_square():
    x = TRUTH.draw(400)
    x[:20] += np.linspace(0, 3, 20)[:, None]
    found = pv.outliers(TRUTH.vae(), x, num_samples=1)
    p = exact(x)
    error = np.sqrt(p * (1 - p) / 8000) + 1 / 8000
    assert (np.abs(found.p_value - p) / error).max() < 4.5
    assert np.allclose(found.score, TRUTH.log_evidence(x))
    assert np.allclose(found.q_value, stats.false_discovery_control(found.p_value))
    assert (found.outlier == (found.q_value <= 0.05)).all()
    assert found.outlier.dtype == bool


def test_of_seen_cells_alone():
    """The score tells how many cells are seen, and the p-value does not."""
    x = with_holes(TRUTH.draw(600))
    found = pv.outliers(TRUTH.vae(), x, num_samples=20)
    seen = (~np.isnan(x)).sum(1)
    assert uniform(found.p_value)
    assert abs(stats.pearsonr(seen, found.p_value).statistic) < 4 / 600**0.5
    assert stats.pearsonr(seen, found.score).statistic < -0.5
    p = exact(x)
    assert stats.spearmanr(p, found.p_value).statistic > 0.8
    assert abs(np.mean(found.p_value - p)) < 4 * np.std(found.p_value - p) / 600**0.5 + 0.02


def test_a_row_of_which_nothing_is_seen_is_not_odd():
    x = with_holes(TRUTH.draw(5))
    x[2] = np.nan
    found = pv.outliers(TRUTH.vae(shrink=0.3), x, num_samples=3)
    assert found.p_value[2] == 1
    assert found.score[2] == 0


def test_images():
    x = with_holes(TRUTH.draw(100)).reshape(100, 2, 3)
    vae = pv.build(x, latent=1, hidden=[4])
    own = vae.sample(100, seed=3).numpy()
    found = pv.outliers(vae, np.where(np.isnan(x), np.nan, own), num_samples=3)
    assert uniform(found.p_value)


@pytest.mark.parametrize("num_samples", [1, 5])
@pytest.mark.parametrize("holes", [False, True])
def test_a_bad_guide_costs_no_validity(num_samples, holes):
    """Scores are off by whole nats, of data and of draws alike."""
    x = TRUTH.draw(400, seed=3)
    bad = TRUTH.vae(shrink=0.4, shift=2.0)
    off = pv.outliers(bad, x, num_samples=num_samples).score - TRUTH.log_evidence(x)
    assert np.abs(off).mean() > 1
    found = pv.outliers(bad, with_holes(x) if holes else x, num_samples=num_samples)
    assert uniform(found.p_value)
    assert not found.outlier.any()


@pytest.mark.parametrize("holes", [False, True])
def test_given_c(holes):
    vae = given_c()
    c = np.random.default_rng(0).normal(size=(300, 1)) * 3
    x = vae.sample(300, c, seed=4).numpy()
    found = pv.outliers(vae, with_holes(x) if holes else x, c, num_samples=5)
    assert uniform(found.p_value)


def test_another_c_is_odd():
    vae = pv.VAE(
        pv.Normal((1,), loc=0.0, scale=1.0),
        pv.Amortised(affine(np.array([[0.3, 10.0]]), np.zeros(1)), pv.Normal((1,), scale=1.0)),
        pv.Amortised(pv.MLP(2, 2), pv.Normal((1,))),
        condition=pv.Condition(size=1),
    )
    c = np.repeat([[0.0], [1.0]], 30, 0)
    x = vae.sample(60, c).numpy()
    assert uniform(pv.outliers(vae, x, c, num_samples=10).p_value)
    assert pv.outliers(vae, x, 1 - c, num_samples=10).outlier.all()


def test_ties_count_against_the_outlier():
    """A coin: p is the chance of an outcome that is no likelier."""
    vae = pv.VAE(
        pv.OneHot((2,), logits=0.0),
        pv.Amortised(affine(np.zeros((1, 2)), np.log([1 / 9])), pv.Bernoulli((1,))),
        pv.Amortised(pv.MLP(1, 2), pv.OneHot((2,))),
    )
    found = pv.outliers(vae, np.array([[0.0], [1.0]]), num_samples=1)
    assert found.p_value[0] == 1
    assert found.p_value[1] == pytest.approx(0.1, abs=0.04)


class Even(Trial):
    """Draws whose scores are uniform, of which every datum has its own."""

    def score_draws(self, data, numbers, stream):
        assert len(data) == len(numbers)
        return np.random.default_rng(stream).random(len(data))


@pytest.mark.parametrize("repeated", [1, 30])
def test_rounds_keep_p_values_valid(repeated):
    """However a datum's draws ended, p is at most a with a chance of at most a, and hardly less."""
    c = np.repeat(np.arange(6000 // repeated), repeated)[:, None] / 10
    problem = pv.Problem.of(given_c(), np.zeros((6000, 4)), c)
    own = np.random.default_rng(99).random(6000)
    trial = Even(problem, None, SCORES["log_evidence"], 1, 0)
    p_value = p_values(trial, own, 3000, Progress("", 6000, shown=False))
    for level in (0.001, 0.003, 0.01, 0.03, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8):
        error = (level * (1 - level) / 6000) ** 0.5
        share = (p_value <= level).mean()
        assert share < level + 4 * error, level
        assert share > 0.9 * level - 0.02 - 4 * error, level
    assert stats.spearmanr(p_value, own).statistic > 0.97
    low = own < 1e-3
    assert (p_value[low] < 5e-3).all()


def test_discrete_latents_are_summed_over():
    vae = pv.VAE(
        pv.OneHot((3,), logits=0.0),
        pv.Amortised(affine(np.array([[0.0, 8.0, 16.0]]), np.zeros(1)), pv.Normal((1,), scale=1.0)),
        pv.Amortised(pv.MLP(1, 3), pv.OneHot((3,))),
    )
    x = np.array([[0.0], [4.0], [8.0], [12.0], [16.5], [21.0]])
    found = pv.outliers(vae, x, num_samples=1)
    assert np.allclose(found.score, pv.log_evidence(vae, x).log_evidence)
    assert list(found.outlier) == [False, True, False, True, False, True]


# False discoveries


@pytest.mark.slow
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_false_discoveries_are_as_rare_as_asked_for(holes):
    vae, shares, power = TRUTH.vae(), [], []
    for study in range(150):
        x = TRUTH.draw(50, seed=study)
        x[:10] += 5 * np.random.default_rng(study).choice([-1.0, 1.0], (10, 6))
        x = with_holes(x, study, holes)
        found = pv.outliers(vae, x, fdr=0.2, num_samples=2, num_draws=500, seed=study)
        called = found.outlier.to_numpy()
        shares.append(called[10:].sum() / max(1, called.sum()))
        power.append(called[:10].mean())
    error = np.std(shares) / len(shares) ** 0.5
    assert 0.05 < np.mean(shares) < 0.2 * 40 / 50 + 3 * error  # Benjamini and Hochberg: m0 / m less
    assert np.mean(power) > 0.8


# Reference data


def other(num, seed):
    """Data that the model does not make: a t-distribution, elsewhere."""
    return TRUTH.bias + 2 + stats.t(3).rvs((num, 6), random_state=np.random.default_rng(seed))


@pytest.mark.parametrize("holes", [False, True])
def test_of_reference_data_a_wrong_model_does_no_harm(holes):
    x = other(200, 0)
    x = with_holes(x) if holes else x
    reference = other(2000, 1)
    found = pv.outliers(TRUTH.vae(), x, reference=reference, fdr=0.2, num_samples=5)
    assert uniform(found.p_value)
    if holes:
        seen = (~np.isnan(x)).sum(1)
        assert abs(stats.pearsonr(seen, found.p_value).statistic) < 4 / 200**0.5
    else:
        assert not uniform(pv.outliers(TRUTH.vae(), x, num_samples=5).p_value)


def test_reference_data_have_their_own_c():
    vae, c = given_c(), np.random.default_rng(0).normal(size=(800, 1)) * 3
    x = vae.sample(800, c, seed=4).numpy() + 1
    with pytest.warns(UserWarning, match="among 200 data, but fewer than 7"):
        found = pv.outliers(vae, x[:200], c[:200], reference=(x[200:], c[200:]), num_samples=5)
    assert uniform(found.p_value)


# Regret


def test_regret_is_what_the_guide_loses():
    """A guide that goes half the way from the prior's mean: it is lost by the square of the rest,
    in units of the posterior's variance.
    """
    covariance, gain = TRUTH.posterior()
    vae = TRUTH.vae()
    half = 0.5 * gain
    vae.posterior.network = affine(half, -half @ TRUTH.bias)
    x = TRUTH.draw(60)
    x[:2] += 5 * TRUTH.weight.sum(1)  # far out, but along the latents
    rest = (x - TRUTH.bias) @ half.T
    lost = 0.5 * (rest**2 / np.diag(covariance)).sum(1)
    found = pv.outliers(vae, x, score="regret", num_samples=1000)
    near = lost < 10  # within reach of the search
    assert np.abs(found.score - lost)[near].max() < 0.15 * 10
    assert stats.spearmanr(found.score, lost).statistic > 0.98
    assert list(np.flatnonzero(found.outlier)) == [0, 1]
    assert uniform(found.p_value[2:])


# What belongs to the caller


def test_nothing_of_the_caller_is_touched():
    vae = given_c()
    vae.train()
    pyro.param("own", torch.ones(1))
    x, c = np.zeros((2, 4)), np.zeros((2, 1))
    x[0, 1] = np.nan
    before, given = torch.random.get_rng_state(), x.copy()
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    found = {
        score: pv.outliers(vae, x, c, score=score, num_samples=3, num_draws=50, seed=1)
        for score in SCORES
    }
    assert torch.equal(torch.random.get_rng_state(), before)
    assert vae.training
    assert vae.likelihood.training
    assert list(pyro.get_param_store()) == ["own"]
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert all(parameter.requires_grad for parameter in vae.parameters())
    assert np.array_equal(x, given, equal_nan=True)
    torch.manual_seed(5)
    for score, frame in found.items():
        again = pv.outliers(vae, x, c, score=score, num_samples=3, num_draws=50, seed=1)
        pandas.testing.assert_frame_equal(frame, again)
    pyro.clear_param_store()


def test_frames_keep_their_index():
    names = list("abcdef")
    frame = pandas.DataFrame(TRUTH.draw(30), columns=names)
    vae = pv.build(frame, latent=1, hidden=[4])
    plain = pv.outliers(vae, frame.to_numpy(), num_samples=3)
    frame.index = [f"patient {number}" for number in range(30)]
    found = pv.outliers(vae, frame[names[::-1]], num_samples=3)
    assert found.index.equals(frame.index)
    assert list(found.columns) == ["score", "p_value", "q_value", "outlier"]
    assert np.array_equal(found.p_value, plain.p_value)
    assert isinstance(plain.index, pandas.RangeIndex)


def test_annotated_data_keep_theirs():
    anndata = pytest.importorskip("anndata")
    adata = anndata.AnnData(TRUTH.draw(8).astype(np.float32))
    adata.obs_names = [f"cell {number}" for number in range(8)]
    vae = pv.build(adata, latent=1, hidden=[4])
    assert list(pv.outliers(vae, adata, num_samples=3).index) == list(adata.obs_names)


def test_a_datum_alone():
    x = np.stack([TRUTH.bias, TRUTH.bias + 8])
    for row, is_outlier in zip(x, (False, True), strict=True):
        found = pv.outliers(TRUTH.vae(), row[None], num_samples=5)
        assert found.outlier.item() is is_outlier
        assert found.q_value.item() == found.p_value.item()
    assert found.p_value.item() == 1 / 1001


def test_a_pair_and_a_problem():
    """A model in plain Pyro, over images of two columns and of one observed site."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 2.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 5, 0.8**0.5).to_event(1))

    x = np.random.default_rng(0).normal(size=(200, 2)) * 5**0.5
    x[0] = 12.0
    x[1:] = x[1:].clip(-6, 6)
    truth = LinearGaussian(np.eye(2), np.zeros(2), np.full(2, 4.0))
    found = pv.outliers(pv.Problem.of((model, guide), x), num_samples=1)
    p = exact(x, truth)
    assert (np.abs(found.p_value - p) < 4.5 * np.sqrt(p * (1 - p) / 4000) + 5 / 4000).all()
    assert list(np.flatnonzero(found.outlier)) == [0]


def test_a_score_that_is_no_number_is_no_outlier():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.where(x > 50, torch.nan, x / 2), 0.5**0.5))

    x = np.array([0.0, 60.0, 40.0])
    with pytest.warns(UserWarning, match="the score of 1 of 3 data is NaN"):
        found = pv.outliers((model, guide), x)
    assert list(found.outlier) == [False, False, True]
    assert found.loc[1, ["score", "p_value", "q_value"]].isna().all()
    assert found.notna().loc[[0, 2]].all(axis=None)


def test_too_few_draws_for_one_outlier_are_told():
    x = TRUTH.draw(100)
    with pytest.warns(UserWarning, match="among 100 data, but fewer than 10 could not be"):
        assert not pv.outliers(TRUTH.vae(), x, num_draws=200, num_samples=1).outlier.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.outliers(TRUTH.vae(), x, num_draws=2000, num_samples=1)
        x[:10] += 20
        assert pv.outliers(TRUTH.vae(), x, num_draws=200, num_samples=1).outlier[:10].all()


X = TRUTH.draw(3)
WRONG = [
    ({"x": None}, ValueError, "give x of shape"),
    ({"x": X[:, :5]}, ValueError, "shape"),
    ({"c": [1, 2, 3]}, ValueError, "condition"),
    ({"score": "elbo"}, ValueError, "score must be 'log_evidence' or 'regret'; got 'elbo'"),
    ({"score": ["regret"]}, ValueError, "score must be"),
    ({"fdr": 0}, ValueError, "fdr must be a share between 0 and 1, such as 0.05; got 0"),
    ({"fdr": 5}, ValueError, "fdr must be"),
    ({"fdr": True}, ValueError, "fdr must be"),
    ({"fdr": float("nan")}, ValueError, "fdr must be"),
    ({"fdr": "0.1"}, ValueError, "fdr must be"),
    ({"num_samples": 0}, ValueError, "num_samples must be a whole number from 1; got 0"),
    ({"num_draws": 0}, ValueError, "num_draws must be a whole number from 1; got 0"),
    ({"num_draws": 1.5}, ValueError, "num_draws must be a whole number from 1; got 1.5"),
    ({"num_draws": 18}, ValueError, "needs at least 19 draws for an fdr of 0.05"),
    ({"seed": -1}, ValueError, "seed must be a whole number from 0; got -1"),
    ({"reference": X}, ValueError, "needs at least 19 draws .* give more rows of reference"),
    ({"reference": X[:, :2]}, ValueError, "reference: .*shape"),
    ({"reference": with_holes(X)}, ValueError, "reference needs rows without missing cells"),
    ({"reference": (X, X, X)}, ValueError, "reference must be data, or a pair"),
    ({"reference": X, "num_draws": 100}, ValueError, "give one of the two"),
]


@pytest.mark.parametrize(("wrong", "error", "says"), WRONG)
def test_one_line_for_each_wrong_argument(wrong, error, says):
    x = wrong.get("x", X)
    options = {name: value for name, value in wrong.items() if name != "x"}
    with pytest.raises(error, match=says) as raised:
        pv.outliers(TRUTH.vae(), x, **options)
    assert "\n" not in str(raised.value)


def test_a_model_that_makes_no_x_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.factor("x", dist.Normal(z, 1.0).log_prob(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    with pytest.raises(ValueError, match="outliers needs a model that observes x"):
        pv.outliers((model, guide), np.zeros(3))


def test_a_guide_that_cannot_be_moved_has_no_regret():
    vae = pv.VAE(
        pv.OneHot((3,), logits=0.0),
        pv.Amortised(pv.MLP(3, 2), pv.Normal((1,))),
        pv.Amortised(pv.MLP(1, 3), pv.OneHot((3,))),
    )
    with pytest.raises(TypeError, match="refine needs a guide"):
        pv.outliers(vae, np.zeros((3, 1)), score="regret")
