"""Run the examples and keep what they draw and print, in docs/images/examples: ``make gallery``.

It takes half an hour on one core; the site shows what is kept. Names of examples as arguments run
those alone."""

import contextlib
import importlib.util
import inspect
import shutil
import sys
import tempfile
from pathlib import Path

import torch

DOCS = Path(__file__).resolve().parent
KEPT = DOCS / "images" / "examples"


def keep(path: Path) -> None:
    """Run one example in an empty folder; keep its picture and what it prints."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        takes = inspect.signature(module.main).parameters
        with Path("printed.txt").open("w") as printed, contextlib.redirect_stdout(printed):
            module.main(**({"out": Path(folder)} if "out" in takes else {}))
        (picture,) = Path(folder).glob("*.png")
        KEPT.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, KEPT / f"{path.stem}.png")
        shutil.copy("printed.txt", KEPT / f"{path.stem}.txt")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    for path in sorted((DOCS.parent / "examples").glob("*.py")):
        if path.stem in sys.argv[1:] or len(sys.argv) == 1:
            print(path.stem, flush=True)
            keep(path)
