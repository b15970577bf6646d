"""The scikit-learn estimator: its contract, its numbers, and that it is no more than the library it
stands on.
"""

import inspect
import random
import re
import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_vae as pv
from pyro_vae.estimator import VAEEstimator
from pyro_vae.estimator.estimator import BUILD_OPTIONS, FIT_OPTIONS

# One scale for each dimension, whatever the context.
SHARED = {
    "name": "normal",
    "scale": "learned",
}


def estimator(**options):
    return VAEEstimator(**{"latent": 2, "hidden": [], "epochs": 2, "num_samples": 30, **options})


def linear(**options):
    """A linear VAE whose guide can be exact."""
    given = {
        "likelihood": SHARED,
        "guide": SHARED,
        "loss": "mean_field",
        "learning_rate": 0.02,
        "num_samples": 200,
    }
    return estimator(**{**given, **options})


def factors(num=100, seed=0):
    """Two factors behind five columns."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(num, 2)) @ (2 * rng.normal(size=(2, 5)))
        + 0.5 * rng.normal(size=(num, 5))
        + 3.0
    )


@pytest.fixture(autouse=True)
def _k_hat_is_not_the_question():
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"log p\(x\) of \d+ of \d+ data cannot be trusted", UserWarning
        )
        yield


# The contract

DRAWS = (
    "importance sampling: the draws of a row depend on its place in X, so the estimate of the same "
    "log p(x) does too"
)
REPEATED = "a row that occurs twice is trained on with two draws, in two places of the order"
WEIGHTS = "weights are for losses of continuous latents"
CHECKS_OF_WEIGHTS = ["not_an_array", "not_overwritten", "list", "pandas_series", "shape"]
EXPECTED = {
    "normal": {
        "check_methods_sample_order_invariance": DRAWS,
        "check_methods_subset_invariance": DRAWS,
        "check_sample_weight_equivalence_on_dense_data": REPEATED,
        "check_sample_weight_equivalence_on_sparse_data": REPEATED,
    },
    "one_hot": {
        "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
        "check_sample_weight_equivalence_on_sparse_data": WEIGHTS,
        **{f"check_sample_weights_{name}": WEIGHTS for name in CHECKS_OF_WEIGHTS},
        "check_all_zero_sample_weights_error": WEIGHTS,
    },
}


@parametrize_with_checks(
    [
        estimator(),
        estimator(prior="one_hot"),
    ],  # over discrete latents log p(x) is exact
    expected_failed_checks=lambda checked: EXPECTED[checked.prior],
)
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("share", [None, 0.25])
def test_weights_are_those_of_the_rows_that_are_trained_on(share):
    x = np.random.default_rng(0).normal(size=(40, 3))
    weights = np.where(np.arange(40) % 3 == 0, 0.0, 2.0)
    fitted = estimator(validation_fraction=share, random_state=0).fit(x, sample_weight=weights)
    kept = np.arange(40)
    held_out = None
    if share is not None:
        kept, tested = train_test_split(kept, test_size=share, random_state=0)
        held_out = x[tested]
    vae = pv.build(x, latent=2, hidden=[], seed=0)
    options = {"epochs": 2, "validation": held_out, "seed": 0, "progress": False}
    history = pv.fit(vae, x[kept], weights=weights[kept], **options)
    pd.testing.assert_frame_equal(
        fitted.history_.drop(columns="seconds"), history.drop(columns="seconds")
    )
    assert not fitted.history_.equals(estimator(validation_fraction=share).fit(x).history_)
    for num in (39, 50):
        with pytest.raises(pv.DataError, match=rf"weights must have shape \(40,\).*got \({num},\)"):
            estimator(validation_fraction=share).fit(x, sample_weight=np.ones(num))


def test_partial_fit_goes_on_where_it_was():
    """As fit that is called twice on one VAE."""
    x, later = factors(80), factors(50, seed=1)
    fitted = estimator(random_state=3).partial_fit(x).partial_fit(later)
    vae = pv.build(x, latent=2, hidden=[], seed=3)
    histories = [pv.fit(vae, rows, epochs=2, seed=3, progress=False) for rows in (x, later)]
    for name, tensor in fitted.vae_.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name]), name
    assert list(fitted.history_.epoch) == [0, 1, 2, 3]
    assert list(fitted.history_.loss) == [loss for h in histories for loss in h.loss]
    np.testing.assert_array_equal(fitted.transform(x), estimator_of(vae, x))

    before = {name: tensor.clone() for name, tensor in fitted.vae_.state_dict().items()}
    with pytest.raises(ValueError, match="X has 4 features, but VAEEstimator is expecting 5"):
        fitted.partial_fit(later[:, :4])
    with pytest.raises(pv.DataError, match="needs finite numbers"):
        fitted.partial_fit(np.where(later > 3, np.inf, later))
    assert all(torch.equal(t, before[name]) for name, t in fitted.vae_.state_dict().items())
    assert len(fitted.history_) == 4


def estimator_of(vae, x):
    with torch.no_grad():
        return vae.encode(x).mean.numpy()


@pytest.mark.parametrize("warm", [False, True])
def test_what_was_learnt_is_kept_when_interrupted(warm):
    def interrupt(epoch):
        if epoch >= 1:
            raise KeyboardInterrupt
        return 1.0

    x = factors(40)
    interrupted = estimator(epochs=4)
    if warm:
        interrupted.fit(x)
    interrupted.beta = interrupt
    with pytest.raises(KeyboardInterrupt):
        interrupted.partial_fit(x) if warm else interrupted.fit(x)
    assert len(interrupted.history_) == (5 if warm else 1)
    assert np.isfinite(interrupted.score_samples(x)).all()
    interrupted.beta = 1.0
    assert len(interrupted.partial_fit(x).history_) == (9 if warm else 5)


@pytest.mark.parametrize(("function", "names"), [(pv.build, BUILD_OPTIONS), (pv.fit, FIT_OPTIONS)])
def test_defaults_are_those_of_the_library(function, names):
    theirs, ours = inspect.signature(function).parameters, VAEEstimator().get_params()
    # What build's docstring says of None.
    stated = {
        "latent": 8,
        "prior": "normal",
    }
    assert {name: ours[name] for name in names} == {
        name: stated.get(name, theirs[name].default) for name in names
    }


def test_what_fit_takes_and_the_estimator_does_not_is_named():
    # A fraction, one for all, random_state, its own default; and what belongs to long training.
    left_out = {"validation", "optimizer", "seed", "progress"}
    left_out |= {"checkpoint", "resume", "callback", "on_nonfinite", "weights"}
    keywords = {
        name for name, p in inspect.signature(pv.fit).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert keywords == set(FIT_OPTIONS) | left_out
    assert set(VAEEstimator().get_params()) == {
        *BUILD_OPTIONS,
        *FIT_OPTIONS,
        "validation_fraction",
        "num_samples",
        "random_state",
        "progress",
    }


def test_every_argument_is_described():
    for thing, function in [
        (VAEEstimator, VAEEstimator.__init__),
        (VAEEstimator.sample, VAEEstimator.sample),
    ]:
        for name in list(inspect.signature(function).parameters)[1:]:
            assert re.search(rf"^    {name}: ", inspect.getdoc(thing), flags=re.MULTILINE), name


# The numbers


@pytest.mark.parametrize("prior", ["normal", "gamma", "one_hot"])
def test_scores_are_the_evidence_of_its_vae(prior):
    x = factors(80)
    fitted = estimator(prior=prior, random_state=3).fit(x)
    expected = pv.log_evidence(fitted.vae_, x, num_samples=30, seed=3).log_evidence.values
    scores = fitted.score_samples(x)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, expected)
    assert fitted.score(x) == expected.mean()


def test_it_is_what_build_and_fit_make():
    x = factors(80)
    options = {
        "latent": 3,
        "prior": {"name": "mixture", "components": 2},
        "likelihood": "student_t",
        "hidden": [4],
    }
    fitted = VAEEstimator(**options, epochs=2, batch_size=20, beta=0.5, random_state=5).fit(x)
    vae = pv.build(x, **options, seed=5)
    history = pv.fit(vae, x, epochs=2, batch_size=20, beta=0.5, seed=5)
    assert pv.describe(fitted.vae_) == pv.describe(vae)
    for name, tensor in fitted.vae_.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name]), name
    assert (fitted.history_.loss == history.loss).all()
    np.testing.assert_array_equal(fitted.transform(x), vae.encode(x).mean.detach().numpy())


def test_a_linear_vae_is_factor_analysis():
    """Against scikit-learn: at the maximum of each, and exactly for the loadings and noise that the
    VAE has found.
    """
    x = StandardScaler().fit_transform(load_wine().data)
    fitted = linear(epochs=100, batch_size=50, learning_rate=lambda epoch: 0.05 * 0.95**epoch).fit(
        x
    )
    se = pv.log_evidence(fitted.vae_, x, num_samples=200).se.values
    analysis = FactorAnalysis(2, tol=1e-8, max_iter=10_000, svd_method="lapack").fit(x)
    difference = fitted.score(x) - analysis.score(x)
    assert -0.05 < difference < 5 * np.sqrt((se**2).mean() / len(x)), (
        "it must reach the maximum, not pass it"
    )

    origin, *loaded = fitted.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    with torch.no_grad():
        analysis.noise_variance_ = fitted.vae_.decode(torch.zeros(2)).variance.numpy()
    analysis.mean_, analysis.components_ = origin, np.array(loaded) - origin
    assert (np.abs(fitted.score_samples(x) - analysis.score_samples(x)) < 5 * se).all()
    # Latents of variance 1.
    np.testing.assert_allclose(fitted.transform(x), analysis.transform(x), atol=0.1)

    drawn, covariance = fitted.sample(4000), analysis.get_covariance()
    standard_error = np.sqrt(np.diag(covariance) / len(drawn))
    assert (np.abs(drawn.mean(0) - origin) < 5 * standard_error).all()
    np.testing.assert_allclose(drawn.var(0), np.diag(covariance), rtol=5 * np.sqrt(2 / len(drawn)))


def test_a_guide_without_a_mean_is_averaged_over_draws():
    x = factors(80)
    fitted = estimator(prior="uniform", num_samples=400).fit(x)
    with torch.no_grad():
        z = fitted.vae_.encode(x).sample(torch.Size([4000])).numpy()
    assert (
        np.abs(fitted.transform(x) - z.mean(0)) < 5 * z.std(0) * np.sqrt(1 / 1000 + 1 / 4000)
    ).all()
    np.testing.assert_array_equal(fitted.transform(x), fitted.transform(x))
    assert np.isfinite(
        estimator(guide="horseshoe_like").fit(x).transform(x)
    ).all()  # its mean is no number


def test_latents_of_any_shape_are_columns():
    x = factors(40)
    fitted = estimator(latent=[2, 3]).fit(x)
    z = fitted.transform(x)
    assert z.shape == (40, 6)
    assert list(fitted.get_feature_names_out()) == [f"vaeestimator{number}" for number in range(6)]
    expected = fitted.vae_.decode(z.reshape(40, 2, 3)).mean.detach().numpy()
    np.testing.assert_array_equal(fitted.inverse_transform(z), expected)


def test_classes_come_back_as_classes():
    x = np.random.default_rng(0).integers(3, size=(50, 4))
    fitted = estimator(likelihood="categorical").fit(x)
    assert set(np.unique(fitted.inverse_transform(fitted.transform(x)))) <= {0, 1, 2}
    assert set(np.unique(fitted.sample(20))) <= {0, 1, 2}


def test_missing_cells_are_left_out():
    x = factors(60)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    fitted = linear().fit(x)
    scores = fitted.score_samples(x)
    assert np.isfinite(scores).all()
    assert np.isfinite(fitted.transform(x)).all()
    np.testing.assert_array_equal(
        scores, pv.log_evidence(fitted.vae_, x, num_samples=200).log_evidence
    )


def test_early_stopping_holds_rows_out():
    x = factors(100)
    fitted = estimator(
        hidden=[50], epochs=60, learning_rate=0.05, validation_fraction=0.3, patience=2
    ).fit(x)
    assert len(fitted.history_) < 60
    assert "validation" in fitted.history_
    assert "validation" not in estimator().fit(x).history_
    assert "validation" in estimator(validation_fraction=20).fit(pd.DataFrame(x)).history_


# Among other estimators


def test_in_a_pipeline():
    x = factors(100) * [1, 10, 100, 1000, 10_000]
    pipeline = make_pipeline(StandardScaler(), linear()).fit(x)
    scaled = StandardScaler().fit_transform(x)
    np.testing.assert_allclose(pipeline.score_samples(x), pipeline[-1].score_samples(scaled))
    assert pipeline.score(x) == pipeline.score_samples(x).mean()
    assert pipeline.fit_transform(x).shape == (100, 2)
    restored = pipeline.inverse_transform(pipeline.transform(x))
    assert restored.shape == x.shape
    assert np.allclose(restored.mean(0), x.mean(0), atol=0.5 * x.std(0).max())
    assert list(pipeline.get_feature_names_out()) == ["vaeestimator0", "vaeestimator1"]


def test_a_search_finds_the_number_of_factors():
    """Two factors made the data: a search must see that one is not enough."""
    x = factors(100)
    pipeline = make_pipeline(StandardScaler(), linear(epochs=20, batch_size=20, learning_rate=0.05))
    search = GridSearchCV(
        pipeline, {"vaeestimator__latent": [1, 2]}, cv=2, error_score="raise"
    ).fit(x)
    assert search.best_params_ == {"vaeestimator__latent": 2}
    assert search.score(x) == search.best_estimator_.score_samples(x).mean()


def test_a_search_over_priors_and_a_cross_validation():
    x = factors(60)
    folds = cross_val_score(linear(), x, cv=3, error_score="raise")
    assert folds.shape == (3,)
    mixture = {"name": "mixture", "components": 2}
    search = GridSearchCV(linear(), {"prior": ["normal", mixture]}, cv=3, error_score="raise")
    found = search.fit(x).cv_results_
    np.testing.assert_allclose([found[f"split{n}_test_score"][0] for n in range(3)], folds)
    assert search.best_params_["prior"] in ("normal", mixture)


def test_a_clone_has_the_arguments_and_nothing_else():
    table = {"name": "mixture", "components": 2}
    fitted = estimator(
        prior=table, likelihood={"name": "normal", "network": {"name": "mlp", "hidden": [3]}}
    ).fit(factors())
    again = clone(fitted)
    assert not hasattr(again, "vae_")
    assert again.get_params() == fitted.get_params()
    assert table == {"name": "mixture", "components": 2}
    assert torch.equal(
        *(e.vae_.likelihood.network(torch.zeros(2)) for e in (fitted, again.fit(factors())))
    )


def test_frames_are_read_by_their_names():
    x = pd.DataFrame(factors(60), columns=list("abcde"))
    fitted = estimator().fit(x)
    assert list(fitted.feature_names_in_) == list("abcde")
    np.testing.assert_array_equal(
        fitted.score_samples(x), estimator().fit(x.to_numpy()).score_samples(x.to_numpy())
    )
    with pytest.raises(ValueError, match="feature names"):
        fitted.score_samples(x[list("edcba")])
    z = fitted.set_output(transform="pandas").transform(x.set_index(x.index + 7))
    assert list(z.columns) == ["vaeestimator0", "vaeestimator1"]
    assert z.index[0] == 7
    assert fitted.inverse_transform(z).shape == x.shape
    x.loc[3, "d"] = np.inf
    with pytest.raises(pv.DataError, match=r"row 3, column 'd'"):
        fitted.transform(x)


# Random states


def test_a_whole_number_is_the_seed_of_everything():
    x = factors(60)
    first, second = (
        estimator(random_state=7, hidden=[3], validation_fraction=0.2).fit(x) for _ in range(2)
    )
    assert first.seed_ == 7
    np.testing.assert_array_equal(first.score_samples(x), second.score_samples(x))
    np.testing.assert_array_equal(first.sample(5), second.sample(5))
    assert (first.sample(5, random_state=1) != first.sample(5)).any()
    assert (
        estimator(random_state=8, hidden=[3]).fit(x).score_samples(x) != first.score_samples(x)
    ).all()


def test_a_random_state_goes_on():
    x, state = factors(60), np.random.RandomState(0)
    one = estimator(random_state=state)
    seeds = {one.fit(x).seed_, one.fit(x).seed_}
    assert len(seeds) == 2
    # Of one fit the scores are one.
    np.testing.assert_array_equal(one.score_samples(x), one.score_samples(x))
    assert (one.sample(3, random_state=state) != one.sample(3, random_state=state)).any()


def test_none_is_the_random_state_of_numpy():
    before = np.random.get_state()  # noqa: NPY002
    try:
        seeds = []
        for _ in range(2):
            np.random.seed(5)  # noqa: NPY002
            seeds.append([estimator(random_state=None).fit(factors(40)).seed_ for _ in range(2)])
    finally:
        np.random.set_state(before)  # noqa: NPY002
    assert seeds[0] == seeds[1]
    assert seeds[0][0] != seeds[0][1]


def globals_now():
    return (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        pyro.settings.get(),
        list(pyro.get_param_store().keys()),
        list(warnings.filters),
    )


@pytest.mark.parametrize("prior", ["normal", "gamma", "one_hot"])
def test_nothing_global_changes(prior):
    x, before = factors(40), globals_now()
    fitted = estimator(prior=prior, validation_fraction=0.2).fit(x)
    fitted.inverse_transform(fitted.transform(x))
    fitted.score(x)
    fitted.sample(3)
    assert globals_now() == before
    assert fitted.vae_.training


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "poison"}, "no conditional is named 'poison'; did you mean 'poisson'"),
        ({"prior": {"name": "normal", "sd": 1.0}}, "prior.*sd"),
        ({"latent": 0}, "latent: every size of a shape must be a whole number from 1; got 0"),
        ({"loss": "elbow"}, "no loss is named 'elbow'"),
        ({"epochs": 0}, "epochs must be a whole number from 1; got 0"),
        ({"num_samples": 0}, "num_samples must be a whole number from 1; got 0"),
        ({"validation_fraction": 1.5}, "test_size"),
        ({"random_state": "0"}, "cannot be used to seed"),
        ({"random_state": -1}, "Seed must be between"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused_by_fit(options, message):
    unfitted = estimator(**options)  # says nothing yet, as scikit-learn wants it
    with pytest.raises(ValueError, match=message):
        unfitted.fit(factors(40))
    assert not hasattr(unfitted, "vae_")


@pytest.mark.parametrize(
    ("kind", "x", "message"),
    [
        (
            pv.DataError,
            factors(40),
            "Poisson.* needs whole numbers from 0; got .* at row 0, column",
        ),
        (pv.DataError, np.full((5, 2), np.inf), "needs finite numbers"),
        (ValueError, np.zeros(5), "Reshape your data"),
        (ValueError, np.zeros((5, 2, 2)), "dim 3"),
        (ValueError, [["a", "b"]], "could not convert|numeric"),
    ],
    ids=str,
)
def test_data_that_do_not_fit_are_refused(kind, x, message):
    with pytest.raises(kind, match=message):
        estimator(likelihood="poisson").fit(x)


def test_sparse_tables_are_tables():
    x = np.random.default_rng(0).poisson(0.5, (60, 6)).astype(float)
    found = [
        (fitted.transform(table), fitted.score_samples(table))
        for table in (x, sparse.csr_array(x), sparse.csc_matrix(x))
        for fitted in [estimator(likelihood="poisson").fit(table)]
    ]
    for latents, scores in found[1:]:
        assert np.array_equal(latents, found[0][0])
        assert np.array_equal(scores, found[0][1])


def test_a_table_of_other_columns_is_refused():
    fitted = estimator().fit(factors(40))
    for method in (fitted.score_samples, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match="X has 3 features, but VAEEstimator is expecting 5"):
            method(np.zeros((4, 3)))
    with pytest.raises(
        pv.DataError, match=re.escape("decode needs latents of shape ('*', 2); got (4, 3)")
    ):
        fitted.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="n_samples must be a whole number from 1; got 0"):
        fitted.sample(0)


@pytest.mark.parametrize(
    "method", ["score_samples", "score", "transform", "inverse_transform", "sample"]
)
def test_nothing_goes_before_fit(method):
    with pytest.raises(NotFittedError):
        getattr(estimator(), method)(*([] if method == "sample" else [factors(4)]))


def test_scores_that_cannot_be_trusted_are_warned_of():
    x = factors(60)
    sure = estimator(likelihood={"name": "normal", "scale": 0.01}, num_samples=100)
    with pytest.warns(UserWarning, match="training has not reached the scale of the data"):
        fitted = sure.fit(x)
    with pytest.warns(UserWarning, match=r"log p\(x\) of \d+ of 60 data cannot be trusted"):
        fitted.score_samples(x)
