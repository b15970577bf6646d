"""On a GPU: log p(x) is that of the CPU and of the closed form, and all else goes on working."""

import copy
import gc
import warnings

import numpy as np
import pytest
import torch
from setting import place, rounding
from truth import LinearGaussian, check_moments

import pyro_vae as pv
from pyro_vae import recorded

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device")]
TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(40)
COUNTS = np.random.default_rng(0).poisson(4.0, (40, 3))
PRIORS = {
    "normal": {"prior": "normal"},
    "gamma": {"prior": {"name": "gamma", "concentration": 2.0}},
    "one_hot": {"prior": {"name": "one_hot", "learned": True}},
}


def small(prior):
    return pv.build(COUNTS, latent=3, likelihood="poisson", hidden=[8], **PRIORS[prior])


def is_there(vae, device):
    return all(tensor.device.type == device.type for tensor in vae.state_dict().values())


@pytest.mark.parametrize("prior", PRIORS)
def test_log_evidence_is_that_of_the_cpu(prior, device):
    """Within the errors of both, as their draws are others; an exact sum up to rounding."""
    cpu = small(prior)
    gpu = place(copy.deepcopy(cpu))
    assert is_there(gpu, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a guide that knows nothing
        here, there = (pv.log_evidence(vae, COUNTS, num_samples=10_000) for vae in (cpu, gpu))
    trusted = np.maximum(here.khat, there.khat) < 0.7
    assert trusted.mean() > 0.5
    error = np.hypot(here.se, there.se)
    assert (error == 0).all() == (prior == "one_hot")
    difference = np.abs(here.log_evidence - there.log_evidence)
    assert (difference < 4.5 * error + rounding(1e-9, 1e-4))[trusted].all()


ESTIMATORS = {
    "importance": lambda vae: pv.log_evidence(vae, X, num_samples=5000),
    "ladder": lambda vae: pv.log_evidence(vae, X, num_samples=1000, tolerance=0.02),
    "annealing": lambda vae: pv.annealed_log_evidence(
        vae, X, num_distributions=100, chains=100, num_steps=5
    ),
    "bridge": lambda vae: pv.bridge_log_evidence(
        vae, X, pv.sample_posterior(vae, X, num_samples=300, warmup=300)
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_meets_the_closed_form(name):
    result = ESTIMATORS[name](TRUTH.vae(shrink=1.3))
    error = np.abs(result.log_evidence - TRUTH.log_evidence(X))
    assert (error < 4.75 * result.se + rounding(1e-9, 1e-4)).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_fit_moves_every_parameter(prior, device):
    vae = place(small(prior))
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    history = pv.fit(vae, COUNTS, validation=COUNTS, epochs=3, batch_size=16, progress=False)
    assert np.isfinite(history.loss).all()
    assert is_there(vae, device)
    for name, parameter in vae.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("prior", PRIORS)
def test_a_file_and_back(prior, device, tmp_path):
    """What was saved on the GPU is read on the CPU, and is the same model when it is back."""
    vae = place(small(prior))
    pv.save(vae, tmp_path / "model.safetensors")
    loaded = pv.load(tmp_path / "model.safetensors")
    for name, tensor in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.cpu()), name
    again = place(loaded)
    assert is_there(again, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one, other = (pv.log_evidence(v, COUNTS, num_samples=30) for v in (vae, again))
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=rounding(1e-9, 1e-4))


def test_hmc_meets_the_exact_posterior():
    tree = pv.sample_posterior(TRUTH.vae(shrink=0.7, shift=1.0), X, num_samples=500, warmup=200)
    covariance, gain = TRUTH.posterior()
    draws = tree["posterior"].z.values
    check_moments(draws, (X - TRUTH.bias) @ gain.T, np.diag(covariance))
    assert (tree["diagnostics"].divergences == 0).all()


def test_what_is_encoded_decoded_and_drawn_is_there(device):
    vae = TRUTH.vae()
    z = vae.encode(X).sample()
    for tensor in (z, vae.decode(z).sample(), vae.sample(5)):
        assert tensor.device.type == device.type
        assert tensor.isfinite().all()


def test_a_recording_that_breaks_off_leaves_the_gpu_as_it_was(device):
    """The third call is the one that is recorded: there a number is read, which none before did."""
    calls = []

    def function():
        calls.append(gc.isenabled())
        total = torch.randn(3, device=device).sum()
        return (total + total.item() if len(calls) == 3 else total,)

    record = recorded.recorder_of(device)
    state = torch.cuda.get_rng_state(device)
    with pytest.raises(RuntimeError):
        record(function)
    assert calls == [True, True, False]
    assert gc.isenabled()
    torch.cuda.set_rng_state(state, device)
    assert torch.randn(3, device=device).isfinite().all()
    replay, (drawn,) = record(lambda: (torch.randn(3, device=device),))
    replay()
    before = drawn.clone()
    replay()
    assert not torch.equal(drawn, before)
