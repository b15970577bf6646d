"""The imputer of scikit-learn: its contract, and each strategy against the exact answer."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae import VAEEstimator, VAEImputer
from pyro_vae.estimator.imputer import _most_often

ORDINAL = {"name": "ordinal", "categories": 4, "cutpoints": "learned"}
MIXED = {
    "name": "columns",
    "blocks": [
        {"columns": [0], "name": "normal"},
        {"columns": [1], "name": "categorical"},
        {"columns": [2], **ORDINAL},
        {"columns": [3], "name": "poisson"},
    ],
}


@pytest.fixture(autouse=True)
def _collapse_is_not_the_question():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fit: values of column", UserWarning)
        yield


def imputer(strategy="mean", **options):
    given = {"latent": 2, "hidden": [], "epochs": 2, "num_samples": 30, **options}
    return VAEImputer(VAEEstimator(**given), strategy=strategy)


def holes(x, share=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.nan, x)


def mixed(num=40, seed=0):
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=num), rng.integers(3, size=num), rng.integers(4, size=num)]
    return holes(np.stack([*columns, rng.poisson(2.0, num)], 1).astype(float))


@parametrize_with_checks([imputer(), imputer("median"), imputer("draw")])
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


def fitted_to(vae, x, strategy, num_samples=1000):
    """An imputer whose estimator was fitted, with a VAE that is known."""
    made = imputer(strategy, num_samples=num_samples).fit(x)
    made.estimator_.vae_ = vae
    return made


@pytest.mark.parametrize("strategy", ["mean", "median", "draw"])
def test_a_linear_vae_fills_in_the_conditional_normal(strategy):
    """Against the conditional distribution of a multivariate normal."""
    truth = LinearGaussian.with_diagonal_posterior(4, 2)
    x = np.repeat(truth.draw(1), 200, 0)  # one datum, so the draws of all places are alike
    seen, hidden = [0, 1, 2], 3
    x[:, hidden] = np.nan
    filled = fitted_to(truth.vae(), x, strategy).transform(x)
    np.testing.assert_array_equal(filled[:, seen], x[:, seen])

    covariance = truth.weight @ truth.weight.T + np.diag(truth.noise)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen, hidden])
    mean = truth.bias[hidden] + gain @ (x[0, seen] - truth.bias[seen])
    sd = np.sqrt(covariance[hidden, hidden] - gain @ covariance[seen, hidden])
    found = filled[:, hidden]
    if strategy == "draw":
        assert stats.kstest(found, stats.norm(mean, sd).cdf).pvalue > 1e-3
    else:  # of 1000 draws each; weights and the median cost some
        assert np.abs(found - mean).max() < 8 * sd / np.sqrt(1000)
        assert abs(found.mean() - mean) < 5 * found.std() / np.sqrt(200)


def known_shares(probs, family):
    """A VAE with one column of classes, whose shares are known whatever z is, beside a number."""
    if family == "ordinal":
        cuts = torch.logit(torch.tensor(np.cumsum(probs)[:-1]))
        block = {"name": "ordinal", "categories": len(probs), "predictor": 0.0, "cutpoints": cuts}
    else:
        logits = torch.tensor(probs).log()
        block = {"name": "categorical", "categories": len(probs), "logits": logits}
    return [{"columns": [0], "name": "normal", "loc": 0.0, "scale": 1.0}, {"columns": [1], **block}]


PROBS = [0.35, 0.05, 0.3, 0.3]  # mode 0, median 2, mean 1.55


@pytest.mark.parametrize(
    ("family", "strategy", "expected"),
    [
        ("ordinal", "mean", 1.55),
        ("ordinal", "median", 2.0),
        ("ordinal", "mode", 0.0),
        ("categorical", "mean", 0.0),
        ("categorical", "median", 0.0),
        ("categorical", "mode", 0.0),
    ],
)
def test_classes_by_what_is_asked(family, strategy, expected):
    blocks = known_shares(PROBS, family)
    likelihood = pv.Columns((2,), blocks=[{**blocks[0]}, blocks[1]])
    vae = pv.VAE(
        prior=pv.Normal((1,), loc=0.0, scale=1.0),
        likelihood=likelihood,
        guide=pv.Normal((1,), loc=0.0, scale=1.0),
    )
    x = np.array([[0.3, np.nan], [1.0, 3.0], [0.2, np.nan], [0.1, 0.0]])
    made = fitted_to(vae, x, strategy, num_samples=2000)
    filled = made.transform(x)
    error = 5 * np.std(np.repeat(range(4), np.multiply(PROBS, 100).astype(int))) / np.sqrt(2000)
    np.testing.assert_allclose(filled[[0, 2], 1], expected, atol=error if expected == 1.55 else 0)
    np.testing.assert_array_equal(filled[[1, 3]], x[[1, 3]])


def test_draws_of_classes_have_their_shares():
    vae = pv.VAE(
        prior=pv.Normal((1,), loc=0.0, scale=1.0),
        likelihood=pv.Columns((2,), blocks=known_shares(PROBS, "ordinal")),
        guide=pv.Normal((1,), loc=0.0, scale=1.0),
    )
    x = np.column_stack([np.zeros(1000), np.full(1000, np.nan)])
    x[:4, 1] = range(4)
    drawn = fitted_to(vae, x, "draw", num_samples=20).transform(x)[4:, 1]
    counts = np.bincount(drawn.astype(int), minlength=4)
    assert stats.chisquare(counts, len(drawn) * np.array(PROBS)).pvalue > 1e-3


def test_a_continuous_column_has_no_mode():
    x = mixed()
    with pytest.raises(ValueError, match=r"'mode' needs counts or classes.*continuous column"):
        imputer("mode", likelihood=MIXED).fit(x).transform(x)
    with pytest.raises(ValueError, match="continuous column 0; use strategy 'median'"):
        imputer("mode", likelihood=MIXED, num_samples=1).fit(x).transform(x)
    seen = np.where(np.arange(4) == 0, np.nan_to_num(x), x)
    made = imputer("mode", likelihood=MIXED).fit(seen)
    filled = made.transform(seen)
    assert (filled[:, 1:] == filled[:, 1:].round()).all(), "what is seen needs no mode"
    with pytest.raises(ValueError, match=r"strategy must be one of .* got 'modal'"):
        made.set_params(strategy="modal").transform(seen)


@pytest.mark.filterwarnings("ignore:fit. training has not reached")
def test_a_count_has_a_mode_where_all_draws_differ():
    x = np.random.default_rng(0).poisson(1e6, (40, 2)).astype(float)
    mode, median = (
        imputer(strategy, likelihood="poisson").fit(x).transform(holes(x))
        for strategy in ("mode", "median")
    )
    np.testing.assert_allclose(mode, median, atol=1000)  # one standard deviation


def test_the_mode_is_that_of_scipy_and_of_several_the_middle_one():
    draws = torch.tensor(np.random.default_rng(0).poisson(3.0, (200, 5, 4))).double()
    found = _most_often(draws)
    for row, column in np.ndindex(5, 4):
        values, counts = np.unique(draws[:, row, column], return_counts=True)
        several = values[counts == counts.max()]
        assert found[row, column] == several[(len(several) - 1) // 2]
        if len(several) == 1:
            assert found[row, column] == stats.mode(draws[:, row, column]).mode
    assert _most_often(torch.tensor([[[1.0]], [[5.0]], [[3.0]]])) == 3.0


def test_a_mass_beside_a_density_has_a_mode():
    x = np.random.default_rng(0).gamma(2.0, size=(40, 2)) * (np.arange(80).reshape(40, 2) % 3 > 0)
    filled = imputer("mode", likelihood="zero_inflated_gamma").fit(x).transform(holes(x))
    assert (filled[np.isnan(holes(x))] == 0).mean() > 0.5


@pytest.mark.parametrize("strategy", ["mean", "median", "draw"])
def test_mixed_tables_stay_what_they_are_where_they_are_seen(strategy):
    x = mixed()
    filled = imputer(strategy, likelihood=MIXED).fit(x).transform(x)
    seen = ~np.isnan(x)
    np.testing.assert_array_equal(filled[seen], x[seen])
    assert set(filled[:, 1]) <= {0, 1, 2}
    assert strategy == "mean" or set(filled[:, 2]) <= {0, 1, 2, 3}


def test_the_mean_is_that_of_impute():
    x = holes(np.random.default_rng(0).normal(size=(40, 3)))
    made = imputer().fit(x)
    expected = made.estimator_.vae_.impute(x, num_samples=30, seed=made.estimator_.seed_)
    np.testing.assert_array_equal(made.transform(x), expected.numpy())
    assert made.transform(x.astype(np.float32)).dtype == np.float32


def test_frames_keep_names_and_labels():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(40, 9, 50), "sex": rng.choice(["f", "m"], 50)})
    frame.loc[3, "age"], frame.loc[5, "sex"] = np.nan, None
    blocks = [
        {"columns": ["age"], "name": "normal"},
        {"columns": ["sex"], "name": "categorical"},
    ]
    made = imputer(likelihood={"name": "columns", "blocks": blocks})
    filled = made.set_output(transform="pandas").fit_transform(frame)
    assert list(filled.columns) == list(made.get_feature_names_out()) == ["age", "sex"]
    assert filled.loc[5, "sex"] in ("f", "m")
    assert filled.notna().all(axis=None)
    assert (filled.sex[filled.index != 5] == frame.sex[frame.index != 5]).all()


def test_in_a_pipeline_and_a_search():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 1))
    x = z + 0.3 * rng.normal(size=(80, 3))
    pipeline = make_pipeline(imputer(latent=1), LinearRegression())
    grid = {"vaeimputer__strategy": ["mean", "draw"], "vaeimputer__estimator__latent": [1, 2]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(holes(x), z[:, 0])
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.predict(holes(x))).all()


def test_partial_fit_trains_the_estimator_on():
    x = holes(np.random.default_rng(0).normal(size=(40, 3)))
    made = imputer().partial_fit(x).partial_fit(x)
    twice = VAEEstimator(latent=2, hidden=[], epochs=2, num_samples=30).partial_fit(x)
    twice.partial_fit(x)
    assert list(made.estimator_.history_.loss) == list(twice.history_.loss)
    with pytest.raises(ValueError, match="X has 2 features, but VAEImputer is expecting 3"):
        made.partial_fit(x[:, :2])


def test_sparse_tables_have_nothing_missing():
    x = sparse.csr_array(np.random.default_rng(0).poisson(0.5, (30, 4)).astype(float))
    np.testing.assert_array_equal(imputer().fit_transform(x), x.toarray())


def test_nothing_global_changes():
    x, before = holes(np.random.default_rng(0).normal(size=(40, 3))), torch.get_rng_state()
    made = imputer("median").fit(x)
    made.transform(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.estimator_.vae_.training


def test_what_makes_no_sense_is_refused_by_fit():
    x = holes(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match=r"strategy must be one of .*; got 'most_frequent'"):
        imputer("most_frequent").fit(x)
    with pytest.raises(TypeError, match="needs its estimator as a VAEEstimator; got LinearReg"):
        VAEImputer(LinearRegression()).fit(x)
    with pytest.raises(NotFittedError):
        imputer().transform(x)
    with pytest.raises(pv.DataError, match="needs finite numbers"):
        imputer().fit(np.where(np.isnan(x), np.inf, x))
