"""Training that was interrupted: checkpoints, exact resume, callbacks, Ctrl-C, losses that are not
finite."""

import errno
import functools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.data.sealed import unsealed
from pyro_vae.training import checkpoints as checkpoints_module

X = np.random.default_rng(0).poisson(3.0, (60, 4))
HELD_OUT = np.random.default_rng(1).poisson(3.0, (20, 4))


def small(**parts):
    options = {"latent": 2, "hidden": [6], "likelihood": "poisson", **parts}
    return pv.build(X, **options)


def fit(vae, x=X, **options):
    return pv.fit(vae, x, **{"batch_size": 16, "progress": False, "patience": None, **options})


def same(history, other):
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), other.drop(columns="seconds"), check_exact=True
    )


def equal(vae, other):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in vae.state_dict().items())


def with_dropout():
    layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 4))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return pv.fold(self.layers, x, 1)

    return pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, 4, hidden=[8]), pv.Poisson((4,))),
        pv.Amortised(Network(), pv.Normal((2,))),
    )


def groups(parameters, lr):
    first, *others = parameters
    return torch.optim.AdamW([{"params": [first], "lr": 1e-2}, {"params": others}], lr=lr)


momentum = functools.partial(torch.optim.SGD, momentum=0.9)
CASES = {
    "elbo": {},
    "validation": {"validation": HELD_OUT, "learning_rate": 0.05},
    "compiled": {"compile": True},
    "other optimiser, compiled": {"compile": True, "optimizer": momentum},
    "iwae": {"loss": "iwae", "particles": 3},
    "dreg": {"loss": "dreg", "particles": 3},
    "mcem": {"loss": "mcem", "particles": 2},
    "wake_sleep": {"loss": "wake_sleep"},
    "free bits": {"free_bits": 0.1},
    "schedules": {"beta": pv.linear_warmup(3), "learning_rate": lambda epoch: 0.01 / (1 + epoch)},
    "groups": {"optimizer": groups},
    "adagrad": {"optimizer": torch.optim.Adagrad},
    "skip": {"on_nonfinite": "skip"},
}


SLOW = {"compiled", "other optimiser, compiled"}
cases = [
    pytest.param(options, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, options in CASES.items()
]


@pytest.mark.parametrize("options", cases)
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_stopped(options, tmp_path):
    whole = small()
    history = fit(whole, epochs=5, **options)
    fit(small(), epochs=2, checkpoint=tmp_path, **options)
    resumed = small(seed=1)  # all of it comes from the checkpoint
    same(fit(resumed, epochs=5, checkpoint=tmp_path, resume=True, **options), history)
    assert equal(resumed, whole)


def test_dropout_and_batch_norm_resume_exactly(tmp_path):
    torch.manual_seed(0)
    whole, other = with_dropout(), with_dropout()
    other.load_state_dict(whole.state_dict())
    history = fit(whole, epochs=4)
    fit(other, epochs=2, checkpoint=tmp_path)
    same(fit(other, epochs=4, checkpoint=tmp_path, resume=True), history)
    assert equal(other, whole)


def test_data_that_are_drawn_afresh_resume_exactly(tmp_path):
    grey = pv.binarize_afresh(np.random.default_rng(0).random((40, 4)))
    make = lambda: pv.build(grey, latent=2, hidden=[6], likelihood="bernoulli")  # noqa: E731
    whole, resumed = make(), make()
    history = fit(whole, grey, epochs=4)
    fit(make(), grey, epochs=2, checkpoint=tmp_path)
    same(fit(resumed, grey, epochs=4, checkpoint=tmp_path, resume=True), history)
    assert equal(resumed, whole)


def test_patience_is_as_without_an_interruption(tmp_path):
    options = {"validation": HELD_OUT, "learning_rate": 0.1, "patience": 3, "epochs": 200}
    whole, resumed = small(), small()
    history = fit(whole, **options)
    fit(small(), **{**options, "epochs": 4}, checkpoint=tmp_path)
    same(fit(resumed, **options, checkpoint=tmp_path, resume=True), history)
    assert equal(resumed, whole)
    again = small()
    same(fit(again, **options, checkpoint=tmp_path, resume=True), history)  # nothing is left to do
    assert equal(again, whole)


def test_frozen_parameters_stay_frozen(tmp_path):
    vae = small()
    vae.likelihood.requires_grad_(False)
    fit(vae, epochs=2, checkpoint=tmp_path)
    resumed = small()
    fit(resumed, epochs=4, checkpoint=tmp_path, resume=True)
    assert not any(parameter.requires_grad for parameter in resumed.likelihood.parameters())
    assert equal(resumed.likelihood, vae.likelihood)
    assert not equal(resumed.posterior, vae.posterior)


def test_the_last_two_are_kept_and_the_history(tmp_path):
    history = fit(small(), epochs=5, checkpoint=tmp_path / "new" / "run")
    names = sorted(path.name for path in (tmp_path / "new" / "run").iterdir())
    assert names == ["history.csv", "state-000003.safetensors", "state-000004.safetensors"]
    written = pd.read_csv(tmp_path / "new" / "run" / "history.csv")
    np.testing.assert_allclose(written.loss, history.loss, rtol=1e-12)


# What is refused, with nothing touched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8}, "batch_size 16; got 8"),
        ({"seed": 1}, "seed 0; got 1"),
        ({"loss": "iwae"}, "loss 'Elbo'; got 'Renyi'"),
        ({"particles": 3}, "with options of the loss {'.*'num_particles': 1"),
        ({"validation": HELD_OUT}, "with validation data None; got "),
        ({"clip_norm": 3.0}, "clip_norm inf; got 3"),
        ({"x": X[:30]}, "is of a run with data "),
        ({"x": X + 1}, "is of a run with data "),
        ({"vae": small(hidden=[7])}, "with likelihood .*hidden"),
        ({"vae": small(prior="laplace")}, "with prior .*normal.*; got .*laplace"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_another_run_is_not_resumed(options, message, tmp_path):
    fit(small(), epochs=2, checkpoint=tmp_path)
    vae = options.pop("vae", None) or small()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        fit(vae, **{"x": X, **options}, epochs=4, checkpoint=tmp_path, resume=True)
    assert all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.SGD, "type 'Adam', got 'SGD'"),
        (
            functools.partial(torch.optim.Adam, fused=True, weight_decay=0.1),
            "weight_decay 0, got 0",
        ),
        (groups, "another optimizer, with"),
    ],
    ids=["kind", "setting", "groups"],
)
def test_another_optimiser_does_not_go_on(optimizer, message, tmp_path):
    fit(small(), epochs=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(small(), epochs=4, checkpoint=tmp_path, resume=True, optimizer=optimizer)


def test_a_refused_resumption_freezes_nothing(tmp_path):
    frozen = small()
    frozen.likelihood.requires_grad_(False)
    fit(frozen, epochs=1, checkpoint=tmp_path)
    vae = small()
    with pytest.raises(ValueError, match="seed 0; got 1"):
        fit(vae, epochs=2, checkpoint=tmp_path, resume=True, seed=1)
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    def callback(state):
        pv.save(state.vae, tmp_path / f"epoch-{state.epoch}.safetensors")

    whole, resumed = small(), small()
    history = fit(whole, epochs=5)
    fit(small(), epochs=4, checkpoint=tmp_path, callback=callback)
    assert len(list(tmp_path.glob("epoch-*"))) == 4
    left = tmp_path / ".state-000009.safetensors.999999999"
    left.write_bytes(b"killed as it wrote")
    os.utime(left, (0, 0))
    same(fit(resumed, epochs=5, checkpoint=tmp_path, resume=True), history)
    assert not list(tmp_path.glob(".*"))


def test_another_precision_or_condition_is_another_model(tmp_path):
    fit(small(), epochs=1, checkpoint=tmp_path / "a")
    with pytest.raises(ValueError, match=r"in float64 there, .* in float32 here"):
        fit(small().float(), epochs=2, checkpoint=tmp_path / "a", resume=True)

    def conditional(exposure):
        parts = [pv.Poisson((4,)), pv.Normal((2,))]
        return pv.VAE(
            pv.Normal((2,), loc=0.0, scale=1.0),
            pv.Amortised(pv.MLP(3, 4, hidden=[4]), parts[0]),
            pv.Amortised(pv.MLP(6, 4, hidden=[4]), parts[1]),
            condition=pv.Condition(size=2, exposure=exposure),
        )

    c = np.random.default_rng(0).gamma(2.0, size=(60, 2))
    options = {"c": c, "checkpoint": tmp_path / "b"}
    fit(conditional(0), epochs=1, **options)
    with pytest.raises(ValueError, match="is of a run with condition"):
        fit(conditional(1), epochs=2, resume=True, **options)


def test_rates_of_groups_may_change_on_the_way(tmp_path):
    def other(parameters, lr):
        first, *others = parameters
        return torch.optim.AdamW([{"params": [first], "lr": 0.0}, {"params": others}], lr=lr)

    vae = small()
    fit(vae, epochs=1, checkpoint=tmp_path, optimizer=groups)
    first = next(iter(vae.parameters())).detach().clone()
    resumed = small()
    fit(resumed, epochs=3, checkpoint=tmp_path, resume=True, optimizer=other)
    assert torch.equal(next(iter(resumed.parameters())), first)


def test_the_same_instance_of_a_loss_goes_on(tmp_path):
    elbo = pyro.infer.TraceEnum_ELBO()
    make = lambda: small(prior="one_hot")  # noqa: E731
    fit(make(), epochs=1, loss=elbo, checkpoint=tmp_path)
    assert len(fit(make(), epochs=2, loss=elbo, checkpoint=tmp_path, resume=True)) == 2


def test_numbers_of_numpy_are_numbers(tmp_path):
    options = {"seed": np.int64(3), "batch_size": np.int64(16), "clip_norm": np.float64(5.0)}
    fit(small(), epochs=2, checkpoint=tmp_path, **options)
    vae, whole = small(), small()
    fit(vae, epochs=3, checkpoint=tmp_path, resume=True, **options)
    fit(whole, epochs=3, **options)
    assert equal(vae, whole)
    first, second = (fit(each, epochs=1, learning_rate=0.0).loss[0] for each in (vae, whole))
    assert first == second  # of the draws that come after


def test_a_longer_warm_up_forgets_what_less_weight_found_best(tmp_path):
    options = {"validation": HELD_OUT, "beta": pv.linear_warmup(3), "learning_rate": 0.02}
    fit(small(), epochs=2, checkpoint=tmp_path, **options)
    vae, whole = small(), small()
    fit(vae, epochs=4, checkpoint=tmp_path, resume=True, **options)
    fit(whole, epochs=4, **options)
    loss = [
        pv.fit(
            each, X, validation=HELD_OUT, epochs=1, learning_rate=0.0, progress=False
        ).validation[0]
        for each in (vae, whole)
    ]
    assert loss[0] == loss[1]


def test_checkpoints_are_not_written_over(tmp_path):
    fit(small(), epochs=2, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"holds checkpoints of a run; resume=True \(--resume\) goes on"
    ):
        fit(small(), epochs=2, checkpoint=tmp_path)
    for wrong in ("", 3, True):
        with pytest.raises(TypeError, match="checkpoint must be the name of a folder"):
            fit(small(), epochs=1, checkpoint=wrong)
    with pytest.raises(TypeError, match="callback must be a function of the state; got 'x'"):
        fit(small(), epochs=1, callback="x")
    with pytest.raises(ValueError, match="resume needs the folder"):
        fit(small(), epochs=2, resume=True)
    (tmp_path / "file").write_text("")
    vae, twin = small(), small()
    with pytest.raises(ValueError, match="checkpoint must be a folder; got the file"):
        fit(vae, epochs=2, checkpoint=tmp_path / "file")
    assert equal(vae, twin)


def test_an_optimiser_whose_state_is_no_plain_value(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            self.state[self.param_groups[0]["params"][0]]["thing"] = object()

    with pytest.raises(TypeError, match="thing, is of type object, which no checkpoint holds"):
        fit(small(), epochs=1, checkpoint=tmp_path, optimizer=Odd)


# Damage


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "empty":
        content = b""
    elif how == "half":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "half", "a bit"])
def test_the_one_before_takes_the_place_of_a_damaged_one(how, tmp_path, caplog):
    whole, resumed = small(), small()
    history = fit(whole, epochs=4)
    fit(small(), epochs=3, checkpoint=tmp_path)
    damaged(tmp_path / "state-000002.safetensors", how)
    same(fit(resumed, epochs=4, checkpoint=tmp_path, resume=True), history)
    assert equal(resumed, whole)
    assert "state-000002.safetensors" in caplog.text


def test_nothing_is_trained_where_all_are_damaged(tmp_path):
    fit(small(), epochs=3, checkpoint=tmp_path)
    for path in tmp_path.glob("state-*"):
        damaged(path, "half")
    with pytest.raises(pv.CheckpointError, match="has no checkpoint that can be read"):
        fit(small(), epochs=4, checkpoint=tmp_path, resume=True)


def test_every_truncation_and_every_flipped_bit_is_seen(tmp_path):
    fit(small(), epochs=1, checkpoint=tmp_path)
    (path,) = tmp_path.glob("state-*")
    content = path.read_bytes()
    generator = random.Random(0)
    cases = [content[:end] for end in generator.sample(range(len(content)), 64)]
    for place in generator.sample(range(8 * len(content)), 256):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        cases.append(bytes(flipped))
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(pv.CheckpointError, match=path.name):
            unsealed(path, "checkpoint", checkpoints_module.FORMAT)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_a_disk_that_fails_leaves_the_last_checkpoint(where, code, tmp_path, monkeypatch):
    fit(small(), epochs=2, checkpoint=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(where, fails)
        with pytest.raises(OSError, match=os.strerror(code)):
            fit(small(), epochs=4, checkpoint=tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    whole, resumed = small(), small()
    fit(whole, epochs=4)
    fit(resumed, epochs=4, checkpoint=tmp_path, resume=True)
    assert equal(resumed, whole)


SCRIPT = textwrap.dedent(
    """
    import sys
    import numpy as np
    import torch
    import pyro_vae as pv

    torch.set_num_threads(1)
    x = np.random.default_rng(0).poisson(3.0, (400, 8))
    vae = pv.build(x, latent=2, hidden=[8], likelihood="poisson", prior="gamma")
    more = {"checkpoint": sys.argv[2], "resume": True} if sys.argv[2:] else {}
    history = pv.fit(vae, x, validation=x[:50], epochs=30, batch_size=8, patience=None,
                     progress=False, **more)
    pv.save(vae, sys.argv[1])
    history.drop(columns="seconds").to_csv(sys.argv[1] + ".csv", index=False)
    """
)


def kills(times, tmp_path):
    """Kill a training `times` times, at any moment, and let it end: is it like one left alone?"""
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    started = time.perf_counter()
    subprocess.run([sys.executable, script, tmp_path / "whole"], check=True)
    seconds = time.perf_counter() - started
    generator, killed = random.Random(0), 0
    while killed < times:
        process = subprocess.Popen([sys.executable, script, tmp_path / "resumed", folder])
        try:
            process.wait(generator.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
        if process.returncode == 0:  # it had ended: begin another
            yield ended_alike(tmp_path)
            for path in folder.iterdir():
                path.unlink()
    subprocess.run([sys.executable, script, tmp_path / "resumed", folder], check=True)
    yield ended_alike(tmp_path)


def ended_alike(folder):
    whole, resumed = (pv.load(folder / name) for name in ("whole", "resumed"))
    histories = [(folder / f"{name}.csv").read_text() for name in ("whole", "resumed")]
    return equal(whole, resumed) and histories[0] == histories[1]


@pytest.mark.slow
def test_kills_at_any_moment(tmp_path):
    assert all(kills(10, tmp_path))


# Callbacks


def test_a_callback_is_told_and_may_stop(tmp_path):
    seen = []

    def callback(state):
        assert not state.vae.training
        assert len(state.history) == state.epoch + 1
        assert state.row == state.history.iloc[-1].to_dict()
        seen.append(state.epoch)
        return state.epoch == 2

    vae, resumed = small(), small()
    history = fit(vae, epochs=9, callback=callback, checkpoint=tmp_path)
    assert seen == [0, 1, 2] == history.epoch.tolist()
    assert not equal(vae, small())
    same(fit(resumed, epochs=9, checkpoint=tmp_path, resume=True), history)  # stays stopped
    assert equal(resumed, vae)
    assert len(fit(resumed, epochs=10, checkpoint=tmp_path, resume=True)) == 10
    assert len(fit(small(), epochs=9, callback=lambda s: np.bool_(s.epoch == 1))) == 2
    with pytest.raises(TypeError, match=r"callback must return True to stop, or None; got 1\.5"):
        fit(small(), epochs=2, callback=lambda state: 1.5)


def test_a_callback_changes_no_draw():
    alone, watched = small(), small()
    history = fit(alone, epochs=3)
    draw = lambda state: state.vae.encode(X).sample() is None  # noqa: E731
    same(fit(watched, epochs=3, callback=draw), history)
    assert equal(alone, watched)


def test_averaged_weights_as_a_callback():
    averaged = torch.optim.swa_utils.AveragedModel(small())
    seen = []

    def callback(state):
        averaged.update_parameters(state.vae)
        seen.append(state.vae.posterior.network.layers[0].weight.detach().clone())

    fit(small(), epochs=4, callback=callback)
    mean = torch.stack(seen).mean(0)
    torch.testing.assert_close(averaged.module.posterior.network.layers[0].weight, mean)


# Ctrl-C


def interrupt_after(epoch):
    def callback(state):
        if state.epoch == epoch:
            raise KeyboardInterrupt

    return callback


def test_an_interrupted_training_leaves_the_best_so_far_and_its_history():
    vae, whole = small(), small()
    options = {"validation": HELD_OUT, "learning_rate": lambda epoch: 0.01 if epoch < 3 else 1.0}
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(vae, epochs=9, callback=interrupt_after(5), **options)
    history = caught.value.history
    assert history.epoch.tolist() == [0, 1, 2, 3, 4, 5]
    assert "interrupted after 6 epochs" in caught.value.__notes__[0]
    best = int(history.validation.idxmin())
    fit(whole, epochs=best + 1, **options)
    assert equal(vae, whole)
    assert not any(parameter.grad is not None for parameter in vae.parameters())


def test_interrupted_in_the_first_epoch_there_is_a_history_without_rows():
    class Stopping(torch.optim.Adam):
        def step(self, closure=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(small(), epochs=2, optimizer=Stopping)
    history = caught.value.history
    assert history.loss.empty
    assert repr(pv.show(history)) == "0 epochs"


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(2000, 8)))
    command = [sys.executable, "-m", "pyro_vae", "fit", "x.npy", "-o", "m.safetensors"]
    command += ["--epochs", "100000", "--checkpoint", "run", "--hidden", "8"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.perf_counter() + 60
    while not (tmp_path / "run" / "history.csv").exists() and time.perf_counter() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the model so far is in m.safetensors" in error
    assert "Traceback" not in error
    assert pv.load(tmp_path / "m.safetensors").columns is None
    epochs = len(pd.read_csv(tmp_path / "run" / "history.csv"))
    assert f"after {epochs} epochs" in error or f"after {epochs + 1} epochs" in error
    command[command.index("100000")] = str(epochs + 3)
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Trained {epochs + 3} epochs" in done.stdout
    afresh = [*command, "--overwrite"]
    again = subprocess.run(afresh, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert "resume=True (--resume) goes on" in again.stderr


# Losses that are not finite


def poisoned(vae, steps):
    """NaN in a gradient, at some of the steps."""
    parameter, count = vae.posterior.network.layers[0].weight, iter(range(10**6))
    parameter.register_hook(lambda g: g * float("nan") if next(count) in steps else g)
    return vae


def test_a_step_that_is_not_finite_stops_the_training():
    vae, before = poisoned(small(), {5}), small()
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite at epoch 1, batch 1"):
        fit(vae, epochs=3)
    steps = []
    poisoned(before, set())
    with pytest.raises(ZeroDivisionError):
        fit(before, epochs=3, optimizer=stops_after(5, steps))
    assert equal(vae, before)


def stops_after(number, steps):
    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            if len(steps) == number:
                raise ZeroDivisionError
            steps.append(1)
            super().step()

    return functools.partial(Adam, fused=True)


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    vae = poisoned(small(), {1, 6})
    with pytest.warns(UserWarning, match="2 of 12 steps were skipped"):
        history = fit(vae, epochs=3, on_nonfinite="skip")
    assert history.skipped.tolist() == [1, 2, 2]
    assert all(bool(parameter.isfinite().all()) for parameter in vae.parameters())
    assert history.loss.is_monotonic_decreasing
    clean = fit(small(), epochs=3, on_nonfinite="skip")
    assert clean.skipped.tolist() == [0, 0, 0]
    without = fit(small(), epochs=3)
    same(clean.drop(columns="skipped"), without)


def test_skipping_everything_is_no_training():
    with pytest.raises(FloatingPointError, match="loss or gradient of every step is not finite"):
        fit(poisoned(small(), set(range(4))), epochs=3, on_nonfinite="skip")
    with pytest.raises(ValueError, match="on_nonfinite must be 'stop' or 'skip'; got 'ignore'"):
        fit(small(), on_nonfinite="ignore")


def test_unscaled_data_are_told_to_be_rescaled():
    x = pd.DataFrame({"age": [45.0, 20.0, 60.0], "income": [3e4, 2e4, 1e4]})
    vae = pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, 4), pv.Normal((2,))),
        pv.Amortised(pv.MLP(2, 4), pv.Normal((2,))),
    )
    poisoned(vae, {0})
    with pytest.raises(FloatingPointError, match="column 'income' holds numbers up to 3e"):
        pv.fit(vae, x, progress=False)


# Twice


def test_a_second_fit_draws_other_numbers(tmp_path):
    vae = small()
    first, second = (fit(vae, epochs=1, learning_rate=0.0).loss[0] for _ in range(2))
    assert first != second
    assert fit(small(), epochs=1, learning_rate=0.0).loss[0] == first
    pv.save(vae, tmp_path / "a.pvae")
    third = fit(pv.load(tmp_path / "a.pvae"), epochs=1, learning_rate=0.0).loss[0]
    assert third == fit(vae, epochs=1, learning_rate=0.0).loss[0]
    assert len({first, second, third}) == 3


def test_a_checkpoint_says_what_it_is(tmp_path):
    fit(small(), epochs=1, checkpoint=tmp_path)
    tensors, about = unsealed(next(tmp_path.glob("state-*")), "checkpoint", "pyro_vae/run/1")
    state = json.loads(about["state"])
    assert state["epoch"] == 0
    assert state["run"]["batch_size"] == 16
    assert {name.partition("/")[0] for name in tensors} == {
        "model",
        "optimiser",
        "random",
        "watched",
    }
