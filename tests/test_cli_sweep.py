"""A grid of specs, and the command that fits and compares them."""

import json

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli import sweep as work
from pyro_vae.spec.grid import MOST, expand, folder_name
from pyro_vae_command import app

NETWORKS = (
    'likelihood = {name = "poisson", network = {name = "mlp", hidden = [4]}}\n'
    'guide = {name = "normal", network = {name = "mlp", hidden = [4]}}\n'
)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).poisson(2.0, (40, 3)))
    (tmp_path / "grid.toml").write_text(f"latent = [1, 2]\n{NETWORKS}")
    return tmp_path


SWEEP = ["sweep", "grid.toml", "x.npy", "-o", "out", "--epochs", 2, "--num-samples", 30]


# the grid


def test_lists_of_names_and_sizes_are_a_grid():
    grid = expand({"latent": [2, 4], "prior": ["normal", "vamp"], "likelihood": "poisson"})
    assert grid == {
        f"latent={size} prior={prior}": {
            "latent": [size],
            "prior": prior,
            "likelihood": "poisson",
        }
        for size in (2, 4)
        for prior in ("normal", "vamp")
    }
    assert expand({"latent": 3}) == expand({"latent": [3]}) == {"model": {"latent": [3]}}
    shapes = expand({"latent": [[8], [4, 4]]})
    assert shapes == {"latent=8": {"latent": [8]}, "latent=4x4": {"latent": [4, 4]}}


def test_numbers_in_tables_are_a_grid_and_lists_that_are_values_stay():
    mixtures = expand({"prior": ["normal", {"name": "mixture", "components": [2, 5]}]})
    assert [spec["prior"] for spec in mixtures.values()] == [
        "normal",
        {"name": "mixture", "components": 2},
        {"name": "mixture", "components": 5},
    ]
    assert list(mixtures)[1] == "prior=mixture(components=2)"
    network = {"name": "mlp", "hidden": [200, 100]}
    guide = {"name": "normal", "network": network}
    assert expand({"guide": guide}) == {"model": {"guide": guide}}
    two = expand({"guide": {"name": "normal", "network": {**network, "hidden": [[200], [50, 50]]}}})
    assert [spec["guide"]["network"]["hidden"] for spec in two.values()] == [[200], [50, 50]]
    columns = {"columns": ["a", "b"], "modules": ["mine"], "event": [2]}
    assert expand(columns) == {"model": columns}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"prior": {"name": "gamma", "rate": [1.0, 2.0]}},
            r"prior\.rate: in a sweep \[1\.0, 2\.0\] could be one value or 2; write \[\[1\.0",
        ),
        ({"latent": [2, [4, 4]]}, "latent: a grid has sizes"),
        ({"latent": []}, "latent: a grid needs at least one size"),
        ({"prior": []}, "prior: a grid needs at least one value"),
        ({"latent": [2, 2]}, "two runs of the sweep are latent=2"),
        ({"latent": list(range(1, MOST + 2))}, f"at most {MOST} runs"),
    ],
)
def test_what_is_ambiguous_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        expand(spec)


def test_a_vector_of_parameters_stands_in_a_list_of_its_own():
    (spec,) = expand({"prior": {"name": "gamma", "rate": [[1.0, 2.0]]}}).values()
    assert spec["prior"]["rate"] == [1.0, 2.0]
    two = expand({"prior": [{"name": "gamma", "rate": 1.0}, {"name": "gamma", "rate": 2.0}]})
    assert list(two) == ["prior=gamma(rate=1.0)", "prior=gamma(rate=2.0)"]


def test_folders_have_plain_names():
    assert folder_name('prior=mixture(component={"a":1}) latent=4') == (
        "prior=mixture_component=_a_1_latent=4"
    )
    assert "/" not in folder_name("../../x")


# the command


@pytest.mark.filterwarnings("ignore:log p")
def test_models_are_what_python_makes_and_compares(folder):
    result = run(*SWEEP, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.stdout)
    assert list(told) == ["num_data", "best", "smallest_as_good", "models", "failed", "out"]
    x = np.load("x.npy")
    order = np.random.default_rng(0).permutation(40)
    held_out, train = order[:4], order[4:]
    vaes = {}
    for size in (1, 2):
        (spec,) = expand({"latent": size, **read("grid.toml")}).values()
        vae = pv.build(spec, x)
        pv.fit(vae, x[train], validation=x[held_out], epochs=2)
        vaes[f"latent={size}"] = vae
    expected = pv.compare_models(vaes, x[held_out], num_samples=30)
    for row, (name, true) in zip(told["models"], expected.iterrows(), strict=True):
        assert row["model"] == name
        assert row["log_evidence"] == pytest.approx(true.log_evidence, rel=1e-12)
        assert row["difference_se"] == pytest.approx(true.difference_se, rel=1e-12)
    assert list(pandas.read_csv("out/models.csv").model) == list(expected.index)
    page = (folder / "out/report.html").read_text()
    assert "A sweep of 2 models" in page
    assert "latent=1" in page


def read(name):
    import tomllib
    from pathlib import Path

    table = tomllib.loads(Path(name).read_text())
    return {key: value for key, value in table.items() if key != "latent"}


@pytest.mark.filterwarnings("ignore:log p")
def test_what_is_there_is_not_made_again(folder, monkeypatch):
    first = run(*SWEEP, "--json")
    made = []
    monkeypatch.setattr(work, "make", lambda run: made.append(run.name))
    again = run(*SWEEP, "--json")
    assert made == []
    assert "2 runs are there already" in again.stderr
    one, other = (json.loads(result.stdout)["models"] for result in (first, again))
    assert [{**row, "seconds": 0} for row in one] == [{**row, "seconds": 0} for row in other]
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    (folder / "grid.toml").write_text(f"latent = [1, 2, 3]\n{NETWORKS}")
    make = work.make
    monkeypatch.setattr(work, "make", lambda run: made.append(run.name) or make(run))
    assert run(*SWEEP).exit_code == 0
    assert made == ["latent=3"]
    np.save("x.npy", np.random.default_rng(1).poisson(2.0, (40, 3)))
    assert run(*SWEEP).exit_code == 0
    assert len(made) == 4, "of other data all are made"


@pytest.mark.filterwarnings("ignore:log p")
def test_a_run_that_fails_is_told_of_and_the_others_go_on(folder):
    (folder / "grid.toml").write_text(f'latent = [2]\nprior = ["gama", "normal"]\n{NETWORKS}')
    result = run(*SWEEP, "--json")
    assert result.exit_code == 1
    assert "prior=gama failed: ValueError: prior: no conditional is named 'gama'" in result.stderr
    told = json.loads(result.stdout)
    assert [row["model"] for row in told["models"]] == ["prior=normal"]
    assert list(told["failed"]) == ["prior=gama"]
    (folder / "grid.toml").write_text(f'latent = [2]\nprior = ["gama", "gma"]\n{NETWORKS}')
    result = run(*SWEEP)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "all 2 runs failed" in result.stderr


def test_an_interrupted_run_is_resumed(folder, monkeypatch):
    whole = work.fitted

    def interrupted(fit, say):
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "fitted", interrupted)
    assert run(*SWEEP).exit_code == 130
    monkeypatch.setattr(work, "fitted", whole)
    assert run(*SWEEP).exit_code == 0


def test_what_makes_no_sense_is_refused_before_the_work(folder):
    for options, message in {
        ("--validation", "0"): "give --validation above 0",
        ("--loss", "elb"): "no loss is named 'elb'",
        ("--jobs", "0"): "Invalid value for '--jobs'",
    }.items():
        result = run(*SWEEP, *options)
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.slow
def test_processes_side_by_side_make_the_same_models(folder):
    one, other = (
        run(*SWEEP[:4], out, *SWEEP[5:], "--json", "--jobs", jobs)
        for out, jobs in (("one", 1), ("two", 2))
    )
    assert (one.exit_code, other.exit_code) == (0, 0), other.output
    first, second = (json.loads(result.stdout)["models"] for result in (one, other))
    for row, same in zip(first, second, strict=True):
        assert row["log_evidence"] == pytest.approx(same["log_evidence"], rel=1e-5)
