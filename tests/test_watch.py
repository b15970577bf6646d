"""The time that an estimate takes: bounded, told, shown; and what an interruption leaves behind."""

import time
import warnings

import numpy as np
import pyro
import pytest
import torch
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae import progress as progress_bar
from pyro_vae.evidence import watch

TRUTH = LinearGaussian.with_diagonal_posterior(12, 10)
X = TRUTH.draw(700)


def quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **options)


LIMITED = {
    "draws": {"num_samples": 1_000_000, "max_seconds": 1.0},
    "tolerance": {"num_samples": 1000, "tolerance": 0.01, "max_seconds": 1.0},
}


@pytest.mark.parametrize("name", LIMITED)
def test_it_ends_in_time_with_the_best_there_is(name):
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="max_seconds were over .*; raise max_seconds"):
        found = pv.log_evidence(TRUTH.vae(shrink=1.4, shift=2.0), X, **LIMITED[name])
    assert time.perf_counter() - began < 4.0  # machines are noisy
    late = (found.flag == "out of time").values
    assert late.sum() == found.attrs["flagged_out_of_time"] > 0
    reached = (found.num_samples > 0).values
    assert reached.any()
    assert (found.log_evidence.notnull() == reached).all()
    in_time = found.isel(datum=~late & (found.flag == "").values)
    z = (in_time.log_evidence - TRUTH.log_evidence(X)[in_time.datum]) / in_time.se
    assert (np.abs(z) < 4.75).all()


def test_every_tile_has_its_share_of_the_time(monkeypatch):
    """What one leaves over is for the others; what one takes too much, they all lack."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = watch.Watch(100, progress=False, max_seconds=10.0)
    clock.begin(25)
    assert clock.until == 2.5
    now[0] = 1.0
    assert not clock.is_over
    clock.begin(25)
    assert clock.until == 4.0
    now[0] = 6.0
    with pytest.raises(watch.OutOfTime):
        clock.tick()
    clock.begin(25)
    assert clock.until == 8.0
    now[0] = 11.0
    assert clock.has_ended


def test_what_there_was_no_time_for_is_unknown_and_said_to_be(monkeypatch):
    monkeypatch.setattr(watch.Watch, "has_ended", property(lambda self: self.left < 700))
    found = quiet(TRUTH.vae(shrink=1.2), X, num_samples=100)
    assert found.num_samples.values[0] == 100
    assert (found.num_samples[64:] == 0).all()
    assert found.log_evidence[64:].isnull().all()
    assert (found.flag[64:] == "out of time").all()


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_a_result_tells_seconds_and_draws_by_rung(tolerance):
    found = quiet(TRUTH.vae(shift=2.0), X[:20], num_samples=500, tolerance=tolerance).attrs
    rungs = ["guide"] if tolerance is None else ["guide", "refined"]
    spent = [found[f"seconds_{rung}"] for rung in rungs]
    assert all(seconds > 0 for seconds in spent)
    assert sum(spent) <= found["seconds"]
    assert found["draws_guide"] == 20 * 500
    assert all(found[f"draws_{rung}"] >= 20 * 500 for rung in rungs)


def test_a_limit_that_is_not_reached_changes_nothing():
    vae = TRUTH.vae(shift=2.0)
    free, limited = (
        quiet(vae, X[:20], num_samples=200, tolerance=0.1, max_seconds=limit)
        for limit in (None, 600)
    )
    assert limited.equals(free)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf"), True, "60"])
def test_a_limit_that_is_none(limit):
    with pytest.raises(ValueError, match="max_seconds must be a number of seconds above 0"):
        pv.log_evidence(TRUTH.vae(), X[:2], max_seconds=limit)


@pytest.mark.parametrize("progress", [True, False])
def test_a_terminal_shows_how_far_it_is(progress, monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, this is a terminal
    quiet(TRUTH.vae(shift=3.0), X[:2], num_samples=100, tolerance=0.3, progress=progress)
    shown = capsys.readouterr().err
    assert ("log p(x)" in shown) == progress
    assert ("rung refined" in shown) == progress


@pytest.mark.parametrize(
    ("title", "call"),
    [
        ("MCMC, data", lambda vae: pv.sample_posterior(vae, X[:9], num_samples=200, warmup=50)),
        ("gaps, data", lambda vae: pv.gaps(vae, X[:9], steps=20)),
        ("log p(x)", lambda vae: pv.annealed_log_evidence(vae, X[:9], num_distributions=50)),
        ("log p(x)", lambda vae: pv.compare_models({"a": vae}, X[:9])),
    ],
)
def test_every_long_call_shows_how_far_it_is(title, call, monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        call(TRUTH.vae())
    assert title in capsys.readouterr().err


def test_a_tick_is_a_part_of_a_tile():
    clock = watch.Watch(100, progress=False, max_seconds=None)
    clock.begin(60, ticks=30)
    for _ in range(15):
        clock.tick()
    assert clock.bar.done == 30
    clock.begin(40)
    assert clock.bar.done == 60


def test_annealing_ends_in_time():
    began = time.perf_counter()
    options = {"num_distributions": 20_000, "max_seconds": 1.0}
    with pytest.warns(UserWarning, match="max_seconds were over"):
        found = pv.annealed_log_evidence(TRUTH.vae(), X[:9], **options)
    assert time.perf_counter() - began < 4.0
    assert (found.flag == "out of time").all()
    assert found.log_evidence.isnull().all()


POSTERIOR = {"num_samples": 30, "warmup": 30}
LONG = {
    "importance": lambda vae: pv.log_evidence(vae, X[:9], num_samples=2000),
    "ladder": lambda vae: pv.log_evidence(vae, X[:9], num_samples=50, tolerance=0.001),
    "annealing": lambda vae: pv.annealed_log_evidence(vae, X[:9], num_distributions=50),
    "bridge": lambda vae: pv.bridge_log_evidence(vae, X[:9], DRAWN["tree"]),
    "bounds": lambda vae: pv.bidirectional_log_evidence(
        vae, num_simulations=5, num_distributions=50
    ),
    "chains": lambda vae: pv.sample_posterior(vae, X[:9], **POSTERIOR),
    "comparison": lambda vae: pv.compare_posteriors(vae, X[:9], DRAWN["tree"]),
    "gaps": lambda vae: pv.gaps(vae, X[:9], steps=50),
    "models": lambda vae: pv.compare_models({"a": vae, "b": vae}, X[:9], num_samples=2000),
    "calibration": lambda vae: pv.calibrate(vae, num_simulations=30),
    "predictions": lambda vae: pv.check_predictions(vae, X[:9], num_samples=3000),
}
DRAWN = {}


class Interrupted(torch.nn.Module):
    """A decoder that is interrupted at its n-th call."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder
        self.calls, self.last = 0, None

    def forward(self, z):
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt
        return self.decoder(z)


@pytest.mark.uses_store
@pytest.mark.parametrize("name", LONG)
def test_an_interruption_leaves_all_as_it_was(name):
    vae = TRUTH.vae(shift=1.0)
    vae.likelihood.network = Interrupted(vae.likelihood.network)
    if name in ("bridge", "comparison"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            DRAWN["tree"] = pv.sample_posterior(vae, X[:9], **POSTERIOR)
    vae.train()
    vae.prior.eval()
    pyro.param("mine", torch.ones(2))
    modes = [part.training for part in vae.modules()]
    asked = [parameter.requires_grad for parameter in vae.parameters()]
    state = torch.get_rng_state()
    for last in (2, 5):
        vae.likelihood.network.calls, vae.likelihood.network.last = 0, last
        with pytest.raises(KeyboardInterrupt):
            LONG[name](vae)
        assert torch.equal(torch.get_rng_state(), state)
        assert [part.training for part in vae.modules()] == modes
        assert [parameter.requires_grad for parameter in vae.parameters()] == asked
        assert all(parameter.grad is None for parameter in vae.parameters())
        assert list(pyro.get_param_store().keys()) == ["mine"]
