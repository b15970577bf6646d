"""A compiled step does what the plain step does, draw for draw, or says why it cannot."""

import functools
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from poisoned import Poisoned

import pyro_vae as pv
from pyro_vae.training import compiled

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler",
)
X = torch.bernoulli(torch.full((43, 6), 0.4), generator=torch.Generator().manual_seed(0))
WHOLE = "loss, gradients, update"
GRADIENTS = "loss, gradients"


def trained(compile, x=X, c=None, dtype=torch.float64, build=None, **options):
    """History and parameters after three epochs of five batches and a shorter one."""
    vae = pv.build(x, c=c, latent=2, hidden=[4], **(build or {"likelihood": "bernoulli"})).to(dtype)
    options = {"epochs": 3, "batch_size": 8, "progress": False, **options}
    history = pv.fit(vae, x, c, compile=compile, **options)
    return history, vae.state_dict()


def assert_same(plain, compiled, rtol):
    np.testing.assert_allclose(compiled[0].loss, plain[0].loss, rtol=rtol)
    for name, value in plain[1].items():
        torch.testing.assert_close(compiled[1][name], value, rtol=rtol, atol=rtol, msg=name)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["double", "single"]
)
def test_the_same_draws_give_the_same_steps(dtype, rtol):
    plain, compiled = trained(False, dtype=dtype), trained(True, dtype=dtype)
    assert_same(plain, compiled, rtol)
    assert compiled[0].attrs["compiled"] == WHOLE
    assert compiled[0].attrs["compile_seconds"] > 0


CASES = {
    "warm-up": {"beta": pv.linear_warmup(3)},
    "schedule": {"learning_rate": lambda epoch: 1e-2 / (1 + epoch)},
    "mean_field": {"loss": "mean_field", "beta": 2.0},
    "iwae": {"loss": "iwae", "particles": 3},
    "stl": {"loss": "stl", "particles": 3},
    "renyi": {"loss": "renyi", "particles": 3},
    "free bits": {"free_bits": 0.5},
    "clipped": {"clip_norm": 0.1},
    "condition": {"c": torch.arange(43) % 2},
    "missing": {"x": torch.where(torch.arange(43 * 6).reshape(43, 6) % 5 == 0, torch.nan, X)},
    "vamp": {"build": {"likelihood": "bernoulli", "prior": "vamp"}},
    "one scale": {"build": {"likelihood": {"name": "normal", "scale": "shared"}}},
    "spline flow": {"build": {"likelihood": "bernoulli", "guide": "spline_flow"}},
    "gamma": {"build": {"likelihood": "bernoulli", "prior": "gamma"}},
}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_with(case):
    assert_same(trained(False, **CASES[case]), compiled := trained(True, **CASES[case]), 1e-11)
    assert compiled[0].attrs["compiled"] == WHOLE


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)],
    ids=["AdamW", "SGD"],
)
def test_another_optimiser_steps_by_itself(optimizer):
    plain, compiled = trained(False, optimizer=optimizer), trained(True, optimizer=optimizer)
    assert_same(plain, compiled, 1e-12)
    assert compiled[0].attrs["compiled"] == GRADIENTS


@needs_compiler
@pytest.mark.slow
def test_a_parameter_that_no_loss_reaches_stays():
    found = []
    for compile in (False, True):
        vae = pv.build(X, latent=2, hidden=[4], likelihood="bernoulli")
        vae.likelihood.unused = torch.nn.Parameter(torch.ones(3))
        decayed = functools.partial(torch.optim.AdamW, weight_decay=0.1)
        history = pv.fit(
            vae, X, epochs=2, batch_size=8, progress=False, compile=compile, optimizer=decayed
        )
        assert (vae.likelihood.unused == 1).all()
        found.append((history, vae.state_dict()))
    assert_same(*found, rtol=1e-12)


@needs_compiler
@pytest.mark.slow
def test_any_number_of_runs_in_one_process():
    assert {trained(True, seed=seed)[0].attrs["compiled"] for seed in range(10)} == {WHOLE}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_what_is_not_finite_moves_nothing(what, optimizer):
    x = X.clone()
    x[17] = 1.0
    found = []
    for compile in (False, True):
        vae = pv.build(x, latent=2, hidden=[4], likelihood="bernoulli")
        torch.manual_seed(0)
        vae.posterior = pv.Amortised(Poisoned(what), pv.Normal((2,)))
        vae.double()
        with pytest.raises(FloatingPointError, match=f"{what}.* at epoch 0, batch 3") as error:
            pv.fit(vae, x, batch_size=8, progress=False, optimizer=optimizer, compile=compile)
        found.append((str(error.value), vae.state_dict()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-12, atol=1e-12)


def both(change, **options):
    """Plain and compiled training of a VAE that `change` has changed; compiled, with warnings."""
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        vae = pv.build(X, latent=2, hidden=[4], likelihood="bernoulli")
        given = {"epochs": 3, "batch_size": 8, "progress": False} | options | (change(vae) or {})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = pv.fit(vae, X, compile=compile, **given)
        found.append((history, vae.state_dict()))
    return *found, [str(warning.message) for warning in caught]


class Crosswise(torch.nn.Module):
    """Its gradient lies in memory in another order than its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 5, 3))

    def forward(self, x):
        return torch.einsum("...i,ojk,ijk->...o", x, self.weight, torch.ones(6, 5, 3).to(x))


@needs_compiler
@pytest.mark.slow
def test_a_fused_optimiser_gets_gradients_in_the_order_of_the_parameters():
    fused = functools.partial(torch.optim.AdamW, fused=True)

    def crosswise(vae):
        vae.posterior = pv.Amortised(Crosswise(), pv.Normal((2,)))

    plain, compiled, _ = both(crosswise, optimizer=fused)
    assert_same(plain, compiled, 1e-10)
    assert compiled[0].attrs["compiled"] == GRADIENTS


class Tempered(torch.nn.Module):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts
        self.calls = 0
        self.temperature = 1.0
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, x):
        if self.training and self.counts:
            self.calls += 1
        return self.layer(x) * (1 + 0.1 * self.calls) / self.temperature


@needs_compiler
@pytest.mark.slow
def test_an_attribute_that_a_schedule_changes_is_seen():
    def cooled(vae):
        vae.posterior = pv.Amortised(network := Tempered(counts=False), pv.Normal((2,)))

        def beta(epoch):
            network.temperature = 1.0 if epoch < 1.5 else 0.5
            return 1.0

        return {"beta": beta}

    plain, compiled, (warning,) = both(cooled)
    assert_same(plain, compiled, 1e-11)
    assert "(Tempered has changed its attribute temperature)" in warning


@needs_compiler
@pytest.mark.slow
def test_an_attribute_that_a_part_changes_is_seen():
    def counting(vae):
        vae.posterior = pv.Amortised(Tempered(counts=True), pv.Normal((2,)))

    *_, (warning,) = both(counting)
    assert "(Tempered has changed its attribute calls)" in warning


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters_are_kept(hook):
    def masked(vae):
        def mask(parameter):
            parameter.grad.zero_()

        weight = vae.posterior.network.layers[0].weight
        if hook == "register_hook":
            weight.register_hook(lambda gradient: 0 * gradient)
        else:
            weight.register_post_accumulate_grad_hook(mask)

    plain, compiled, (warning,) = both(masked)
    assert_same(plain, compiled, 0.0)
    assert "(a parameter has hooks)" in warning


@needs_compiler
@pytest.mark.slow
def test_hooks_of_the_optimiser_are_kept():
    def clamping(parameters, lr):
        optimiser = torch.optim.Adam(parameters, lr=lr)
        optimiser.register_step_post_hook(lambda *_: [p.data.clamp_(-0.3, 0.3) for p in parameters])
        return optimiser

    plain, compiled, _ = both(lambda vae: None, optimizer=clamping)
    assert_same(plain, compiled, 1e-11)
    assert compiled[0].attrs["compiled"] == GRADIENTS


class Aside(torch.nn.Module):
    """Holds a parameter of another module outside of its own."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)
        self.aside = [self.layer.weight]

    def forward(self, x):
        return self.layer(x) + x @ self.aside[0].T


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_a_parameter_held_aside_is_not_lost(optimizer):
    def aside(vae):
        vae.posterior = pv.Amortised(Aside(), pv.Normal((2,)))

    plain, compiled, (warning,) = both(aside, optimizer=optimizer)
    assert_same(plain, compiled, 0.0)
    assert "the step is not compiled (" in warning


@needs_compiler
@pytest.mark.slow
def test_an_error_of_the_optimiser_stays_one():
    class Stops(torch.optim.SGD):
        steps = 0

        def step(self):
            self.steps += 1
            if self.steps == 3:
                raise RuntimeError("out of memory")
            super().step()

    with pytest.raises(RuntimeError, match="out of memory"):
        trained(True, optimizer=Stops)


@needs_compiler
@pytest.mark.slow
def test_a_batch_of_all_data_is_compiled():
    assert_same(trained(False, batch_size=100), compiled := trained(True, batch_size=100), 1e-11)
    assert compiled[0].attrs["compiled"] == WHOLE


class Looks(torch.nn.Module):
    """What a compiler cannot see through."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, x):
        y = self.layer(x)
        return y * 2 if float(y.detach().sum()) > 1e9 else y


def layers(kind):
    """Networks of a decoder and an encoder that the compiler has trouble with."""
    shared = torch.nn.Linear(2, 2)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 6))
    if kind == "shared":
        decoder[0] = shared
    encoder = [torch.nn.Linear(6, 2), shared, torch.nn.Linear(2, 4)]
    if kind == "batch norm":
        encoder.insert(1, torch.nn.BatchNorm1d(2))
    return decoder, Looks() if kind == "a branch" else torch.nn.Sequential(*encoder)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a branch", "shared", "batch norm"])
def test_a_part_that_cannot_be_compiled_is_trained_without(kind):
    found = []
    for compile in (False, True):
        vae = pv.build(X, latent=2, hidden=[4], likelihood="bernoulli")
        torch.manual_seed(0)
        vae.likelihood.network, encoder = layers(kind)
        vae.posterior = pv.Amortised(encoder, pv.Normal((2,)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = pv.fit(vae, X, epochs=2, batch_size=8, progress=False, compile=compile)
        found.append((history, vae.state_dict()))
    assert_same(*found, rtol=0.0)
    (warning,) = caught
    assert str(warning.message).startswith("fit: the step is not compiled (")
    assert str(warning.message).endswith(
        "; training goes on without, and compile=False leaves this warning out"
    )
    assert len(str(warning.message)) < 300
    assert warning.filename == __file__
    assert history.attrs["compiled"].startswith("no: ")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "dreg"}, "the gradient of ImportanceWeighted is not that of its value"),
        ({"loss": "mcem"}, "the gradient of MonteCarloEM is not that of its value"),
        ({"loss": "wake_sleep"}, "ReweightedWakeSleep, or a part of the VAE, needs Pyro's traces"),
    ],
)
def test_a_loss_that_cannot_be_compiled_says_why(options, reason):
    with pytest.warns(UserWarning, match=re.escape(f"the step is not compiled ({reason});")):
        history, _ = trained(True, epochs=1, **options)
    assert history.attrs == {"compiled": f"no: {reason}"}


def test_auto_leaves_short_training_alone():
    history, _ = trained("auto")
    assert history.attrs["compiled"] == "no: 18 steps do not repay it; compile=True compiles them"


@needs_compiler
@pytest.mark.slow
def test_auto_compiles_where_the_steps_repay_it(monkeypatch):
    monkeypatch.setattr(compiled, "STEPS", 18)
    assert trained("auto")[0].attrs["compiled"] == WHOLE


@pytest.mark.parametrize("compile", ["yes", 0, 1, 2, None])
def test_compile_is_one_of_three(compile):
    with pytest.raises(ValueError, match="compile must be True, False or 'auto'; got"):
        trained(compile)
