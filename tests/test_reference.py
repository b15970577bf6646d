"""The reference set: its truths by another way, from the weights by numpy and scipy alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, special, stats
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.criticism.references import FOLDER, References

ROOT = Path(__file__).parents[1]
LIMIT = 2_000_000  # bytes, of all files
APART = 0.05  # nats between two bounds
each_model = pytest.mark.parametrize("name", list(pv.reference))
flags_are_ignored = pytest.mark.filterwarnings("ignore:log p")


def positive(h):
    """The library's link to positive numbers."""
    return np.logaddexp(0, h) + 1e-6


AT_ONE = np.log(np.expm1(1 - 1e-6))  # what the link maps to 1


def weights(name):
    return {key: value.numpy() for key, value in pv.reference[name].vae.state_dict().items()}


def decoded(name, z, activation):
    """What a decoder with at most one hidden layer makes of z."""
    state = weights(name)
    layers = "likelihood.network.layers."
    h = z @ state[f"{layers}0.weight"].T + state[f"{layers}0.bias"]
    if f"{layers}2.weight" not in state:
        return h
    return activation(h) @ state[f"{layers}2.weight"].T + state[f"{layers}2.bias"]


def factor_analysis(name):
    """By the matrix determinant lemma and Woodbury's identity."""
    state = weights(name)
    x = pv.reference[name].x - state["likelihood.network.layers.0.bias"]
    precision = positive(state["likelihood.head.scale"]) ** -2
    scaled = state["likelihood.network.layers.0.weight"].T * precision
    core = np.eye(len(scaled)) + scaled @ state["likelihood.network.layers.0.weight"]
    mean = np.linalg.solve(core, scaled @ x.T)
    log_det = np.linalg.slogdet(core)[1] - np.log(precision).sum()
    square = (x**2 * precision).sum(1) - (mean * (scaled @ x.T)).sum(0)
    return -0.5 * (square + log_det + x.shape[1] * np.log(2 * np.pi))


def folded(name):
    """Column by column, by adaptive quadrature: 0 at both modes' far sides."""
    state = weights(name)
    noise = state["likelihood.head.scale"]
    weight = state["likelihood.network.layers.2.weight"].max(1)

    def one(x, w, s):
        joint = lambda z: stats.norm.pdf(z) * stats.norm.pdf(x, w * z, s)  # noqa: E731
        return np.log(2 * integrate.quad(joint, 0, 9, points=[abs(x) / w], epsabs=0)[0])

    return np.array([sum(map(one, x, weight, noise)) for x in pv.reference[name].x])


def classes(name):
    state = weights(name)
    logits = decoded(name, np.eye(len(state["prior.logits"])), np.tanh)
    x = pv.reference[name].x[:, None]
    given = -np.logaddexp(0, np.where(x == 1, -logits, logits)).sum(2)
    return special.logsumexp(given + special.log_softmax(state["prior.logits"]), axis=1)


def gamma_counts(name):
    """By Gauss-Legendre over the root of z, in which the prior has no pole."""
    state = weights(name)
    root, weight = panels(0, 10, 60)
    z = root[:, None] ** 2
    softplus = lambda h: np.logaddexp(0, h)  # noqa: E731
    rate = positive(decoded(name, z, softplus) + AT_ONE)
    a, b = state["prior.concentration"], state["prior.rate"]
    prior = stats.gamma.logpdf(z[:, 0], a, scale=1 / b) + np.log(2 * root)
    given = stats.poisson.logpmf(pv.reference[name].x[:, None], rate).sum(2)
    return special.logsumexp(given + prior, axis=1, b=weight)


def heavy_tails(name):
    """By Gauss-Legendre in panels."""
    state = weights(name)
    node, weight = panels(-7, 7, 60)
    z = np.stack(np.meshgrid(node, node), -1).reshape(-1, 2)
    loc = decoded(name, z, np.tanh)
    prior = stats.norm.logpdf(z).sum(1)
    area = np.outer(weight, weight).flatten()
    scale = positive(state["likelihood.head.scale"])
    found = []
    for x in pv.reference[name].x[:6]:
        square = ((x - loc) / scale) ** 2 / 2
        given = (-1.5 * np.log1p(square) - np.log(scale) - 1.5 * np.log(2)).sum(1)
        found.append(special.logsumexp(given + prior, b=area))
    return np.array(found)


def panels(low, high, num):
    """Nodes and weights of Gauss-Legendre with 8 nodes in each of `num` panels."""
    node, weight = np.polynomial.legendre.leggauss(8)
    half = (high - low) / num / 2
    middle = low + half * (1 + 2 * np.arange(num))
    return (middle[:, None] + half * node).flatten(), np.tile(half * weight, num)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("linear_gaussian", factor_analysis),
        ("narrow_guide", factor_analysis),
        ("folded", folded),
        ("classes", classes),
        ("gamma_counts", gamma_counts),
        ("heavy_tails", heavy_tails),
    ],
)
def test_exact_values_by_another_way(name, exact):
    model = pv.reference[name]
    found = exact(name)
    np.testing.assert_allclose(model.log_evidence[: len(found)], found, rtol=0, atol=1e-8)
    assert (model.se == 0).all()
    assert model.how.startswith(("closed form", "quadrature"))


@each_model
def test_a_model_is_whole(name):
    model = pv.reference[name]
    assert model.x.shape == (24, *model.vae.likelihood.event_shape)
    assert model.log_evidence.shape == model.se.shape == (24,)
    assert np.isfinite(model.log_evidence).all()
    assert (model.se < APART).all()
    model.vae.check(model.x)


def agrees(model, found):
    """Within 5 standard errors of both numbers, datum by datum, and 4 in the mean."""
    error = found.log_evidence.values - model.log_evidence
    se = np.sqrt(found.se.values**2 + model.se**2 + 1e-8**2)
    assert (np.abs(error) < 5 * se).all()
    assert abs(error.sum()) < 4 * np.sqrt((se**2).sum())


@flags_are_ignored
@pytest.mark.filterwarnings("ignore:the standard error")  # of some modes far apart
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "folded" else n for n in pv.reference],
)
def test_importance_sampling_finds_it(name):
    model = pv.reference[name]
    agrees(model, pv.log_evidence(model.vae, model.x, tolerance=0.05))


@flags_are_ignored
def test_annealing_from_the_prior_finds_all_modes():
    model = pv.reference["folded"]
    found = pv.annealed_log_evidence(
        model.vae, model.x, num_distributions=100, chains=128, start="prior", num_steps=5
    )
    agrees(model, found)


def test_the_set_is_small_and_read_only():
    assert 8 <= len(pv.reference) <= 10
    assert {path.suffix for path in FOLDER.iterdir()} == {".safetensors", ".npz"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LIMIT
    assert "digits" in pv.reference
    assert "vamp" in repr(pv.reference)
    with pytest.raises(TypeError):
        pv.reference["mine"] = None
    with pytest.raises(KeyError, match=r"no reference model is named 'mnist'; there are classes,"):
        pv.reference["mnist"]


@flags_are_ignored
def test_the_example_in_the_documents_runs(capsys):
    text = (ROOT / "docs" / "results.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == len(pv.reference)


@pytest.mark.slow
def test_the_command_passes():
    result = CliRunner().invoke(cli.app, ["check", "--reference", "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.output


@pytest.mark.slow
def test_the_script_makes_a_model_again(tmp_path):
    """On another machine up to rounding, which training lets grow."""
    script = ROOT / "benchmarks" / "reference.py"
    command = [sys.executable, script, "narrow_guide", "--folder", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    again = References(tmp_path)["narrow_guide"]
    assert abs(again.log_evidence.mean() - pv.reference["narrow_guide"].log_evidence.mean()) < 0.1
