"""Several models as one: weights against a direct maximisation and simulated mixtures, scores
against closed forms of linear-Gaussian models.
"""

import math
import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pandas
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from test_models import of
from test_whole import GROUP, VALUES, guide_of_hierarchy, hierarchy
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.criticism import scoring
from pyro_vae.criticism.stacking import best_weights

ONE = LinearGaussian.with_diagonal_posterior(4, 2)
TWO = LinearGaussian.with_diagonal_posterior(4, 2, seed=1)
THREE = LinearGaussian(ONE.weight, ONE.bias - 4.0, ONE.noise)
TRUTHS = {"one": ONE, "two": TWO}


def mixed(num, share=0.7, seed=3):
    """Data of the two models, and how many are of the first."""
    rng = np.random.default_rng(seed)
    first = rng.random(num) < share
    return np.where(first[:, None], ONE.draw(num, seed + 1), TWO.draw(num, seed + 2)), first


def exact(x, truths=TRUTHS):
    """Of shape (models, N)."""
    return np.stack([truth.log_evidence(x) for truth in truths.values()])


def vaes(truths=TRUTHS, **options):
    return {name: truth.vae(**options) for name, truth in truths.items()}


def objective(log_density, weights):
    with np.errstate(divide="ignore"):
        return logsumexp(log_density + np.log(weights)[:, None], axis=0).mean()


def quietly(function, *args, **options):
    """A call whose flags are not the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return function(*args, **options)


def given(**values):
    """Results of models with the given log p(x)."""
    x = torch.zeros(len(next(iter(values.values()))), 1)
    return {name: quietly(pv.log_evidence, of(*v), x, num_samples=1) for name, v in values.items()}


# weights


def test_the_weights_of_a_simulated_mixture_are_found():
    x, _ = mixed(2000)
    found = pv.stack(vaes(), x, num_samples=2)
    log_density = exact(x)
    one, two = np.exp(log_density - logsumexp(log_density, axis=0, b=[[0.7], [0.3]]))
    error = 1 / math.sqrt(((one - two) ** 2).sum())  # from the Fisher information of a weight
    assert error < 0.02
    assert abs(found["one"] - 0.7) < 4 * error
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert list(found.index) == ["one", "two"]
    assert (found.name, found.index.name) == ("weight", "model")


def test_the_stated_error_is_that_of_many_data_sets():
    """The guide is exact, so that only the draw of data counts."""
    z = []
    for seed in range(300):
        log_density = exact(mixed(300, seed=1000 + 10 * seed)[0])
        weights, _ = best_weights(log_density)
        one, two = np.exp(log_density - logsumexp(log_density, axis=0, b=weights[:, None]))
        z.append((weights[0] - 0.7) * math.sqrt(((one - two) ** 2).sum()))
    assert abs(np.mean(z)) < 4 * np.std(z) / math.sqrt(len(z))
    assert 0.85 < np.std(z) < 1.15
    assert np.abs(z).max() < 4


def test_figures_are_the_exact_ones():
    x, _ = mixed(500)
    found = pv.stack(vaes(), x, num_samples=50)
    log_density = exact(x)
    mix = logsumexp(log_density, axis=0, b=found.to_numpy()[:, None])
    best = log_density[log_density.mean(1).argmax()]
    apart = mix - best
    assert found.attrs["mean"] == pytest.approx(mix.mean(), abs=1e-9)
    assert found.attrs["best_mean"] == pytest.approx(best.mean(), abs=1e-9)
    assert found.attrs["best"] == ["one", "two"][log_density.mean(1).argmax()]
    assert found.attrs["difference"] == pytest.approx(apart.mean(), abs=1e-9)
    assert found.attrs["difference_se"] == pytest.approx(apart.std(ddof=1) / 500**0.5, abs=1e-9)
    assert found.attrs["difference"] > 4 * found.attrs["difference_se"]


PROBLEMS = [
    (num, models, spread, impossible)
    for num in (2, 50, 3000)
    for models in (2, 5, 12)
    for spread in (0.01, 1.0, 100.0, 1e4)
    for impossible in (0.0, 0.3)
]


@pytest.mark.parametrize(("num", "models", "spread", "impossible"), PROBLEMS)
def test_weights_are_as_good_as_the_certificate_says(num, models, spread, impossible):
    """By concavity no weights are better by more than the largest mean ratio less 1."""
    rng = np.random.default_rng([num, models, int(spread)])
    log_density = rng.normal(size=(models, num)) * spread + rng.normal(size=(models, 1)) * spread
    log_density[rng.random(log_density.shape) < impossible] = -np.inf
    log_density[0] = np.where(np.isinf(log_density).all(0), 0.0, log_density[0])
    weights, gap = best_weights(log_density - 2000.0)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    ratio = np.exp(log_density - logsumexp(log_density, axis=0, b=weights[:, None])).mean(1)
    assert ratio.max() - 1 < 1e-6
    assert gap == pytest.approx(max(0, ratio.max() - 1), abs=1e-9)
    single = max(objective(log_density, one) for one in np.eye(models))
    assert objective(log_density, weights) >= single


def test_weights_equal_a_direct_maximisation():
    truths = {**TRUTHS, "three": THREE}
    x = np.concatenate([mixed(300)[0], THREE.draw(100, seed=9)])
    log_density = exact(x, truths)
    weights, _ = best_weights(log_density)

    def loss(free):
        return -objective(log_density, softmax([0.0, *free]))

    direct = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 0})
    assert objective(log_density, weights) == pytest.approx(-direct.fun, abs=1e-6)
    assert weights == pytest.approx(softmax([0.0, *direct.x]), abs=1e-4)


def test_two_weights_by_hand():
    """3 data only the first can have made, 1 only the second: the weights are the shares."""
    found = quietly(pv.stack, given(a=[0.0] * 3 + [-math.inf], b=[-math.inf] * 3 + [5.0]))
    assert found.to_numpy() == pytest.approx([0.75, 0.25], abs=1e-6)
    assert found.attrs["mean"] == pytest.approx((3 * math.log(0.75) + math.log(0.25) + 5) / 4)
    assert found.attrs["best_mean"] == -math.inf
    assert found.attrs["difference"] == math.inf


def test_a_model_that_is_best_for_all_data_has_all_weight():
    x = ONE.draw(200)
    worse = exact(x)[0] - np.random.default_rng(0).uniform(0.1, 3.0, (2, 200))
    found = quietly(pv.stack, given(a=worse[0].tolist(), b=exact(x)[0].tolist(), c=worse[1]))
    assert found.to_dict() == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert found.attrs["best"] == "b"
    assert (found.attrs["difference"], found.attrs["difference_se"]) == (0.0, 0.0)


def test_twins_have_together_what_one_would_have():
    x, _ = mixed(400)
    alone = pv.stack(vaes(), x, num_samples=2)
    twins = pv.stack(vaes() | {"twin": ONE.vae()}, x, num_samples=2)
    assert twins["one"] + twins["twin"] == pytest.approx(alone["one"], abs=1e-4)
    assert twins.attrs["mean"] == pytest.approx(alone.attrs["mean"], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_worse_than_the_best_single_model(seed):
    """Also with the noise of few draws, and for few data."""
    rng = np.random.default_rng(seed)
    x, _ = mixed(int(rng.integers(1, 30)), share=rng.uniform(), seed=seed)
    found = quietly(pv.stack, vaes(shrink=1.3, shift=0.3), x, num_samples=3, seed=seed)
    assert found.attrs["mean"] >= found.attrs["best_mean"] - 1e-12
    assert found.attrs["difference"] >= 0


@pytest.mark.slow
def test_new_data_give_less_by_what_is_said():
    """The mean of the mixture is too large by (models - 1) / N, over many data sets."""
    new = exact(mixed(100_000, seed=77)[0])
    lost = []
    for seed in range(400):
        log_density = exact(mixed(200, seed=5000 + 10 * seed)[0])
        weights, _ = best_weights(log_density)
        truly = [objective(some, [0.7, 0.3]) for some in (log_density, new)]
        lost.append(objective(log_density, weights) - truly[0] - objective(new, weights) + truly[1])
    assert abs(np.mean(lost) - 1 / 200) < 4 * np.std(lost) / math.sqrt(len(lost))


# what goes in


def test_results_and_models_give_the_same():
    x, _ = mixed(60)
    models = vaes(shrink=1.2)
    direct = quietly(pv.stack, models, x, num_samples=40, seed=5)
    scores = {
        name: quietly(pv.log_evidence, m, x, num_samples=40, seed=5) for name, m in models.items()
    }
    pandas.testing.assert_series_equal(direct, quietly(pv.stack, scores))
    beside = quietly(pv.stack, models | {"one": scores["one"]}, x, num_samples=40, seed=5)
    pandas.testing.assert_series_equal(direct, beside)
    table = quietly(pv.compare_models, scores)
    assert direct.attrs["best"] == table.index[0]
    assert direct.attrs["best_mean"] == table.log_evidence.iloc[0]


def test_flagged_data_are_said():
    x, _ = mixed(60)
    with pytest.warns(UserWarning, match="of 'one'.*the weights may be others; give tol") as said:
        pv.stack({"one": ONE.vae(shrink=0.2), "two": TWO.vae()}, x, num_samples=50)
    assert said[0].filename == __file__


def counted(binomial):
    family = pv.Binomial((4,), total_count=1) if binomial else pv.Normal((4,), scale=1.0)
    return pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, 4, hidden=()), family),
        pv.Amortised(pv.MLP(4, 4, hidden=()), pv.Normal((2,))),
    )


X = mixed(20)[0]
REFUSED = {
    "no mapping": (lambda: (ONE.vae(), X), TypeError, "stack needs a mapping"),
    "empty": (lambda: ({}, X), ValueError, "stack needs .* an empty one"),
    "kind": (lambda: ({"a": 1}, X), TypeError, "stack needs .*'a'.* int"),
    "no x": (lambda: (vaes(),), ValueError, "stack needs x to score 'one'"),
    "other data": (
        lambda: ({"a": pv.log_evidence(ONE.vae(), X, num_samples=2)}, mixed(20, seed=8)[0]),
        pv.DataError,
        "different data",
    ),
    "scales": (
        lambda: ({"a": counted(True), "b": counted(False)}, np.ones((20, 4))),
        ValueError,
        "stack needs one scale",
    ),
    "NaN": (
        lambda: (given(a=[0.0, 1.0], b=[math.nan, 1.0]),),
        ValueError,
        "that of 'b' is NaN or infinite for 1 of 2, datum 0 first",
    ),
    "impossible": (
        lambda: (given(a=[0.0, -math.inf], b=[1.0, -math.inf]),),
        ValueError,
        "none does for 1 of 2, datum 1 first",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stacked(case):
    made, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        quietly(pv.stack, *made())


def test_one_number_for_all_data_cannot_be_stacked(monkeypatch):
    whole = {"a": (hierarchy, guide_of_hierarchy)}
    monkeypatch.setattr(scoring, "log_evidence", None)
    with pytest.raises(ValueError, match="'a' gives one number for all data"):
        pv.stack(whole, (GROUP, VALUES))


# the average: scores


WEIGHTS = {"one": 0.7, "two": 0.3}


def test_scores_are_the_exact_ones_within_their_errors():
    x, _ = mixed(300)
    holes = x.copy()
    found = pv.average(vaes(shrink=1.4, shift=0.3), WEIGHTS).log_evidence(x, num_samples=400)
    z = (found.log_evidence.values - logsumexp(exact(holes), axis=0, b=[[0.7], [0.3]])) / found.se
    assert (found.flag == "").all()
    assert float(found.se.median()) > 0.005
    assert abs(float(z.mean())) < 0.3  # the bias of a logarithm, of the order of the error
    assert np.abs(z).max() < 5
    covered = int((np.abs(z) < 1.96).sum())
    assert stats.binomtest(covered, 300, 0.95).pvalue > 1e-3, covered
    assert found.attrs["mean"] == pytest.approx(float(found.log_evidence.mean()))
    assert (found.elbo < found.log_evidence).all()


def test_missing_cells_cost_nothing():
    x, _ = mixed(60)
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    x[0] = np.nan
    found = pv.average(vaes(shrink=1.4), WEIGHTS).log_evidence(x, tolerance=0.05)
    for row, value, error in zip(x, found.log_evidence.values, found.se.values, strict=True):
        seen = ~np.isnan(row)
        if not seen.any():
            assert value == pytest.approx(0, abs=1e-9)
            continue
        parts = [
            LinearGaussian(t.weight[seen], t.bias[seen], t.noise[seen]).log_evidence(
                row[None, seen]
            )
            for t in TRUTHS.values()
        ]
        assert abs(value - logsumexp(parts, axis=0, b=[[0.7], [0.3]])[0]) < 5 * error + 1e-9


def test_the_draws_of_models_are_independent():
    """Twins with common draws would have the error of one; of independent ones it is smaller by the
    root of 2.
    """
    x, _ = mixed(50)
    twins = pv.average({"a": ONE.vae(shrink=1.4), "b": ONE.vae(shrink=1.4)}, {"a": 0.5, "b": 0.5})
    found = [twins.log_evidence(x, num_samples=100, seed=s) for s in range(25)]
    spread = np.std([f.log_evidence.values for f in found], axis=0, ddof=1)
    stated = np.sqrt(np.mean([f.se.values**2 for f in found], axis=0))
    assert np.median(spread / stated) == pytest.approx(1, abs=0.12)


def test_a_single_model_and_one_without_weight():
    x, _ = mixed(20)
    both = pv.average(vaes(), {"two": 0.0, "one": 1.0}).log_evidence(x, num_samples=50, seed=1)
    one = pv.average({"one": ONE.vae()}, {"one": 1.0}).log_evidence(x, num_samples=50, seed=1)
    assert both.log_evidence.values.tolist() == one.log_evidence.values.tolist()
    assert np.allclose(one.log_evidence, ONE.log_evidence(x))


def test_a_datum_that_one_model_cannot_have_made():
    """log of the weight of the other, and its error; no NaN."""
    below = pv.VAE(
        pv.Normal((1,), loc=0.0, scale=1.0),
        pv.Normal((1,), loc=0.0, scale=1.0),
        pv.Normal((1,), loc=0.0, scale=1.0),
    )
    found = pv.average({"a": below}, {"a": 1.0}).log_evidence(np.zeros((2, 1)), num_samples=30)
    assert found.log_evidence.values == pytest.approx(
        dist.Normal(0.0, 1.0).log_prob(torch.zeros(2))
    )
    from pyro_vae.criticism.averaging import mixture

    results = given(a=[-math.inf, 0.0, -math.inf], b=[1.0, 2.0, -math.inf])
    found = mixture(results, {"a": 0.25, "b": 0.75})
    expected = [math.log(0.75) + 1, math.log(0.25 + 0.75 * math.e**2), -math.inf]
    assert found.log_evidence.values == pytest.approx(expected)


def test_it_is_a_result_that_can_be_compared():
    x, _ = mixed(200)
    models = vaes()
    whole = pv.average(models, pv.stack(models, x, num_samples=2))
    table = pv.compare_models(models | {"both": whole.log_evidence(x, num_samples=30)}, x)
    assert table.index[0] == "both"
    other = {"both": whole.log_evidence(x[:50], num_samples=30), "one": models["one"]}
    with pytest.raises(pv.DataError, match="'both' 50;"):
        pv.compare_models(other, x)


def test_the_gravest_flag_stays():
    x, _ = mixed(60)
    flagged = pv.average({"one": ONE.vae(shrink=0.2), "two": TWO.vae()}, WEIGHTS)
    with pytest.warns(UserWarning, match="of 'one'.*so is that of the average") as said:
        found = flagged.log_evidence(x, num_samples=50)
    assert said[0].filename == __file__
    assert (found.flag == "heavy tail").any()
    assert found.attrs["flagged"] == int((found.flag != "").sum())


# the average: samples


def test_samples_have_the_shares_of_the_weights():
    far = {"one": ONE, "three": LinearGaussian(ONE.weight, ONE.bias + 100.0, ONE.noise)}
    drawn = pv.average(vaes(far), {"one": 0.7, "three": 0.3}).sample(2000, seed=4)
    assert drawn.shape == (2000, 4)
    first = (drawn - torch.as_tensor(ONE.bias))[:, 0] < 50
    assert stats.binomtest(int(first.sum()), 2000, 0.7).pvalue > 1e-3
    runs = int((first[1:] != first[:-1]).sum())  # in no order
    assert stats.binomtest(runs, 1999, 2 * 0.7 * 0.3).pvalue > 1e-3
    z = (drawn[first].numpy() - ONE.bias) / np.sqrt(np.diag(ONE._marginal().cov))
    assert min(stats.kstest(column, "norm").pvalue for column in z.T) > 1e-3


def test_samples_are_the_same_for_the_same_seed_and_touch_nothing():
    models = vaes()
    both = pv.average(models, WEIGHTS)
    state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(both.sample(50, seed=1), both.sample(50, seed=1))
    assert not torch.equal(both.sample(50, seed=1), both.sample(50, seed=2))
    both.log_evidence(mixed(5)[0], num_samples=3)
    pv.stack(models, mixed(5)[0], num_samples=3)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert all(part.training for vae in models.values() for part in vae.modules())


def test_frames_and_conditions():
    frame = pandas.DataFrame(mixed(40)[0], columns=list("abcd"))
    c = pandas.DataFrame({"site": ["left", "right"] * 20})
    models = {
        name: pv.build(frame, c=c, latent=2, prior=prior)
        for name, prior in (("normal", "normal"), ("student", "student_t"))
    }
    both = pv.average(models, {"normal": 0.5, "student": 0.5})
    drawn = both.sample(40, c, seed=0)
    assert list(drawn.columns) == list("abcd")
    assert list(drawn.index) == list(range(40))
    assert quietly(both.log_evidence, frame, c, num_samples=5).sizes["datum"] == 40
    with pytest.raises(pv.DataError, match="c"):
        both.sample(30, c)


def test_rows_are_those_of_their_own_condition():
    """Of each model row n is made under row n of c."""

    class Shifted(pv.Conditional):
        event_shape = torch.Size((1,))

        @classmethod
        def example(cls):
            return cls()

        def forward(self, joined):
            return dist.Normal(100 * joined[..., -1:], 1.0).to_event(1)

    def vae():
        prior = pv.Normal((1,), loc=0.0, scale=1.0)
        guide = pv.Amortised(pv.MLP(2, 2, hidden=()), pv.Normal((1,)))
        return pv.VAE(prior, Shifted(), guide, condition=pv.Condition(size=1))

    c = np.arange(30.0)[:, None]
    drawn = pv.average({"a": vae(), "b": vae()}, {"a": 0.4, "b": 0.6}).sample(30, c)
    assert np.abs(drawn.numpy() - 100 * c).max() < 6


def test_it_cannot_be_changed():
    both = pv.average(vaes(), WEIGHTS)
    with pytest.raises(FrozenInstanceError):
        both.weights = {"one": 1.0}


def named(columns):
    return pv.build(pandas.DataFrame(np.eye(4), columns=columns), latent=1)


@pytest.mark.parametrize(
    ("models", "weights", "error", "message"),
    [
        (lambda: ONE.vae(), WEIGHTS, TypeError, "a mapping from names to VAEs"),
        (dict, {}, ValueError, "of sum 1"),
        (lambda: {"a": of(1.0)}, {"a": 1.0}, TypeError, "got as 'a' a tuple"),
        (vaes, [0.7, 0.3], TypeError, "weights by name"),
        (vaes, {"one": 1.0}, ValueError, "a weight for each model"),
        (vaes, WEIGHTS | {"three": 0.0}, ValueError, "and no others"),
        (vaes, {"one": 0.7, "two": 0.7}, ValueError, "of sum 1"),
        (vaes, {"one": 1.5, "two": -0.5}, ValueError, "from 0 to 1"),
        (vaes, {"one": math.nan, "two": 1.0}, ValueError, "from 0 to 1"),
        (
            lambda: {"a": named(list("abcd")), "b": named(list("abce"))},
            {"a": 0.5, "b": 0.5},
            ValueError,
            "of the same columns",
        ),
        (
            lambda: {"one": ONE.vae(), "b": named(list("abce"))},
            {"one": 0.5, "b": 0.5},
            ValueError,
            "of the same columns",
        ),
    ],
)
def test_what_cannot_be_averaged(models, weights, error, message):
    with pytest.raises(error, match=message):
        pv.average(models(), weights)


def test_an_array_for_models_of_columns_in_several_orders_is_refused():
    x = np.random.default_rng(0).normal(size=(20, 2))
    frame = pandas.DataFrame(x, columns=["a", "b"])
    models = {"ab": pv.build(frame, latent=1), "ba": pv.build(frame[["b", "a"]], latent=1)}
    with pytest.raises(ValueError, match="columns of 'ab' are 'a', 'b' and those of 'ba' 'b', "):
        pv.stack(models, frame.to_numpy(), num_samples=25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert pv.stack(models, frame, num_samples=25).sum() == pytest.approx(1)
