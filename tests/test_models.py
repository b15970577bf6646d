"""Models side by side: closed forms of linear-Gaussian models, hand computations, and the command
evaluate.
"""

import math
import warnings

import numpy as np
import pandas
import pyro
import pytest
import torch
import xarray
from matplotlib import image
from pyro import distributions as dist
from test_cli import done, run
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.criticism import scoring
from pyro_vae.criticism.models import bits_per_dim, compare_models

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(60)
OTHERS = {
    "true": TRUTH,
    "loud": LinearGaussian(TRUTH.weight, TRUTH.bias, 1.3 * TRUTH.noise),
    "far": LinearGaussian(TRUTH.weight, TRUTH.bias + 0.7, TRUTH.noise),
    "weak": LinearGaussian(0.9 * TRUTH.weight, TRUTH.bias, TRUTH.noise),
}
COLUMNS = [
    "log_evidence",
    "se",
    "difference",
    "difference_se",
    "flagged",
    "bits_per_dim",
    "seconds",
]
BITS = np.random.default_rng(0).integers(2, size=(30, 4)).astype(float)


def evidence(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **{"num_samples": 50} | options)


def quietly(*args, **options):
    """A comparison whose flags are not the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return compare_models(*args, **options)


def of(*values):
    """A pair with the given log p(x) of each datum."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Delta(x[:, 0], log_density=torch.tensor(values)[: len(x)]), obs=x[:, 0]
            )

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return model, guide


# figures


def test_differences_and_order_are_the_exact_ones():
    wide = {name: truth.vae(shrink=1.3, shift=0.2) for name, truth in reversed(OTHERS.items())}
    found = compare_models(wide, X, num_samples=2000)
    noise = {
        name: evidence(vae, X, num_samples=2000).attrs["mean_mc_se"] for name, vae in wide.items()
    }
    exact = {name: truth.log_evidence(X) for name, truth in OTHERS.items()}
    order = sorted(exact, key=lambda name: -exact[name].mean())
    assert list(found.index) == order
    assert found.index.name == "model"
    assert list(found.columns) == COLUMNS
    best = exact[order[0]]
    assert (found.difference <= 0).all()
    assert tuple(found.iloc[0][["difference", "difference_se"]]) == (0.0, 0.0)
    for name in order[1:]:
        row, apart = found.loc[name], exact[name] - best
        assert abs(row.difference - apart.mean()) < 4 * math.hypot(noise[name], noise[order[0]]), (
            name
        )
        assert row.difference_se == pytest.approx(apart.std(ddof=1) / len(X) ** 0.5, rel=0.15), name
        assert abs(row.log_evidence - exact[name].mean()) < 4 * row.se
        assert row.difference_se < 0.8 * math.hypot(row.se, found.se.iloc[0]), "pairing pays"
    assert (found.flagged == 0).all()
    assert found.bits_per_dim.isna().all()
    assert (found.seconds > 0).all()


def test_the_difference_is_what_new_data_would_give_within_its_error():
    """Over many data sets: less the expected difference, in units of its standard error, a standard
    normal.
    """
    pair = {name: OTHERS[name].vae() for name in ("true", "far")}
    many = TRUTH.draw(20_000, seed=5)
    expected = (OTHERS["far"].log_evidence(many) - TRUTH.log_evidence(many)).mean()
    rows = [
        compare_models(pair, TRUTH.draw(80, seed), num_samples=2).loc["far"]
        for seed in range(10, 35)
    ]
    z = np.array([(row.difference - expected) / row.difference_se for row in rows])
    assert np.abs(z).max() < 4
    assert abs(z.mean()) < 4 / len(z) ** 0.5
    assert 0.6 < z.std() < 1.5


def test_the_row_of_a_model_is_its_evidence():
    vae = TRUTH.vae(shrink=1.3)
    found = compare_models({"a": vae}, X, num_samples=100, seed=3).loc["a"]
    alone = pv.log_evidence(vae, X, num_samples=100, seed=3)
    assert (found.log_evidence, found.se) == (alone.attrs["mean"], alone.attrs["mean_se"])
    reached = compare_models({"a": vae}, X, num_samples=50, tolerance=0.02, max_samples=4000).loc[
        "a"
    ]
    needed = pv.log_evidence(vae, X, num_samples=50, tolerance=0.02, max_samples=4000)
    assert reached.log_evidence == needed.attrs["mean"]
    assert (needed.se <= 0.02).all()


def test_bits_by_hand():
    """x does not depend on z: log p(x) is a sum over independent cells, and a cell that is missing
    costs nothing.
    """
    x = BITS.copy()
    x[0, :3] = np.nan
    likelihood = pv.Bernoulli((4,), logits=torch.tensor([0.0, 1.0, -1.0, 2.0]))
    vae = pv.VAE(pv.OneHot((2,), logits=0.0), likelihood, pv.OneHot((2,), logits=0.0))
    p = 1 / (1 + np.exp(-np.array([0.0, 1.0, -1.0, 2.0])))
    exact = np.nanmean(-np.where(np.isnan(x), np.nan, np.where(x == 1, np.log2(p), np.log2(1 - p))))
    row = compare_models({"bits": vae}, x).loc["bits"]
    assert row.bits_per_dim == pytest.approx(exact, rel=1e-10)
    assert row.flagged == 0
    assert math.isnan(bits_per_dim(pv.log_evidence(TRUTH.vae(), X, num_samples=2)))


def test_flags_are_a_share_and_a_warning():
    models = {"narrow": TRUTH.vae(shrink=0.2), "wide": TRUTH.vae(shrink=1.3)}
    said = r"cannot be trusted for \d+% of 'narrow', .*; give tolerance=0.05, which escalates"
    with pytest.warns(UserWarning, match=said):
        found = compare_models(models, X, num_samples=500)
    assert found.flagged["narrow"] > 0.8
    assert found.flagged["wide"] == 0


def test_the_error_of_a_flagged_model_holds_what_its_guide_misses():
    """The better model has a guide so bad that it comes last."""
    models = {"good, badly guided": TRUTH.vae(shrink=0.2, shift=4.0), "bad": OTHERS["loud"].vae()}
    found = quietly(models, X, num_samples=500)
    exact = (TRUTH.log_evidence(X) - OTHERS["loud"].log_evidence(X)).mean()
    assert found.index[0] == "bad"
    assert exact > 0
    row = found.loc["good, badly guided"]
    assert abs(row.difference - exact) < 4 * row.difference_se
    right = quietly(models, X, num_samples=500, tolerance=0.05)
    assert right.index[0] == "good, badly guided"
    assert (right.flagged == 0).all()
    assert abs(right.difference["bad"] + exact) < 4 * right.difference_se["bad"]


def test_shares_given_a_total_are_not_on_the_scale_of_counts():
    """A multinomial scores x given its total, which it does not predict: Poisson counts do."""
    x = np.random.default_rng(0).poisson(4.0, (30, 3))
    models = {name: pv.build(x, latent=2, likelihood=name) for name in ("multinomial", "poisson")}
    assert math.isfinite(bits_per_dim(evidence(models["multinomial"], x)))
    with pytest.raises(ValueError, match="'multinomial' gives a probability given the total, 'poi"):
        compare_models(models, x)


def test_a_warning_of_another_kind_is_heard():
    def model(x):
        warnings.warn("something else", UserWarning, stacklevel=1)
        TRUTH.vae().model(x)

    with pytest.warns(UserWarning, match="something else"):
        compare_models({"a": (model, TRUTH.vae().guide)}, X, num_samples=2)


def test_models_that_differ_in_everything_but_the_likelihoods_kind():
    x = np.random.default_rng(0).poisson(2.0, (30, 3)).astype(float)
    build = {"latent": 2, "hidden": [4]}
    models = {
        ("normal", "poisson"): pv.build(x, likelihood="poisson", **build),
        ("vamp", "negative_binomial"): pv.build(
            x, prior="vamp", likelihood="negative_binomial", **build
        ),
        ("gamma", "poisson"): pv.build(
            x, prior="gamma", likelihood="poisson", guide="student_t", **build
        ),
        ("one_hot", "poisson"): pv.build(x, prior="one_hot", likelihood="poisson", **build),
    }
    found = quietly(models, x, num_samples=50)
    assert sorted(found.index) == sorted(models)
    assert np.isfinite(found).all(axis=None)
    assert found.log_evidence.is_monotonic_decreasing
    np.testing.assert_allclose(found.bits_per_dim, -found.log_evidence / (3 * math.log(2)))


def test_conditional_models():
    c = np.arange(60) % 3
    models = {
        seen: pv.build(X, c=c, latent=2, hidden=[4], condition={"categories": 3, "seen_by": [seen]})
        for seen in ("likelihood", "guide")
    }
    found = compare_models(models, X, c, num_samples=20)
    assert np.isfinite(found[COLUMNS[:5]]).all(axis=None)
    earlier = evidence(models["guide"], X, c, num_samples=20)
    again = compare_models(
        {"guide": earlier, "likelihood": models["likelihood"]}, X, c, num_samples=20
    )
    pandas.testing.assert_frame_equal(again[COLUMNS[:5]], found[COLUMNS[:5]])
    with pytest.raises(
        pv.DataError,
        match="x and the result 'guide' are of different data, or of a different c; score",
    ):
        compare_models({"guide": earlier, "plain": TRUTH.vae()}, X)
    with pytest.raises(
        pv.DataError,
        match="the result 'guide' and the result 'plain' are of different data, or of a",
    ):
        compare_models({"guide": earlier, "plain": evidence(TRUTH.vae(), X)})
    with pytest.raises(
        ValueError,
        match=r"has no condition, so it takes no c.*\ncompare_models was about to score 'b'",
    ):
        compare_models({"a": models["guide"], "b": TRUTH.vae()}, X, c)


def test_earlier_results_beside_models(tmp_path):
    vaes = {name: truth.vae(shrink=1.3) for name, truth in OTHERS.items()}
    fresh = compare_models(vaes, X, num_samples=50)
    evidence(vaes["far"], X).to_netcdf(tmp_path / "far.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "far.nc", engine="h5netcdf") as far:
        mixed = compare_models(
            {**vaes, "far": far, "loud": evidence(vaes["loud"], X)}, X, num_samples=50
        )
    pandas.testing.assert_frame_equal(mixed.drop(columns="seconds"), fresh.drop(columns="seconds"))
    assert set(mixed.index[mixed.seconds.isna()]) == {"far", "loud"}
    results = {name: evidence(vae, X) for name, vae in vaes.items()}
    pandas.testing.assert_frame_equal(compare_models(results)[COLUMNS[:6]], fresh[COLUMNS[:6]])
    annealed = pv.annealed_log_evidence(vaes["true"], X, num_distributions=5, chains=4)
    assert (
        compare_models({"annealed": annealed, "importance": results["true"]})
        .notna()["difference"]
        .all()
    )


@pytest.mark.parametrize(
    ("values", "order", "difference"),
    [
        ({"a": [-math.inf, -1.0], "b": [-2.0, -3.0]}, ["b", "a"], [0.0, -math.inf]),
        ({"a": [-math.inf, -1.0], "b": [-math.inf, -3.0]}, ["a", "b"], [0.0, math.nan]),
        ({"a": [-1.0, -math.inf], "b": [-math.inf, -3.0]}, ["a", "b"], [0.0, math.nan]),
        (
            {"a": [math.nan, -1.0], "b": [-math.inf, -9.0], "c": [-5.0, -5.0]},
            ["c", "b", "a"],
            [0.0, -math.inf, math.nan],
        ),
        ({"a": [-1.0, -2.0], "b": [-1.0, -2.0]}, ["a", "b"], [0.0, 0.0]),
        ({"a": [-3.0], "b": [-1.0]}, ["b", "a"], [0.0, -2.0]),
        ({"a": [-3.0], "b": [-math.inf]}, ["a", "b"], [0.0, -math.inf]),
    ],
)
def test_values_that_are_not_finite_and_single_data(values, order, difference):
    models = {name: of(*logs) for name, logs in values.items()}
    found = quietly(models, np.zeros((len(values["a"]), 1)), num_samples=30)
    assert list(found.index) == order
    np.testing.assert_allclose(found.difference, difference)
    for name, logs in values.items():
        np.testing.assert_allclose(found.log_evidence[name], np.mean(logs))
        assert found.flagged[name] == np.mean(~np.isfinite(logs))
    assert found.difference_se.iloc[0] == 0


def test_a_result_of_a_pair_survives_a_file(tmp_path):
    result = evidence(of(-1.0, -2.0), np.zeros((2, 1)))
    result.to_netcdf(tmp_path / "pair.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "pair.nc", engine="h5netcdf") as read:
        assert read.attrs == result.attrs
        assert compare_models({"a": read, "b": of(-1.0, -3.0)}, np.zeros((2, 1))).difference[
            "b"
        ] == pytest.approx(-0.5)


def test_nothing_of_the_caller_changes():
    vae = TRUTH.vae(shrink=1.3)
    vae.train()
    state = torch.get_rng_state()
    one, other = (compare_models({"a": vae}, X, num_samples=10)[COLUMNS[:5]] for _ in range(2))
    pandas.testing.assert_frame_equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in vae.modules())


# refusals


def vae_of(likelihood, **options):
    return pv.build({"event": [4], "latent": [2], "likelihood": likelihood, **options}, hidden=[4])


@pytest.mark.parametrize(
    ("models", "x", "error", "message"),
    [
        (
            lambda: TRUTH.vae(),
            X,
            TypeError,
            "needs a mapping from names to VAEs, pairs .*; got VAE",
        ),
        (lambda: [TRUTH.vae()], X, TypeError, "needs a mapping from names to .*; got list"),
        (lambda: {}, X, ValueError, "needs a mapping from names to .*; got an empty one"),
        (
            lambda: {"a": TRUTH.vae(), "b": "b.nc"},
            X,
            TypeError,
            "needs VAEs, .*; got as 'b' a value of type str",
        ),
        (lambda: {"b": (1, 2)}, X, TypeError, "got as 'b' a value of type tuple"),
        (
            lambda: {"b": xarray.Dataset()},
            X,
            TypeError,
            "got as 'b' a Dataset that is no such result",
        ),
        (
            lambda: {"b": pv.gaps(TRUTH.vae(), X[:2], steps=1)},
            None,
            TypeError,
            "got as 'b' a Dataset that is no such",
        ),
        (
            lambda: {"b": TRUTH.vae()},
            None,
            ValueError,
            "needs x to score 'b'; only results of log_evidence need none",
        ),
        (
            lambda: {"a": evidence(TRUTH.vae(), X), "b": evidence(TRUTH.vae(), X[:9])},
            None,
            pv.DataError,
            "the same data: the result 'a' has 60 data and the result 'b' 9; "
            "score all on the same x",
        ),
        (
            lambda: {"a": evidence(TRUTH.vae(), X), "b": evidence(TRUTH.vae(), X[::-1].copy())},
            None,
            pv.DataError,
            "the result 'a' and the result 'b' are of different data, or of a different c; score "
            "all on the same x and",
        ),
        (
            lambda: {"a": evidence(TRUTH.vae(), X)},
            X[:9],
            pv.DataError,
            "the same data: x has 9 data and the result 'a' 60; score all on the same x and c",
        ),
        (
            lambda: {"a": vae_of("bernoulli"), "b": vae_of("normal"), "c": vae_of("bernoulli")},
            BITS,
            ValueError,
            "one scale for all models: 'a' gives a probability, 'b' a density; densities and "
            "probabilities have no common scale, .*; give all models the same kind of "
            "likelihood, such as, for whole numbers, discretized",
        ),
        (
            lambda: {"a": evidence(vae_of("bernoulli"), BITS), "b": vae_of("normal")},
            BITS,
            ValueError,
            "'a' gives a probability, 'b' a density",
        ),
        (
            lambda: {"a": vae_of("normal"), "b": vae_of("dirichlet")},
            np.full((3, 4), 0.25),
            ValueError,
            "'a' gives a density, 'b' a density on a simplex; .* nor have densities on different "
            "spaces",
        ),
        (
            lambda: {"a": vae_of("bernoulli"), "b": TRUTH.vae()},
            BITS,
            pv.DataError,
            r"(?s)shape.*compare_models was about to score 'b'",
        ),
    ],
)
def test_what_cannot_be_compared(models, x, error, message, monkeypatch):
    held = models()
    monkeypatch.setattr(scoring, "log_evidence", None)  # found out before the work
    with pytest.raises(error, match=message):
        compare_models(held, x)


def test_options_are_checked():
    for options, message in (
        ({"num_samples": 0}, "num_samples"),
        ({"tolerance": 0}, "tolerance"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_models({"a": TRUTH.vae()}, X, **options)


def test_a_discretized_logistic_beside_a_binomial():
    x = np.random.default_rng(0).binomial(16, 0.3, (30, 4)).astype(float)
    whole = {"name": "discretized_logistic", "levels": 17}
    found = quietly(
        {"a": vae_of({"name": "binomial", "total_count": 16}), "b": vae_of(whole)},
        x,
        num_samples=30,
    )
    assert np.isfinite(found).all(axis=None)


# pyro-vae evaluate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Data, models and a folder, where the command runs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("counts.npy", rng.poisson(2.0, (40, 3)))
    np.save("numbers.npy", rng.normal(size=(40, 3)))
    pandas.DataFrame({"c": np.arange(40) % 3}).to_csv("classes.csv", index=False)
    for name, part in {
        "counts": {"likelihood": "poisson"},
        "numbers": {},
        "classes": {"latent": [3], "prior": "one_hot", "likelihood": "poisson"},
        "given": {"condition": {"categories": 3}},
    }.items():
        pv.save(pv.build({"event": [3], "latent": [2], **part}, hidden=[4]), f"{name}.safetensors")
    (tmp_path / "folder").mkdir()
    return tmp_path


def shown(result):
    """The table that was printed, as a dict."""
    lines = [
        line.strip("│┃ \n").split("│")
        for line in result.stdout.splitlines()
        if line.startswith("│")
    ]
    return {name.strip(): value.strip() for name, value in lines}


def test_the_table_is_what_python_says(folder):
    found = evidence(pv.load("counts.safetensors"), np.load("counts.npy"), num_samples=200, seed=2)
    result = done("evaluate", "counts.safetensors", "counts.npy", "--num-samples", 200, "--seed", 2)
    about = found.attrs
    assert shown(result) == {
        "data": "40",
        "mean log p(x) in nats": f"{about['mean']:.2f} ± {about['mean_se']:.2f}",
        "bits per dimension": f"{-about['mean'] / (3 * math.log(2)):.3f}",
        "mean ELBO in nats": f"{float(found.elbo.mean()):.2f}",
        "mean bias of finite K in nats": f"{float(found.bias.mean()):.2g}",
        "flagged, not to be trusted": f"{about['flagged']} of 40",
        "heavy tail": f"{about['flagged_heavy_tail']} of 40",
        "refuted": f"{about['flagged_refuted']} of 40",
    }
    assert about["flagged"] > 0
    assert result.stderr.startswith(
        f"pyro-vae: warning: log p(x) of {about['flagged']} of 40 data cannot be trusted"
    )
    assert result.stderr.count("\n") == 1
    assert [file.name for file in folder.iterdir() if file.suffix in (".nc", ".png")] == []


def test_files_hold_the_figures_of_each_datum(folder):
    found = evidence(pv.load("counts.safetensors"), np.load("counts.npy")[:7], num_samples=60)
    options = ["--num-samples", 60, "-n", 7]
    done(
        "evaluate",
        "counts.safetensors",
        "counts.npy",
        *options,
        "-o",
        "by_datum.csv",
        "--picture",
        "picture.png",
    )
    frame = pandas.read_csv("by_datum.csv", index_col="datum")
    names = ["log_evidence", "se", "ess", "khat", "max_weight", "bias", "elbo", "num_samples"]
    assert sorted(frame.columns) == sorted([*names, "flag", "second_opinion"])
    for name in names:
        np.testing.assert_allclose(frame[name], found[name], err_msg=name)
    assert image.imread("picture.png")[..., :3].std() > 0.01
    done("evaluate", "counts.safetensors", "counts.npy", *options, "-o", "whole.nc")
    with xarray.open_dataset("whole.nc", engine="h5netcdf") as whole:
        xarray.testing.assert_equal(whole.drop_vars("row"), found)
        timed = [name for name in found.attrs if name.startswith("seconds")]
        assert {**whole.attrs, **dict.fromkeys(timed)} == {**found.attrs, **dict.fromkeys(timed)}
        more = evidence(pv.load("counts.safetensors"), np.load("counts.npy")[:7], more=whole.load())
    assert more.attrs["num_samples"] == 110


def test_with_a_tolerance_it_counts_the_rungs(folder):
    options = ["--num-samples", 50, "--tolerance", 0.1, "--max-samples", 500, "-n", 20]
    table = shown(done("evaluate", "counts.safetensors", "counts.npy", *options, "-o", "rungs.csv"))
    counted = pandas.read_csv("rungs.csv").rung.value_counts()
    rungs = ("guide", "refined", "annealed")
    assert [table[f"needed the rung {rung}"] for rung in rungs] == [
        f"{counted.get(rung, 0)} of 20" for rung in rungs
    ]
    assert counted.sum() == 20
    assert "mean ELBO in nats" in table
    done("evaluate", "counts.safetensors", "counts.npy", *options, "-o", "rungs.nc")
    with xarray.open_dataset("rungs.nc", engine="h5netcdf") as whole:
        assert list(whole.rung.values) == list(pandas.read_csv("rungs.csv").rung)


def test_densities_classes_and_conditions(folder):
    quick = ["--num-samples", 30]
    assert "bits per dimension" not in shown(
        done("evaluate", "numbers.safetensors", "numbers.npy", *quick)
    )
    exact = shown(
        done(
            "evaluate",
            "classes.safetensors",
            "counts.npy",
            *quick,
            "--tolerance",
            0.1,
            "-o",
            "exact.csv",
        )
    )
    assert exact["mean bias of finite K in nats"] == "0"
    whole, annealed = exact["needed the rung guide"], exact["needed the rung annealed"]
    assert whole == f"{exact['data']} of {exact['data']}"
    assert annealed.startswith("0 of")
    given = ["evaluate", "given.safetensors", "numbers.npy", *quick]
    assert shown(done(*given, "--condition", "classes.csv", "-n", 9))["data"] == "9"
    assert run(*given).stderr.startswith(
        "pyro-vae: given.safetensors is conditional: give --condition"
    )


@pytest.mark.parametrize(
    ("options", "beginning"),
    [
        (["-o", "folder"], "folder is a folder; name a file in it\n"),
        (["-o", "evidence.txt"], "the file must end in .csv or .nc; got 'evidence.txt'\n"),
        (["-o", "evidence"], "the file must end in .csv or .nc; got 'evidence'\n"),
        (["--picture", "evidence.pdf"], "the file must end in .png; got 'evidence.pdf'\n"),
        (
            ["-o", "counts.npy/evidence.nc"],
            "counts.npy cannot be written to: File exists; choose another folder\n",
        ),
        (
            ["--tolerance", "0"],
            "tolerance must be a standard error in nats above 0, such as 0.05; got 0.0\n",
        ),
        (
            ["--tolerance", "0.1", "--num-samples", "5"],
            "num_samples with a tolerance must be a whole number from 25; ",
        ),
        (
            ["--tolerance", "0.1", "--max-samples", "5"],
            "max_samples must be a whole number from 1000; got 5\n",
        ),
        (["--num-samples", "0"], "Invalid value for '--num-samples': "),
        (["--num", "0"], "Invalid value for '--num' / '-n': "),
        (["--condition", "classes.csv"], "this VAE has no condition, so it takes no c"),
        (["--module", "no_part"], "--module: No module named 'no_part'"),
        (["other.safetensors"], "Got unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_one_line(options, beginning, folder):
    before = sorted(folder.rglob("*"))
    result = run("evaluate", "counts.safetensors", "counts.npy", *options)
    assert result.exit_code == 2, (result.output, result.exception)
    *told, error = result.stderr.splitlines(keepends=True)
    assert all(line.startswith("pyro-vae: read ") for line in told), "of the tables that were read"
    assert error.startswith(f"pyro-vae: {beginning}"), result.stderr
    assert error.endswith("\n")
    assert result.stdout == ""
    assert sorted(folder.rglob("*")) == before


def test_data_that_do_not_fit_are_one_line(folder):
    result = run("evaluate", "counts.safetensors", "numbers.npy")
    assert result.exit_code == 2
    assert result.stderr.startswith("pyro-vae: Poisson(3,) needs whole numbers from 0; got ")


MIXED = pandas.DataFrame(np.random.default_rng(0).poisson(2.0, (20, 2)) * 1.0, columns=["h", "k"])


def of_columns(frame=MIXED, **families):
    tables = {
        name: {"name": family} if isinstance(family, str) else family
        for name, family in families.items()
    }
    blocks = [{"columns": [name], **table} for name, table in tables.items()]
    return pv.build(frame, latent=1, hidden=[], likelihood={"name": "columns", "blocks": blocks})


def test_columns_on_other_scales_are_named():
    models = {"a": of_columns(h="normal", k="normal"), "b": of_columns(h="normal", k="poisson")}
    scored = models | {"b": evidence(models["b"], MIXED)}
    for given in (models, scored):
        with pytest.raises(
            ValueError,
            match=r"'a' gives a density, 'b' a density of column 'h', pr"
            "obability of column 'k'; densities",
        ):
            quietly(given, MIXED, num_samples=25)


def test_columns_in_another_order_are_on_one_scale():
    turned = MIXED[["k", "h"]]
    a = of_columns(h="normal", k="poisson")
    b = of_columns(turned, k="poisson", h="normal")
    assert len(quietly({"a": a, "b": b}, MIXED, num_samples=25)) == 2
    b = of_columns(turned, k="normal", h="poisson")  # not so, though in its own order it looks so
    with pytest.raises(ValueError, match="needs one scale"):
        quietly({"a": a, "b": b}, MIXED, num_samples=25)
    atoms = {"name": "censored_normal", "low": -1.0}
    a, b = of_columns(h=atoms, k="poisson"), of_columns(turned, k=atoms, h="poisson")
    with pytest.raises(ValueError, match="needs one scale"):
        quietly({"a": a, "b": b}, MIXED, num_samples=25)
    b = of_columns(turned, k="poisson", h=atoms)
    assert len(quietly({"a": a, "b": b}, MIXED, num_samples=25)) == 2
