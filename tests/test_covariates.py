"""Conditions as users have them: labels, columns of several kinds, exposures."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli import app

RNG = np.random.default_rng(0)
X = RNG.poisson(4.0, (40, 3))
CODES = np.arange(40) % 3
NAMES = np.array(["blood", "liver", "skin"])[CODES]
FRAME = pd.DataFrame({"tissue": NAMES, "age": RNG.normal(50, 10, 40), "plate": CODES})


def conditional(c, **options):
    return pv.build(X, c=c, latent=2, likelihood="poisson", hidden=[8], **options)


LABELS = {
    "list": NAMES.tolist(),
    "array": NAMES,
    "objects": NAMES.astype(object),
    "column": NAMES[:, None],
    "series": pd.Series(NAMES),
    "categories": pd.Series(NAMES, dtype="category"),
    "strings of pandas": pd.Series(NAMES, dtype="string"),
    "frame": pd.DataFrame({"tissue": NAMES}),
}


@pytest.mark.parametrize("c", LABELS.values(), ids=LABELS.keys())
def test_labels_are_classes_with_names(c, tmp_path):
    vae, coded = conditional(c), conditional(CODES)
    assert pv.describe(vae)["condition"]["categories"] == ["blood", "liver", "skin"]
    histories = [
        pv.fit(model, X, of, validation=(X[:9], of[:9]), epochs=2, progress=False)
        for model, of in ((vae, c), (coded, CODES))
    ]
    columns = ["loss", "validation", "kl"]
    pd.testing.assert_frame_equal(histories[0][columns], histories[1][columns])
    pv.save(vae, tmp_path / "a.pvae")
    again = pv.load(tmp_path / "a.pvae")
    assert torch.equal(again.encode(X, c).mean, coded.encode(X, CODES).mean)
    assert torch.equal(vae.encode(X, CODES).mean, vae.encode(X, c).mean)  # codes go on working
    assert torch.equal(vae.sample(40, c), coded.sample(40, CODES))


def test_a_class_that_was_not_seen_is_named():
    vae = conditional(NAMES)
    message = r"one of the classes 'blood', 'liver', 'skin' in .*got 'bone' at row 1 \(and 1 more"
    with pytest.raises(pv.DataError, match=message):
        vae.sample(3, ["skin", "bone", "brain"])
    assert vae.sample(2, ["skin", "skin"]).shape == (2, 3)
    with pytest.raises(pv.DataError, match=r"got nan at row 0|got None at row 0"):
        vae.sample(2, pd.Series([None, "skin"]))


def test_numbers_are_not_taken_for_names_that_are_numbers():
    vae = conditional(CODES.astype(str))
    with pytest.raises(pv.DataError, match="c has classes named '0', '1', '2': give their names"):
        vae.sample(1, [1])
    assert vae.sample(1, ["1"]).shape == (1, 3)
    fractions = pv.Condition(categories=["1.0", "-2.0"])
    with pytest.raises(pv.DataError, match="give their names, as strings"):
        fractions.check(np.array([1.0]), 1)
    mixed = pd.DataFrame({"site": ["a", "b"], "batch": ["1", "2"]})
    condition = pv.Condition.of(mixed)
    with pytest.raises(pv.DataError, match="c has classes named '1', '2': give their names"):
        condition.check(mixed.assign(batch=[1, 2]), 2)
    times = mixed.assign(when=pd.to_datetime(["2020-01-01", "2020-01-02"]))
    with pytest.raises(pv.DataError, match="c must be numbers or labels; got datetime64"):
        pv.Condition.of(times).check(times, 2)
    with pytest.raises(ValueError, match="categories must be how many, or names that are strings"):
        conditional(pd.Series(CODES + 1, dtype="category"))
    assert conditional(pd.Series(CODES, dtype="category")).condition.describe()["categories"] == 3


def test_scalar_latents_and_images_of_latents_take_c():
    for latent, seen_by in (([], ["likelihood", "guide"]), ([1, 2, 2], ["prior", "guide"])):
        c = RNG.normal(size=(40, 2))
        condition = {"size": 2, "seen_by": seen_by}
        vae = pv.build(
            X,
            c=c,
            latent=latent,
            likelihood="poisson",
            hidden=[4],
            condition=condition,
            prior={"name": "normal"} if "prior" in seen_by else "normal",
        )
        pv.fit(vae, X, c, epochs=1, progress=False)


def test_categories_keep_their_order_and_those_that_do_not_occur():
    c = pd.Series(NAMES, dtype=pd.CategoricalDtype(["skin", "bone", "liver", "blood"]))
    vae = conditional(c)
    assert vae.condition.describe()["categories"] == ["skin", "bone", "liver", "blood"]
    assert vae.condition.width == 4


def test_columns_of_several_kinds():
    vae = conditional(FRAME)
    assert pv.describe(vae)["condition"] == {
        "size": 3,
        "classes": {"tissue": ["blood", "liver", "skin"]},
        "columns": ["tissue", "age", "plate"],
        "seen_by": ["likelihood", "guide"],
    }
    encoded = vae.encode_condition(40, FRAME)
    expected = np.hstack([FRAME[["age", "plate"]], np.eye(3)[CODES]])
    np.testing.assert_allclose(encoded, expected)
    network = vae.likelihood.network
    np.testing.assert_allclose(network.mean[2:4], FRAME[["age", "plate"]].mean())
    np.testing.assert_allclose(network.sd[2:4], FRAME[["age", "plate"]].std(ddof=0))
    np.testing.assert_array_equal(network.mean[4:], np.zeros(3))

    other = FRAME[["plate", "tissue", "age"]]
    assert torch.equal(vae.encode(X, other).mean, vae.encode(X, FRAME).mean)
    pv.fit(vae, X, other, epochs=1, progress=False)
    with pytest.raises(pv.DataError, match="c needs the columns 'tissue', 'age', 'plate'; got"):
        vae.encode(X, FRAME.rename(columns={"age": "years"}))
    with pytest.raises(pv.DataError, match="c needs numbers in column 'age'; got 'blood'"):
        vae.encode(X, FRAME.assign(age=NAMES))


def test_columns_of_classes_are_declared():
    c = np.column_stack([CODES, RNG.normal(size=40), CODES % 2])
    vae = conditional(c, condition={"classes": {"0": 3, 2: 2}})
    expected = np.hstack([c[:, [1]], np.eye(3)[CODES], np.eye(2)[CODES % 2]])
    np.testing.assert_allclose(vae.encode_condition(40, c), expected)
    assert pv.build(pv.describe(vae)).condition.describe() == vae.condition.describe()
    with pytest.raises(pv.DataError, match=r"c needs classes from 0 to 2; got 3\.0 at row 5"):
        vae.encode(X, np.where(np.arange(40)[:, None] == 5, 3.0, c))
    with pytest.raises(ValueError, match="classes: c has no column 'batch'; there are 0 to 2"):
        pv.Condition(size=3, classes={"batch": 2})
    plate = conditional(FRAME, condition={"classes": {"plate": 3}})
    assert plate.condition.width == 1 + 3 + 3


def test_labels_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X.astype(float))
    FRAME.to_csv("c.csv", index=False)
    done = CliRunner().invoke(
        app,
        [
            "fit",
            "x.npy",
            "--condition",
            "c.csv",
            "--likelihood",
            "poisson",
            "--hidden",
            "4",
            "--epochs",
            "1",
            "-o",
            "m.safetensors",
        ],
    )
    assert done.exit_code == 0, done.output
    vae = pv.load("m.safetensors")
    assert vae.condition.describe()["classes"] == {"tissue": ["blood", "liver", "skin"]}
    pd.DataFrame({"plate": [1, 2], "age": [40.0, 50.0], "tissue": ["skin", "bone"]}).to_csv(
        "two.csv", index=False
    )
    done = CliRunner().invoke(app, ["sample", "m.safetensors", "--condition", "two.csv"])
    assert done.exit_code == 2 or isinstance(done.exception, pv.DataError)
    assert "'bone'" in done.output + str(done.exception)


# Exposures


@pytest.mark.parametrize(
    ("likelihood", "exact"),
    [
        ("poisson", lambda cell, e, x: stats.poisson(cell.rate * e).logpmf(x)),
        (
            "negative_binomial",
            lambda cell, e, x: stats.nbinom(
                cell.total_count, 1 / (1 + np.exp(cell.logits) * e)
            ).logpmf(x),
        ),
        ("exponential", lambda cell, e, x: stats.expon(scale=e / cell.rate).logpdf(x)),
        (
            "gamma",
            lambda cell, e, x: stats.gamma(cell.concentration, scale=e / cell.rate).logpdf(x),
        ),
    ],
)
def test_an_exposure_multiplies_the_rate(likelihood, exact):
    x, e = X + 1.0, np.linspace(0.5, 20.0, 40)
    vae = pv.build(x, c=e, condition={"exposure": 0}, latent=2, likelihood=likelihood, hidden=[8])
    z = torch.randn(40, 2)
    with torch.no_grad():
        found = vae.decode(z, e).log_prob(torch.tensor(x))
        at_one = vae.decode(z, np.ones(40)).base_dist
    parameters = ("rate", "total_count", "logits", "concentration")
    cell = type(
        "cell", (), {n: getattr(at_one, n).numpy() for n in parameters if n in vars(at_one)}
    )
    np.testing.assert_allclose(found, exact(cell, e[:, None], x).sum(1))
    unit = pv.describe(vae)["likelihood"]["unit"]
    np.testing.assert_allclose(unit, (x / e[:, None]).mean(0), rtol=1e-5)


def test_a_fixed_rate_is_multiplied_too():
    likelihood = {"name": "poisson", "rate": 2.0}
    c = np.full(40, 3.0)
    vae = pv.build(X, c=c, condition={"exposure": 0}, latent=1, likelihood=likelihood)
    mean = vae.decode(torch.zeros(40, 1), c).mean
    torch.testing.assert_close(mean, torch.full((40, 3), 6.0))


def test_an_exposure_beside_classes_by_name(tmp_path):
    c = pd.DataFrame({"batch": NAMES, "depth": RNG.integers(500, 2000, 40)})
    vae = conditional(c, condition={"exposure": "depth"})
    assert vae.condition.width == 3
    assert vae.likelihood.network.in_shape == (2 + 3,)
    assert vae.posterior.network.in_shape == (3 + 3 + 1,)
    encoded = vae.encode_condition(40, c)
    np.testing.assert_allclose(encoded[:, -1], np.log(c.depth))
    history = pv.fit(vae, X, c, validation=(X[:9], c[:9]), epochs=3, progress=False)
    assert history.loss.notna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        evidence = pv.log_evidence(vae, X, c, num_samples=50)
        assert np.isfinite(pv.log_evidence((vae.model, vae.guide), X, encoded_rows(c)).mean())
    assert evidence.log_evidence.notnull().all()
    pv.save(vae, tmp_path / "a.pvae")
    assert pv.describe(pv.load(tmp_path / "a.pvae")) == pv.describe(vae)
    assert vae.sample(40, c).shape == vae.reconstruct(X, c).shape == (40, 3)


def encoded_rows(c):
    """c as numbers, for a pair of Pyro functions."""
    return np.column_stack([CODES, c.depth]).astype(float)


def test_what_cannot_be_an_exposure_is_refused():
    c = np.linspace(1.0, 2.0, 40)
    for name in ("normal", "binomial", "multinomial"):
        with pytest.raises(ValueError, match=r"an exposure multiplies a rate, and .* has none"):
            pv.build(X, c=c, condition={"exposure": 0}, latent=2, hidden=[8], likelihood=name)
    with pytest.raises(ValueError, match="the prior does not see the exposure, and there is noth"):
        pv.Condition(size=1, exposure=0, seen_by=["prior", "guide"])
    depth = pd.Series(c, name="depth")
    assert conditional(depth, condition={"exposure": "depth"}).condition.exposure == 0
    vae = conditional(c, condition={"exposure": 0})
    with pytest.raises(pv.DataError, match=r"c needs exposures above 0; got 0\.0 at row 3"):
        vae.encode(X, np.where(np.arange(40) == 3, 0.0, c))
    with pytest.raises(ValueError, match="exposure: c has no column 'depth'; there are 0 to 0"):
        pv.Condition(size=1, exposure="depth")
    with pytest.raises(ValueError, match="exposure: column 0 is one of classes"):
        pv.Condition(size=2, classes={"0": 2}, exposure=0)


def oracle(x, e, loading, base):
    """log p(x) of counts with one latent, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    rate = np.exp(base + np.multiply.outer(nodes, loading)) * e[:, None, None]
    terms = stats.poisson(rate).logpmf(x[:, None]).sum(-1)
    return np.logaddexp.reduce(terms + np.log(weights / weights.sum()), axis=1)


def oracle_of_sizes(x, loading, base):
    """log p(x) of counts with one latent and a size that is log-normal(0.5, 1): a grid of both."""
    z, size = np.linspace(-7, 7, 141), np.linspace(-6.5, 7.5, 281)
    prior = np.add.outer(stats.norm.logpdf(z), stats.norm(0.5, 1.0).logpdf(size)).ravel()
    log_rate = base + np.multiply.outer(z, loading)[:, None] + size[:, None]
    log_rate = log_rate.reshape(-1, len(base))
    terms = x @ log_rate.T - np.exp(log_rate).sum(-1) - special.gammaln(x + 1).sum(-1)[:, None]
    return np.logaddexp.reduce(terms + prior + np.log(0.1 * 0.05), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_latent_learns_an_unknown_size_where_the_link_is_exp(seed):
    """Within 0.3 nats of the oracle; softplus is up to 0.5 nats away, on the largest data."""
    rng = np.random.default_rng(seed)
    n, d = 3000, 8
    loading, base = rng.normal(size=d) * 0.5, rng.normal(size=d) * 0.5
    e = np.exp(rng.normal(0.5, 1.0, n))
    x = rng.poisson(np.exp(base + rng.normal(size=(n, 1)) * loading) * e[:, None])
    train, test = x[:2500], x[2500:]
    likelihood = {"name": "poisson", "links": {"rate": "exp"}}
    vae = pv.build(train, latent=2, likelihood=likelihood, hidden=[32])
    pv.fit(vae, train, epochs=60, learning_rate=3e-3, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        evidence = pv.log_evidence(vae, test, num_samples=500)
    gap = oracle_of_sizes(test, loading, base) - evidence.log_evidence.values
    print(gap.mean(), gap.std() / len(gap) ** 0.5)
    assert gap.mean() + 2 * gap.std() / len(gap) ** 0.5 < 0.3


@pytest.mark.slow
def test_held_out_counts_with_exposures_are_as_likely_as_their_maker_says():
    """Within 0.3 nats of the oracle; without the exposure nats are lost."""
    rng = np.random.default_rng(0)
    n, d = 3000, 8
    loading, base = rng.normal(size=d) * 0.5, rng.normal(size=d) * 0.5
    e = np.exp(rng.normal(0.5, 1.0, n))
    x = rng.poisson(np.exp(base + rng.normal(size=(n, 1)) * loading) * e[:, None])
    train, test = slice(0, 2500), slice(2500, None)
    exact = oracle(x[test], e[test], loading, base).mean()
    found = {}
    for name, condition in (("known", {"exposure": 0}), ("a covariate", {"size": 1})):
        vae = pv.build(
            x[train], c=e[train], condition=condition, latent=1, likelihood="poisson", hidden=[32]
        )
        pv.fit(vae, x[train], e[train], epochs=60, learning_rate=3e-3, progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            evidence = pv.log_evidence(vae, x[test], e[test], num_samples=500)
        found[name] = evidence.attrs["mean"]
    print(exact, found)
    assert exact - found["known"] < 0.3
    assert found["known"] > found["a covariate"]


def test_whole_numbers_with_gaps_are_no_classes():
    """Nothing would be learned of the class that does not occur."""
    x = np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(
        pv.DataError, match=r"whole numbers up to 3, of which 3 occur; number classes"
    ):
        pv.build(x, c=np.array([0, 1, 3] * 3))
    vae = pv.build(x, c=np.array([0, 1, 3] * 3), condition={"categories": 4})
    assert vae.condition.describe()["categories"] == 4
