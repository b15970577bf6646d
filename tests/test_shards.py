"""Parts of the data, and loops of one's own: evidence in shards, the loss as a module."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import xarray as xr

import pyro_vae as pv
from pyro_vae.guards import mode, seeded

X = np.random.default_rng(0).poisson(3.0, (41, 3)).astype(float)


def counts(**parts):
    return pv.build(X, **{"latent": 2, "hidden": [6], "likelihood": "poisson", **parts})


def shards(vae, sizes=(10, 20, 11), **options):
    ends = np.cumsum([0, *sizes])
    return [
        pv.log_evidence(vae, X[a:b], seed=int(a), **options) for a, b in itertools.pairwise(ends)
    ]


def test_exact_evidence_in_shards_is_that_of_the_whole():
    vae = counts(prior="one_hot")
    whole, joined = pv.log_evidence(vae, X), pv.concat(shards(vae))
    np.testing.assert_allclose(joined.log_evidence, whole.log_evidence, rtol=1e-12)
    np.testing.assert_array_equal(joined.datum, whole.datum)
    assert set(joined) == set(whole)
    for name in ("mean", "mean_se", "num_data", "cells", "flagged", "unit", "measure"):
        assert joined.attrs[name] == pytest.approx(whole.attrs[name])


@pytest.mark.filterwarnings("ignore:log p")
@pytest.mark.parametrize("options", [{"num_samples": 100}, {"tolerance": 0.1}], ids=str)
def test_estimates_in_shards_are_joined_as_they_are(options):
    parts = shards(counts(), **options)
    joined = pv.concat(parts)
    for name in ("log_evidence", "se", "khat", "ess", "num_samples"):
        expected = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined[name], expected)
    assert joined.flag.values.tolist() == [flag for part in parts for flag in part.flag.values]
    own = np.sqrt(sum((part.se.values**2).sum() for part in parts)) / 41
    assert joined.attrs["mean_mc_se"] == pytest.approx(own)
    assert joined.attrs["flagged"] == sum(part.attrs["flagged"] for part in parts)
    assert joined.attrs["draws_guide"] == sum(part.attrs["draws_guide"] for part in parts)


@pytest.mark.filterwarnings("ignore:log p")
def test_shards_from_files_and_of_other_numbers_of_draws(tmp_path):
    vae = counts()
    parts = [pv.log_evidence(vae, X[:20], num_samples=50), pv.log_evidence(vae, X[20:])]
    for number, part in enumerate(parts):
        part.to_netcdf(tmp_path / f"{number}.nc", engine="scipy")
    parts = [xr.load_dataset(tmp_path / f"{number}.nc", engine="scipy") for number in range(2)]
    joined = pv.concat(parts)
    assert joined.num_samples.values.tolist() == [50] * 20 + [1000] * 21
    assert "curve" not in joined
    assert joined.sizes == {"datum": 41}
    more = pv.log_evidence(vae, X[:5] + 1, num_samples=50)
    assert pv.concat([joined, more]).sizes == {"datum": 46}


def test_what_is_no_result_of_one_model_is_not_joined():
    vae = counts(prior="one_hot")
    one = pv.log_evidence(vae, X)
    with pytest.raises(ValueError, match="at least one result"):
        pv.concat([])
    with pytest.raises(TypeError, match="needs a list of results; got Dataset"):
        pv.concat(one)
    with pytest.raises(ValueError, match="parts 0 and 1 are of the same"):
        pv.concat([one, one])
    with pytest.raises(ValueError, match="all computed with a tolerance, or all without"):
        pv.concat([one, pv.log_evidence(vae, X[:5], tolerance=0.1)])
    with pytest.raises(TypeError, match="got dict as part 1"):
        pv.concat([one, {}])
    other = pv.log_evidence(counts(prior="one_hot", seed=1), X)
    with pytest.raises(ValueError, match="needs the same model in all parts; model_digest is"):
        pv.concat([one, other])


# The loss as a module

NAMES = ["elbo", "mean_field", "iwae", "renyi", "stl", "miwae"]


@pytest.mark.parametrize("name", NAMES)
def test_the_module_has_value_and_gradient_of_fit(name):
    vae = counts(prior="gamma")
    loss = pv.Loss(vae, name, particles=8)
    with seeded(0), mode(vae, training=True):
        order = torch.randperm(len(X))  # as fit draws it
        value = loss(torch.tensor(X)[order])
        value.backward()
    gradients = [parameter.grad.clone() for parameter in vae.parameters()]
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    options = {"loss": name, "particles": 8, "optimizer": torch.optim.SGD, "learning_rate": 1e-3}
    history = pv.fit(vae, X, epochs=1, progress=False, **options)
    assert history.loss[0] == pytest.approx(value.item(), rel=1e-12)
    for parameter, start, gradient in zip(vae.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(start - parameter.detach(), 1e-3 * gradient)


def test_the_module_is_the_loss_of_fit_exactly_where_nothing_is_drawn():
    vae = counts(prior="one_hot")
    value = pv.Loss(vae)(torch.tensor(X))
    history = pv.fit(vae, X, epochs=1, learning_rate=0.0, progress=False)
    assert history.loss[0] == pytest.approx(value.item(), rel=1e-12)


def test_a_loop_of_ones_own_trains_with_holes_and_a_condition():
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    c = torch.arange(41.0) % 3
    vae = pv.build(holes, c=c, latent=2, hidden=[6], likelihood="poisson")
    loss = pv.Loss(vae, "mean_field", beta=0.5)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in vae.parameters()}
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.01)
    values = []
    for _ in range(60):
        optimiser.zero_grad()
        value = loss(torch.tensor(holes), c)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert np.mean(values[-10:]) < np.mean(values[:10]) - 0.1


def test_losses_with_a_gradient_of_their_own_are_refused():
    for name in ("dreg", "piwae", "mcem", "wake_sleep"):
        with pytest.raises(TypeError, match=f"got '{name}', which has one of its own; fit trains"):
            pv.Loss(counts(), name)
    with pytest.raises(TypeError, match="Loss needs a VAE; got NoneType"):
        pv.Loss(None)
    with pytest.raises(ValueError, match="needs beta as a number from 0; got <function"):
        pv.Loss(counts(), beta=pv.linear_warmup(2))
    loss = pv.Loss(counts(), "iwae")
    with pytest.raises(ValueError, match="beta weighs the KL term"):
        loss.beta = 0.5
    with pytest.raises(ValueError, match="no loss is named 'elb'"):
        pv.Loss(counts(), "elb")


PARALLEL = textwrap.dedent(
    """
    import sys
    import numpy as np
    import torch
    import torch.distributed as dist
    import pyro_vae as pv

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_default_dtype(torch.float64)
    x = np.random.default_rng(0).poisson(3.0, (40, 3)).astype(float)
    vae = pv.build(x, latent=2, hidden=[6], likelihood="poisson", prior="one_hot")
    loss = torch.nn.parallel.DistributedDataParallel(pv.Loss(vae))
    loss(torch.tensor(x[20 * rank : 20 * rank + 20])).backward()
    alone = pv.build(x, latent=2, hidden=[6], likelihood="poisson", prior="one_hot")
    pv.Loss(alone)(torch.tensor(x)).backward()
    for mine, theirs in zip(vae.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-9)
    print("equal")
    """
)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    (tmp_path / "script.py").write_text(PARALLEL)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29517", str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("equal") == 2, done.stderr
