"""Data: every kind of source, and the check at the door with row, column, value and remedy."""

import gzip
import struct
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

import pyro_vae as pv
from pyro_vae.data.arrays import as_rows

GREY = np.linspace(0, 1, 40).reshape(10, 4)
COUNTS = np.arange(40).reshape(10, 4)


def vae_for(likelihood, features=4):
    return pv.build({"event": [features], "latent": [2], "likelihood": likelihood}, hidden=[4])


class Pairs(torch.utils.data.Dataset):
    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return torch.as_tensor(self.array[index]), "label"


class Strings(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros(4) if index == 0 else np.array(["a"] * 4)


def readonly(array):
    array = array.copy()
    array.flags.writeable = False
    return array


SOURCES = {
    "array": lambda a, _: a,
    "float32": lambda a, _: a.astype(np.float32),
    "uint8": lambda a, _: a.astype(np.uint8),
    "uint16": lambda a, _: a.astype(np.uint16),
    "int64": lambda a, _: a.astype(np.int64),
    "big-endian": lambda a, _: a.astype(">f8"),
    "fortran order": lambda a, _: np.asfortranarray(a),
    "negative strides": lambda a, _: a[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda a, _: readonly(a),
    "list": lambda a, _: a.tolist(),
    "object array of numbers": lambda a, _: a.astype(object),
    "tensor": lambda a, _: torch.as_tensor(a),
    "tensor that needs a gradient": lambda a, _: torch.as_tensor(a.astype(float)).requires_grad_(),
    "transposed tensor": lambda a, _: torch.as_tensor(a.T.copy()).T,
    "frame": lambda a, _: pd.DataFrame(a),
    "frame of mixed dtypes": lambda a, _: pd.DataFrame(
        {"a": a[:, 0], "b": a[:, 1].astype(float), "c": a[:, 2], "d": a[:, 3]}
    ),
    "frame with nullable integers": lambda a, _: pd.DataFrame(a).astype("Int64"),
    "dataset": lambda a, _: Pairs(a),
    "rows": lambda a, _: pv.data.as_rows(a),
    "half precision": lambda a, _: torch.as_tensor(a).bfloat16(),
    "dataset in half precision": lambda a, _: Pairs(torch.as_tensor(a).bfloat16()),
    "memory map": lambda a, folder: memory_map(a, folder),
}


def memory_map(array, folder):
    np.save(folder / "x.npy", array)
    return pv.data.load(folder / "x.npy")


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_rows(kind, tmp_path):
    rows = pv.data.as_rows(SOURCES[kind](COUNTS, tmp_path))
    assert len(rows) == 10
    assert rows.event_shape == (4,)
    expected = torch.as_tensor(COUNTS, dtype=torch.float64)
    assert torch.equal(rows.take(slice(None)), expected)
    assert torch.equal(rows.take(np.array([7, 0, 7])), expected[[7, 0, 7]])
    taken = rows.take(np.array([3]), like=torch.empty(0, dtype=torch.float32))
    assert taken.dtype == torch.float32
    assert not taken.requires_grad


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_trains_and_scores_alike(kind, tmp_path):
    vae, reference = vae_for("poisson"), vae_for("poisson")
    a = pv.fit(vae, SOURCES[kind](COUNTS, tmp_path), epochs=2, progress=False)
    b = pv.fit(reference, COUNTS, epochs=2, progress=False)
    assert a.loss.equals(b.loss)
    first = pv.log_evidence(vae, SOURCES[kind](COUNTS, tmp_path), num_samples=5)
    assert first.equals(pv.log_evidence(reference, COUNTS, num_samples=5))


def test_booleans_are_converted():
    vae = vae_for("bernoulli")
    a = pv.log_evidence(vae, COUNTS % 2 == 1, num_samples=5)
    assert a.equals(pv.log_evidence(vae, COUNTS % 2, num_samples=5))


def test_a_memory_map_is_read_row_by_row(tmp_path):
    mapped = memory_map(COUNTS, tmp_path)
    assert isinstance(mapped, np.memmap)
    pv.data.as_rows(mapped).take(slice(2, 4)).fill_(0.0)
    assert np.array_equal(mapped, COUNTS)


def test_moments():
    x = np.random.default_rng(0).normal(1e6, [1.0, 2.0, 3.0], (1000, 3)) * [1, 1, 0]
    mean, sd = pv.data.as_rows(x).moments()
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(sd, x.std(0), rtol=1e-6)


def with_cell(array, value, row=3, column=2):
    array = np.array(array, dtype=object if isinstance(value, (str, dict, list)) else float)
    array[row, column] = value
    return array


# case: (likelihood, data, parts of the message)
BAD = {
    "NaN": (
        "multivariate_normal",
        lambda: with_cell(GREY, np.nan),
        [
            "MultivariateNormal(4,) needs rows without missing cells, as",
            "got nan at row 3, column 2",
            "drop or impute",
        ],
    ),
    "inf": (
        "normal",
        lambda: with_cell(GREY, np.inf),
        ["finite numbers; got inf at row 3, column 2"],
    ),
    "-inf": (
        "poisson",
        lambda: with_cell(COUNTS, -np.inf),
        ["finite numbers; got -inf at row 3, column 2"],
    ),
    "all missing": (
        "normal",
        lambda: GREY * np.nan,
        ["Normal(4,) needs data; every cell is missing"],
    ),
    "NaN in a frame": (
        "multivariate_normal",
        lambda: pd.DataFrame(with_cell(GREY, np.nan), columns=["age", "size", "mass", "rate"]),
        ["got nan at row 3, column 'mass'"],
    ),
    "missing in a frame of integers": (
        "multivariate_normal",
        lambda: pd.DataFrame(
            {"a": pd.array([1, None], dtype="Int64"), "b": [1, 2], "c": [1, 2], "d": [1, 2]}
        ),
        ["got nan at row 1, column 'a'"],
    ),
    "grey for Bernoulli": (
        "bernoulli",
        lambda: GREY,
        ["needs 0 or 1; got 0.0256", "row 0, column 1", "pv.binarize"],
    ),
    "negative count": (
        "poisson",
        lambda: with_cell(COUNTS, -1),
        ["whole numbers from 0; got -1.0 at row 3, column 2"],
    ),
    "fractional count": (
        "negative_binomial",
        lambda: with_cell(COUNTS, 0.5),
        ["got 0.5 at row 3, column 2", "round"],
    ),
    "above the total": (
        {"name": "binomial", "total_count": 16},
        lambda: with_cell(COUNTS % 16, 17),
        ["whole numbers from 0 to 16; got 17.0 at row 3, column 2", "larger total_count"],
    ),
    "unknown class": (
        {"name": "categorical", "categories": 3},
        lambda: with_cell(COUNTS % 3, 3),
        ["whole numbers from 0 to 2; got 3.0 at row 3, column 2"],
    ),
    "above one": (
        "continuous_bernoulli",
        lambda: with_cell(GREY, 1.5),
        ["numbers from 0 to 1; got 1.5", "rescale"],
    ),
    "edge of beta": (
        "beta",
        lambda: GREY,
        ["values of finite, positive density; got 0.0 at row 0, column 0", "edge"],
    ),
    "zero for gamma": (
        "gamma",
        lambda: with_cell(GREY + 1, 0.0),
        ["finite, positive density; got 0.0 at row 3, column 2"],
    ),
    "negative for log_normal": (
        "log_normal",
        lambda: with_cell(GREY + 1, -1),
        ["positive numbers; got -1.0", "shift"],
    ),
    "not on the simplex": (
        "dirichlet",
        lambda: GREY + 1,
        ["rows of positive numbers that sum to 1", "row 0", "divide"],
    ),
    "overflow": ("normal", lambda: with_cell(GREY, 1e300), ["finite"]),
    "too narrow": (
        "normal",
        lambda: GREY[:, :3],
        ["must have shape (N, 4); got (10, 3)", "select the columns"],
    ),
    "too wide": ("normal", lambda: np.ones((10, 5)), ["must have shape (N, 4); got (10, 5)"]),
    "one datum": ("normal", lambda: GREY[0], ["must have shape (N, 4); got (4,)", "x[None]"]),
    "images": (
        "normal",
        lambda: GREY.reshape(10, 2, 2),
        ["got (10, 2, 2); x.reshape(len(x), 4) fits"],
    ),
    "no rows": ("normal", lambda: GREY[:0], ["at least one row and one column; got shape (0, 4)"]),
    "no columns": (
        "normal",
        lambda: GREY[:, :0],
        ["at least one row and one column; got shape (10, 0)"],
    ),
    "empty list": ("normal", list, ["at least one row and one column"]),
    "empty dataset": ("normal", lambda: Pairs(GREY[:0]), ["at least one row and one column"]),
    "a string in a cell": (
        "normal",
        lambda: with_cell(GREY, "high"),
        ["got 'high' (str) at row 3, column 2", "encode"],
    ),
    "an object in a cell": (
        "normal",
        lambda: with_cell(GREY, {}),
        ["got {} (dict) at row 3, column 2"],
    ),
    "None in a cell": (
        "normal",
        lambda: [[1.0, None, 1.0, 1.0]],
        ["got None (NoneType) at row 0, column 1"],
    ),
    "strings": ("normal", lambda: GREY.astype(str), ["(str_) at row 0, column 0"]),
    "text column": (
        "normal",
        lambda: pd.DataFrame({"a": [1.0], "b": [2.0], "c": ["x"], "d": [3.0]}),
        ["'x'", "column 'c'"],
    ),
    "dates": ("normal", lambda: np.full((2, 4), np.datetime64("2026-01-01")), ["row 0, column 0"]),
    "complex array": ("normal", lambda: GREY + 1j, ["complex"]),
    "complex tensor": ("normal", lambda: torch.as_tensor(GREY + 1j), ["must be real numbers"]),
    "masked array": (
        "multivariate_normal",
        lambda: np.ma.masked_greater(GREY, 0.98),
        ["needs rows without missing cells, as", "got nan at row 9, column 3"],
    ),
    "masked array of strings": (
        "normal",
        lambda: np.ma.array([["a", "b", "c", "d"]]),
        ["data must be numbers; got np.str_('a')"],
    ),
    "ragged dataset": (
        "normal",
        lambda: Pairs([np.zeros(4), np.zeros(3)]),
        ["item 1 of Pairs has shape (3,), item 0 has (4,)"],
    ),
    "dataset of strings": (
        "normal",
        lambda: Strings(),
        ["item 1 of Strings: data must be numbers; got np.str_('a')"],
    ),
    "sparse tensor": (
        "normal",
        lambda: torch.as_tensor(GREY)[..., None].to_sparse(),
        ["sparse data need two dimensions", "to_dense"],
    ),
    "ragged": ("normal", lambda: [[1.0, 2.0], [3.0]], ["rows of equal length"]),
    "a number": ("normal", lambda: 3.0, ["data need rows"]),
    "a tensor without dimensions": ("normal", lambda: torch.tensor(3.0), ["data need rows"]),
    "None": ("normal", lambda: None, ["data need rows"]),
    "a string": ("normal", lambda: "digits", ["data need rows", "'digits'"]),
}

ENTRIES = {
    "build": lambda vae, x: pv.build(pv.describe(vae), x),
    "fit": lambda vae, x: pv.fit(vae, x, epochs=1, progress=False),
    "log_evidence": lambda vae, x: pv.log_evidence(vae, x, num_samples=2),
    "log_evidence of a pair": lambda vae, x: pv.log_evidence(
        (vae.model, vae.guide), x, num_samples=2
    ),
    "terms": lambda vae, x: pv.terms(vae, x, num_samples=2),
    "encode": lambda vae, x: vae.encode(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "check": lambda vae, x: vae.check(x),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_at_every_door(case, entry):
    likelihood, make, parts = BAD[case]
    if entry == "build" and make() is None:
        return  # a spec may be built without data
    vae = vae_for(likelihood).float()
    before = [p.detach().clone() for p in vae.parameters()]
    with pytest.raises(pv.DataError) as caught:
        ENTRIES[entry](vae, make())
    for part in parts:
        assert part in str(caught.value)
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))


@pytest.mark.parametrize("case", BAD)
def test_model_and_guide_refuse_what_is_no_batch(case):
    """Shape and kind are theirs to refuse; values are Pyro's, whose validation is on unless the
    user turns it off.
    """
    _, make, parts = BAD[case]
    try:
        pv.data.as_rows(make(), torch.Size([4]))
    except pv.DataError:
        vae = vae_for("normal")
        for function in (vae.model, vae.guide) if make() is not None else (vae.guide,):
            with pytest.raises(pv.DataError) as caught:
                function(make())
            assert parts[0] in str(caught.value)


def test_build_from_names_checks_the_data():
    for likelihood, x, message in [
        (
            "normal",
            with_cell(GREY, np.inf),
            "Normal(4,) needs finite numbers; got inf at row 3, column 2",
        ),
        (
            "multivariate_normal",
            with_cell(GREY, np.nan),
            "cells depend on each other; got nan at row 3, column 2",
        ),
        ("categorical", -COUNTS, "needs whole numbers from 0 to 0; got -1.0 at row 0, column 1"),
        ("binomial", with_cell(COUNTS, 0.5), "got 0.5 at row 3, column 2"),
    ]:
        with pytest.raises(pv.DataError) as caught:
            pv.build(x, likelihood=likelihood)
        assert message in str(caught.value)


def test_other_bad_cells_are_counted():
    with pytest.raises(pv.DataError, match=r"got 0.02564\d* at row 0, column 1 \(and 37 more\)"):
        vae_for("bernoulli").encode(GREY)


@pytest.mark.slow
@settings(deadline=None, max_examples=500, derandomize=True)
@given(
    x=hnp.arrays(
        st.sampled_from(
            [
                np.float64,
                np.float32,
                np.int32,
                np.uint8,
                np.bool_,
                np.complex64,
                object,
                "U3",
                "M8[D]",
            ]
        ),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    likelihood=st.sampled_from(["normal", "bernoulli", "poisson", "gamma"]),
)
def test_any_array_scores_or_is_refused(x, likelihood):
    try:
        with warnings.catch_warnings():
            # Counts of 1e155 are no estimate, and it says so.
            warnings.simplefilter("ignore", UserWarning)
            result = pv.log_evidence(vae_for(likelihood), x, num_samples=2)
    except pv.DataError:
        return
    assert result.sizes["datum"] == len(x)
    assert not np.isposinf(result.log_evidence).any()


class TestBinarize:
    def test_threshold(self):
        assert torch.equal(pv.binarize(GREY), torch.as_tensor(GREY > 0.5, dtype=torch.float64))
        assert torch.equal(
            pv.binarize(COUNTS, threshold=20), torch.as_tensor(COUNTS > 20, dtype=torch.float64)
        )
        with pytest.raises(
            pv.DataError, match=r"binarize needs grey values from 0 to 1; got 2\.0 .* threshold=127"
        ):
            pv.binarize(COUNTS)
        with pytest.raises(
            pv.DataError, match="binarize needs numbers; got nan at row 3, column 2"
        ):
            pv.binarize(with_cell(GREY, np.nan))

    def test_afresh_draws_anew_at_every_epoch(self):
        rows = pv.binarize_afresh(np.full((50, 4), 0.3))
        first, second = rows.take(slice(None)), rows.take(slice(None))
        assert set(first.unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(first, second)
        draws = torch.stack([rows.take(slice(None)) for _ in range(500)])
        assert abs(draws.mean().item() - 0.3) < 5 * (0.3 * 0.7 / draws.numel()) ** 0.5

    def test_afresh_trains_and_the_seed_decides(self):
        rows = pv.binarize_afresh(GREY)
        losses = [
            pv.fit(vae_for("bernoulli"), rows, epochs=3, progress=False).loss for _ in range(2)
        ]
        assert losses[0].equals(losses[1])

    def test_afresh_needs_probabilities(self):
        with pytest.raises(
            pv.DataError, match=r"from 0 to 1; got 2\.0 at row 0, column 2 .* divide by the largest"
        ):
            pv.binarize_afresh(COUNTS)


def write_idx(path, array, opener=open):
    with opener(path, "wb") as file:
        file.write(
            struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        )
        file.write(array.astype(np.uint8).tobytes())


SPARSE = {
    "csr_array": sparse.csr_array,
    "csr_matrix": sparse.csr_matrix,
    "coo_array": sparse.coo_array,
    "csc_matrix": sparse.csc_matrix,
    "whole numbers": lambda x: sparse.csr_array(x.astype(np.int32)),
    "torch": lambda x: torch.as_tensor(x).to_sparse(),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_data_are_those_of_the_dense(kind):
    """Bit for bit: data, training and evidence; and rows are made dense as they are read."""
    dense = np.random.default_rng(0).poisson(0.4, (60, 12)).astype(float)
    found = []
    for x in (dense, SPARSE[kind](dense)):
        rows = as_rows(x)
        assert np.array_equal(rows.take(np.array([3, 1, 3])), dense[[3, 1, 3]])
        vae = pv.build(x, latent=2, likelihood="poisson", hidden=[6])
        history = pv.fit(vae, x, epochs=2, batch_size=20, progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a guide that is hardly trained
            evidence = pv.log_evidence(vae, x, num_samples=30)
        found.append((rows.summary.digest, list(history.loss), evidence.log_evidence.values))
    assert found[0][:2] == found[1][:2]
    assert np.array_equal(found[0][2], found[1][2])


def test_sparse_data_in_half_precision():
    x = torch.tensor([[0.0, 1.5], [2.0, 0.0]], dtype=torch.float16)
    assert torch.equal(as_rows(x.to_sparse()).take(slice(None)), x.to(torch.get_default_dtype()))


def test_sparse_data_of_one_dimension_are_refused():
    with pytest.raises(pv.DataError, match="sparse data need two dimensions"):
        as_rows(sparse.coo_array([1.0, 2.0]))


def test_sparse_data_of_complex_numbers_are_refused():
    with pytest.raises(pv.DataError, match="must be real numbers; got complex128"):
        as_rows(sparse.eye_array(3) * 1j)


class TestLoad:
    def test_digits(self):
        x = pv.data.load("digits")
        assert x.shape == (1797, 64)
        assert x.min() == 0
        assert x.max() == 16

    def test_files(self, tmp_path):
        np.savez(tmp_path / "one.npz", COUNTS)
        np.savez(tmp_path / "two.npz", a=GREY, b=COUNTS)
        pd.DataFrame(COUNTS, columns=list("abcd")).to_csv(tmp_path / "x.csv", index=False)
        images = COUNTS.reshape(10, 2, 2)
        write_idx(tmp_path / "images-idx3-ubyte", images)
        write_idx(tmp_path / "images-idx3-ubyte.gz", images, gzip.open)
        assert np.array_equal(pv.data.load(tmp_path / "one.npz"), COUNTS)
        assert np.array_equal(pv.data.load(tmp_path / "two.npz", key="b"), COUNTS)
        assert list(pv.data.load(tmp_path / "x.csv").columns) == list("abcd")
        sparse.save_npz(tmp_path / "sparse.npz", sparse.csr_array(COUNTS))
        assert np.array_equal(pv.data.load(tmp_path / "sparse.npz").toarray(), COUNTS)
        for name in ("images-idx3-ubyte", "images-idx3-ubyte.gz"):
            assert np.array_equal(pv.data.load(tmp_path / name), images)

    def test_errors(self, tmp_path):
        np.savez(tmp_path / "two.npz", a=GREY, b=COUNTS)
        np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        (tmp_path / "short.npy").write_bytes(b"\x93NUMPY")
        (tmp_path / "text.log").write_text("hello")
        (tmp_path / "damaged.gz").write_bytes(b"\x1f\x8b\x08nonsense")
        write_idx(tmp_path / "images-idx3-ubyte", COUNTS.reshape(10, 2, 2))
        whole = (tmp_path / "images-idx3-ubyte").read_bytes()
        (tmp_path / "cut-idx3-ubyte").write_bytes(whole[:-5])
        cases = {
            "digitz": "there is no data set or file 'digitz'; did you mean 'digits'?",
            "nothing.npy": "give 'digits' or a path",
            tmp_path / "two.npz": r"holds a, b; got key=None; name one of them",
            tmp_path / "objects.npy": "could not be read as .npy",
            tmp_path / "short.npy": "could not be read as .npy",
            tmp_path / "text.log": "no data file that is known here",
            tmp_path / "damaged.gz": "could not be read as .gz",
            tmp_path / "cut-idx3-ubyte": r"array of shape \(10, 2, 2\), 40 bytes, and has fewer",
        }
        for source, message in cases.items():
            with pytest.raises(pv.DataError, match=message):
                pv.data.load(source)
        pd.DataFrame(COUNTS).to_csv(tmp_path / "numbered.csv", index=False)
        assert pv.data.load(tmp_path / "numbered.csv").shape == (10, 4)
        with pytest.raises(pv.DataError, match=r"key= names an array of an \.npz file"):
            pv.data.load(tmp_path / "numbered.csv", key="a")
