"""Spec files, and the modules that they name."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """A spec from its file."""
    if path.suffix != ".toml" or not path.is_file():
        raise FileNotFoundError(
            f"there is no spec file {str(path)!r}, which must end in .toml; read data with "
            "pv.data.load"
        )
    try:
        return tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # no TOML, no text, or nested without end
        raise ValueError(f"{path.name} is no TOML: {error}") from None


def import_modules(who: str, modules: Any, folder: Path | None) -> None:
    """Import the modules with a user's own parts, which register themselves.

    Arguments:
        who: Who names them, for messages.
        modules: Their names.
        folder: Where they may lie beside the Python path. It is on that path only meanwhile.

    Raises:
        ValueError: They are no list of names, or there is no such module.
    """
    if not isinstance(modules, list) or not all(
        isinstance(module, str) and module.strip(".") == module != "" for module in modules
    ):
        raise ValueError(f"{who}: must be a list of module names; got {modules!r}")
    place = "" if folder is None else f"into {folder.resolve()}, or "
    with _importable(folder):
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                is_missing = isinstance(error, ModuleNotFoundError) and error.name is not None
                if is_missing and f"{module}.".startswith(f"{error.name}."):
                    raise ValueError(f"{who}: {error}; put it {place}on PYTHONPATH") from None
                raise ValueError(f"{who}: {module} cannot be imported: {error}") from error


@contextlib.contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """Inside, Python also finds modules in `folder`."""
    before = list(sys.path)
    sys.path[:0] = [] if folder is None else [str(folder.resolve())]
    try:
        yield
    finally:
        sys.path[:] = before
