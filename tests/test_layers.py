"""The house: imports run downwards, what is private stays private, rooms stay small, importing
changes nothing."""

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
    {"recorded"},
    {"guards", "progress"},
]
CROSSINGS = {("evidence", "posterior"), ("training", "posterior")}  # between rooms of one layer
TYPED = {"vae", "problem", "rows", "tile", "target", "weights"}  # parameters of classes of our own
MOST_LINES = 300  # of a module
MOST_LINES_OF_FUNCTION = 60  # without its docstring
MODULES = sorted(PACKAGE.rglob("*.py"))

each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))
)


def parsed(path):
    return ast.parse(path.read_text())


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name):
    (found,) = [number for number, layer in enumerate(LAYERS) if name in layer]
    return found


def imports(path):
    """What a module imports from this package, wherever in the module the import stands.

    Pairs: the dotted path from the package on, as a tuple, and the name that it has here.
    """
    here = ("pyro_vae", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            targets = [(alias.name.split("."), alias.asname) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [([*base, alias.name], alias.asname) for alias in node.names]
        else:
            continue
        for target, name in targets:
            if target[0] == "pyro_vae" and len(target) > 1:
                yield tuple(target[1:]), name or target[-1]


def is_module(target):
    path = PACKAGE.joinpath(*target)
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_accesses(tree):
    """Every ``something._name`` but those on self, cls and super(): the something and the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            caller = owner.func if isinstance(owner, ast.Call) else owner
            if not (isinstance(caller, ast.Name) and caller.id in ("self", "cls", "super")):
                yield owner, node.attr


def private_methods(path):
    return {
        part.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and is_private(part.name)
    }


PRIVATE_METHODS = {path: private_methods(path) for path in MODULES}


@each_module
def test_imports_run_downwards(path):
    if path == PACKAGE / "__init__.py":
        return
    here = room(path)
    for target, _ in imports(path):
        own_folder = target[0] == here and path.parent != PACKAGE
        allowed = own_folder or (here, target[0]) in CROSSINGS or level(target[0]) > level(here)
        assert allowed, f"{here} imports {'.'.join(target)}"


def test_crossings_are_within_one_layer_and_needed():
    crossed = {(room(path), target[0]) for path in MODULES for target, _ in imports(path)}
    for pair in CROSSINGS:
        assert level(pair[0]) == level(pair[1])
        assert pair in crossed


@each_module
def test_nothing_private_is_imported(path):
    for target, _ in imports(path):
        assert not is_private(target[-1]), ".".join(target)


@each_module
def test_nothing_private_is_reached_through_a_module(path):
    modules = {name for target, name in imports(path) if is_module(target)}
    for owner, name in private_accesses(parsed(path)):
        assert not (isinstance(owner, ast.Name) and owner.id in modules), f"{owner.id}.{name}"


@each_module
def test_no_private_method_of_another_module_is_called(path):
    """Names that torch and Pyro alone define are not ours to judge."""
    elsewhere = set().union(*(names for other, names in PRIVATE_METHODS.items() if other != path))
    for owner, name in private_accesses(parsed(path)):
        known_here = name in PRIVATE_METHODS[path]
        assert known_here or name not in elsewhere, f"{ast.unparse(owner)}.{name}"


@each_module
def test_objects_of_our_own_classes_are_typed(path):
    """An ``Any`` for an object of a higher layer is an import in hiding."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.arg) and node.arg in TYPED and node.annotation is not None:
            types = ast.unparse(node.annotation).strip("\"'").split(" | ")
            assert "Any" not in types, f"line {node.lineno}: {node.arg}"


@each_module
def test_rooms_stay_small(path):
    lines = path.read_text().count("\n")
    assert lines <= MOST_LINES
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef):
            doc = node.body[0] if ast.get_docstring(node) else None
            size = node.end_lineno - node.lineno + 1
            size -= doc.end_lineno - doc.lineno + 1 if doc else 0
            assert size <= MOST_LINES_OF_FUNCTION, node.name


def test_the_test_sees_imports():
    rooms = {target[0] for target, _ in imports(PACKAGE / "spec" / "build.py")}
    assert rooms == {"assembly", "conditionals", "data", "guards", "spec", "vae"}
    assert (("data",), "data") in set(imports(PACKAGE / "cli" / "arguments.py"))
    assert (("training", "fit", "fit"), "fit_vae") in set(imports(PACKAGE / "cli" / "train.py"))


def test_the_test_sees_what_is_private():
    tree = ast.parse("self._a; cls._b; super()._c(); vae._d(); part.guide._e; x.__class__")
    assert {name for _, name in private_accesses(tree)} == {"_d", "_e"}
    assert is_module(("data", "rows"))
    assert is_module(("vae",))
    assert not is_module(("vae", "VAE"))


IMPORT = """
import logging, random, warnings
import numpy, torch, pyro
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
slow = {
    "matplotlib", "sklearn", "xarray", "pandas", "typer", "anndata",
    "arviz_base", "arviz_stats", "arviz_plots",
}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""


COMMAND = """
import sys
import pyro_vae_command
slow = {"pyro_vae", "torch", "pyro", "numpy", "pandas", "matplotlib"} & set(sys.modules)
assert not slow, slow
"""


def test_the_command_knows_its_options_without_the_package():
    subprocess.run([sys.executable, "-c", COMMAND], check=True, cwd=PACKAGE.parent)


def test_importing_changes_nothing_and_is_quick():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
