"""AnnData as data. What could be wrong without a word: rows in another order than asked or than c,
genes in another order, the obs of the whole for a view, X for a layer or raw for X, a file read
whole.
"""

import importlib.util
import re
import warnings

import h5py
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import sparse
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.data import as_rows
from pyro_vae.estimator import VAEEstimator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import anndata

# anndata sets some, where pandas has begun to warn of that
pytestmark = pytest.mark.filterwarnings("ignore:The '[a-z_.]+' option is deprecated")

GENES = [f"g{number}" for number in range(12)]
COUNTS = np.random.default_rng(0).poisson(0.7, (60, 12))
OBS = pd.DataFrame(
    {
        "batch": pd.Categorical(np.array(["b", "a", "c"])[np.arange(60) % 3]),
        "donor": np.array(["x", "y"])[np.arange(60) // 30],
        "depth": COUNTS.sum(1) + 1.0,
        "control": np.arange(60) % 2 == 0,
    },
    index=[f"cell{number}" for number in range(60)],
)
ORDER = np.random.default_rng(1).permutation(60)
OF_GENES = np.random.default_rng(2).permutation(12)


def cells(matrix=None, **options):
    x = COUNTS.astype(float) if matrix is None else matrix
    return anndata.AnnData(x, obs=OBS.copy(), var=pd.DataFrame(index=GENES), **options)


def file_of(folder, matrix):
    path = folder / "cells.h5ad"
    cells(matrix).write_h5ad(path)
    return path


def backed(folder, matrix):
    return anndata.read_h5ad(file_of(folder, matrix), backed="r")


KINDS = {
    "dense": lambda x, _: cells(x),
    "whole numbers": lambda x, _: cells(x.astype(np.int32)),
    "bytes": lambda x, _: cells(x.astype(np.uint8)),
    "csr_matrix": lambda x, _: cells(sparse.csr_matrix(x)),
    "csr_array": lambda x, _: cells(sparse.csr_array(x)),
    "csc_matrix": lambda x, _: cells(sparse.csc_matrix(x)),
    "a file": lambda x, folder: backed(folder, x),
    "a file of whole numbers": lambda x, folder: backed(folder, x.astype(np.int64)),
    "a sparse file": lambda x, folder: backed(folder, sparse.csr_matrix(x)),
    "a sparse file of bytes": lambda x, folder: backed(folder, sparse.csr_array(x, dtype="u1")),
    "a layer": lambda x, _: as_rows(
        cells(-x, layers={"counts": sparse.csr_array(x)}), layer="counts"
    ),
    "a view": lambda x, _: cells(x[ORDER.argsort()])[ORDER],
    "a sparse view": lambda x, _: cells(sparse.csr_matrix(x[ORDER.argsort()]))[ORDER],
    "a view of a file": lambda x, folder: backed(folder, x[ORDER.argsort()])[ORDER],
    "a view of a sparse file": lambda x, folder: backed(
        folder, sparse.csr_matrix(x[ORDER.argsort()])
    )[ORDER],
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def of_kind(kind, tmp_path):
    return KINDS[kind](COUNTS.astype(float), tmp_path)


def fitted(x, c=None, **options):
    vae = pv.build(x, c=c, latent=2, likelihood="poisson", hidden=[6], **options)
    return vae, pv.fit(vae, x, c, epochs=2, batch_size=20, progress=False)


def evidence(vae, x, c=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a guide that is hardly trained
        return pv.log_evidence(vae, x, c, num_samples=30).log_evidence.values


# Rows


@each_kind
def test_rows_are_those_asked_for(of_kind):
    """In their order, however often, and by the names of their genes."""
    rows = as_rows(of_kind)
    for index in ([0], [7, 3, 3, 58, 7], [5, 6, 7], [7, 6, 5], ORDER):
        assert np.array_equal(rows.take(np.array(index)), COUNTS[index])
    assert np.array_equal(rows.take(slice(2, 50)), COUNTS[2:50])
    assert rows.columns == GENES
    assert rows.is_fixed


@each_kind
def test_they_train_as_the_array_does(of_kind):
    """Bit for bit: data, training and evidence."""
    vae, history = fitted(COUNTS.astype(float))
    other, found = fitted(of_kind)
    assert list(found.loss) == list(history.loss)
    assert np.array_equal(evidence(other, of_kind), evidence(vae, COUNTS))
    assert as_rows(of_kind).summary.digest == as_rows(COUNTS).summary.digest
    assert other.columns == GENES


def test_numbers_that_few_bits_do_not_hold():
    x = COUNTS.astype(np.int64)
    x[0, 0] = 2**40
    for matrix in (x, sparse.csr_array(x)):
        assert as_rows(cells(matrix)).take(np.array([0]))[0, 0] == 2**40
    full = np.full((60, 12), 255, dtype=np.uint8)
    assert as_rows(cells(full)).largest_total() == 12 * 255


@pytest.mark.parametrize("matrix", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_a_file_is_never_read_whole(matrix, tmp_path, monkeypatch):
    adata = backed(tmp_path, matrix(COUNTS.astype(float)))
    adata.X[:1]  # where its rows begin is read once
    monkeypatch.setattr("pyro_vae.data.rows.CHUNK", 120)  # ten rows
    sizes = []
    read = h5py.Dataset.__getitem__

    def recorded(self, *arguments, **options):
        found = read(self, *arguments, **options)
        if not self.name.endswith("indptr"):
            sizes.append(np.size(found))
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recorded)
    _, history = fitted(adata)
    assert np.isfinite(history.loss).all()
    assert 0 < max(sizes) <= 20 * 12


def test_a_file_by_columns_is_refused(tmp_path):
    with pytest.raises(pv.DataError, match=r"CSC matrix.*to_memory"):
        as_rows(backed(tmp_path, sparse.csc_matrix(COUNTS)))


def test_a_value_that_does_not_fit_is_named():
    x = COUNTS.astype(float)
    x[3, 2] = -1.0
    with pytest.raises(pv.DataError, match=r"got -1\.0 at row 3, column 'g2'"):
        fitted(cells(sparse.csr_matrix(x)))


# Layers


def test_x_and_layers_are_told_apart():
    adata = cells(np.zeros((60, 12)), layers={"counts": sparse.csr_matrix(COUNTS)})
    adata.raw = cells(np.ones((60, 12)))
    assert not as_rows(adata).take(slice(None)).any()
    assert np.array_equal(as_rows(adata, layer="counts").take(slice(None)), COUNTS)
    view = as_rows(adata[ORDER][:, OF_GENES], layer="counts")
    assert np.array_equal(view.take(slice(None)), COUNTS[ORDER][:, OF_GENES])
    assert view.columns == [GENES[place] for place in OF_GENES]


REFUSED = {
    "another layer": (
        lambda: as_rows(cells(layers={"counts": COUNTS, "logs": COUNTS}), layer="count"),
        "got 'count'; there are 'counts', 'logs'",
    ),
    "no layers": (lambda: as_rows(cells(), layer="counts"), "there are none; leave it out for X"),
    "a layer of an array": (
        lambda: as_rows(COUNTS, layer="counts"),
        "layer= names a layer of an AnnData; got ndarray",
    ),
    "no X": (
        lambda: as_rows(anndata.AnnData(obs=OBS, var=pd.DataFrame(index=GENES))),
        "got None; its layers are none",
    ),
    "complex": (lambda: as_rows(cells(COUNTS * 1j)), "must be real numbers"),
    "no cells": (lambda: as_rows(cells()[:0]), "at least one row"),
    "two AnnData": (lambda: pv.build(cells(), cells(), latent=2), "got data and x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# Genes


def test_genes_in_another_order_are_put_right():
    adata = cells(sparse.csr_matrix(COUNTS.astype(float)))
    vae, _ = fitted(adata)
    expected = evidence(vae, adata)
    other = adata[:, OF_GENES]
    assert list(other.var_names) != GENES
    assert np.array_equal(evidence(vae, other), expected)
    assert np.array_equal(evidence(vae, other.copy()), expected)
    assert np.array_equal(evidence(vae, other.to_df()), expected)


def test_other_genes_are_refused(tmp_path):
    vae, _ = fitted(cells())
    for adata in (cells()[:, :-1], backed(tmp_path, COUNTS)[:, :-1]):
        with pytest.raises(pv.DataError, match="none named 'g11'"):
            vae.encode(adata)
    renamed = cells()
    renamed.var_names = [f"h{number}" for number in range(12)]
    with pytest.raises(pv.DataError, match="none named 'g0'"):
        vae.encode(renamed)


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_genes_of_the_same_name_are_not_taken_by_their_places():
    vae, _ = fitted(cells())
    adata = cells()
    adata.var_names = ["g1", *GENES[1:]]
    with pytest.raises(pv.DataError, match="got 'g1' twice"):
        vae.encode(adata)


def test_what_comes_back_has_its_own_cells_and_genes():
    adata = cells()
    vae, _ = fitted(adata)
    expected = vae.reconstruct(adata)
    assert list(expected.index) == list(adata.obs_names)
    for other in (adata[:, OF_GENES], as_rows(adata[:, OF_GENES])):
        found = vae.reconstruct(other)
        assert list(found.columns) == [GENES[place] for place in OF_GENES]
        pd.testing.assert_frame_equal(found[GENES], expected)

    holes = COUNTS.astype(float)
    holes[0, 0] = np.nan
    several = vae.impute(cells(holes)[:, OF_GENES], num_samples=5, draws=2)
    for found in (vae.impute(cells(holes)[:, OF_GENES], num_samples=5), *several):
        assert list(found.columns) == [GENES[place] for place in OF_GENES]
        assert np.array_equal(found[GENES[1:]], COUNTS[:, 1:])


# Conditions


@pytest.mark.parametrize(
    "c", ["batch", "donor", "control", ["batch", "depth"], ["donor", "batch"]], ids=str
)
@pytest.mark.parametrize("kind", ["csr_matrix", "a sparse file", "a layer", "dense"])
def test_columns_of_obs_are_what_their_frame_is(of_kind, c):
    names = [c] if isinstance(c, str) else list(c)
    vae, history = fitted(COUNTS.astype(float), OBS[names])
    other, found = fitted(of_kind, c)
    assert other.condition.describe() == vae.condition.describe()
    assert list(found.loss) == list(history.loss)
    assert np.array_equal(evidence(other, of_kind, c), evidence(vae, COUNTS, OBS[names]))


def test_each_cell_keeps_its_c(tmp_path):
    """Of views, whose obs and X are in another order than the whole, and of some of the rows."""
    vae, _ = fitted(cells(), "batch")
    means = vae.encode(cells(), "batch").mean
    assert not torch.allclose(means, vae.encode(cells(), np.array(OBS.batch.iloc[ORDER])).mean)
    adata = cells(sparse.csr_matrix(COUNTS.astype(float)))
    file = backed(tmp_path, sparse.csr_matrix(COUNTS.astype(float)))
    for whole in (adata, file):
        for part in (whole[ORDER], as_rows(whole).only(ORDER)):
            torch.testing.assert_close(vae.encode(part, "batch").mean, means[ORDER])
        few = whole[OBS.batch.values == "a"]  # of one class, whose number stays
        torch.testing.assert_close(
            vae.encode(few, "batch").mean, means[np.flatnonzero(OBS.batch == "a")]
        )
    torch.testing.assert_close(vae.encode(adata[ORDER].copy(), "batch").mean, means[ORDER])


def test_the_exposure_may_be_a_column_of_obs():
    condition = {"exposure": "depth"}
    _, history = fitted(COUNTS.astype(float), OBS[["batch", "depth"]], condition=condition)
    other, found = fitted(cells(), ["batch", "depth"], condition=condition)
    assert list(found.loss) == list(history.loss)
    assert other.condition.exposure == 1
    alone, _ = fitted(cells(), "depth", condition=condition)
    assert alone.condition.exposure == 0


def test_wherever_x_and_c_go(tmp_path):
    adata = cells()
    vae, _ = fitted(adata, "batch")
    spec = pv.describe(vae)
    assert pv.build(spec, adata, "batch").condition.labels == [["a", "b", "c"]]
    history = pv.fit(
        vae, adata, "batch", validation=(adata[:20], "batch"), epochs=1, progress=False
    )
    frames = pv.fit(
        fitted(COUNTS.astype(float), OBS[["batch"]])[0],
        COUNTS,
        OBS[["batch"]],
        validation=(COUNTS[:20], OBS[["batch"]][:20]),
        epochs=1,
        progress=False,
    )
    assert list(history.validation) == list(frames.validation)
    pd.testing.assert_frame_equal(
        vae.reconstruct(adata, "batch"), vae.reconstruct(adata, OBS[["batch"]])
    )
    assert len(pv.Problem.of(vae, adata, "batch")) == 60


def model(x, c):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(c.flatten(), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], torch.ones(12)).to_event(1), obs=x)


def guide(x, c):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x.mean(-1), 0.3))


def test_a_pair_of_functions_takes_names_of_numbers():
    found = evidence((model, guide), cells(), "depth")
    assert np.array_equal(found, evidence((model, guide), COUNTS, OBS.depth.values))


NAMED = {
    "unknown": ("bach", "got 'bach'; there are 'batch', 'donor', 'depth', 'control'"),
    "one unknown": (["batch", "size"], "got 'size'"),
    "twice": (["batch", "batch"], "different columns"),
    "labels": (OBS.batch.tolist(), "labels themselves are given as an array"),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_of_no_column_are_refused(case):
    c, message = NAMED[case]
    vae, _ = fitted(cells(), "batch")
    for call in (lambda: pv.build(cells(), c=c, latent=2), lambda: vae.encode(cells(), c)):
        with pytest.raises(pv.DataError, match=message):
            call()


def test_a_name_beside_an_array_is_refused():
    vae, _ = fitted(cells(), "batch")
    for call in (
        lambda: pv.build(COUNTS, c="batch", latent=2),
        lambda: vae.encode(COUNTS, "batch"),
        lambda: vae.encode(cells().to_df(), "batch"),
        lambda: vae.sample(3, "batch"),
    ):
        with pytest.raises(pv.DataError, match=r"got the name 'batch'; .* give that column itself"):
            call()
    assert vae.sample(3, ["a", "b", "a"]).shape == (3, 12)  # labels, as ever


def test_a_vae_without_condition_takes_none():
    vae, _ = fitted(cells())
    with pytest.raises(ValueError, match="condition"):
        vae.encode(cells(), "batch")


# Files


class TestFiles:
    def test_load(self, tmp_path):
        path = tmp_path / "cells.h5ad"
        cells(sparse.csr_matrix(COUNTS), layers={"twice": COUNTS * 2}).write_h5ad(path)
        adata = pv.data.load(path)
        assert adata.isbacked
        assert np.array_equal(as_rows(adata).take(slice(None)), COUNTS)
        twice = pv.data.load(path, key="twice")
        assert np.array_equal(twice.take(slice(None)), COUNTS * 2)
        assert pv.build(twice, c="batch", latent=2).condition.labels == [["a", "b", "c"]]
        with pytest.raises(pv.DataError, match="got 'thrice'; there are 'twice'"):
            pv.data.load(path, key="thrice")

    def test_without_anndata(self, tmp_path, monkeypatch):
        path = file_of(tmp_path, COUNTS)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(pv.DataError, match=r"\.h5ad files need anndata; pip install anndata"):
            pv.data.load(path)

    def run(self, *arguments):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    def test_from_the_command_line(self, tmp_path, monkeypatch):
        """Of a layer too, which the evaluation must be told, and given columns of obs."""
        monkeypatch.chdir(tmp_path)
        cells(np.zeros((60, 12)), layers={"counts": COUNTS}).write_h5ad("cells.h5ad")
        quick = ["--epochs", 2, "--num-samples", 30, "--hidden", 8, "--latent", 2]
        of_layer = ["cells.h5ad", "--key", "counts", "--condition", "batch,depth"]
        result = self.run(
            "fit", *of_layer, "--likelihood", "poisson", *quick, "-o", "m.safetensors"
        )
        assert result.exit_code == 0, result.output
        vae = pv.load("m.safetensors")
        assert vae.columns == GENES
        assert vae.condition.columns == ["batch", "depth"]

        options = ["--num-samples", 30, "--rows", "all", "-o", "evidence.csv"]
        result = self.run("evaluate", "m.safetensors", *of_layer, *options)
        assert result.exit_code == 0, result.output
        found = pd.read_csv("evidence.csv").log_evidence
        assert np.allclose(found, evidence(vae, COUNTS, OBS[["batch", "depth"]]))
        result = self.run("evaluate", "m.safetensors", "cells.h5ad", "--condition", "bach")
        assert result.exit_code == 2
        assert "got 'bach'; there are 'batch'" in result.output


# scikit-learn


def estimator(**options):
    given = {"latent": 2, "hidden": [], "epochs": 2, "num_samples": 30, "likelihood": "poisson"}
    return VAEEstimator(**{**given, **options})


@pytest.mark.filterwarnings("ignore:log p:UserWarning")
class TestEstimator:
    @pytest.mark.parametrize(
        "table",
        [
            cells,
            lambda: cells(sparse.csr_matrix(COUNTS.astype(float))),
            lambda: as_rows(cells(-COUNTS, layers={"counts": COUNTS}), layer="counts"),
            lambda: torch.as_tensor(COUNTS, dtype=torch.float64).to_sparse_csr(),
            lambda: torch.as_tensor(COUNTS, dtype=torch.float64).to_sparse(),
            lambda: torch.as_tensor(COUNTS, dtype=torch.float64).to_sparse_csc(),
            lambda: torch.as_tensor(COUNTS, dtype=torch.float64),
        ],
        ids=["dense", "csr", "layer", "torch csr", "torch coo", "torch csc", "torch"],
    )
    @pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning")  # of torch, in beta state
    def test_tables_that_scikit_learn_does_not_know(self, table):
        options = {"validation_fraction": 0.2}
        expected = estimator(**options).fit(COUNTS.astype(float))
        found = estimator(**options).fit(table())
        assert list(found.history_.validation) == list(expected.history_.validation)
        assert np.array_equal(found.transform(table()), expected.transform(COUNTS))
        assert np.array_equal(found.score_samples(table()), expected.score_samples(COUNTS))
        assert found.n_features_in_ == 12

    def test_names_of_genes(self):
        found = estimator().fit(cells())
        assert list(found.feature_names_in_) == GENES
        with pytest.raises(ValueError, match="feature names should match"):
            found.transform(cells()[:, OF_GENES])
        with pytest.raises(ValueError, match="X has 11 features"):
            estimator().fit(COUNTS).transform(torch.as_tensor(COUNTS)[:, :11].to_sparse())


def test_genes_need_names_of_their_own():
    twice = cells()
    twice.var_names = ["same", "same", *GENES[2:]]
    with pytest.raises(pv.DataError, match=r"'same' twice; adata.var_names_make_unique\(\) helps"):
        pv.build(twice)


def test_a_mask_of_cells():
    mask = np.arange(60) % 7 == 0
    rows = pv.data.as_rows(cells()).only(mask)
    assert np.array_equal(rows.take(slice(None)), COUNTS[mask])
    assert rows.obs.index.tolist() == OBS.index[mask].tolist()
