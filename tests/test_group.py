"""Training in several processes: the same as in one, and no process waits for one that failed."""

import collections
import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from groups import in_group

import pyro_vae as pv
from pyro_vae.density.problem import Problem
from pyro_vae.guards import own_store, seed_all, seed_of
from pyro_vae.training.group import NOISE, ORDER, Group
from pyro_vae.training.losses import losses, objective

DISCRETE = ("enum",)  # losses that need discrete latents here


def table(num=41):
    return torch.as_tensor(np.random.default_rng(0).normal(size=(num, 3)))


def small(prior="normal", **options):
    return pv.build(table(), latent=2, hidden=[5], prior=prior, seed=0, **options)


def of_exact_loss():
    """A VAE whose ELBO is exact over its latents, so that training draws no noise."""
    return small("one_hot")


def state(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


def differ(first, second):
    """The largest difference of two states."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


class TestShares:
    def test_every_row_is_in_one_share_and_none_is_alone(self):
        for num in range(1, 40):
            for size in range(1, 9):
                shares = [Group(rank, size).share(slice(100, 100 + num)) for rank in range(size)]
                rows = [row for share in shares for row in range(share.start, share.stop)]
                assert rows == list(range(100, 100 + num))
                lengths = [share.stop - share.start for share in shares]
                assert num == 1 or 1 not in lengths
                assert max(lengths) <= max(1, min(filter(None, lengths))) + 1

    def test_a_group_of_one_takes_all(self):
        assert Group().share(slice(3, 9)) == slice(3, 9)
        assert Group.here().is_one


def descended(name):
    """The parameters after a step of gradient descent with rate 1."""
    vae = small("one_hot" if name in DISCRETE else "normal")
    options = {"particles": 8} if name in ("miwae", "piwae") else {}
    pv.fit(
        vae, table(), loss=name, epochs=1, learning_rate=1.0, optimizer=torch.optim.SGD, **options
    )
    return state(vae)


def gradients_of_shares(name, size):
    """The gradient of a step in one process: each share with the noise that its process draws."""
    vae = small("one_hot" if name in DISCRETE else "normal")
    options = 8 if name in ("miwae", "piwae") else None
    x = table()
    seed_all(seed_of(0, 0, ORDER, 0))
    x = x[torch.randperm(len(x))]
    problem = Problem.of(vae, x)
    for rank in range(size):
        elbo = objective(vae, name, options, 1.0, None)  # which mcem changes as it goes
        share = Group(rank, size).share(slice(0, len(x)))
        seed_all(seed_of(0, 0, NOISE, rank, 0))
        if getattr(elbo, "is_direct", False):
            elbo.backward(problem.densities((x[share],)))
        else:
            with own_store():
                elbo.loss_and_grads(vae.model, vae.guide, x[share])
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad / len(x)
        for name, p in vae.named_parameters()
    }


@pytest.mark.parametrize("name", [name for name, loss in losses.items() if not loss.cannot])
def test_the_gradient_is_that_of_one_process(name):
    start = state(small("one_hot" if name in DISCRETE else "normal"))
    expected = gradients_of_shares(name, 2)
    first, second = in_group(descended, name)
    assert differ(first, second) == 0
    for part, gradient in expected.items():
        torch.testing.assert_close(start[part] - first[part], gradient, rtol=1e-9, atol=1e-9)


def trained(**options):
    """History and parameters after training on all data in each step."""
    vae = of_exact_loss()
    history = pv.fit(vae, table(), validation=table(9), batch_size=100, progress=False, **options)
    return history.drop(columns="seconds").to_dict("list"), state(vae)


@pytest.mark.parametrize("size", [2, 3])
def test_training_is_that_of_one_process(size):
    """Without noise, and with all data in a step, nothing else can differ."""
    options = {"epochs": 5, "learning_rate": 0.05, "clip_norm": 0.5}
    history, parameters = trained(**options)
    for other, found in in_group(trained_with, options, size=size):
        assert differ(parameters, found) < 1e-12
        for name, values in history.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-9, equal_nan=True)


def trained_with(options):
    return trained(**options)


class Counted(torch.utils.data.Dataset):
    """Rows that note who asks for them."""

    def __init__(self, x):
        self.x = x
        self.asked = []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.x[index]


def rows_read(epochs):
    x = Counted(table())
    pv.fit(small(), x, epochs=epochs, batch_size=10, progress=False)
    return x.asked


def test_the_processes_read_each_row_once_an_epoch():
    first, second = in_group(rows_read, 3)
    at_the_door = 2  # once in each process
    times = collections.Counter(first + second)
    assert times == dict.fromkeys(range(len(table())), at_the_door + 3)


def with_a_callback(returned):
    called = []

    def callback(state):
        called.append(state.epoch)
        with torch.no_grad():
            next(state.vae.parameters()).zero_()
        if returned == "error":
            raise OSError("no space left")
        return returned

    vae = small()
    history = pv.fit(vae, table(), epochs=3, callback=callback, progress=False)
    return called, len(history), state(vae)


def test_the_first_process_calls_back_for_all():
    (called, epochs, parameters), other = in_group(with_a_callback, True)
    assert (called, epochs) == ([0], 1)
    assert other[:2] == ([], 1)
    assert differ(parameters, other[2]) == 0

    first, second = in_group(with_a_callback, "error")
    assert first == ("OSError", "no space left")
    assert second == ("GroupError", "process 0 of 2 failed: OSError: no space left")


def kept(folder, epochs, resume):
    vae = small()
    options = {"epochs": epochs, "batch_size": 10, "learning_rate": 0.01, "loss": "iwae"}
    pv.fit(vae, table(), checkpoint=folder, resume=resume, progress=False, **options)
    return state(vae)


def test_a_run_resumed_by_as_many_processes_ends_bit_for_bit_as_one_left_alone(tmp_path):
    left_alone, _ = in_group(kept, tmp_path / "a", 4, False)
    in_group(kept, tmp_path / "b", 2, False)
    assert len(list((tmp_path / "b").glob("state-*"))) == 2
    for found in in_group(kept, tmp_path / "b", 4, True):
        assert differ(left_alone, found) == 0


def kept_without_noise(folder, epochs, resume):
    options = {"epochs": epochs, "learning_rate": 0.05, "checkpoint": folder, "resume": resume}
    return trained(**options)[1]


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (2, 3)])
def test_a_run_is_resumed_by_other_processes(tmp_path, sizes):
    begun, ended = sizes
    expected = kept_without_noise(tmp_path / "alone", 6, False)
    in_group(kept_without_noise, tmp_path / "group", 3, False, size=begun)
    for found in in_group(kept_without_noise, tmp_path / "group", 6, True, size=ended):
        assert differ(expected, found) < 1e-12


def with_other_arguments(what):
    x, vae, options = table(), small(), {"epochs": 1, "progress": False}
    if Group.here().rank == 1:
        if what == "infinite":
            x[3, 1] = torch.inf
        elif what == "data":
            x = x + 1
        elif what == "rows":
            x = x[:20]
        elif what == "model":
            vae = pv.build(table(), latent=3, hidden=[5])
        elif what == "epochs":
            options["epochs"] = 2
        elif what == "precision":
            vae = vae.float()
        elif what == "learning rates":
            options["learning_rate"] = 0.5
        elif what == "betas":
            options["beta"] = pv.linear_warmup(3)
        elif what == "optimizer":
            options["optimizer"] = torch.optim.SGD
    before = state(vae)
    try:
        pv.fit(vae, x, **options)
    finally:
        assert differ(before, state(vae)) == 0


OTHERS = ["data", "rows", "model", "epochs", "precision", "learning rates", "betas", "optimizer"]


@pytest.mark.parametrize("what", OTHERS)
def test_processes_with_other_arguments_are_refused(what):
    told = {"rows": "data", "model": "shapes", "precision": "shapes"}.get(what, what)
    for kind, message in in_group(with_other_arguments, what):
        assert kind == "ValueError"
        assert f"process 1 has {told} " in message


def test_what_one_process_refuses_all_are_told():
    first, second = in_group(with_other_arguments, "infinite")
    assert second[0] == "DataError"
    assert "row 3" in second[1]
    assert first[0] == "GroupError"
    assert "process 1 of 2 failed: DataError: " in first[1]
    assert "row 3" in first[1]


def with_an_empty_share():
    x = Counted(table()[:23])
    history = pv.fit(small(), x, epochs=2, batch_size=20, progress=False, weights=np.ones(23))
    return len(history), sorted(x.asked)


def test_a_process_may_have_no_row_of_a_step():
    """The last step has three rows, of which both have none alone: the first takes all."""
    (epochs, first), (_, second) = in_group(with_an_empty_share)
    assert epochs == 2
    assert collections.Counter(first + second) == dict.fromkeys(range(23), 4)


class Normed(pv.Network):
    """A network with batch normalisation."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.norm = torch.nn.BatchNorm1d(in_features)
        self.linear = torch.nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.linear(self.norm(x.reshape(-1, self.in_features))).reshape(
            *x.shape[:-1], self.out_features
        )


def with_batch_normalisation():
    vae = pv.VAE(
        prior=pv.Normal((2,), loc=0.0, scale=1.0),
        likelihood=pv.Amortised(pv.MLP(2, 3), pv.Normal((3,), scale=1.0)),
        guide=pv.Amortised(Normed(3, 4), pv.Normal((2,))),
    )
    options = {"free_bits": 0.1, "epochs": 2, "batch_size": 10, "progress": False}
    pv.fit(vae, table(), **options)
    return state(vae)


def test_what_batch_normalisation_tracks_is_that_of_the_first():
    first, second = in_group(with_batch_normalisation)
    assert differ(first, second) == 0
    assert any("running_mean" in name and tensor.any() for name, tensor in first.items())


class Broken(Counted):
    """Rows that cannot be read after a while, in the second process."""

    def __getitem__(self, index):
        if Group.here().rank == 1 and len(self.asked) > 60:
            self.fail()
        return super().__getitem__(index)

    def fail(self):
        raise OSError("the disk is gone")


class Killed(Broken):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


def train_on(kind):
    started = time.perf_counter()
    try:
        pv.fit(small(), kind(table()), epochs=5, batch_size=10, progress=False)
    except Exception as error:
        return type(error).__name__, str(error), time.perf_counter() - started


def test_rows_that_one_process_cannot_read_end_all():
    first, second = in_group(train_on, Broken)
    assert second[:2] == ("OSError", "the disk is gone")
    assert first[:2] == ("GroupError", "process 1 of 2 failed: OSError: the disk is gone")


def test_a_process_that_is_killed_ends_the_others():
    first, second = in_group(train_on, Killed)
    assert second is None
    kind, message, seconds = first
    assert kind == "GroupError"
    assert "another process of the group has ended or does not answer" in message
    assert "start all of them again, from the newest checkpoint" in message
    assert seconds < 60


def with_an_infinite_gradient(on_nonfinite):
    class Spoiled(Counted):
        def __getitem__(self, index):
            x = super().__getitem__(index)
            return x * 1e200 if index == 7 and len(self.asked) > len(self.x) else x

    vae = small()
    x = Spoiled(table())
    options = {"epochs": 2, "batch_size": 10, "on_nonfinite": on_nonfinite, "progress": False}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        history = pv.fit(vae, x, **options)
    return list(history.skipped), len(warned), state(vae)


def test_all_skip_a_step_that_is_not_finite_in_one():
    (skipped, warned, parameters), other = in_group(with_an_infinite_gradient, "skip")
    assert skipped == other[0] == [1, 2]
    assert differ(parameters, other[2]) == 0
    assert (warned > 0, other[1]) == (True, 0)
    for kind, message in in_group(with_an_infinite_gradient, "stop"):
        assert kind == "FloatingPointError"
        assert "is not finite at epoch 0" in message


def command(*arguments):
    return [*arguments, "fit", "x.npy", "-o", "m.safetensors", "--hidden", "8", "--latent", "2"]


@pytest.mark.slow
def test_torchrun_trains_by_the_command_line_and_one_process_speaks(tmp_path):
    np.save(tmp_path / "x.npy", table(201).numpy())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch = command(*torchrun, "--nproc-per-node", "2", "-m", "pyro_vae")
    done = subprocess.run(
        [*launch, "--epochs", "3"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Built a VAE") == 1
    assert done.stdout.count("Trained 3 epochs on 181 data") == 1
    assert done.stdout.count("The model is in m.safetensors") == 1
    assert pv.load(tmp_path / "m.safetensors").times_fitted == 1


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_command_line_of_others(tmp_path):
    np.save(tmp_path / "x.npy", table(201).numpy())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    launch = [*command(sys.executable, "-m", "pyro_vae"), "--epochs", "100000"]
    first, second = (
        subprocess.Popen(
            [*launch, "--checkpoint", "run"],
            cwd=tmp_path,
            env={**os.environ, **address, "RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    try:
        deadline = time.monotonic() + 100
        while not list(tmp_path.glob("run/state-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        second.kill()
        _, told = first.communicate(timeout=60)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == 1
    assert "pyro-vae: another process of the group has ended or does not answer" in told
    assert "--resume" in told
