"""What is written runs: docstrings, README, documentation; and says what it must."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import cli

ROOT = Path(__file__).parents[1]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(pv.__path__, "pyro_vae.")
    if "__main__" not in module.name
]
PUBLIC = {
    name: thing
    for name, thing in vars(pv).items()
    if not name.startswith("_") and not inspect.ismodule(thing) and callable(thing)
}
FAMILIES = list(pv.Conditional.registry.values()) + list(pv.Network.registry.values())


@pytest.mark.parametrize("name", MODULES)
def test_module_docstring_and_examples(name):
    module = importlib.import_module(name)
    assert module.__doc__
    tests = doctest.DocTestFinder(exclude_empty=True).find(
        module, extraglobs={**vars(pv), "torch": torch}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for test in tests:
            if test.examples:
                runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
                runner.run(test)
                assert runner.summarize(verbose=False).failed == 0, test.name


@pytest.mark.parametrize("thing", FAMILIES, ids=lambda thing: thing.name)
def test_registered_classes_have_an_example(thing):
    assert "Example:" in thing.__doc__
    assert ">>>" in thing.__doc__


METHODS = {
    f"VAE.{name}": thing
    for name, thing in vars(pv.VAE).items()
    if inspect.isfunction(thing) and name[0] != "_"
}


@pytest.mark.parametrize("name", [*PUBLIC, *METHODS])
def test_public_names_have_a_summary_and_describe_their_arguments(name):
    """Every argument has an entry under Arguments, of the class or of one that it inherits from.

    A one-line docstring may name it in backticks instead.
    """
    thing = {**PUBLIC, **METHODS}[name]
    doc = inspect.getdoc(thing)
    assert doc
    assert len(doc.split("\n\n")[0]) > 10
    if inspect.isclass(thing) and (
        "__init__" not in vars(thing) or hasattr(thing, "__dataclass_fields__")
    ):
        return
    if inspect.isclass(thing):
        ours = [base for base in thing.__mro__ if base.__module__.startswith("pyro_vae")]
        doc = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in ours)
    function = thing.__init__ if inspect.isclass(thing) else thing
    for argument in [key for key in inspect.signature(function).parameters if key != "self"]:
        assert re.search(rf"^    {argument}: |`{argument}`", doc, flags=re.MULTILINE), (
            f"{name}: {argument}"
        )


def blocks(path, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.uses_store
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("README.md", marks=pytest.mark.slow),
        pytest.param("docs/tour.md", marks=pytest.mark.slow),
        "CONTRIBUTING.md",
    ],
)
def test_code_in_documents_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    assert blocks(ROOT / name)
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # k-hat, which the text explains
        for block in blocks(ROOT / name):
            exec(compile(block, name, "exec"), scope)
    pv.Conditional.registry.pop("weibull", None)


PAGES = {name: blocks(ROOT / "docs" / f"{name}.md") for name in ("training", "deciding")}


@pytest.mark.uses_store
@pytest.mark.parametrize(
    ("page", "number"), [(name, n) for name, page in PAGES.items() for n in range(1, len(page))]
)
def test_a_page_runs(page, number, tmp_path, monkeypatch):
    """Each block after the first, which makes the VAE; recipes for tools that are installed."""
    block = PAGES[page][number]
    skip_without_modules(block)
    monkeypatch.chdir(tmp_path)
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other tools; and of few draws
        for part in (PAGES[page][0], block):
            exec(compile(part, f"{page}.md", "exec"), scope)


SITE = sorted([*(ROOT / "docs/learn").glob("*.md"), *(ROOT / "docs/do").glob("*.md")])
SLOW_PAGES = {
    "a_first_model",
    "choose_a_guide",
    "choose_a_loss",
    "choose_a_prior",
    "choose_an_estimator",
    "choose_the_number_of_latents",
    "differential_features",
    "from_pyro",
    "guide_against_mcmc",
    "is_my_log_p_right",
    "khat_is_high",
    "scikit_learn",
    "swap_and_judge",
}


@pytest.mark.uses_store
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=f"{path.parent.name}/{path.stem}",
            marks=[pytest.mark.slow] if path.stem in SLOW_PAGES else [],
        )
        for path in SITE
    ],
)
def test_a_page_of_the_site_runs(path, tmp_path, monkeypatch):
    """All code and commands, in one scope, down to a tool that is not installed; all pictures.

    A spec in TOML whose first line is a comment with a name lies in a file of that name.

    To draw them anew, then copy runs/pages/*/*.png to docs/images/learn:
    pytest tests/test_docs.py -k learn/ --basetemp=runs/pages
    """
    page = path.read_text()
    parts = re.findall(r"```(python|sh)\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    for name, spec in re.findall(r"```toml\n# (\S+\.toml)\n(.*?)```", page, flags=re.DOTALL):
        Path(name).write_text(spec)
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few draws and epochs, and of other tools
        for language, block in parts:
            if language == "sh":
                run_commands(block)
                continue
            skip_without_modules(block)
            exec(compile(block, path.name, "exec"), scope)
    for picture in re.findall(r"\(\.\./images/learn/(.*?)\)", page):
        assert (tmp_path / picture).exists(), f"the page does not draw {picture}"
        assert (ROOT / "docs/images/learn" / picture).exists(), f"{picture} is not in the docs"


def test_links_between_pages_exist():
    for path in SITE:
        for target in re.findall(r"\]\((?!http)([^)#]+)[)#]", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def skip_without_modules(block):
    """Recipes for other tools run where these are installed."""
    for module in re.findall(r"^(?:import|from) ([\w.]+)", block, flags=re.MULTILINE):
        pytest.importorskip(module, reason=f"{module} is not installed")


def run_commands(block):
    """Those of pyro-vae in a block of shell."""
    for line in block.splitlines():
        if line.startswith("pyro-vae "):
            result = CliRunner().invoke(cli.app, shlex.split(line, comments=True)[1:])
            assert result.exit_code == 0, (line, result.output, result.exception)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/tour.md"])
def test_commands_in_documents_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    for spec in blocks(ROOT / name, "toml"):
        Path("digits.toml").write_text(spec)
    lines = "".join(blocks(ROOT / name, "sh")).splitlines()
    commands = [
        shlex.split(line, comments=True)[1:] for line in lines if line.startswith("pyro-vae ")
    ]
    assert {"fit", "evaluate", "compare", "report", "describe", "list"} <= {
        command[0] for command in commands
    }
    for command in commands:
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, (command, result.output, result.exception)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_a_new_family_is_at_most_five_lines():
    family = next(
        part
        for part in ast.parse(blocks(ROOT / "CONTRIBUTING.md")[0]).body
        if isinstance(part, ast.ClassDef)
    )
    family.body = family.body[1:]  # without the docstring
    assert len(ast.unparse(family).splitlines()) <= 5


def test_links_in_documents_exist():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", path.read_text()):
            assert (ROOT / target).exists(), target


def test_version_is_one():
    assert f"## {pv.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {pv.__version__}" in (ROOT / "CITATION.cff").read_text()
