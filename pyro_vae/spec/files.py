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


@contextlib.contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """Inside, Python also finds modules in `folder`: those of a spec file lie beside it."""
    before = list(sys.path)
    sys.path[:0] = [] if folder is None else [str(folder.resolve())]
    try:
        yield
    finally:
        sys.path[:] = before


def import_modules(modules: Any) -> None:
    """Import the modules that a spec names, which register parts of one's own."""
    if not isinstance(modules, list) or not all(
        isinstance(module, str) and module for module in modules
    ):
        raise ValueError(f"modules: must be a list of module names; got {modules!r}")
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError) as error:
            raise ValueError(
                f"modules: {error}; put it beside the spec file or on PYTHONPATH"
            ) from None
