"""Work that a GPU records and replays, here with a recorder that runs the function again: the same
buffers, and no graph.
"""

import warnings

import numpy as np
import pytest
import torch
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.density import recorded

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(7)


def rerun(function):
    """What :func:`pyro_vae.density.recorded.cuda_graph` does, but for the graph.

    The results of a recording are of no use before the first replay, as there.
    """
    function()
    outputs = tuple(torch.full_like(output, 7) for output in function())

    def replay():
        for output, new in zip(outputs, function(), strict=True):
            output.copy_(new)

    return replay, outputs


@pytest.fixture
def recordings(monkeypatch):
    """How often something was recorded, where everything is."""
    made = []

    def recorder(function):
        made.append(function)
        return rerun(function)

    monkeypatch.setattr(recorded, "recorder_of", lambda _: recorder)
    return made


def test_what_is_replayed_is_what_the_function_gives(recordings):
    replayed = recorded.Recorded(lambda x, y: (x + y, x * y))
    inputs = [(torch.randn(3), torch.randn(())) for _ in range(5)]
    found = [replayed(x, y) for x, y in inputs]
    assert len(recordings) == 1
    for (x, y), (added, multiplied) in zip(inputs, found, strict=True):
        assert torch.equal(added, x + y)
        assert torch.equal(multiplied, x * y)


def test_each_shape_has_its_own_recording(recordings):
    replayed = recorded.Recorded(lambda x: (x.sum(),))
    for _ in range(4):
        for size in (2, 3):
            assert replayed(torch.ones(size))[0] == size
    assert len(recordings) == 2


def test_recording_draws_nothing(recordings):
    torch.manual_seed(0)
    plain = [torch.randn(3) for _ in range(4)]
    torch.manual_seed(0)
    replayed = recorded.Recorded(lambda x: (x + torch.randn(3),))
    for expected in plain:
        assert torch.equal(replayed(torch.zeros(3))[0], expected)


def test_what_cannot_be_recorded_is_called_as_it_is(monkeypatch):
    def refuses(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "recorder_of", lambda _: refuses)
    replayed = recorded.Recorded(lambda x: (2 * x,))
    for value in range(4):
        assert replayed(torch.full((), value))[0] == 2 * value


ESTIMATES = {
    "hmc": lambda vae: pv.sample_posterior(vae, X, num_samples=30, warmup=30)["posterior"].z,
    "annealing from the guide": lambda vae: (
        pv.annealed_log_evidence(vae, X, num_distributions=10, chains=32).log_evidence
    ),
    "annealing from the prior": lambda vae: (
        pv.annealed_log_evidence(
            vae, X, start="prior", num_distributions=10, chains=32
        ).log_evidence
    ),
    "tolerance": lambda vae: (
        pv.log_evidence(vae, X, num_samples=50, tolerance=0.01, max_samples=500).log_evidence
    ),
}

SLOW = {"tolerance": pytest.mark.slow}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW.get(name, ())) for name in ESTIMATES]
)
def test_estimates_are_those_without_a_recording(name, request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few draws
        plain = ESTIMATES[name](TRUTH.vae(shrink=0.3))
        recordings = request.getfixturevalue("recordings")
        replayed = ESTIMATES[name](TRUTH.vae(shrink=0.3))
    assert recordings
    np.testing.assert_array_equal(plain, replayed)
