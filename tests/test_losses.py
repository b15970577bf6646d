"""What is known of a loss: whether beta has a place in it, and whether it can train through fit."""

import warnings

import pyro
import pytest
import torch
from pyro import infer
from pyro.contrib.gp.kernels import RBF

import pyro_vae as pv
from pyro_vae.density.direct import Direct
from pyro_vae.guards import seeded
from pyro_vae.training.losses import Loss, losses, objective, record_of
from pyro_vae.training.objectives import Renyi

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PLATES = {"max_plate_nesting": 1}


def small():
    return pv.build({"event": [3], "latent": [1]}, hidden=[4])


def fitted(vae, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.fit(vae, X, epochs=2, progress=False, **options)


class Own(infer.ELBO):
    """An ELBO of which nothing is known."""

    def loss(self, model, guide, *args):
        return infer.Trace_ELBO(**PLATES).loss(model, guide, *args)

    def loss_and_grads(self, model, guide, *args):
        return infer.Trace_ELBO(**PLATES).loss_and_grads(model, guide, *args)

    def _get_trace(self, *args):
        raise NotImplementedError


class Descended(infer.Trace_ELBO):
    """An ELBO of a caller's, made from one that is known."""


WITHOUT_KL = {
    "Trace_MMD": lambda: infer.Trace_MMD(kernel=RBF(1)),
    "RenyiELBO": lambda: infer.RenyiELBO(num_particles=2, **PLATES),
    "ReweightedWakeSleep": lambda: infer.ReweightedWakeSleep(num_particles=2, **PLATES),
    "Own": lambda: Own(**PLATES),
    "ImportanceWeighted": lambda: pv.ImportanceWeighted(2),
    "MonteCarloEM": lambda: pv.MonteCarloEM(2),
}
WITH_KL = {
    "Trace_ELBO": lambda: infer.Trace_ELBO(**PLATES),
    "TraceMeanField_ELBO": lambda: infer.TraceMeanField_ELBO(**PLATES),
    "TraceGraph_ELBO": lambda: infer.TraceGraph_ELBO(**PLATES),
    "TraceTMC_ELBO": lambda: infer.TraceTMC_ELBO(**PLATES),
    "Descended": lambda: Descended(**PLATES),
    "FreeBits": lambda: pv.FreeBits(0.1),
}
JIT = {"ignore_jit_warnings": True, **PLATES}
CANNOT = {
    "JitTrace_ELBO": lambda: infer.JitTrace_ELBO(**JIT),
    "JitTraceEnum_ELBO": lambda: infer.JitTraceEnum_ELBO(**JIT),
    "JitTraceGraph_ELBO": lambda: infer.JitTraceGraph_ELBO(**JIT),
    "TraceTailAdaptive_ELBO": lambda: infer.TraceTailAdaptive_ELBO(
        num_particles=4, vectorize_particles=True, **PLATES
    ),
}


def untouched(vae, action, kind, message):
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with pytest.raises(kind, match=message):
        action()
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("name", WITHOUT_KL)
@pytest.mark.parametrize("beta", [0.0, 10.0, pv.linear_warmup(2)])
def test_beta_is_refused_where_nothing_is_weighed(name, beta):
    vae, loss = small(), WITHOUT_KL[name]()
    message = f"beta weighs the KL term of an ELBO, and {name} has none"
    untouched(vae, lambda: fitted(vae, loss=loss, beta=beta), ValueError, message)


@pytest.mark.parametrize("name", WITHOUT_KL)
def test_without_beta_they_train(name):
    vae = small()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    fitted(vae, loss=WITHOUT_KL[name]())
    assert any(not torch.equal(before[name], p) for name, p in vae.named_parameters())


@pytest.mark.parametrize("name", WITH_KL)
def test_beta_changes_what_is_learned(name):
    found = []
    for beta in (1.0, 10.0):
        vae = small()
        history = fitted(vae, loss=WITH_KL[name](), beta=beta, learning_rate=1e-2)
        found.append(history.loss.iloc[0])
    assert found[1] > found[0] + 0.1, "ten times the KL"


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_train_is_refused_by_name(name):
    vae = small()
    message = f"fit cannot train by {name}: .*(without Jit|'iwae' or 'renyi')"
    untouched(vae, lambda: fitted(vae, loss=CANNOT[name]()), TypeError, message)


def test_names_are_data():
    assert all(isinstance(record, Loss) for record in losses.values())
    assert {name for name, record in losses.items() if record.has_kl} == {
        "elbo",
        "mean_field",
        "enum",
    }
    assert {name for name, record in losses.items() if record.discrete} == {"elbo", "enum"}
    assert record_of(Descended(**PLATES)).elbo is infer.Trace_ELBO
    assert not record_of(Own(**PLATES)).has_kl


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("elbo", lambda k: infer.Trace_ELBO(num_particles=k, vectorize_particles=k > 1, **PLATES)),
        (
            "mean_field",
            lambda k: infer.TraceMeanField_ELBO(
                num_particles=k, vectorize_particles=k > 1, **PLATES
            ),
        ),
        (
            "renyi",
            lambda k: infer.RenyiELBO(
                alpha=0.5, num_particles=k, vectorize_particles=k > 1, **PLATES
            ),
        ),
    ],
)
@pytest.mark.parametrize("prior", ["normal", "gamma"])
@pytest.mark.parametrize("particles", [1, 3])
def test_training_equals_that_by_traces(name, theirs, prior, particles):
    """The direct way learns what Pyro's own class learns from traces, in double precision."""
    beta = 1.0 if name == "renyi" else 0.3
    vaes = [pv.build({"event": [3], "latent": [2], "prior": prior}, hidden=[4]) for _ in range(2)]
    fitted(vaes[0], loss=name, particles=particles, beta=beta)
    fitted(vaes[1], loss=theirs(particles), beta=beta)
    for ours, traced in zip(vaes[0].parameters(), vaes[1].parameters(), strict=True):
        torch.testing.assert_close(ours, traced, rtol=1e-7, atol=1e-10)


BY_TRACES = {
    "elbo": lambda **given: infer.Trace_ELBO(**given),
    "mean_field": lambda **given: infer.TraceMeanField_ELBO(**given),
    "iwae": lambda **given: infer.RenyiELBO(alpha=0.0, **given),
    "renyi": lambda **given: infer.RenyiELBO(alpha=0.3, **given),
    "free_bits": lambda num_particles, **_: pv.FreeBits(0.25, num_particles),
}


@pytest.mark.parametrize("name", BY_TRACES)
@pytest.mark.parametrize("prior", ["normal", "gamma"])
@pytest.mark.parametrize("particles", [1, 3])
def test_value_and_gradient_equal_those_by_traces(name, prior, particles):
    """Also their scale, which Adam does not see, and constants, which no gradient sees."""
    vae = pv.build({"event": [3], "latent": [2], "prior": prior}, hidden=[4])
    theirs = BY_TRACES[name](num_particles=particles, vectorize_particles=particles > 1, **PLATES)
    if name == "renyi":  # where alpha and 1 - alpha differ
        ours = Renyi(alpha=0.3, num_particles=particles, vectorize_particles=True, **PLATES)
    else:
        free = 0.25 if name == "free_bits" else None
        ours = objective(vae, "elbo" if free else name, particles, 1.0, free)
    parameters = list(vae.parameters())
    with seeded(0):
        value = ours.evaluate(Direct(vae, (X,), missing=False))
    gradients = torch.autograd.grad(value, parameters)
    with seeded(0), pyro.get_param_store().scope():
        expected = theirs.loss_and_grads(vae.model, vae.guide, X)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    for mine, parameter in zip(gradients, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.uses_store
@pytest.mark.parametrize("loss", [pv.ImportanceWeighted(2), pv.FreeBits(0.1)])
def test_in_a_svi_of_ones_own_parameters_are_seen(loss):
    """A loss that shows Pyro no parameter would train nothing, without a word."""
    vae = small()
    before = [p.detach().clone() for p in vae.parameters()]
    svi = infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), loss)
    svi.step(X)
    assert not any(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
