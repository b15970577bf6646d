"""The command line, as a user types it."""

import inspect
import json
import logging
import re
import subprocess
import sys
import tomllib

import numpy as np
import pandas
import pytest
import torch
import xarray
from matplotlib import image
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.cli import catalogue
from pyro_vae.cli import train as train_commands
from pyro_vae.cli.plaintext import plain
from pyro_vae.criticism import plots, tables
from pyro_vae.training.losses import losses

REGISTRIES = {**pv.Conditional.registry, **pv.Network.registry}
QUICK = ["--epochs", "2", "--num-samples", "30", "--hidden", "8", "--latent", "2"]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Data, specs and a model in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("counts.npy", generator.poisson(2.0, (40, 3)))
    np.save("numbers.npy", generator.normal(size=(40, 3)))
    np.save("one.npy", np.zeros((1, 3)))
    np.savez("two.npz", a=generator.normal(size=(20, 2)), b=generator.normal(size=(20, 3)))
    pandas.DataFrame({"c": np.arange(40) % 3}).to_csv("classes.csv", index=False)
    pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).to_csv("text.csv", index=False)
    (tmp_path / "spec.toml").write_text(
        'latent = [2]\nprior = {name = "gamma", concentration = 2.0}\n'
        'likelihood = {name = "poisson", network = {name = "residual_mlp", width = 8}}\n'
        'guide = {name = "normal", network = {name = "mlp", hidden = [8]}}\n'
    )
    (tmp_path / "broken.toml").write_text("latent = [2\n")
    (tmp_path / "latin.toml").write_bytes(b"latent = [2] # \xe9\n")
    (tmp_path / "unknown.toml").write_text('latent = [2]\nprio = "normal"\n')
    (tmp_path / "module.toml").write_text('latent = [2]\nmodules = ["no_such_module"]\n')
    (tmp_path / "folder").mkdir()
    pv.save(
        pv.build({"event": [3], "latent": [2], "likelihood": "poisson"}, hidden=[4]),
        "model.safetensors",
    )
    return tmp_path


@pytest.mark.slow
def test_demo_writes_a_table_a_model_and_four_pictures(tmp_path):
    result = done("demo", "--out", tmp_path / "demo", "--epochs", 3, "--num-samples", 200)
    for part in (
        "ELBO",
        "importance sampling",
        "naive sampling",
        "independent pixels",
        "k-hat > 0.7",
        "unknown",
    ):
        assert part in result.output
    files = {file.name for file in (tmp_path / "demo").iterdir()}
    pictures = {"reconstructions.png", "samples.png", "latent_space.png", "bounds.png"}
    assert files == pictures | {"model.safetensors", "history.csv", "report.html"}
    for name in pictures:
        assert image.imread(tmp_path / "demo" / name)[..., :3].std() > 0.01, name
    means = [float(value) for value in re.findall(r"sampling +│ +\d+ │ +(-[\d.]+)", result.output)]
    assert len(means) == 8
    assert means[:4] == sorted(means[:4]), "log p_K must rise with K"
    assert means[4:] == sorted(means[4:])
    assert means[3] > means[7], "the guide must help"
    vae = pv.load(tmp_path / "demo" / "model.safetensors")
    score = pv.log_evidence(vae, pv.data.load("digits")[:3], num_samples=5)
    assert score.log_evidence.notnull().all()


# fit


def halves(x, share=0.1, seed=0):
    """What fit trains on, and what it holds out."""
    order = np.random.default_rng(seed).permutation(len(x))
    held_out = round(share * len(x))
    return x[order[held_out:]], x[np.sort(order[:held_out])]


@pytest.mark.filterwarnings("ignore:log p")
def test_fit_says_what_is_missing_and_what_never_differs():
    x = np.load("counts.npy").astype(float)
    x[:5, 0] = np.nan
    table = pandas.DataFrame(x, columns=["a", "b", "c"]).assign(d=1.0, e=np.nan)
    table.to_csv("table.csv", index=False)
    told = done("fit", "table.csv", *QUICK, "--epochs", 1, "-o", "table.safetensors").stdout
    assert f"; {5 + len(x)} of {5 * len(x)} cells are missing." in told
    assert "One value, or none, in 'd', 'e': a density of it has no bound; leave it out." in told
    table.dropna(axis="columns", how="all").drop(columns="d").to_csv("table.csv", index=False)
    told = done("fit", "table.csv", *QUICK, "--epochs", 1, "-o", "other.safetensors").stdout
    assert "One value" not in told


@pytest.mark.filterwarnings("ignore:log p")
def test_fit_by_flags_is_what_python_does():
    table = '{name = "gamma", concentration = 2.0}'
    flags = [
        "--prior",
        table,
        "--likelihood",
        "poisson",
        "--guide",
        "student_t",
        "--loss",
        "iwae",
        "--particles",
        "3",
    ]
    flags += [
        "--batch-size",
        "16",
        "--learning-rate",
        "0.01",
        "--validation",
        "0.25",
        "--seed",
        "7",
    ]
    result = done("fit", "counts.npy", *flags, *QUICK, "-o", "new/fitted.safetensors")
    x = np.load("counts.npy")
    prior = {"name": "gamma", "concentration": 2.0}
    vae = pv.build(
        x, latent=2, prior=prior, likelihood="poisson", guide="student_t", hidden=[8], seed=7
    )
    train, validation = halves(x, 0.25, 7)
    options = {"loss": "iwae", "particles": 3, "batch_size": 16, "learning_rate": 0.01}
    history = pv.fit(vae, train, validation=validation, epochs=2, seed=7, **options)
    score = pv.log_evidence(vae, validation, num_samples=30, seed=7)
    loaded = pv.load("new/fitted.safetensors")
    assert pv.describe(loaded) == pv.describe(vae)
    assert pv.log_evidence(loaded, validation, num_samples=30, seed=7).equals(score)
    built, trained, scored, saved = result.stdout.splitlines()
    number = sum(parameter.numel() for parameter in vae.parameters())
    assert built == (
        "Built a VAE: prior gamma, likelihood poisson, guide student_t; data of shape (3,), "
        f"latents of shape (2,), {number:,} parameters."
    )
    best = f"{history.validation.min():.2f}"
    assert re.fullmatch(
        r"Trained 2 epochs on 30 data in \d+ s; "
        rf"the best validation loss is {best} nats per datum\.",
        trained,
    )
    mean = f"{score.attrs['mean']:.2f} ± {score.attrs['mean_se']:.2f}"
    flagged = score.attrs["flagged"]
    assert (
        scored
        == f"log p(x) of 10 validation data: {mean} nats per datum (K = 30, {flagged} flagged)."
    )
    assert saved == "The model is in new/fitted.safetensors."


@pytest.mark.filterwarnings("ignore:log p")
def test_fit_by_a_spec_is_what_python_does():
    done(
        "fit",
        "counts.npy",
        "--spec",
        "spec.toml",
        "--epochs",
        1,
        "--num-samples",
        30,
        "-o",
        "fitted.safetensors",
    )
    x = np.load("counts.npy")
    vae = pv.build("spec.toml", x)
    train, validation = halves(x)
    pv.fit(vae, train, validation=validation, epochs=1)
    loaded = pv.load("fitted.safetensors")
    assert pv.describe(loaded) == pv.describe(vae)
    one, other = (pv.log_evidence(v, validation, num_samples=30) for v in (loaded, vae))
    assert one.equals(other)


@pytest.mark.filterwarnings("ignore:log p")
def test_fit_a_conditional_vae_and_draw_from_it():
    done("fit", "numbers.npy", "--condition", "classes.csv", *QUICK, "-o", "fitted.safetensors")
    x, c = np.load("numbers.npy"), pandas.read_csv("classes.csv").c.to_numpy()
    vae = pv.build(x, c=c, latent=2, hidden=[8])
    (train, validation), (c_train, c_validation) = halves(x), halves(c)
    pv.fit(vae, train, c_train, validation=(validation, c_validation), epochs=2)
    loaded = pv.load("fitted.safetensors")
    assert pv.describe(loaded)["condition"] == {
        "categories": 3,
        "seen_by": ["likelihood", "guide"],
        "columns": ["c"],
    }
    one, other = (
        pv.log_evidence(v, validation, c_validation, num_samples=30) for v in (loaded, vae)
    )
    assert one.equals(other)
    done("sample", "fitted.safetensors", "--condition", "classes.csv", "-o", "drawn.npy")
    assert np.array_equal(np.load("drawn.npy"), loaded.sample(40, c).numpy())


def test_fit_without_validation_and_a_named_array():
    result = done(
        "fit", "two.npz", "--key", "b", "--validation", 0, *QUICK, "-o", "fitted.safetensors"
    )
    assert re.search(
        r"Trained 2 epochs on 20 data in \d+ s; the loss is \d+\.\d\d nats per datum\.",
        result.stdout,
    )
    assert "log p(x)" not in result.output
    assert pv.load("fitted.safetensors").likelihood.event_shape == (3,)


def test_a_warning_is_one_line():
    result = done(
        "fit",
        "numbers.npy",
        "--validation",
        0.5,
        *QUICK,
        "--hidden",
        "",
        "-o",
        "fitted.safetensors",
    )
    line = (
        r"pyro-vae: warning: log p\(x\) of \d+ of 20 data cannot be trusted: "
        r"of \d+ the weights have .*; give pyro-vae evaluate --tolerance .*\n"
    )
    assert re.fullmatch(line, result.stderr)
    assert re.search(r"\(K = 30, [1-9]\d* flagged\)", result.stdout)


# sample


def test_sample_is_reproducible(files):
    shown = [
        done("sample", "model.safetensors", "-n", 5, "--seed", seed).stdout for seed in (3, 3, 4)
    ]
    assert shown[0] == shown[1] != shown[2]
    drawn = pv.load("model.safetensors").sample(5, seed=3).numpy()
    for out in ("drawn.csv", "drawn.npy"):
        assert done("sample", "model.safetensors", "-n", 5, "--seed", 3, "-o", out).output == ""
        assert np.array_equal(pv.data.as_rows(pv.data.load(out)).take(slice(None)).numpy(), drawn)
    assert (files / "drawn.csv").read_text() == shown[0]
    assert shown[0].startswith("x0,x1,x2\n")
    assert "." not in shown[0], "counts have no point"
    assert len(done("sample", "model.safetensors").stdout.splitlines()) == 17


def test_sample_keeps_every_digit_and_flattens_images():
    vae = pv.build({"event": [1, 2, 2], "latent": [2]}, hidden=[4])
    pv.save(vae, "image.safetensors")
    done("sample", "image.safetensors", "-n", 3, "-o", "drawn.csv")
    drawn = pv.data.load("drawn.csv").to_numpy().reshape(3, 1, 2, 2)
    assert np.array_equal(drawn, vae.sample(3).numpy())


# list and describe


def listed():
    """The names in each table of the list, and the roles of conditionals."""
    names, roles = {}, {}
    for block in done("list").stdout.split("\n\n"):
        title, _, *lines = block.strip().splitlines() or ["", ""]
        cells = [re.split(r" {2,}", line.strip()) for line in lines]
        names[title.strip()] = [cell[0] for cell in cells]
        roles |= {cell[0]: cell[1].split() for cell in cells if title.strip() == "Conditionals"}
    return {title: found for title, found in names.items() if title}, roles


def test_list_shows_the_registries_and_nothing_else():
    names, roles = listed()
    assert names == {
        "Conditionals": list(pv.Conditional.registry),
        "Networks": list(pv.Network.registry),
        "Missingness": list(pv.Missingness.registry),
        "Losses": list(losses),
        "Data": list(catalogue.DATA),
    }
    for name in catalogue.DATA:
        assert len(pv.data.as_rows(pv.data.load(name))) > 0
    assert all(roles.values()), "everything can stand somewhere"
    expected = {
        "normal": ["prior", "likelihood", "guide"],
        "gamma": ["prior", "likelihood"],
        "poisson": ["likelihood"],
        "uniform": ["prior"],
        "vamp": ["prior"],
        "planar_flow": ["guide"],
        "columns": ["likelihood"],
        "product_of_experts": ["guide"],
        "one_hot": ["prior", "likelihood", "guide"],
        "hierarchy": ["prior", "likelihood", "guide"],
    }
    assert {name: roles[name] for name in expected} == expected


@pytest.mark.parametrize("name", list(REGISTRIES))
def test_describe_explains_every_name(name):
    text = done("describe", name).stdout
    assert text.startswith(f"{name}: {REGISTRIES[name].__name__}, ")
    assert "\\" not in text, "formulas are readable"
    assert not re.search(r":\w+:`|``|\.\. math", text), "no markup is left"
    assert catalogue.summary(REGISTRIES[name]) in " ".join(text.split())
    for argument in REGISTRIES[name].takes():
        assert re.search(rf"^    {argument}( |$)", text, flags=re.M), argument
    tables = re.findall(r"in a spec:\n\n((?:    .*\n|\n)+)", text, flags=re.I)
    assert tables
    image = {"event": [1, 8, 8]} if name in pv.Network.registry else {"event": [2]}
    for table in tables:
        part = tomllib.loads(inspect.cleandoc(table))
        discrete = (
            name not in pv.Network.registry and REGISTRIES[name].example().support.is_discrete
        )
        prior = {"prior": {**part["guide"], "network": {}}} if "guide" in part and discrete else {}
        vae = pv.build({**image, "latent": [2], **part, **prior})
        assert f"'name': '{name}'" in str(pv.describe(vae))


@pytest.mark.parametrize("name", list(losses))
def test_describe_explains_every_loss(name):
    text = done("describe", name).stdout
    assert text.startswith(f"{name}: {losses[name].elbo.__name__}, a loss\n")
    assert not re.search(r"\\|:\w+:`|``|\.\. \w+|:param", text), "no markup is left"
    said = " ".join(text.split())
    assert f"By this name it is {catalogue.call_of(losses[name])}." in said
    discrete = losses[name].discrete
    assert ("does not train discrete latents" in said) == (discrete is None)
    assert ("takes its place" in said) == (discrete not in (None, name))
    assert ("It has a KL term" in said) == losses[name].has_kl
    assert f"--loss {name} -o" in said
    document = json.loads(done("describe", name, "--json").stdout)
    assert document == {"name": name, "spec": None, "text": text.rstrip("\n")}


def test_describe_explains_what_else_is_listed():
    for name in (*catalogue.DATA, *pv.Missingness.registry):
        assert done("describe", name).stdout.startswith(f"{name}: ")
    assert "did you mean 'elbo'?" in run("describe", "elbow").stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"x :math:`\sim \mathrm{N}(0,\, \delta^2)`", "x ~ N(0, δ^2)"),
        (r":class:`.Normal`, ``a``", "Normal, a"),
        (r"\frac{n!}{\prod_j x_j!} \tfrac{1}{2}", "n! / (∏_j x_j!) 1 / 2"),
        (r"\Gamma \lambda \tanh \Big(x\Big)^\top", "Γ λ tanh (x)ᵀ"),
        (".. math:: p(z)", "    p(z)"),
        (".. math::\n\n    p(z),\n    q(z)", "    p(z),\n    q(z)"),
    ],
)
def test_markup_becomes_plain(text, expected):
    assert plain(text) == expected


def test_describe_a_model_gives_its_spec(files):
    text = done("describe", "model.safetensors").stdout
    vae = pv.load("model.safetensors")
    assert tomllib.loads(text) == pv.describe(vae)
    number = sum(parameter.numel() for parameter in vae.parameters())
    first = (
        rf"# model\.safetensors: a VAE with {number} parameters, saved with pyro-ppl \S+, torch \S+"
    )
    assert re.fullmatch(first, text.splitlines()[0])
    (files / "again.toml").write_text(text)
    assert pv.describe(pv.build("again.toml")) == pv.describe(vae)


# errors


FIT = ["fit", "counts.npy", "-o", "fitted.safetensors"]
NUMBERS = ["fit", "numbers.npy", "-o", "fitted.safetensors", "--epochs", "3"]
ERRORS = [  # what is wrong, the arguments, how the one line begins
    (
        "prior",
        [*FIT, "--prior", "gama"],
        "prior: no conditional is named 'gama'; did you mean 'gamma'?\n",
    ),
    (
        "likelihood",
        [*FIT, "--likelihood", "poison"],
        "likelihood: no conditional is named 'poison'; did you mean",
    ),
    (
        "guide",
        [*FIT, "--guide", "gamma"],
        "VAE: the guide lives in unconstrained space; Gamma(8,) has support",
    ),
    (
        "kind",
        [*FIT, "--prior", "planar_flow"],
        "VAE: PlanarFlow(8,) cannot stand as prior: its transforms have no",
    ),
    ("table", [*FIT, "--prior", '{name = "gamma"'], "--prior is no table in TOML: "),
    (
        "key",
        [*FIT, "--prior", '{name = "gamma", rte = 1.0}'],
        "prior.rte: gamma has no such argument; did you mean 'rate'?",
    ),
    (
        "value",
        [*FIT, "--prior", '{name = "gamma", rate = -1.0}'],
        "prior: Gamma(8,) needs rate in GreaterThan(",
    ),
    ("missing", [*FIT, "--prior", "hierarchy"], "prior: hierarchy needs layers"),
    (
        "network",
        [*FIT, "--guide", '{name = "normal", network = {name = "mpl"}}'],
        "guide.network: no network is named",
    ),
    ("loss", [*FIT, "--loss", "elb"], "no loss is named 'elb'; there are elbo, "),
    (
        "sizes",
        [*FIT, "--hidden", "4x4"],
        "sizes are whole numbers with commas between them, such as 400,400; got '4x4'",
    ),
    (
        "size",
        [*FIT, "--latent", "0"],
        "latent: every size of a shape must be a whole number from 1; got 0",
    ),
    (
        "particles",
        [*FIT, "--loss", "wake_sleep", "--particles", "1"],
        "particles must be a whole number from 2; got 1",
    ),
    (
        "share",
        [*FIT, "--validation", "1"],
        "--validation 1 of 40 data leaves none to train on; use a smaller share",
    ),
    (
        "one row",
        ["fit", "one.npy", "-o", "m.safetensors"],
        "--validation 0.1 of 1 data leaves none to train on; use a smaller share",
    ),
    (
        "support",
        [*NUMBERS, "--likelihood", "poisson"],
        "Poisson(3,) needs whole numbers from 0; got ",
    ),
    (
        "text",
        ["fit", "text.csv", "--likelihood", "normal", "-o", "m.safetensors"],
        "likelihood: Normal(2,) does not draw the 2 classes of column 'b', such as 'x'; give it",
    ),
    (
        "no data",
        ["fit", "digit", "-o", "m.safetensors"],
        "there is no data set or file 'digit'; did you mean 'digits'?\n",
    ),
    (
        "two arrays",
        ["fit", "two.npz", "-o", "m.safetensors"],
        "two.npz holds a, b; got key=None; name one of them\n",
    ),
    (
        "array",
        ["fit", "two.npz", "--key", "c", "-o", "m.safetensors"],
        "two.npz holds a, b; got key='c'; name one of them\n",
    ),
    (
        "condition",
        ["fit", "two.npz", "--key", "a", "--condition", "classes.csv", "-o", "m.safetensors"],
        "--condition needs a row for each datum; got 40 rows for 20 data",
    ),
    ("no spec", [*FIT, "--spec", "none.toml"], "there is no spec file 'none.toml'"),
    ("broken spec", [*FIT, "--spec", "broken.toml"], "broken.toml is no TOML: "),
    ("encoding", [*FIT, "--spec", "latin.toml"], "latin.toml is no TOML: "),
    (
        "entry",
        [*FIT, "--spec", "unknown.toml"],
        "prio: a spec has no such entry; did you mean 'prior'?",
    ),
    (
        "module",
        [*FIT, "--spec", "module.toml"],
        "modules: No module named 'no_such_module'; put it into ",
    ),
    (
        "both",
        [*FIT, "--spec", "spec.toml", "--prior", "normal"],
        "--spec says what to build: leave out --prior, or --spec",
    ),
    ("diverges", [*NUMBERS, "--learning-rate", "1e300"], "fit: the "),
    (
        "no folder",
        ["fit", "counts.npy", "-o", "one.npy/m.safetensors"],
        "one.npy cannot be written to: File exists; choose another",
    ),
    ("folder", ["fit", "counts.npy", "-o", "folder"], "folder is a folder; name a file in it\n"),
    ("range", [*FIT, "--epochs", "0"], "Invalid value for '--epochs': "),
    ("number", [*FIT, "--learning-rate", "x"], "Invalid value for '--learning-rate': "),
    ("flag", [*FIT, "--epoch", "1"], "No such option: --epoch"),
    ("no flag", ["fit", "counts.npy"], "Missing option '--out' / '-o'. See "),
    ("command", ["dmo"], "No such command 'dmo'. Did you mean 'demo'? See "),
    (
        "no such kernel",
        ["compare", "model.safetensors", "counts.npy", "--kernel", "gibbs"],
        "no kernel is named 'gibbs'; ",
    ),
    (
        "tree",
        ["mcmc", "model.safetensors", "counts.npy", "-o", "tree.txt"],
        "the file must end in .nc; got 'tree.txt'",
    ),
    (
        "report",
        ["report", "model.safetensors", "counts.npy", "-o", "r.txt"],
        "the file must end in .html; got 'r.txt'",
    ),
    ("no model", ["sample", "none.safetensors"], "none.safetensors could not be read as a model: "),
    ("other file", ["sample", "one.npy"], "one.npy could not be read as a model: "),
    (
        "suffix",
        ["sample", "model.safetensors", "-o", "drawn.txt"],
        "the file must end in .npy or .csv; got 'drawn.txt'",
    ),
    (
        "no c",
        ["sample", "model.safetensors", "--condition", "classes.csv"],
        "this VAE has no condition, so it takes no c",
    ),
    (
        "name",
        ["describe", "gama"],
        "nothing that is listed, and no model file, is named 'gama'; did you mean 'gamma'?\n",
    ),
    (
        "strange",
        ["describe", "!"],
        "nothing that is listed, and no model file, is named '!'; pyro-vae list shows the names\n",
    ),
    (
        "no file",
        ["describe", "none.safetensors"],
        "none.safetensors could not be read as a model: ",
    ),
    (
        "demo",
        ["demo", "--out", "one.npy"],
        "one.npy cannot be written to: File exists; choose another folder\n",
    ),
    ("demo flag", ["demo", "--num-samples", "1"], "Invalid value for '--num-samples': "),
]


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "beginning"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS]
)
def test_an_error_is_one_line(arguments, beginning, files):
    before = contents(files)
    result = run(*arguments)
    code = 1 if "1e300" in arguments else 2  # that asks for something, and fails on the way
    assert result.exit_code == code, (result.output, result.exception)
    *told, error = result.stderr.splitlines(keepends=True)
    assert all(line.startswith("pyro-vae: read ") for line in told), "of the tables that were read"
    assert error.startswith(f"pyro-vae: {beginning}")
    assert error.endswith("\n")
    assert contents(files) == before, "a model that is there stays, and nothing is left behind"


def test_a_table_is_told_of_in_one_line(files):
    """Rows, columns, names and separator."""
    (files / "heights.csv").write_text("height;weight\n10,3;9,7\n11,3;10,2\n8,9;10,7\n")
    result = done("fit", "heights.csv", *QUICK, "-o", "heights.safetensors")
    assert result.stderr.splitlines()[0] == (
        "pyro-vae: read heights.csv: rows: 3; columns: 2 (height, weight); separated by "
        "semicolons, with decimal commas"
    )
    assert logging.getLogger("pyro_vae").handlers == []


def test_a_conditional_model_says_what_it_needs():
    pv.save(
        pv.build({"event": [3], "latent": [2], "condition": {"size": 2}}, hidden=[4]),
        "given.safetensors",
    )
    result = run("sample", "given.safetensors")
    assert result.exit_code == 2
    assert result.stderr == (
        "pyro-vae: given.safetensors is conditional: "
        "give --condition, a file with a row for each draw\n"
    )


def test_an_interrupt_ends_with_130(files, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    before = contents(files)
    monkeypatch.setattr(train_commands, "fit_vae", interrupted)
    result = run(*FIT)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert contents(files) == before


@pytest.mark.parametrize(
    "mistake", [lambda: 1 / 0, lambda: len(3), lambda: int("x"), lambda: {}["x"]]
)
def test_a_mistake_in_the_code_keeps_its_traceback(mistake, monkeypatch):
    monkeypatch.setattr(train_commands, "fit_vae", lambda *_, **__: mistake())
    result = run(*FIT)
    assert result.exit_code == 1
    assert isinstance(result.exception, (ArithmeticError, TypeError, ValueError, LookupError))
    assert result.stderr == ""


def test_module_and_help():
    result = subprocess.run(
        [sys.executable, "-m", "pyro_vae", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("fit", "sample", "list", "describe", "demo"):
        assert command in result.stdout
    assert done().stdout.split() == done("--help").stdout.split()
    assert done("--version").output.strip() == pv.__version__


@pytest.mark.slow
def test_an_error_in_a_process_of_its_own():
    command = [sys.executable, "-m", "pyro_vae", "fit", "none.npy", "-o", "m.safetensors"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"pyro-vae: there is no data set or file 'none\.npy'; .*\n", result.stderr)


# pictures


def test_pictures_need_square_images():
    vae = pv.build({"event": [5], "latent": [2], "likelihood": "poisson"})
    with pytest.raises(
        ValueError, match=r"a picture needs square images; got data of shape \(5,\)"
    ):
        plots.reconstructions(vae, np.ones((3, 5)))


def test_pictures_leave_the_random_state(tmp_path):
    vae = pv.build({"event": [4], "latent": [2], "likelihood": "poisson"})
    state = torch.get_rng_state()
    plots.samples(vae, rows=2, columns=2).savefig(tmp_path / "samples.png")
    plots.reconstructions(vae, np.ones((3, 4))).savefig(tmp_path / "reconstructions.png")
    plots.latent_space(vae, np.arange(12).reshape(3, 4), [0, 1, 1]).savefig(
        tmp_path / "latent_space.png"
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_with_parts_of_the_users_own(files, monkeypatch):
    """A file never says what to run: the user names the module."""
    (files / "my_part.py").write_text(
        "import pyro.distributions as dist\nfrom pyro_vae.conditionals.parametric import "
        "Parametric\n\n\nclass MyGumbel(Parametric, name='cli_gumbel'):\n    family, params, "
        "standard = dist.Gumbel, ('loc', 'scale'), {'loc': 0.0, 'scale': 1.0}\n"
    )
    (files / "own.toml").write_text(
        'latent = [2]\nmodules = ["my_part"]\nlikelihood = "cli_gumbel"\n'
    )
    try:
        done(*FIT, "--spec", "own.toml", "--epochs", 1)
        monkeypatch.delitem(sys.modules, "my_part")
        pv.Conditional.registry.pop("cli_gumbel")
        refused = run("sample", "fitted.safetensors")
        assert refused.exit_code == 2
        assert "import it first (--module my_part)" in refused.stderr
        assert (
            len(
                done(
                    "sample", "fitted.safetensors", "--module", "my_part", "-n", 3
                ).stdout.splitlines()
            )
            == 4
        )
        assert "cli_gumbel" in done("describe", "fitted.safetensors", "--module", "my_part").stdout
        assert (
            "--module: No module named 'no_part'"
            in run("describe", "normal", "--module", "no_part").stderr
        )
    finally:
        pv.Conditional.registry.pop("cli_gumbel", None)


@pytest.mark.slow
def test_the_guide_is_held_against_mcmc(files):
    result = done(
        "compare",
        "model.safetensors",
        "counts.npy",
        "-n",
        5,
        "-o",
        "guide.csv",
        "--picture",
        "guide.png",
    )
    for measure in ("mean error", "sd ratio", "c2st", "coverage", "kl", "exact", "quantile 90"):
        assert measure in result.output
    assert len(pandas.read_csv("guide.csv")) == 5 * 2  # data and latents
    assert image.imread("guide.png")[..., :3].std() > 0.01
    quick = ["--num-samples", 100, "--warmup", 100, "--chains", 2]
    told = done("mcmc", "model.safetensors", "counts.npy", "-n", 4, "-o", "tree.nc", *quick).output
    assert "2 chains of 100 draws for 4 data: R-hat at most 1." in told
    tree = xarray.open_datatree("tree.nc", engine="h5netcdf")
    assert tree["posterior"].z.shape == (2, 100, 4, 2)
    assert "importance" in tree.children
    tree.close()


def test_a_table_has_spaces_for_underscores_and_three_digits():
    frame = pandas.DataFrame({"sd_ratio": [0.12345, 1.0]}, index=["mean_error", "kl"])
    assert tables.header(frame, "measure") == ["measure", "sd ratio"]
    assert tables.body(frame) == [["mean error", "0.123"], ["kl", "1"]]


def test_a_condition_of_another_length_is_refused(files):
    done(*FIT, "--condition", "classes.csv")
    np.save("short.npy", np.zeros(5))
    result = run("compare", "fitted.safetensors", "counts.npy", "--condition", "short.npy")
    assert result.exit_code == 2
    assert "--condition needs a row for each datum; got 5 rows for 40 data" in result.stderr


@pytest.mark.slow
def test_a_report_of_a_saved_model(files):
    assert (
        "The report is in r.html"
        in done("report", "model.safetensors", "counts.npy", "-o", "r.html", "-n", 4).output
    )
    assert "Guide against MCMC, 4 data" in (files / "r.html").read_text()
