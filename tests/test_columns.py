"""Columns by name: a model knows those of the frame it was made for, wherever it goes."""

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae as pv

FRAME = pd.DataFrame(
    np.random.default_rng(0).normal([0.0, 5.0, -3.0], [1.0, 2.0, 0.5], (60, 3)),
    columns=["age", "income", "height"],
)
OTHER = FRAME[["height", "age", "income"]]


def loss(vae, x):
    """With the same draws at each call."""
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        return Trace_ELBO().loss(vae.model, vae.guide, x)


@pytest.fixture
def vae():
    return pv.build(FRAME, latent=1, hidden=[4])


def in_order(given_back):
    """The numbers of a frame in the order of FRAME; those of a tensor."""
    return np.asarray(
        given_back if isinstance(given_back, torch.Tensor) else given_back[list(FRAME.columns)]
    )


DOORS = {
    "log_evidence": lambda vae, x: pv.log_evidence(vae, x, num_samples=20).log_evidence.values,
    "encode": lambda vae, x: vae.encode(x).mean.detach().numpy(),
    "reconstruct": lambda vae, x: in_order(vae.reconstruct(x)),
    "impute": lambda vae, x: in_order(vae.impute(x, num_samples=5)),
    "model and guide": lambda vae, x: loss(vae, x),
    "gaps": lambda vae, x: pv.gaps(vae, x, num_samples=25, steps=2).log_evidence.values,
}


@pytest.mark.filterwarnings("ignore:log p")
@pytest.mark.parametrize("door", DOORS)
def test_another_order_is_put_right(door, vae):
    found = [DOORS[door](vae, x) for x in (FRAME, OTHER, FRAME.to_numpy())]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2]), "an array is taken as it is"


def test_training_too():
    losses = []
    for x in (FRAME, OTHER):
        model = pv.build(FRAME, latent=1, hidden=[4])
        history = pv.fit(model, x, validation=OTHER, epochs=2, progress=False)
        losses.append(history[["loss", "validation"]])
    pd.testing.assert_frame_equal(*losses)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            FRAME.rename(columns={"age": "years"}),
            "columns 'age', 'income', 'height'; got none named 'age', and others named 'years'",
        ),
        (FRAME.drop(columns="age"), "got none named 'age'; rename or select"),
        (FRAME.assign(weight=1.0), "got others named 'weight'; rename or select"),
    ],
)
def test_other_columns_are_refused(x, message, vae):
    for door in (vae.encode, lambda x: pv.fit(vae, x, epochs=1, progress=False)):
        with pytest.raises(pv.DataError, match=message):
            door(x)


def test_names_are_in_the_spec_and_the_file(vae, tmp_path):
    assert pv.describe(vae)["columns"] == ["age", "income", "height"]
    pv.save(vae, tmp_path / "model.safetensors")
    again = pv.load(tmp_path / "model.safetensors")
    assert torch.equal(again.encode(OTHER).mean, vae.encode(FRAME).mean)
    assert pv.build(pv.describe(vae), OTHER).columns == ["age", "income", "height"]


@pytest.mark.filterwarnings("ignore:fit. training has not reached")  # columns in another order
def test_a_model_without_names_learns_them_by_fitting():
    vae = pv.build(FRAME.to_numpy(), latent=1, hidden=[4])
    assert vae.columns is None
    pv.fit(vae, OTHER, epochs=1, progress=False)
    assert vae.columns == ["height", "age", "income"]


@pytest.mark.parametrize("columns", [range(3), ["a", "a", "b"]], ids=["numbers", "one twice"])
def test_columns_without_a_name_each_are_taken_in_order(columns):
    x = pd.DataFrame(FRAME.to_numpy(), columns=columns)
    vae = pv.build(x, latent=1, hidden=[4])
    assert vae.columns is None
    assert torch.equal(vae.encode(x).mean, vae.encode(FRAME).mean)


@pytest.mark.parametrize("labels", [[1990, 1991, 1995], [400.5, 401.0, 402.0], ["a", "b", 3]])
def test_labels_that_are_numbers_are_names(labels):
    x = FRAME.set_axis(labels, axis=1)
    vae = pv.build(x, latent=1, hidden=[4])
    assert vae.columns == [str(label) for label in labels]
    other = x[[labels[2], labels[0], labels[1]]]
    assert torch.equal(vae.encode(other).mean, vae.encode(x).mean)
    given_back = vae.reconstruct(other)
    assert list(given_back.columns) == list(other.columns)
    pd.testing.assert_frame_equal(given_back[labels], vae.reconstruct(x))
    with pytest.raises(pv.DataError, match="got none named '" + str(labels[0])):
        vae.encode(x.rename(columns={labels[0]: 7}))


@pytest.mark.parametrize(
    ("made", "given"), [([1, 2, 3], [0, 1, 2]), ([0, 1, 2], [1, 2, 3]), (None, [1, 2, 3])]
)
def test_other_numbers_are_other_columns(made, given):
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 4)))
    vae = pv.build(x[made] if made else x.to_numpy()[:, :3], latent=1, hidden=[4])
    with pytest.raises(pv.DataError, match=r"data need the columns '.*; got none named '"):
        vae.encode(x[given])


def test_numbers_that_the_model_has_in_another_order():
    x = FRAME.set_axis(range(3), axis=1)
    vae = pv.build(x[[2, 1, 0]], latent=1, hidden=[4])
    assert torch.equal(vae.encode(x).mean, vae.encode(x[[2, 1, 0]]).mean)
    pd.testing.assert_frame_equal(
        vae.reconstruct(x)[[2, 1, 0]], vae.reconstruct(x[[2, 1, 0]]), check_column_type=False
    )


def test_the_exposure_of_numbered_columns_is_found_by_its_label():
    c = pd.DataFrame({2020: np.linspace(1, 2, 60), 0: np.linspace(3, 4, 60)})
    for label, place in ((2020, 0), (0, 1)):
        vae = pv.build(
            FRAME.abs() + 1, c=c, condition={"exposure": label}, latent=1, likelihood="gamma"
        )
        assert vae.condition.exposure == place


def test_numbered_columns_in_another_order_are_put_right():
    """Also where the model was made for an array, whose columns have no names."""
    x = FRAME.set_axis(range(3), axis=1)
    for data in (x, x.to_numpy()):
        vae = pv.build(data, latent=1, hidden=[4])
        assert vae.columns is None
        assert torch.equal(vae.encode(x[[2, 0, 1]]).mean, vae.encode(x).mean)
        pd.testing.assert_frame_equal(
            vae.reconstruct(x[[2, 0, 1]])[[0, 1, 2]], vae.reconstruct(x), check_column_type=False
        )


@pytest.mark.parametrize("columns", ["abc", ["a", "b"], ["a", "b", "b"], ["a", "b", 3]])
def test_columns_of_a_spec_that_do_not_fit(columns):
    with pytest.raises(ValueError, match="columns: must be a list of 3 different names"):
        pv.build({"event": [3], "latent": [1], "columns": columns})


def test_columns_of_a_condition_too(tmp_path):
    """In order, and known to the file."""
    c = FRAME[["age", "income"]]
    vae = pv.build(FRAME, c=c, latent=1, hidden=[4])
    pv.save(vae, tmp_path / "given.safetensors")
    for model in (vae, pv.load(tmp_path / "given.safetensors")):
        first = vae.encode(FRAME, c).mean
        assert torch.equal(model.encode(FRAME, c[["income", "age"]]).mean, first)
        with pytest.raises(pv.DataError, match="got others named 'height'"):
            model.encode(FRAME, FRAME)
    with pytest.raises(ValueError, match="Condition needs columns as a list of 2 names"):
        pv.Condition(size=2, columns=["a"])


@pytest.mark.parametrize(
    "values",
    [FRAME["age"], np.arange(60) % 3, np.array(["a", "b", "c"] * 20)],
    ids=["numbers", "whole numbers", "labels"],
)
def test_the_one_column_of_a_condition_too(values, tmp_path):
    c = pd.DataFrame({"batch": np.asarray(values)})
    vae = pv.build(FRAME, c=c, latent=1, hidden=[4])
    pv.save(vae, tmp_path / "given.safetensors")
    vae = pv.load(tmp_path / "given.safetensors")
    first = vae.encode(FRAME, c).mean
    for unnamed in (np.asarray(values), pd.Series(np.asarray(values), name="y")):
        assert torch.equal(vae.encode(FRAME, unnamed).mean, first)
    with pytest.raises(pv.DataError, match="c needs the columns 'batch'; got none named 'batch'"):
        vae.encode(FRAME, c.rename(columns={"batch": "site"}))


def test_blocks_may_name_their_columns():
    def likelihood(*blocks):
        return {"name": "columns", "blocks": [{"columns": c, "name": n} for c, n in blocks]}

    by_name = likelihood((["income"], "log_normal"), (["age", "height"], "normal"))
    by_number = likelihood(
        ([list(FRAME.columns).index("income")], "log_normal"),
        ([list(FRAME.columns).index(name) for name in ("age", "height")], "normal"),
    )
    positive = FRAME.abs() + 1.0
    specs = [
        pv.describe(pv.build(positive, latent=1, hidden=[4], likelihood=likelihood))
        for likelihood in (by_name, by_number)
    ]
    assert specs[0] == specs[1]
    with pytest.raises(ValueError, match=r"blocks\[0\].columns: no column is named 'incom'; did"):
        pv.build(positive, likelihood=likelihood((["incom"], "normal")))


class TestOrderOfRows:
    """What goes with x row by row must not name its rows in another order."""

    x = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), list(range(20)), ["a", "b"])
    backwards = slice(None, None, -1)

    def test_c_in_another_order_is_refused(self):
        c = pd.DataFrame({"kind": list("abcd") * 5})
        vae = pv.build(self.x, c=c, latent=1, hidden=[3])
        expected = pv.log_evidence(vae, self.x, c, num_samples=20).log_evidence.values
        for other in (c[self.backwards], c.kind[self.backwards]):
            with pytest.raises(pv.DataError, match=r"c has the rows of x in another order: 19, 18"):
                pv.log_evidence(vae, self.x, other)
        found = pv.log_evidence(
            vae, self.x[self.backwards], c[self.backwards].loc[self.x.index[::-1]], num_samples=20
        )
        assert found.sizes["datum"] == 20
        unnamed = c[self.backwards].set_axis(range(100, 120))
        pv.log_evidence(vae, self.x, unnamed, num_samples=20)  # other names are no order
        np.testing.assert_array_equal(
            pv.log_evidence(vae, self.x, c.kind.tolist(), num_samples=20).log_evidence.values,
            expected,
        )

    def test_so_are_weights(self):
        weights = pd.Series(np.arange(20) + 1.0)
        vae = pv.build(self.x, latent=1, hidden=[3])
        pv.fit(vae, self.x, weights=weights, epochs=1, progress=False)
        with pytest.raises(pv.DataError, match="weights has the rows of x in another order"):
            pv.fit(vae, self.x, weights=weights[self.backwards], epochs=1)
        with pytest.raises(pv.DataError, match="sample_weight has the rows of x in another order"):
            pv.VAEEstimator(epochs=1).fit(self.x, sample_weight=weights[self.backwards])


def test_rows_are_chosen_by_number_or_by_a_mask():
    rows = pv.data.as_rows(np.arange(12.0).reshape(6, 2))
    mask = np.array([True, False, True, False, False, True])
    for index in (mask, mask.tolist(), [0, 2, 5], [0, -4, -1]):
        assert rows.only(index).take(slice(None))[:, 0].tolist() == [0, 4, 10]
    assert len(rows.only([])) == 0
    for index in (mask[:4], [0.5], [6], [-7], ["a"], slice(3), [[0, 1]]):
        with pytest.raises(pv.DataError, match="only needs numbers of rows from 0 to 5"):
            rows.only(index)
