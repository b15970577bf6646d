"""A grid of specs, and the command that fits and compares them."""

import errno
import json
import sys

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli import sweep as work
from pyro_vae.cli import train
from pyro_vae.cli.swept import verdict
from pyro_vae.spec.grid import MOST, expand, folder_name
from pyro_vae_command import app

LIKELIHOOD = '{name = "poisson", network = {name = "mlp", hidden = [4]}}'
NETWORKS = (
    f"likelihood = {LIKELIHOOD}\n"
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
    network["activation"], network["log1p"] = ["relu", "tanh"], [True, False]
    assert len(expand({"guide": {"name": "normal", "network": network}})) == 4
    parts = {"name": "mixture", "component": ["normal", {"name": "laplace", "loc": 0.0}]}
    assert len(expand({"prior": parts})) == 2
    image = {"name": "conv_decoder", "image": [8, 8]}
    assert len(expand({"likelihood": {"name": "normal", "network": image}})) == 1
    columns = {"columns": ["a", "b"], "modules": ["mine"], "event": [2]}
    assert expand(columns) == {"model": columns}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"prior": {"name": "gamma", "rate": [1.0, 2.0]}},
            r"prior\.rate: in a sweep \[1\.0, 2\.0\] could be one value or 2; write \[\[1\.0",
        ),
        (
            {"prior": {"name": "autoregressive_flow", "center": [1.0, 2.0]}},
            r"prior\.center: in a sweep \[1\.0, 2\.0\] could be one value or 2",
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
    held_out, train = np.sort(order[:4]), order[4:]
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


@pytest.mark.filterwarnings("ignore:log p")
def test_a_tolerance_is_that_of_the_comparison(folder, monkeypatch):
    assert run(*SWEEP).exit_code == 0
    monkeypatch.setattr(work, "make", None)
    result = run(*SWEEP, "--tolerance", 0.1, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    vaes = {path.parent.name[:8]: pv.load(path) for path in folder.glob("out/*/model.safetensors")}
    held_out = np.sort(np.random.default_rng(0).permutation(40)[:4])
    expected = pv.compare_models(vaes, np.load("x.npy")[held_out], num_samples=30, tolerance=0.1)
    for row in json.loads(result.stdout)["models"]:
        true = expected.loc[row["model"]].log_evidence
        assert row["log_evidence"] == pytest.approx(true, rel=1e-12)


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


OWN = """
import pyro_vae as pv
from pyro_vae.conditionals.networks import Network

class Mine(pv.MLP, name="my_mlp"):
    def __init__(self, in_shape, out_features, *, width: int = 4):
        super().__init__(in_shape, out_features, hidden=[width])
"""


@pytest.mark.filterwarnings("ignore:log p")
def test_code_of_ones_own_is_a_part_of_the_run(folder, monkeypatch):
    np.savetxt("x.csv", np.load("x.npy"), delimiter=",", header="a,b,c", comments="")
    (folder / "my_sweep_part.py").write_text(OWN)
    grid = 'latent = 1\nmodules = ["my_sweep_part"]\nlikelihood = "poisson"\n'
    network = 'guide = {name = "normal", network = {name = "my_mlp", width = [2, 3]}}'
    (folder / "grid.toml").write_text(grid.replace('"poisson"', LIKELIHOOD) + network)
    paths, made, make = list(sys.path), [], work.make
    monkeypatch.setattr(work, "make", lambda run: made.append(run.name) or make(run))
    of_table = [*SWEEP[:2], "x.csv", *SWEEP[3:]]
    result = run(*of_table)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stderr.count("read x.csv") == 1
    assert len(made) == 2, "a number of a part of one's own is a grid"
    assert run(*of_table, "--num-samples", 40).exit_code == 0
    assert len(made) == 2
    with (folder / "my_sweep_part.py").open("a") as file:
        file.write("# changed\n")
    assert run(*of_table).exit_code == 0
    assert len(made) == 4
    assert sys.path == paths
    np.savetxt("x.csv", np.load("x.npy"), delimiter=",", header="c,b,a", comments="")
    assert run(*of_table).exit_code == 0
    assert len(made) == 6, "the columns have other names"


@pytest.mark.filterwarnings("ignore:log p")
@pytest.mark.filterwarnings("ignore:The '[a-z_.]+' option is deprecated")  # which anndata sets
def test_other_columns_of_obs_are_another_sweep(folder, monkeypatch):
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(np.load("x.npy").astype("float32"))
    made, make = [], work.make
    monkeypatch.setattr(work, "make", lambda run: made.append(run.name) or make(run))
    of_cells = [*SWEEP[:2], "x.h5ad", *SWEEP[3:], "--condition", "dose"]
    for dose, number in [(0.5, 2), (0.5, 2), (1.5, 4)]:
        cells.obs["dose"] = dose + np.arange(40.0)
        cells.write_h5ad("x.h5ad")
        result = run(*of_cells)
        assert result.exit_code == 0, (result.output, result.exception)
        assert len(made) == number


def failing(name):
    """What stands in for ``fitted``, and fails for one model."""
    usual = work.fitted

    def fitted(fit, say):
        if fit.spec["prior"] in name:
            raise FloatingPointError("the loss is nan")
        return usual(fit, say)

    return fitted


def gone(*arguments, **options):
    raise BrokenPipeError


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device", "models.csv")


@pytest.mark.filterwarnings("ignore:log p")
def test_a_run_that_fails_is_told_of_and_the_others_go_on(folder, monkeypatch):
    priors = 'prior = ["laplace", "normal"]'
    (folder / "grid.toml").write_text(f"latent = [2]\n{priors}\n{NETWORKS}")
    monkeypatch.setattr(work, "fitted", failing(["laplace"]))
    result = run(*SWEEP, "--json")
    assert result.exit_code == 1
    assert "prior=laplace failed: FloatingPointError: the loss is nan" in result.stderr
    told = json.loads(result.stdout)
    assert [row["model"] for row in told["models"]] == ["prior=normal"]
    assert list(told["failed"]) == ["prior=laplace"]
    with monkeypatch.context() as patched:
        patched.setattr(work, "tell", gone)
        assert run(*SWEEP).exit_code == 1, "also where nobody reads it"
        patched.setattr(work, "tell", full)
        assert run(*SWEEP).exit_code == 1
        assert "No space left" in run(*SWEEP).stderr
    monkeypatch.setattr(work, "fitted", failing(["laplace", "normal"]))
    result = run(*SWEEP, "-o", "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "all 2 runs failed" in result.stderr


@pytest.mark.filterwarnings("ignore:log p")
def test_an_interrupted_sweep_goes_on_within_the_model(folder, monkeypatch):
    """The first model is whole, the second has one epoch of two."""
    usual, trained = train.fit_vae, []

    def interrupted(vae, *data, **options):
        trained.append(options["epochs"])
        if len(trained) == 2:
            usual(vae, *data, **{**options, "epochs": 1})
            raise KeyboardInterrupt
        return usual(vae, *data, **options)

    monkeypatch.setattr(train, "fit_vae", interrupted)
    assert run(*SWEEP).exit_code == 130
    result = run(*SWEEP, "--json")
    assert result.exit_code == 0
    assert "1 runs are there already" in result.stderr
    assert len(trained) == 3
    whole = run(*SWEEP[:4], "whole", *SWEEP[5:], "--json")
    one, other = (json.loads(text.stdout)["models"] for text in (result, whole))
    for row, same in zip(one, other, strict=True):
        assert (row["model"], row["log_evidence"]) == (same["model"], same["log_evidence"])


def test_the_verdict_tells_apart_what_the_data_do():
    def models(differences):
        columns = {"difference": differences, "difference_se": 1.0, "num_parameters": [9, 5, 7]}
        return pandas.DataFrame(columns, index=["a", "b", "c"])

    assert verdict(models([0.0, -1.9, -2.1])) == (
        "a has the highest log p(x), but these data do not tell 2 of the 3 models apart, those "
        "within 2 standard errors of it; the smallest of these is b."
    )
    alone = "a has the highest log p(x), by more than 2 standard errors."
    assert verdict(models([0.0, -3.0, -4.0])) == alone
    unknown = models([0.0, -np.inf, np.nan])
    assert verdict(unknown) == "log p(x) of c is no number: no model is the best."
    never = models([0.0, -np.inf, -4.0])
    assert verdict(never.assign(difference_se=[0.0, np.inf, 1.0])) == alone


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ('prior = ["normal", "gama"]', "prior=gama: prior: no conditional is named 'gama'"),
        ("latents = [2, 4]", "pyro-vae: latents: a spec has no such entry; did you mean 'latent'"),
        ("hidden = [[4], [8]]", "hidden: a spec has no such entry"),
    ],
)
def test_what_no_model_can_be_is_refused_before_any_is_fitted(folder, monkeypatch, grid, message):
    monkeypatch.setattr(work, "make", None)
    (folder / "grid.toml").write_text(f"latent = 2\n{grid}\n{NETWORKS}")
    result = run(*SWEEP)
    assert result.exit_code == 2
    assert message in result.stderr


def test_densities_and_probabilities_are_refused_before_any_is_fitted(folder, monkeypatch):
    monkeypatch.setattr(work, "make", None)
    network = '{name = "mlp", hidden = [4]}'
    both = ", ".join(f'{{name = "{name}", network = {network}}}' for name in ("normal", "poisson"))
    guide = NETWORKS.splitlines()[1]
    (folder / "grid.toml").write_text(f"latent = 2\nlikelihood = [{both}]\n{guide}\n")
    result = run(*SWEEP)
    assert result.exit_code == 2
    assert "sweep needs one scale for all models" in result.stderr


def test_what_makes_no_sense_is_refused_before_the_work(folder):
    np.save("c.npy", np.zeros((39, 1)))
    for options, message in {
        ("--validation", "0"): "give --validation above 0",
        ("--loss", "elb"): "no loss is named 'elb'",
        ("--jobs", "0"): "Invalid value for '--jobs'",
        ("--condition", "c.npy"): "--condition needs a row for each datum; got 39 rows for 40",
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
