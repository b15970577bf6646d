"""R-hat and effective sample sizes of many latents at once are those of ArviZ."""

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from setting import setting

from pyro_vae.posterior.mixing import mixing, mixing_by_datum


def arviz(draws):
    """The same by ArviZ, of shape ``(S,)`` each."""
    given = {"chain_axis": 1, "draw_axis": 2}
    with np.errstate(invalid="ignore"):  # of what is constant
        return (
            array_stats.rhat(draws, **given),
            array_stats.ess(draws, **given),
            array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **given),
        )


def autoregressive(rng, rho, shape):
    noise = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        noise[..., t] += rho * noise[..., t - 1]
    return noise


RNG = np.random.default_rng(0)
CASES = {
    "independent": RNG.normal(size=(20, 4, 100)),
    "slow": autoregressive(RNG, 0.9, (20, 4, 200)),
    "alternating": autoregressive(RNG, -0.8, (20, 4, 200)),
    "stuck apart": RNG.normal(size=(20, 4, 100)) + np.arange(4)[:, None],
    "heavy tails": RNG.standard_cauchy(size=(20, 3, 150)),
    "ties": RNG.integers(0, 3, size=(20, 4, 100)).astype(float),
    "nearly constant": (RNG.random((20, 4, 100)) < 0.01).astype(float),
    "odd length": RNG.normal(size=(20, 4, 101)),
    "one chain": RNG.normal(size=(20, 1, 100)),
    "two draws a half": RNG.normal(size=(50, 2, 4)),
    **{f"{length} draws": RNG.normal(size=(50, 2, length)) for length in range(5, 16)},
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_that_of_arviz(case):
    draws = CASES[case]
    with setting(torch.float32):  # the default makes no difference
        ours = mixing(torch.as_tensor(draws))
    for found, expected in zip(ours, arviz(draws), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_worst_latent_of_each_datum():
    draws = RNG.normal(size=(4, 50, 3, 2))  # chain, draw, datum, latent
    draws[:, :, 1, 1] += 3 * np.arange(4)[:, None]
    rhat, bulk, tail = mixing_by_datum([draws, draws[..., :1]], torch.device("cpu"))
    each = arviz(draws.transpose(2, 3, 0, 1).reshape(6, 4, 50))
    np.testing.assert_allclose(rhat, each[0].reshape(3, 2).max(1), rtol=1e-9)
    np.testing.assert_allclose(bulk, each[1].reshape(3, 2).min(1), rtol=1e-9)
    np.testing.assert_allclose(tail, each[2].reshape(3, 2).min(1), rtol=1e-9)


def test_what_is_unknown():
    draws = torch.randn(3, 4, 50)
    draws[1, 2, 3] = torch.nan
    draws[2] = 1.0
    rhat, bulk, tail = mixing(draws)
    for found, expected in zip((rhat, bulk, tail), arviz(draws.numpy()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert rhat.isnan().tolist() == [False, True, True]
    assert all(x.isnan().all() for x in mixing(torch.randn(3, 4, 3)))
