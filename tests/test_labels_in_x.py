"""Columns of strings and categories in x: classes with names, which a VAE keeps."""

import copy
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli import app

RNG = np.random.default_rng(0)
NUM = 60
CITY = RNG.integers(3, size=NUM)
SEX = RNG.integers(2, size=NUM)
CITIES, SEXES = ["Bonn", "Kiel", "Ulm"], ["m", "f"]
FRAME = pd.DataFrame(
    {
        "city": np.array(CITIES)[CITY],
        "age": RNG.normal(50, 10, NUM),
        "sex": pd.Categorical.from_codes(SEX, SEXES),
        "size": RNG.integers(1, 9, NUM),
    }
)
CODES = np.column_stack([CITY, FRAME["age"], SEX, FRAME["size"]])
CLASSES = {"city": CITIES, "sex": SEXES}
BLOCKS = [
    {"columns": ["age", "size"], "name": "normal"},
    {"columns": ["city"], "name": "categorical"},
    {"columns": ["sex"], "name": "categorical"},
]
SMALL = {"latent": 2, "hidden": [8]}


def built(x=FRAME, **options):
    return pv.build(x, **SMALL, **options)


def of_codes():
    """The same VAE for the same numbers, without names."""
    place = {name: number for number, name in enumerate(FRAME.columns)}
    blocks = [{**block, "columns": [place[name] for name in block["columns"]]} for block in BLOCKS]
    return pv.build(CODES, **SMALL, likelihood={"name": "columns", "blocks": blocks})


@pytest.fixture
def vae():
    return built()


def scores(vae, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a guide that is hardly trained
        return pv.log_evidence(vae, x, num_samples=30)["log_evidence"].values


def others(x):
    """The same rows, whose categories and columns come in another order."""
    turned = x.assign(
        city=pd.Categorical(x["city"], ["Ulm", "nowhere", "Kiel", "Bonn"]),
        sex=x["sex"].cat.reorder_categories(["f", "m"]),
    )
    return turned[["size", "sex", "city", "age"]]


def test_labels_are_numbers_of_classes(vae):
    assert vae.classes == CLASSES
    assert torch.equal(
        vae.check(FRAME).take(slice(None)), of_codes().check(CODES).take(slice(None))
    )


@pytest.mark.parametrize("likelihood", [None, {"name": "columns", "blocks": BLOCKS}])
def test_a_vae_of_labels_is_that_of_their_numbers(likelihood):
    vae, coded = built(likelihood=likelihood), of_codes()
    assert pv.describe(vae)["likelihood"] == pv.describe(coded)["likelihood"]
    histories = [
        pv.fit(model, x, validation=x[:9], epochs=2, progress=False)
        for model, x in ((vae, FRAME), (coded, CODES))
    ]
    columns = ["loss", "validation", "kl"]
    pd.testing.assert_frame_equal(histories[0][columns], histories[1][columns])
    assert np.array_equal(scores(vae, FRAME), scores(coded, CODES))


def test_another_order_is_put_right(vae):
    expected = vae.check(FRAME).take(slice(None))
    for x in (others(FRAME), pv.data.as_rows(others(FRAME), labels=True)):
        assert torch.equal(vae.check(x).take(slice(None)), expected)
        assert np.array_equal(scores(vae, x), scores(vae, FRAME))
    some = pv.data.as_rows(others(FRAME), labels=True).only(np.array([7, 3]))
    assert torch.equal(vae.check(some).take(slice(None)), expected[[7, 3]])
    assert np.array_equal(pv.Problem.of(vae, others(FRAME)).rows.take(slice(None)), expected)


def test_validation_of_another_order_is_put_right():
    histories = [
        pv.fit(built(), FRAME, validation=held_out, epochs=2, progress=False)
        for held_out in (
            FRAME[:20],
            others(FRAME[:20]),
            pv.data.as_rows(others(FRAME[:20]), labels=True),
        )
    ]
    for history in histories[1:]:
        assert history.validation.tolist() == histories[0].validation.tolist()


def test_rows_of_one_vae_are_put_right_by_another():
    turned = built(FRAME.assign(sex=FRAME["sex"].cat.reorder_categories(["f", "m"])))
    assert turned.classes["sex"] == ["f", "m"]
    rows = built().check(FRAME)
    assert torch.equal(turned.check(rows).take(slice(None))[:, 2], torch.as_tensor(1.0 - SEX))
    assert torch.equal(rows.take(slice(None))[:, 2], torch.as_tensor(SEX).double())


def test_a_few_rows_have_the_classes_of_all(vae):
    """Codes are not those of the strings that happen to occur."""
    ulm = FRAME[FRAME["city"] == "Ulm"]
    assert (vae.check(ulm).take(slice(None))[:, 0] == 2).all()
    assert torch.equal(vae.encode(ulm).mean, of_codes().encode(CODES[ulm.index]).mean)


def test_names_are_kept(vae, tmp_path):
    pv.save(vae, tmp_path / "m.safetensors")
    spec = json.loads(json.dumps(pv.describe(vae)))
    assert spec["classes"] == CLASSES
    copies = [
        pv.load(tmp_path / "m.safetensors"),
        pickle.loads(pickle.dumps(vae)),
        copy.deepcopy(vae),
    ]
    for again in copies:
        assert again.classes == CLASSES
        assert np.array_equal(scores(again, others(FRAME)), scores(vae, FRAME))
        pd.testing.assert_frame_equal(again.sample(5), vae.sample(5))
    assert pv.build(spec).classes == CLASSES
    assert pv.build(spec, others(FRAME)).classes == CLASSES


def test_a_spec_learns_the_classes_of_a_frame():
    spec = {"latent": [2], "likelihood": {"name": "columns", "blocks": BLOCKS}}
    assert pv.build(spec, FRAME).classes == CLASSES
    assert pv.build({"latent": [2]}, FRAME).classes == CLASSES
    more = pv.build(
        {"latent": [2], "classes": {"city": [*CITIES, "Jena"]}, "columns": list(FRAME)}, FRAME
    )
    assert more.classes == {"city": [*CITIES, "Jena"], "sex": SEXES}
    numbered = pv.build({"latent": [2], "classes": {"size": 9}, "columns": list(FRAME)}, FRAME)
    assert numbered.classes["size"] == list(range(9))
    assert pv.describe(numbered)["classes"]["size"] == 9


def test_classes_that_do_not_occur_count(vae):
    """Categories of pandas may be more than occur, first and last."""
    more = FRAME.assign(sex=FRAME["sex"].cat.set_categories(["m", "f", "x"]))
    blocks = pv.describe(built(more, likelihood={"name": "columns", "blocks": BLOCKS}))
    assert [block.get("categories") for block in blocks["likelihood"]["blocks"]] == [None, 3, 3]


def test_what_is_given_back_has_labels(vae):
    holes = FRAME.astype({"size": float})
    holes.loc[3, "city"], holes.loc[4, "sex"], holes.loc[5, "size"] = None, None, np.nan
    assert vae.check(holes).take(slice(None)).isnan().sum() == 3
    filled = vae.impute(holes, num_samples=10)
    drawn = vae.impute(holes, num_samples=10, draws=2)
    for frame in (filled, *drawn, vae.reconstruct(holes)):
        assert list(frame.columns) == list(FRAME.columns)
        assert frame.index.equals(FRAME.index)
        assert set(frame["city"]) <= set(CITIES)
        assert frame["city"].dtype == FRAME["city"].dtype
        assert frame["sex"].cat.categories.tolist() == SEXES
        assert not frame.isna().any(axis=None)
    seen = holes.notna()
    assert filled["city"][seen["city"]].tolist() == FRAME["city"][seen["city"]].tolist()
    assert filled["sex"][seen["sex"]].tolist() == FRAME["sex"][seen["sex"]].tolist()
    sampled = vae.sample(200, seed=1)
    assert sampled["city"].cat.categories.tolist() == CITIES
    numbers = of_codes().sample(200, seed=1)
    assert np.array_equal(sampled["city"].cat.codes, numbers[:, 0])
    assert np.array_equal(sampled["age"], numbers[:, 1])


def test_a_frame_of_other_order_comes_back_in_its_own(vae):
    found = vae.reconstruct(others(FRAME))
    expected = vae.reconstruct(FRAME)
    assert list(found.columns) == ["size", "sex", "city", "age"]
    for name in FRAME.columns:
        assert found[name].astype(str).tolist() == expected[name].astype(str).tolist()


def test_a_row_without_any_label():
    """Its columns are missing, not numbers; also where the classes have numbers as names."""
    x = FRAME.assign(sex=SEX.astype(str))
    vae = built(x)
    one = x.iloc[[0]].assign(city=None, sex=None)
    assert vae.check(one).take(slice(None)).isnan().tolist() == [[True, False, True, False]]
    assert vae.impute(one, num_samples=10)["sex"].isin(["0", "1"]).all()


def test_a_class_of_two_may_be_binary():
    """Its mean is a probability; the class that is nearer is given back."""
    blocks = [*BLOCKS[:2], {"columns": ["sex"], "name": "bernoulli"}]
    vae = built(likelihood={"name": "columns", "blocks": blocks})
    assert set(vae.reconstruct(FRAME)["sex"]) <= set(SEXES)
    numbers = torch.tensor([[2.0, 50.0, 0.49, 3.0], [0.0, 50.0, 0.51, 3.0]])
    given_back = vae.as_given(numbers, FRAME[:2])
    assert given_back["sex"].tolist() == ["m", "f"]
    assert given_back["city"].tolist() == ["Ulm", "Bonn"]


def test_frames_of_labels_alone():
    x = FRAME[["city"]].assign(town=FRAME["city"])
    for likelihood in (None, "categorical"):
        vae = built(x, likelihood=likelihood)
        assert set(vae.sample(9)["town"]) <= set(CITIES)


def test_categories_that_are_numbered():
    """They are their numbers, also those that are true or false, before and after a file."""
    x = FRAME.assign(city=pd.Categorical(CITY), sex=pd.Categorical(SEX == 1))
    vae = built(x)
    assert pv.describe(vae)["classes"] == {"city": 3, "sex": 2}
    assert repr(vae.classes) == repr(pv.build(pv.describe(vae)).classes)
    assert torch.equal(vae.check(x).take(slice(None)), built().check(FRAME).take(slice(None)))
    assert vae.reconstruct(x)["sex"].cat.categories.tolist() == [0, 1]


def test_labels_beside_a_condition():
    vae = built(FRAME, c=FRAME["city"])
    pv.fit(vae, FRAME, FRAME["city"], epochs=1, progress=False)
    assert vae.sample(2, ["Ulm", "Bonn"])["city"].isin(CITIES).all()


REFUSED = {
    "a class that was not seen": (
        FRAME.assign(city=["Jena", *FRAME["city"][1:-1], "Gera"]),
        r"'Kiel', 'Ulm' in column 'city'; got 'Jena' at row 0 \(and 1 more\); build the VAE",
    ),
    "another column of labels": (
        FRAME.assign(age="old"),
        r"data must be numbers; got 'old' \(str\) at row 0, column 'age'; encode or drop it, or",
    ),
    "numbers beyond the classes": (
        FRAME.assign(city=3),
        "column 'city' of the data has classes named 'Bonn', 'Kiel'",
    ),
    "labels and numbers": (
        FRAME.assign(city=["Bonn", *range(NUM - 1)]),
        "got 'Bonn' and 0 in column 'city'",
    ),
    "times": (
        FRAME.assign(age=pd.Timestamp("2020-01-01")),
        "data must be numbers or labels; got d",
    ),
    "strings in an array": (FRAME.to_numpy(), r"got '\w+' \(str\) at row 0, column 0; encode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, vae):
    x, message = REFUSED[case]
    for call in (vae.check, lambda x: pv.fit(built(), FRAME, validation=x, progress=False)):
        with pytest.raises(pv.DataError, match=message):
            call(x)


def test_labels_for_a_vae_without_classes():
    with pytest.raises(pv.DataError, match=r"got '\w+' \(str\) at row 0, column 'city'; encode"):
        pv.fit(of_codes(), FRAME, progress=False)
    numbers = FRAME[["age", "size"]]
    with pytest.raises(pv.DataError, match=r"got 'old' \(str\) at row 0, column 'age'"):
        built(numbers).check(numbers.assign(age="old"))


def test_numbers_are_not_taken_for_names_that_are_numbers(vae):
    x = FRAME.assign(city=(CITY + 1).astype(str))
    numeric = built(x)
    assert numeric.classes["city"] == ["1", "2", "3"]
    message = r"column ('city'|0) of the data has classes named '1', '2', '3': give their names"
    for wrong in (
        x.assign(city=CITY),
        CODES,
        pv.data.as_rows(CODES),
        pv.data.as_rows(x.assign(city=CITY), labels=True),
    ):
        with pytest.raises(pv.DataError, match=message):
            numeric.check(wrong)
    assert len(numeric.check(torch.as_tensor(CODES))) == NUM  # draws of a model have places
    assert torch.equal(vae.check(CODES).take(slice(None)), vae.check(FRAME).take(slice(None)))


LIKELIHOODS = {
    "normal": (
        "normal",
        "does not draw the 3 classes of column 'city', such as 'Bonn'; give it a block",
    ),
    "counts": ("poisson", "does not draw the 3 classes of column 'city'"),
    "one for all": ("categorical", "does not draw the 3 classes of column 'city'"),
    "other sizes in a block": (
        {
            "name": "columns",
            "blocks": [BLOCKS[0], {"columns": ["city", "sex"], "name": "categorical"}],
        },
        "does not draw the 2 classes of column 'sex'",
    ),
    "other categories": (
        {"name": "columns", "blocks": [*BLOCKS[:2], {**BLOCKS[2], "categories": 4}]},
        "does not draw the 2 classes of column 'sex'",
    ),
}


@pytest.mark.parametrize("case", LIKELIHOODS)
def test_likelihoods_that_hold_no_classes(case):
    likelihood, message = LIKELIHOODS[case]
    with pytest.raises(ValueError, match=message):
        built(likelihood=likelihood)


def test_labels_that_are_no_classes():
    named = FRAME.assign(name=[f"patient {number}" for number in range(NUM)])
    with pytest.raises(
        pv.DataError, match="'name' has 60 labels in 60 rows, 'patient 0', 'patient 1'"
    ):
        built(named)
    blocks = [*BLOCKS, {"columns": ["name"], "name": "categorical"}]
    assert (
        len(built(named, likelihood={"name": "columns", "blocks": blocks}).classes["name"]) == NUM
    )
    with pytest.raises(pv.DataError, match="data need a value in column 'city'; got none; drop it"):
        built(FRAME.assign(city=None))
    with pytest.raises(
        ValueError, match="classes of column 'size' must be how many, or names that"
    ):
        built(FRAME.astype({"size": "category"}))
    with pytest.raises(pv.DataError, match="needs a name for each column"):
        built(FRAME.set_axis(range(4), axis=1))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"classes": {"a": ["x", "y"]}}, "classes: need columns, the names of all columns"),
        ({"classes": {"c": ["x"]}, "columns": ["a", "b"]}, "classes: no column is named 'c'"),
        ({"classes": {"a": ["x", "x"]}, "columns": ["a", "b"]}, "classes must be different names"),
        ({"classes": ["a"], "columns": ["a", "b"]}, "classes: must be a table"),
    ],
)
def test_specs_that_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        pv.build({"event": [2], "latent": [1], **spec})


class Polars:
    """What a frame of polars has: names and numpy's arrays, but no rows by place."""

    def __init__(self, columns):
        self.data = {name: list(column) for name, column in columns.items()}

    columns = property(lambda self: list(self.data))

    def __len__(self):
        return len(next(iter(self.data.values())))

    def to_numpy(self):
        kind = (
            object if any(isinstance(value, str) for (value, *_) in self.data.values()) else float
        )
        return np.array(list(self.data.values()), dtype=kind).T


def test_frames_of_others(vae):
    """Their labels are refused, never coded otherwise; numbers of classes come back as labels."""
    with pytest.raises(pv.DataError, match=r"got '\w+' \(str\) at row 0, column 'city'"):
        built(Polars(FRAME))
    with pytest.raises(pv.DataError, match=r"got '\w+' \(str\) at row 0, column 'city'"):
        vae.check(Polars(FRAME))
    numbers = Polars(dict(zip(FRAME.columns, CODES.T, strict=True)))
    assert torch.equal(vae.check(numbers).take(slice(None)), vae.check(FRAME).take(slice(None)))
    assert vae.reconstruct(numbers).data["city"] == vae.reconstruct(FRAME)["city"].tolist()


def test_pairs_of_functions_take_no_labels():
    def model(x):
        raise AssertionError

    with pytest.raises(pv.DataError, match=r"got '\w+' \(str\) at row 0, column 'city'"):
        pv.log_evidence((model, model), FRAME)
    with pytest.raises(pv.DataError, match=r"got '\w+' \(str\) at row 0, column 'city'"):
        pv.data.as_rows(FRAME)


@pytest.mark.parametrize("x", [FRAME, FRAME[["city", "age"]], FRAME[["city"]]])
def test_the_estimator_of_scikit_learn(x):
    estimator = pv.VAEEstimator(**SMALL, epochs=1, validation_fraction=0.2, num_samples=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        score = estimator.fit(x).score(x)
        for again in (pickle.loads(pickle.dumps(estimator)), clone(estimator).fit(x)):
            assert again.vae_.classes == estimator.vae_.classes
            assert again.score(x) == score
    assert set(estimator.sample(20)[:, 0]) <= set(CITIES)
    decoded = estimator.inverse_transform(estimator.transform(x))
    assert decoded.shape == x.shape
    assert set(decoded[:, 0]) <= set(CITIES)
    with pytest.raises(pv.DataError, match="got 'Jena' at row 0"):
        estimator.transform(x.assign(city="Jena"))


def test_numbers_of_simulated_classes_have_places():
    """Where names are numbers too: what a model draws is no label."""
    vae = built(FRAME.assign(city=(CITY + 1).astype(str)))
    assert np.isfinite(pv.calibrate(vae, num_simulations=20, num_samples=25)["rank"]).all()


def done(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("table.csv", index=False)
    others(FRAME).to_csv("others.csv", index=False)
    quick = ["--latent", 2, "--hidden", 8, "--epochs", 2]
    told = done("fit", "table.csv", *quick, "-o", "m.safetensors").output.replace("\n", " ")
    assert "parameters; classes of city (3), sex (2)." in told
    vae = pv.load("m.safetensors")
    assert vae.classes == {"city": CITIES, "sex": ["f", "m"]}
    shown = [
        done("evaluate", "m.safetensors", name, "--rows", "all", "--num", 20, "--out", "e.csv")
        and pd.read_csv("e.csv")
        for name in ("table.csv", "others.csv")
    ]
    assert shown[0]["log_evidence"].tolist() == shown[1]["log_evidence"].tolist()
    done("sample", "m.safetensors", "-n", 5, "-o", "drawn.csv")
    drawn = pv.data.load("drawn.csv")
    assert drawn["city"].tolist() == vae.sample(5)["city"].tolist()
    assert np.isfinite(scores(vae, drawn)).all()
    result = CliRunner().invoke(app, ["sample", "m.safetensors", "-o", "drawn.npy"])
    assert result.exit_code
    assert (
        "m.safetensors draws labels, of 'city', 'sex'; --out needs a .csv"
        in result.output.replace("\n", " ")
    )
    assert not (tmp_path / "drawn.npy").exists()


def test_a_column_of_labels_and_numbers_is_named():
    frame = pd.DataFrame({"city": ["a", "b"] * 5, "odd": [1, "x"] * 5})
    with pytest.raises(pv.DataError, match=r"numbers or labels; got 'x' and 1 in column 'odd'"):
        pv.build(frame)


def test_numbers_of_a_frame_are_no_names():
    frame = pd.DataFrame({"a": np.arange(10.0), "city": ["x", "y"] * 5})
    vae = pv.build(frame, latent=1, hidden=[3])
    with pytest.raises(pv.DataError, match="'city' of the data has classes named 'x', 'y': give"):
        vae.encode(frame.assign(city=[1, 0] * 5))
    vae.encode(frame.assign(city=np.nan))  # all missing
    vae.encode(np.array([[1.0, 0.0]]))  # an array has places


def test_none_among_numbers_is_missing():
    rows = pv.data.as_rows(pd.DataFrame({"a": np.array([1.5, None, 2], dtype=object)}))
    assert rows.take(slice(None))[:, 0].isnan().tolist() == [False, True, False]
