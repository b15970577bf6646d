"""What ``--json`` writes: one document on stdout, whose keys stay what they are."""

import json
import math

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli.terminal import plain_values
from pyro_vae_command import app

QUICK = ["--epochs", 1, "--num-samples", 30, "--hidden", 4, "--latent", 2]
SCORE = ["mean", "mean_se", "flagged"]
MODEL = ["model", "log_evidence", "se", "difference", "difference_se", "flagged", "bits_per_dim"]


def strict(name):
    raise AssertionError(f"{name} is not JSON")


def document(*arguments, code=0):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout, parse_constant=strict)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.poisson(2.0, (40, 3)))
    vae = pv.build({"event": [3], "latent": [2], "likelihood": "poisson"}, hidden=[4])
    pv.save(vae, "m.safetensors")
    return tmp_path


@pytest.mark.filterwarnings("ignore:log p")
def test_fit_says_what_it_made():
    told = document("fit", "x.npy", *QUICK, "-o", "new.safetensors")
    assert list(told) == [
        "model",
        "num_parameters",
        "num_trained",
        "num_held_out",
        "interrupted",
        "epochs",
        "seconds",
        "loss",
        "validation",
        "log_evidence",
        "spec",
    ]
    assert list(told["log_evidence"]) == SCORE
    assert told["spec"] == pv.describe(pv.load("new.safetensors"))
    assert (told["num_trained"], told["num_held_out"], told["epochs"]) == (36, 4, 1)
    none = document("fit", "x.npy", *QUICK, "--validation", 0, "-o", "none.safetensors")
    assert none["validation"] is None
    assert none["log_evidence"] is None


@pytest.mark.filterwarnings("ignore:log p")
def test_evaluate_and_sample():
    told = document("evaluate", "m.safetensors", "x.npy", "--num-samples", 30)
    found = pv.log_evidence(pv.load("m.safetensors"), np.load("x.npy"), num_samples=30)
    assert list(told) == [
        "num_data",
        "mean",
        "mean_se",
        "elbo",
        "bias",
        "bits_per_dim",
        "measure",
        "num_samples",
        "flagged",
        "reasons",
        "data_digest",
        "model_digest",
    ]
    assert told["mean"] == float(found.attrs["mean"])
    assert told["data_digest"] == found.attrs["data_digest"]
    drawn = document("sample", "m.safetensors", "-n", 3)
    assert list(drawn) == ["num", "seed", "columns", "out", "data"]
    assert drawn["data"] == pv.load("m.safetensors").sample(3, seed=0).int().tolist()
    assert "data" not in document("sample", "m.safetensors", "-n", 3, "-o", "drawn.csv")


def test_names():
    listed = document("list")
    assert list(listed) == ["conditionals", "networks", "missingness", "losses", "data"]
    assert list(listed["conditionals"][0]) == ["name", "can_stand_as", "for"]
    model = document("describe", "m.safetensors")
    assert list(model) == ["name", "spec", "text"]
    assert model["spec"] == pv.describe(pv.load("m.safetensors"))
    assert document("describe", "gamma")["spec"] is None


@pytest.mark.slow
def test_mcmc_compare_and_report():
    quick = ["--num-samples", 100, "--warmup", 100, "--chains", 2, "-n", 3]
    told = document("mcmc", "m.safetensors", "x.npy", *quick, "-o", "tree.nc")
    assert list(told) == [
        "num_data",
        "chains",
        "num_samples",
        "rhat_max",
        "ess_bulk_min",
        "divergences",
        "out",
    ]
    assert told["num_data"] == 3
    told = document("compare", "m.safetensors", "x.npy", "-n", 3)
    assert list(told) == ["num_data", "measures"]
    none = ["--num-mcmc", 0, "--num-simulations", 0]
    told = document("report", "m.safetensors", "x.npy", "-n", 20, *none, "-o", "r.html")
    assert told == {"num_data": 20, "out": "r.html"}


def test_what_is_not_finite_is_null():
    values = {"a": math.nan, "b": [math.inf, np.float32(2.5)], "c": np.array([-math.inf, 1.0])}
    assert plain_values(values) == {"a": None, "b": [None, 2.5], "c": [None, 1.0]}
    assert plain_values({1: np.int64(3), "t": True}) == {"1": 3, "t": True}


def test_classes_are_given_by_name():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 2))
    labels = pandas.DataFrame({"kind": ["a", "b", None] * 10})
    np.save("x2.npy", x)
    vae = pv.build(x, c=labels, classifier="one_hot", latent=2, hidden=[4])
    pv.save(vae, "classes.safetensors")
    probs = vae.classify(x).probs.numpy(force=True)
    told = document("classify", "classes.safetensors", "x2.npy")
    assert told["classes"] == ["a", "b"]
    np.testing.assert_allclose(told["probabilities"], probs, rtol=1e-12)
    assert told["label"] == ["ab"[number] for number in probs.argmax(-1)]
    assert document("classify", "classes.safetensors", "x2.npy", "-n", 5, "-o", "l.csv")["num"] == 5
    assert list(pandas.read_csv("l.csv").columns) == ["label", "p(a)", "p(b)"]
    refused = CliRunner().invoke(app, ["classify", "m.safetensors", "x.npy"])
    assert refused.exit_code == 2
    assert "classify needs q(c | x)" in refused.stderr


def test_drawn_columns_have_the_names_that_the_model_knows():
    frame = pandas.DataFrame({"age": np.arange(20.0), "height": np.arange(20.0)})
    pv.save(pv.build(frame, latent=2, hidden=[4]), "named.safetensors")
    told = document("sample", "named.safetensors", "-n", 2)
    assert told["columns"] == ["age", "height"]
