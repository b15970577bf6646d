"""The house: imports run downwards, importing changes nothing, rooms stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyro_vae"
LAYERS = [  # from the top; a module may import from lower layers, and from its own folder
    {"__main__"},
    {"cli", "estimator"},
    {"criticism"},
    {"training", "evidence", "posterior"},
    {"density"},
    {"spec"},
    {"vae"},
    {"assembly"},
    {"conditionals"},
    {"distributions", "data"},
    {"guards"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name):
    (found,) = [number for number, layer in enumerate(LAYERS) if name in layer]
    return found


def imported(path):
    """The rooms of this package that a module imports, wherever in the module the import stands."""
    here = ("pyro_vae", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                [*here[: len(here) - node.level], *(node.module or "").split(".")]
                if node.level
                else node.module.split(".")
            )
            base = [part for part in base if part]
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from (target[1] for target in targets if target[0] == "pyro_vae" and len(target) > 1)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    if path == PACKAGE / "__init__.py":
        return
    for target in imported(path):
        own_folder = target == room(path) and path.parent != PACKAGE
        assert own_folder or level(target) > level(room(path)), f"{path.name} imports {target}"


def test_the_test_sees_imports():
    assert set(imported(PACKAGE / "inference" / "svi.py")) == {"rows", "guards", "vae", "inference"}
    assert "inference" in set(imported(PACKAGE / "cli.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_stay_small(path):
    assert len(path.read_text().splitlines()) <= 320
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            doc = node.body[0] if ast.get_docstring(node) else None
            size = (
                node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
            )
            assert size <= 60, node.name


IMPORT = """
import logging, random, warnings
import numpy, torch, pyro, pandas, xarray
def state():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.get_rng_state().tolist(), torch.distributions.Distribution._validate_args,
        pyro.infer.is_validation_enabled(), pyro.poutine.is_validation_enabled(),
        pyro.settings.get(), list(pyro.get_param_store().keys()),
        random.getstate(), str(numpy.random.get_state()), list(warnings.filters),
        logging.root.level, logging.root.handlers,
    )
before = state()
import pyro_vae
assert state() == before
import sys
slow = {"matplotlib", "sklearn", "arviz_base", "arviz_stats", "arviz_plots", "typer"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""


def test_importing_changes_nothing_and_is_quick():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
