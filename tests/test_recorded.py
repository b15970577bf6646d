"""Work that a GPU records and replays, here with a recorder that runs it again."""

import warnings

import numpy as np
import pytest
import torch
from poisoned import Poisoned
from recording import recordings as recordings
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae import recorded
from pyro_vae.training import compiled

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(7)


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
    "refined guide": lambda vae: vae.refine(X, steps=20).mean.detach().numpy(),
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


class Sharpened(torch.nn.Module):
    """Has a temperature, which is no parameter."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)
        self.temperature = 1.0

    def forward(self, x):
        return self.layer(x) / self.temperature


def test_what_a_schedule_changes_is_seen_in_validation_and_by_the_monitor(recordings, monkeypatch):
    x = torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(0))
    found = []
    for record in (True, False):
        if not record:
            monkeypatch.undo()
        vae = pv.build(x, latent=2, hidden=[4], likelihood="bernoulli")
        torch.manual_seed(0)
        vae.posterior = pv.Amortised(network := Sharpened(), pv.Normal((2,)))
        vae.double()

        def rate(epoch, network=network):
            network.temperature = 1 / (1 + epoch)
            return 1e-3

        given = {"learning_rate": rate, "validation": x[:7], "epochs": 6, "batch_size": 40}
        history = pv.fit(vae, x, progress=False, **given)
        found.append(history.drop(columns="seconds"))
    assert recordings == []  # all epochs differ
    np.testing.assert_allclose(*found)


class Tracking(torch.nn.Module):
    """Keeps the mean of what it gave, in a tensor that is made anew each time."""

    def __init__(self, buffer):
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)
        if buffer:
            self.register_buffer("seen", torch.zeros(4))
        else:
            self.seen = torch.zeros(4)

    def forward(self, x):
        y = self.layer(x)
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * y.detach().mean(0)
        return y


@pytest.mark.parametrize("buffer", [False, True])
def test_a_part_that_keeps_a_tensor_is_not_recorded(buffer, recordings):
    x = torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(0))
    found = []
    for compile in (False, "auto"):
        vae = pv.build(x, latent=2, hidden=[4], likelihood="bernoulli")
        torch.manual_seed(0)
        vae.posterior = pv.Amortised(network := Tracking(buffer), pv.Normal((2,)))
        vae.double()
        history = pv.fit(vae, x, epochs=30, batch_size=8, progress=False, compile=compile)
        found.append(network.seen)
    assert history.attrs["compiled"].startswith("no: seen is another tensor")
    assert torch.equal(*found)


@pytest.mark.parametrize("by", ["list", "hook"])
def test_what_a_pass_does_beside_its_result_is_not_lost(by, recordings):
    class Noting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 4)
            self.notes = []

        def forward(self, x):
            if by == "list" and self.training:
                self.notes.append(len(x))
            return self.layer(x)

    x = torch.bernoulli(torch.full((43, 6), 0.4))
    found = []
    for compile in (False, "auto"):
        vae = pv.build(x, latent=2, hidden=[4], likelihood="bernoulli")
        vae.posterior = pv.Amortised(network := Noting(), pv.Normal((2,)))
        if by == "hook":
            notes = network.notes
            network.layer.register_forward_hook(
                lambda module, _, y, notes=notes: notes.append(1) if module.training else None
            )
        history = pv.fit(vae.double(), x, epochs=20, batch_size=8, progress=False, compile=compile)
        found.append(len(network.notes))
    assert history.attrs["compiled"].startswith("no: ")
    assert found[0] == found[1]


class Renewing(torch.optim.SGD):
    """Gives parameters new memory in each step."""

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data = parameter.data - 0.01 * parameter.grad


def test_an_optimiser_that_gives_parameters_new_memory_is_seen(recordings):
    plain, before = trained(False, optimizer=Renewing)
    with pytest.warns(UserWarning, match="is another tensor, or in other memory, than before"):
        history, after = trained(True, optimizer=Renewing)
    np.testing.assert_allclose(history.loss, plain.loss, rtol=1e-12)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-11, atol=1e-12, msg=name)


def test_the_optimiser_has_counted_all_steps(recordings):
    made = []

    def adam(parameters, lr):
        made.append(torch.optim.Adam(parameters, lr))
        return made[0]

    def rate(epoch):
        if epoch > 2:
            raise KeyboardInterrupt
        return 1e-3

    with pytest.raises(KeyboardInterrupt):
        trained(True, optimizer=adam, learning_rate=rate)
    steps = {int(state["step"]) for state in made[0].state.values()}
    assert steps == {13}  # two epochs of six, and one that the interruption followed


def trained(compile, **options):
    x = torch.bernoulli(torch.full((43, 6), 0.4), generator=torch.Generator().manual_seed(0))
    vae = pv.build(x, latent=2, hidden=[4], likelihood="bernoulli")
    options = {"epochs": 3, "batch_size": 8, "progress": False, **options}
    return pv.fit(vae, x, compile=compile, **options), vae.state_dict()


TRAINING = {
    "adam": {},
    "another optimiser": {"optimizer": torch.optim.AdamW},
    "schedules": {"beta": pv.linear_warmup(3), "learning_rate": lambda epoch: 1e-2 / (1 + epoch)},
    "clipped": {"clip_norm": 0.1},
    "whole batches only": {"batch_size": 43},
    "iwae": {"loss": "iwae", "particles": 3},
    "validation": {"validation": torch.ones(9, 6), "beta": 0.5},
}


@pytest.mark.parametrize("case", TRAINING)
def test_training_is_that_without_a_recording(case, recordings, monkeypatch):
    history, after = trained(True, **TRAINING[case])
    assert history.attrs["compiled"].startswith("as a CUDA graph: loss, gradients")
    assert len(recordings) == 2 + (case == "validation")  # the step, and what is watched
    monkeypatch.undo()
    plain, before = trained(False, **TRAINING[case])
    figures = plain.columns.drop("seconds")
    np.testing.assert_allclose(history[figures], plain[figures], rtol=1e-9)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-11, atol=1e-12, msg=name)


def test_auto_records_where_a_hundred_steps_repay_it(recordings, monkeypatch):
    assert trained("auto", epochs=16)[0].attrs["compiled"].startswith("no: 96 steps do not")
    assert trained("auto", epochs=17)[0].attrs["compiled"].startswith("as a CUDA graph")


def test_what_cannot_be_recorded_is_trained_without(monkeypatch):
    def refuses(function):
        function()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(compiled, "recorder_of", lambda _: refuses)
    plain, before = trained(False)
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        history, after = trained(True)
    assert history.attrs["compiled"].startswith("no: a CUDA graph: operation not permitted")
    assert history.loss.tolist() == plain.loss.tolist()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_what_is_not_finite_is_found_when_losses_are_read(bad, optimizer, recordings, monkeypatch):
    """The step that was bad is named, and parameters are those before it, though others followed
    until the losses were read.
    """
    x = torch.bernoulli(torch.full((400, 6), 0.4), generator=torch.Generator().manual_seed(0))
    x[97] = 1.0
    found = []
    for compile in (False, True):
        vae = pv.build(x, latent=2, hidden=[4], likelihood="bernoulli")
        torch.manual_seed(0)
        vae.posterior = pv.Amortised(Poisoned(bad), pv.Normal((2,)))
        vae.double()
        with pytest.raises(FloatingPointError, match=f"{bad}.* at epoch 0, batch") as error:
            pv.fit(vae, x, batch_size=8, progress=False, optimizer=optimizer, compile=compile)
        found.append((str(error.value), vae.state_dict()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-12, atol=1e-12)
