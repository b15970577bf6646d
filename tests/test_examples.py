"""The examples assert their own results."""

import importlib.util
import inspect
import warnings
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
FAST = ("03_counts",)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch, of ONNX
@pytest.mark.uses_store  # those of models that are no VAE, by Pyro's own SVI
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in FAST else pytest.mark.slow)
        for path in EXAMPLES
    ],
)
def test_example(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        takes = inspect.signature(module.main).parameters
        module.main(**({"small": True, "out": tmp_path} if "small" in takes else {}))
    assert list(tmp_path.glob("*.png"))
