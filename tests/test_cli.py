"""The command line, as a user types it."""

import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli import app
from pyro_vae.criticism import plots


def test_demo_writes_a_table_a_model_and_four_pictures(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--epochs", "3", "--num-samples", "200"])
    assert result.exit_code == 0, result.output
    for part in ("ELBO", "importance sampling", "naive sampling", "independent pixels", "k-hat > 0.7", "unknown"):
        assert part in result.output
    files = {file.name for file in (tmp_path / "demo").iterdir()}
    pictures = {"reconstructions.png", "samples.png", "latent_space.png", "bounds.png"}
    assert files == pictures | {"model.safetensors", "history.csv"}
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


def test_module_and_help():
    result = subprocess.run([sys.executable, "-m", "pyro_vae", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in result.stdout
    assert CliRunner().invoke(app, ["--version"]).output.strip() == pv.__version__


def test_bad_flags_exit_with_2():
    for arguments in (["demo", "--epochs", "0"], ["demo", "--num-samples", "x"], ["dmo"], ["demo", "--out", __file__]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output


def test_pictures_need_square_images():
    vae = pv.build({"event": [5], "latent": [2], "likelihood": "poisson"})
    with pytest.raises(ValueError, match=r"a picture needs square images; got data of shape \(5,\)"):
        plots.reconstructions(vae, np.ones((3, 5)))


def test_pictures_leave_the_random_state(tmp_path):
    import torch

    vae = pv.build({"event": [4], "latent": [2], "likelihood": "poisson"})
    state = torch.get_rng_state()
    plots.samples(vae, rows=2, columns=2).savefig(tmp_path / "samples.png")
    plots.reconstructions(vae, np.ones((3, 4))).savefig(tmp_path / "reconstructions.png")
    plots.latent_space(vae, np.arange(12).reshape(3, 4), [0, 1, 1]).savefig(tmp_path / "latent_space.png")
    assert torch.equal(torch.get_rng_state(), state)
