"""The site: it is built without a warning, names everything once, and what it shows runs."""

import inspect
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from test_docs import PUBLIC, ROOT, blocks

import pyro_vae as pv
from pyro_vae.training.losses import losses

DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "install.md", *sorted((DOCS / "look_up").glob("*.md"))]
SHOWN = [page for page in PAGES if blocks(page)]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
REGISTERED = {
    cls.__name__: cls
    for root in (pv.Conditional, pv.Network, pv.Missingness)
    for cls in root.registry.values()
    if cls.__module__.startswith("pyro_vae.")
}
DRAWN = [
    name
    for name, cls in pv.Conditional.registry.items()
    if issubclass(cls, pv.Parametric) and cls.params and name not in ("one_hot", "multinomial")
]


@pytest.fixture
def catalogue(monkeypatch):
    """The extension that writes the catalogue."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import catalogue

    return catalogue


def documented(text):
    return re.findall(
        r"^\.\. auto(?:class|function|exception):: (?:pyro_vae\.)?([\w.]+)", text, re.M
    )


@pytest.mark.slow
def test_the_catalogue_and_the_api_have_every_public_name_once(catalogue):
    pages = {**catalogue.pages(), **{p.name: p.read_text() for p in DOCS.glob("look_up/api/*.md")}}
    names = [name for text in pages.values() for name in documented(text)]
    assert len(names) == len(set(names))
    assert set(names) >= (set(PUBLIC) | set(REGISTERED)) - {"Any"}
    for name in set(names):
        thing = pv
        for part in name.split("."):
            thing = getattr(thing, part)
        assert inspect.getdoc(thing)

    for cls in REGISTERED.values():
        assert any(re.search(rf"^## {cls.name}$", text, re.M) for text in pages.values())
    for name in [*pv.Conditional.registry, *losses]:
        assert f"`{name}`" in pages["catalogue"]
    assert not re.search(r"tensor|Constraint|Interval", "".join(catalogue.pages().values()))


@pytest.mark.parametrize("name", DRAWN)
def test_a_density_is_drawn(name, catalogue, tmp_path):
    cls = pv.Conditional.registry[name]
    assert catalogue.densities.pictured(cls)
    figure = catalogue.densities.picture(cls)
    (axes,) = figure.axes
    heights = {}
    for line in axes.lines:
        heights.setdefault(line.get_color(), []).extend(line.get_ydata())
    _, labels = axes.get_legend_handles_labels()
    assert len(heights) == len(labels) == (3 if cls.example().num_params else 1)
    for drawn in heights.values():
        assert np.isfinite(drawn).all()
        assert max(drawn, default=0.0) > 0  # neither nothing nor a line of zeros


def test_the_command_line_has_every_command(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import commands
    import typer.main

    from pyro_vae.cli import app

    _, *sections = re.split("^## ", commands.page(), flags=re.M)
    sections = dict(section.split("\n", 1) for section in sections)
    listed = typer.main.get_command(app).commands
    assert [*sections] == [*listed]
    for name, command in listed.items():
        rows = re.findall(r"^\| `(.*?)` \| .+ \| (.*) \|$", sections[name], flags=re.M)
        assert len(rows) == len(command.params)
        for (written, default), parameter in zip(rows, command.params, strict=True):
            is_option = parameter.param_type_name == "option"
            assert written.startswith(parameter.opts[0] if is_option else parameter.metavar)
            assert (default == "must be given") == parameter.required
            if type(parameter.default) in (int, float):
                assert default in (str(parameter.default), parameter.show_default)


def test_formulas_are_mathml(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import mathml

    assert "<mfrac>" in mathml.mathml(r"\tfrac{1}{2}", display="inline")
    assert mathml.mathml(r"a &= b \\ c &= d", display="block").count("<mtr>") == 2


def test_links_of_llms_txt_lead_to_pages():
    text = (DOCS / "llms.txt").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target == "spec.schema.json" or "written/" in target or "gallery/" in target:
            continue  # made by the build; the next test looks
        assert (DOCS / target).with_suffix(".md").is_file(), target


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_a_title_and_what_it_left(path):
    title, line = path.read_text().split("\n")[:2]
    assert line == "=" * len(title.removeprefix('"""'))
    assert (DOCS / "images" / "examples" / f"{path.stem}.png").is_file(), "make gallery"
    assert (DOCS / "images" / "examples" / f"{path.stem}.txt").is_file(), "make gallery"


@pytest.mark.uses_store
@pytest.mark.slow
@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few draws
        for block in blocks(path):
            exec(compile(block, path.name, "exec"), scope)


def test_how_to_cite_agrees_with_the_citation_file():
    cited = (DOCS / "look_up" / "cite.md").read_text()
    file = (ROOT / "CITATION.cff").read_text()
    for key in ("title", "license", "version"):
        value = re.search(rf"^{key}: \"?([^\"\n]+)", file, re.M)[1]
        assert f"{{{value}}}" in cited
    assert f"pyro_vae {pv.__version__}" in cited


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_or_a_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    offline = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for target in re.findall(r"\]\(([^)]+)\)", (DOCS / "llms.txt").read_text()):
        assert (tmp_path / target).is_file(), target
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?:[^\"]+)", page.read_text()
        )
        assert not loaded, f"{page.name} loads {loaded[0]}"
