"""Which rows the commands use of data that a model was fitted to."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import safetensors
import torch
import xarray
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.data.files import write
from pyro_vae.data.sealed import CheckpointError, sealed, unsealed
from pyro_vae.spec.split import Split, read_split
from pyro_vae_command import app

QUICK = ["--epochs", 1, "--num-samples", 30, "--hidden", 4, "--latent", 2]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(40, 3)))
    np.save("other.npy", generator.normal(size=(40, 3)))
    return tmp_path


def held_out(seed=0, share=0.25, num=40):
    return np.sort(np.random.default_rng(seed).permutation(num)[: round(share * num)])


def rows_of(text):
    return json.loads(text)["num_data"]


@pytest.mark.filterwarnings("ignore:log p")
def test_rows_held_out_are_scored_unless_told_otherwise():
    done("fit", "x.npy", *QUICK, "--validation", 0.25, "-o", "m.safetensors")
    x, vae = np.load("x.npy"), pv.load("m.safetensors")
    quick = ["--num-samples", 30, "--json"]
    default = done("evaluate", "m.safetensors", "x.npy", *quick)
    expected = pv.log_evidence(vae, x[held_out()], num_samples=30).attrs
    assert json.loads(default.stdout)["mean"] == pytest.approx(expected["mean"], rel=1e-12)
    told = "pyro-vae: 10 of 40 data, those held out in training; --rows all for all\n"
    assert default.stderr.startswith(told)
    for rows, index in {
        "held-out": held_out(),
        "trained": np.setdiff1d(np.arange(40), held_out()),
        "all": np.arange(40),
    }.items():
        found = done("evaluate", "m.safetensors", "x.npy", *quick, "--rows", rows)
        expected = pv.log_evidence(vae, x[index], num_samples=30).attrs
        assert json.loads(found.stdout)["mean"] == pytest.approx(expected["mean"], rel=1e-12)
    first = done("evaluate", "m.safetensors", "x.npy", *quick, "-n", 4)
    assert "4 of 40 data, the first of 10 held out in training" in first.stderr
    expected = pv.log_evidence(vae, x[held_out()[:4]], num_samples=30).attrs
    assert json.loads(first.stdout)["mean"] == pytest.approx(expected["mean"], rel=1e-12)


@pytest.mark.filterwarnings("ignore:log p")
def test_of_other_data_all_rows_are_used():
    done("fit", "x.npy", *QUICK, "-o", "m.safetensors")
    quick = ["--num-samples", 30, "--json"]
    np.save("fewer.npy", np.load("x.npy")[:30])
    np.save("turned.npy", np.load("x.npy")[::-1])
    for data, num in {"other.npy": 40, "fewer.npy": 30, "turned.npy": 40}.items():
        found = done("evaluate", "m.safetensors", data, *quick)
        assert rows_of(found.stdout) == num
        assert "held out" not in found.stderr
    refused = run("evaluate", "m.safetensors", "other.npy", "--rows", "trained")
    assert refused.exit_code == 2
    assert "--rows trained needs the data that the model was fitted to" in refused.stderr
    assert run("evaluate", "m.safetensors", "x.npy", "--rows", "some").exit_code == 2


@pytest.mark.filterwarnings("ignore:log p")
def test_columns_in_another_order_are_the_same_data():
    frame = pandas.DataFrame(np.load("x.npy"), columns=["a", "b", "c"])
    frame["kind"] = ["x", "y"] * 20
    frame.to_csv("table.csv", index=False)
    frame[["kind", "c", "a", "b"]].to_csv("turned.csv", index=False)
    done("fit", "table.csv", *QUICK, "--validation", 0.25, "-o", "m.safetensors")
    quick = ["--num-samples", 30, "--json"]
    one, other = (
        json.loads(done("evaluate", "m.safetensors", name, *quick).stdout)
        for name in ("table.csv", "turned.csv")
    )
    assert one["num_data"] == other["num_data"] == 10
    assert one["mean"] == pytest.approx(other["mean"], rel=1e-12)


@pytest.mark.filterwarnings("ignore:log p")
def test_models_are_compared_on_rows_that_none_was_trained_on():
    for seed in (0, 1):
        out = f"m{seed}.safetensors"
        done("fit", "x.npy", *QUICK, "--validation", 0.25, "--seed", seed, "-o", out)
    common = np.intersect1d(held_out(0), held_out(1))
    assert 0 < len(common) < 10
    models = ["m0.safetensors", "m1.safetensors"]
    quick = ["--num-samples", 30]
    told = json.loads(done("compare-models", *models, "x.npy", *quick, "--json").stdout)
    vaes = {f"m{seed}": pv.load(f"m{seed}.safetensors") for seed in (0, 1)}
    expected = pv.compare_models(vaes, np.load("x.npy")[common], num_samples=30)
    assert told["num_data"] == len(common)
    assert [row["model"] for row in told["models"]] == list(expected.index)
    for row, (_, true) in zip(told["models"], expected.iterrows(), strict=True):
        for column in ("log_evidence", "se", "difference", "difference_se", "flagged"):
            assert row[column] == pytest.approx(true[column], rel=1e-12), column
        assert row["bits_per_dim"] is None, "NaN of a density"
    table = done("compare-models", *models, "x.npy", *quick, "-o", "models.csv")
    assert list(pandas.read_csv("models.csv").model) == list(expected.index)
    assert f"{expected.log_evidence.iloc[1]:.2f}" in table.stdout
    same = run("compare-models", "m0.safetensors", "m0.safetensors", "x.npy")
    assert "compare-models needs different models" in same.stderr


def test_without_rows_held_out_all_are_used_and_it_is_said():
    done("fit", "x.npy", *QUICK, "--validation", 0, "-o", "m.safetensors")
    found = done("evaluate", "m.safetensors", "x.npy", "--num-samples", 30, "--json")
    assert rows_of(found.stdout) == 40
    assert "all data were trained on" in found.stderr


def test_a_split_is_what_was_written_and_older_readers_see_no_difference(folder):
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    for num in (1, 7, 8, 9, 40):
        rows = pv.data.as_rows(np.arange(3.0 * num).reshape(num, 3))
        pv.save(vae, "m.safetensors", split=Split.of(rows, np.array([num - 1])))
        split = read_split("m.safetensors")
        assert split.is_of(rows)
        assert list(np.flatnonzero(split.held_out)) == [num - 1]
        assert not split.is_of(pv.data.as_rows(np.ones((num, 3))))
    loaded = pv.load("m.safetensors")
    assert all(
        torch.equal(one, other)
        for one, other in zip(loaded.state_dict().values(), vae.state_dict().values(), strict=True)
    )
    pv.save(vae, "plain.safetensors")
    assert read_split("plain.safetensors") is None
    with safetensors.safe_open("plain.safetensors", framework="pt") as file:
        assert "split" not in file.metadata()


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "null",
        "{}",
        '{"digest": "a", "num_data": 8, "held_out": "!"}',
        '{"digest": "a", "num_data": 1000000000000, "held_out": "AA=="}',
        '{"digest": "a", "num_data": -8, "held_out": ""}',
        '{"digest": "a", "num_data": true, "held_out": "AA=="}',
        '{"digest": "a", "num_data": "8", "held_out": "AA=="}',
        '{"digest": "a", "num_data": 8, "held_out": 3}',
        "[" * 100_000,
    ],
)
def test_a_split_that_we_did_not_write_is_refused(text, folder):
    pv.save(pv.build({"event": [3], "latent": [2]}, hidden=[4]), "m.safetensors")
    tensors, about = unsealed(folder / "m.safetensors", "model", "pyro_vae/1")
    write(folder / "m.safetensors", sealed(tensors, {**about, "split": text}))
    with pytest.raises(CheckpointError, match=r"m\.safetensors is no model that pyro_vae wrote"):
        read_split("m.safetensors")


def test_a_model_is_not_replaced_unless_told(folder):
    done("fit", "x.npy", *QUICK, "-o", "m.safetensors")
    before = (folder / "m.safetensors").read_bytes()
    refused = run("fit", "x.npy", *QUICK, "--seed", 1, "-o", "m.safetensors")
    assert refused.exit_code == 2
    assert "m.safetensors is there already; give --overwrite" in refused.stderr
    refused = run("fit", "x.npy", *QUICK, "-o", "m.safetensors", "--checkpoint", "new", "--resume")
    assert "m.safetensors is there already; give --overwrite" in refused.stderr
    assert (folder / "m.safetensors").read_bytes() == before
    done("fit", "x.npy", *QUICK, "--seed", 1, "-o", "m.safetensors", "--overwrite")
    assert (folder / "m.safetensors").read_bytes() != before
    wrong = run("fit", "x.npy", *QUICK, "-o", "m.pt")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "the file must end in .safetensors; got 'm.pt'" in wrong.stderr


@pytest.mark.filterwarnings("ignore:log p")
def test_a_model_that_does_not_say_its_rows_is_named_beside_others():
    done("fit", "x.npy", *QUICK, "-o", "one.safetensors")
    pv.save(pv.load("one.safetensors"), "other.safetensors")
    quick = ["x.npy", "--num-samples", 30]
    told = done("compare-models", "one.safetensors", "other.safetensors", *quick).stderr
    assert "other.safetensors: the file does not say which rows it was trained on" in told
    everything = [*quick, "--rows", "all"]
    for models in (
        ["other.safetensors", *quick],
        ["one.safetensors", "other.safetensors", *everything],
    ):
        assert "does not say" not in done("compare-models", *models).stderr


@pytest.mark.filterwarnings("ignore:log p")
def test_fit_and_evaluate_say_the_same_of_the_rows_held_out():
    fit = ["fit", "x.npy", *QUICK, "--validation", 0.25, "--json", "-o", "m.safetensors"]
    told = json.loads(done(*fit).stdout)["log_evidence"]
    found = json.loads(
        done("evaluate", "m.safetensors", "x.npy", "--num-samples", 30, "--json").stdout
    )
    assert told == {key: found[key] for key in ("mean", "mean_se", "flagged")}


@pytest.mark.filterwarnings("ignore:log p")
def test_files_call_data_by_their_rows():
    done("fit", "x.npy", *QUICK, "--validation", 0.25, "-o", "m.safetensors")
    quick = ["m.safetensors", "x.npy", "--num-samples", 30]
    done("evaluate", *quick, "-n", 4, "-o", "some.csv")
    some = pandas.read_csv("some.csv", index_col="datum")
    assert list(some.index) == list(held_out()[:4])
    x, vae = np.load("x.npy"), pv.load("m.safetensors")
    true = pv.log_evidence(vae, x[some.index], num_samples=30)
    np.testing.assert_allclose(some.log_evidence, true.log_evidence, rtol=1e-12)
    done("evaluate", *quick, "-o", "some.nc")
    with xarray.open_dataset("some.nc", engine="h5netcdf") as read:
        assert list(read.row) == list(held_out())
        assert list(read.datum) == list(range(10))
    done("compare", *quick[:2], "-n", 2, "-o", "compared.csv")
    assert set(pandas.read_csv("compared.csv").datum) == set(held_out()[:2])


@pytest.mark.filterwarnings("ignore:log p")
def test_a_report_calls_data_by_their_rows_and_takes_a_tolerance():
    done("fit", "x.npy", *QUICK, "--validation", 0.25, "-o", "m.safetensors")
    none = ["--num-mcmc", 0, "--num-simulations", 0, "--num-samples", 30, "-o", "r.html"]
    done("report", "m.safetensors", "x.npy", *none, "--tolerance", 0.5)
    page = Path("r.html").read_text()
    lowest = page.partition("<summary>The lowest")[2].partition("</table>")[0]
    rows = {int(float(row)) for row in re.findall(r'<tr><td data-value="([\d.]+)">', lowest)}
    assert rows <= set(held_out())
    assert len(rows) == 8
    assert "where its error is above 0.5 nats, better proposals" in page


def test_a_link_stays_one_and_a_pipe_is_written_to(folder):
    Path("behind.csv").write_text("old")
    Path("link.csv").symlink_to("behind.csv")
    write(Path("link.csv"), b"new")
    assert Path("link.csv").is_symlink()
    assert Path("behind.csv").read_text() == "new"
    os.mkfifo("pipe.csv")
    reader = os.open("pipe.csv", os.O_RDONLY | os.O_NONBLOCK)
    write(Path("pipe.csv"), b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert Path("pipe.csv").is_fifo()
