"""Batched HMC: the dynamics, the invariance of its step, and what warm-up finds."""

import functools
import math

import numpy as np
import pytest
import torch
from pyro.infer import MCMC
from scipy import special, stats

from pyro_vae.posterior.hmc import BatchedHMC, evaluate, leapfrog, run_kernel, transition

SHAPE = 3.0  # of the gamma whose logarithm is the skewed target


def log_gamma(u):
    """The log of a Gamma(3, 1) variable in each dimension: skewed, with exact draws and moments."""
    return (SHAPE * u - u.exp()).sum(-1) - u.shape[-1] * math.lgamma(SHAPE)


at = functools.partial(evaluate, log_gamma)


def exact_draws(*shape, seed=0):
    return torch.as_tensor(np.log(np.random.default_rng(seed).gamma(SHAPE, size=shape)))


def identity(num, size):
    return torch.eye(size).expand(num, size, size)


def energy(state, momentum):
    return momentum.square().sum(-1) / 2 - state.log_density


def correlated(num, size, seed=0):
    """A scale for each datum that is neither diagonal nor symmetric."""
    factor = torch.randn(num, size, size, generator=torch.Generator().manual_seed(seed)).tril()
    return factor + 2 * torch.eye(size)


def test_leapfrog_is_reversible():
    start, momentum, scale = (
        at(exact_draws(4, 7, 3)),
        torch.randn(4, 7, 3),
        0.3 * correlated(7, 3),
    )
    step = torch.rand(4, 7) * 0.2
    there, gained = leapfrog(at, start, momentum, step, 9, scale)
    back, lost = leapfrog(at, there, -gained, step, 9, scale)
    assert (there.position - start.position).abs().max() > 0.1
    torch.testing.assert_close(back.position, start.position, rtol=0, atol=1e-10)
    torch.testing.assert_close(-lost, momentum, rtol=0, atol=1e-10)


def test_the_energy_error_falls_with_the_square_of_the_step():
    start, momentum = at(exact_draws(200, 5, 3)), torch.randn(200, 5, 3)

    def error(step, steps):
        end, last = leapfrog(at, start, momentum, torch.full((), step), steps, identity(5, 3))
        return float((energy(end, last) - energy(start, momentum)).square().mean().sqrt())

    ratios = [error(0.1 / 2**k, 10 * 2**k) / error(0.05 / 2**k, 20 * 2**k) for k in range(3)]
    assert all(3.6 < ratio < 4.4 for ratio in ratios), ratios


def test_a_leapfrog_preserves_volume():
    """The determinant of the Jacobian of position and momentum is 1."""
    scale = 0.5 * correlated(1, 2)

    def flow(both):
        state = at(both[:2].reshape(1, 1, 2))
        moved, momentum = leapfrog(
            at, state, both[2:].reshape(1, 1, 2), torch.full((), 0.3), 3, scale
        )
        return torch.cat([moved.position.flatten(), momentum.flatten()])

    u, eps = torch.tensor([0.4, 1.1, -0.3, 0.8]), 1e-6
    columns = [(flow(u + eps * unit) - flow(u - eps * unit)) / (2 * eps) for unit in torch.eye(4)]
    torch.testing.assert_close(
        torch.linalg.det(torch.stack(columns, 1)), torch.tensor(1.0), rtol=0, atol=1e-7
    )


def test_detailed_balance():
    """From exact draws, f(before) g(after) and g(before) f(after) have one mean."""
    torch.manual_seed(0)
    before = at(exact_draws(1, 200_000, 2))
    after, seen = transition(at, before, torch.full((), 0.8), 3, identity(200_000, 2))
    assert 0.2 < float(seen.acceptance.mean()) < 0.8
    x, y = before.position[0], after.position[0]
    functions = [
        lambda u: u[:, 0],
        lambda u: u[:, 1] ** 2,
        lambda u: (u[:, 0] > 1.0).double(),
        lambda u: u.exp().sum(1),
    ]
    for i, f in enumerate(functions):
        for g in functions[:i]:
            difference = f(x) * g(y) - g(x) * f(y)
            z = float(difference.mean() / (difference.std() / len(x) ** 0.5))
            assert abs(z) < 4
        assert (
            stats.ks_2samp(f(y).numpy(), f(exact_draws(200_000, 2, seed=1)).numpy()).pvalue > 1e-4
        )


def sampled(log_density, position, scale, warmup=300, num=500):
    kernel = BatchedHMC(log_density, position, scale=scale)
    mcmc = MCMC(kernel, num_samples=num, warmup_steps=warmup, disable_progbar=True)
    mcmc.run()
    return kernel, mcmc.get_samples()["position"]  # (S, K, N, D)


def test_a_skewed_target_has_its_moments():
    """As a kernel of Pyro's own MCMC.

    Tolerances from the ESS, 4 chains x 500 draws x 100 data that are all alike.
    """
    torch.manual_seed(0)
    _, draws = sampled(log_gamma, exact_draws(4, 100, 2), torch.ones(100, 2))
    each = draws.mean((0, 1)).flatten()  # independent over data
    assert (
        abs(float(each.mean()) - special.digamma(SHAPE)) < 5 * float(each.std()) / len(each) ** 0.5
    )
    each = (draws - special.digamma(SHAPE)).square().mean((0, 1)).flatten()
    assert (
        abs(float(each.mean()) - special.polygamma(1, SHAPE))
        < 5 * float(each.std()) / len(each) ** 0.5
    )
    each = (draws < -0.5).double().mean((0, 1)).flatten()
    tail = stats.gamma(SHAPE).cdf(math.exp(-0.5))
    assert abs(float(each.mean()) - tail) < 5 * float(each.std()) / len(each) ** 0.5


def test_each_datum_has_its_own_scale_and_step():
    """Normals whose widths span six orders of magnitude, correlated within a datum."""
    torch.manual_seed(0)
    width = torch.logspace(-3, 3, 7)[:, None, None]
    factor = width * correlated(7, 3)
    inverse = torch.linalg.inv(factor)
    kernel, draws = sampled(
        lambda u: -0.5 * torch.einsum("nij,knj->kni", inverse, u).square().sum(-1),
        torch.randn(4, 7, 3) * width[..., 0],
        torch.ones(7, 3) * width[..., 0],
        num=1000,
    )
    white = torch.einsum("nij,sknj->skni", inverse, draws).flatten(0, 1)
    covariance = torch.einsum("sni,snj->nij", white, white) / len(white)
    assert (covariance - torch.eye(3)).abs().max() < 0.2
    assert kernel.num_steps <= 4
    assert kernel.step_size.shape == (1, 7)


def test_each_chain_may_have_its_own_step():
    """Half of the chains are in a mode a hundred times as narrow as that of the others."""
    torch.manual_seed(0)
    where, sd = torch.tensor([0.0, 100.0]), torch.tensor([1.0, 0.01])

    def density(u):
        return (-0.5 * ((u - where) / sd).square() - sd.log()).logsumexp(-1)

    start = torch.tensor([0.0] * 4 + [100.0] * 4)[:, None, None] + torch.zeros(8, 5, 1)
    kernel = BatchedHMC(density, start, scale=torch.ones(5, 1), most_steps=16, one_step_size=False)
    draws = torch.stack(list(run_kernel(kernel, start, 200, 300)))[..., 0]  # (S, K, N)
    own = draws.std(0)
    assert (own[:4].mean() - 1).abs() < 0.1
    assert (own[4:].mean() / 0.01 - 1).abs() < 0.1
    assert kernel.step_size.shape == (8, 5)


def test_a_density_that_ends_is_survived_and_counted():
    """Gamma(3) itself, NaN below zero: chains turn back, and divergences are counted by datum."""
    torch.manual_seed(0)

    def gamma(u):
        return ((SHAPE - 1) * u.log() - u).sum(-1)

    position = torch.as_tensor(np.random.default_rng(0).gamma(SHAPE, size=(4, 60, 1)))
    kernel = BatchedHMC(gamma, position, scale=torch.ones(60, 1))
    kernel.setup(300)
    params, draws, lost = {"position": position}, [], torch.zeros(60)
    for step in range(1300):
        params = kernel.sample(params)
        if step >= 300:
            draws.append(params["position"])
            lost += kernel.last.diverging.sum(0)
    draws = torch.stack(draws)
    assert draws.isfinite().all()
    assert (draws > 0).all()
    assert lost.sum() > 0
    each = draws.mean((0, 1, 3))
    assert abs(float(each.mean()) - SHAPE) < 5 * float(each.std()) / 60**0.5


def test_nan_in_one_datum_leaves_the_others_alone():
    torch.manual_seed(0)

    def density(u):
        value = log_gamma(u)
        return torch.where(
            torch.arange(3) == 1, value + torch.where(u[..., 0] > 1.0, math.nan, 0.0), value
        )

    state_at = functools.partial(evaluate, density)
    state = state_at(torch.zeros(2000, 3, 2))
    for _ in range(20):
        state, seen = transition(state_at, state, torch.full((), 0.5), 3, identity(3, 2))
    assert state.position.isfinite().all()
    assert state.position[:, 1, 0].max() <= 1.0
    assert seen.acceptance[:, [0, 2]].mean() > 0.8


def test_where_it_cannot_begin():
    position = torch.zeros(2, 3, 1)
    position[1, 2] = math.nan
    kernel = BatchedHMC(log_gamma, position, scale=torch.ones(3, 1))
    with pytest.raises(
        ValueError, match="HMC needs a finite density where it begins; chain 1 of datum 2 has none"
    ):
        kernel.setup(10)
