"""One word moves all: device= in build, load, fit and the estimator, --device on the command line.

The meta device, which every torch has, stands for another one where only the place counts; what is
computed on a GPU is tested with ``--device cuda``.
"""

import re

import pytest
import torch
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli import app

X = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
NO_DEVICE = "device must be 'auto' or one that torch sees, such as 'cpu'.*; got 'gpu'"


def places(vae):
    return {tensor.device.type for tensor in vae.state_dict().values()}


def test_auto_is_a_gpu_where_there_is_one():
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert places(pv.build(X, latent=1, device="auto")) == {wanted}


def test_build_and_load_place_all_parts(tmp_path):
    assert places(pv.build(X, latent=1, prior="vamp", device="meta")) == {"meta"}
    vae = pv.build(X, latent=1, hidden=[4])
    pv.save(vae, tmp_path / "m.safetensors")
    assert places(pv.load(tmp_path / "m.safetensors", device=torch.device("meta"))) == {"meta"}
    assert places(pv.load(tmp_path / "m.safetensors")) == {"cpu"}


def test_fit_moves_the_vae_first(device):
    vae = pv.build(X, latent=1, hidden=[4])
    optimised = list(vae.parameters())
    pv.fit(vae, X, epochs=1, progress=False, device=device)
    assert places(vae) == {device.type}
    assert all(a is b for a, b in zip(optimised, vae.parameters(), strict=True))


def test_the_estimator_passes_it_on():
    estimator = pv.VAEEstimator(latent=1, hidden=[4], epochs=1, device="auto").fit(X.numpy())
    assert len(places(estimator.vae_)) == 1


def test_a_device_that_is_not_there_is_refused_before_anything_moves(tmp_path):
    vae = pv.build(X, latent=1, hidden=[4])
    pv.save(vae, tmp_path / "m.safetensors")
    calls = {
        "build": lambda: pv.build(X, device="gpu"),
        "load": lambda: pv.load(tmp_path / "m.safetensors", device="gpu"),
        "fit": lambda: pv.fit(vae, X, epochs=1, device="gpu"),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=NO_DEVICE):
            call()
    result = CliRunner().invoke(app, ["sample", str(tmp_path / "m.safetensors"), "--device", "gpu"])
    assert result.exit_code == 2
    assert re.search(NO_DEVICE, result.stderr)
