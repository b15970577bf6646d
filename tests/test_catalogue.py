"""Everything in the catalogue where steps are recorded and replayed: with ``--device cuda`` on a
GPU, else by a recorder that refuses what a GPU would.
"""

import warnings

import numpy as np
import pytest
import torch
from recording import recordings as recordings
from setting import rounding

import pyro_vae as pv

pytestmark = pytest.mark.usefixtures("device")
RNG = np.random.default_rng(0)
REAL, POSITIVE = RNG.normal(size=(20, 4)), RNG.gamma(2.0, 1.0, (20, 4))
AMOUNTS = np.where(REAL < 0, 0.0, POSITIVE)
UNIT, COUNTS = RNG.beta(2, 2, (20, 4)), RNG.poisson(4.0, (20, 4))
SHARES, LEVELS = RNG.dirichlet(np.ones(4), 20), RNG.integers(0, 3, (20, 4))
DIRECTIONS = REAL / np.linalg.norm(REAL, axis=1, keepdims=True)
LIKELIHOODS = {
    "bernoulli": LEVELS > 0,
    "beta": UNIT,
    "beta_binomial": COUNTS,
    "binomial": COUNTS,
    "categorical": LEVELS,
    "censored_normal": np.maximum(REAL, 0.0),
    "continuous_bernoulli": UNIT,
    "dirichlet": SHARES,
    "discretized_logistic": LEVELS,
    "exponential": POSITIVE,
    "gamma": POSITIVE,
    "half_cauchy": POSITIVE,
    "half_normal": POSITIVE,
    "hurdle_negative_binomial": COUNTS,
    "hurdle_poisson": COUNTS,
    "laplace": REAL,
    "log_normal": POSITIVE,
    "logistic": REAL,
    "logistic_normal": SHARES,
    "low_rank_normal": REAL,
    "multinomial": COUNTS,
    "multivariate_normal": REAL,
    "negative_binomial": COUNTS,
    "normal": REAL,
    "one_hot": np.eye(4)[LEVELS[:, 0]],
    "ordered_beta": np.clip(1.5 * UNIT - 0.25, 0.0, 1.0),
    "ordinal": LEVELS,
    "poisson": COUNTS,
    "student_t": REAL,
    "truncated_normal": POSITIVE,
    "tweedie": AMOUNTS,
    "von_mises": np.arctan2(REAL, REAL[::-1]),
    "von_mises_fisher": DIRECTIONS,
    "zero_inflated_gamma": AMOUNTS,
    "zero_inflated_log_normal": AMOUNTS,
    "zero_inflated_negative_binomial": COUNTS,
    "zero_inflated_poisson": COUNTS,
}
PRIORS = {
    name: {"name": name}
    for name in (
        "normal", "gamma", "beta", "dirichlet", "exponential", "half_cauchy", "half_normal",
        "laplace", "log_normal", "logistic", "logistic_normal", "low_rank_normal", "uniform",
        "multivariate_normal", "student_t", "von_mises_fisher", "uniform_sphere", "one_hot",
        "mixture", "vamp", "spline_flow", "horseshoe_like", "coupling_flow", "truncated_normal",
        "von_mises",
    )
}  # fmt: skip
GUIDES = (
    "normal", "student_t", "multivariate_normal", "low_rank_normal", "mixture", "laplace",
    "autoregressive_flow", "coupling_flow", "planar_flow", "spline_flow", "logistic",
)  # fmt: skip
EXPERTS = ("product_of_experts", "mixture_of_experts", "mixture_of_products")
BLOCKS = [{"columns": [0, 2]}, {"columns": [1, 3]}]
LACKING = np.where((np.arange(20)[:, None] % 3 == 0) & (np.arange(4) % 2 == 0), np.nan, REAL)
ROLES = ("prior", "guide")
CASES = {
    **{f"{name} likelihood": (x, {"likelihood": name}) for name, x in LIKELIHOODS.items()},
    **{f"{name} prior": (REAL, {"prior": prior}) for name, prior in PRIORS.items()},
    **{f"{name} guide": (REAL, {"guide": name}) for name in GUIDES},
    **{f"{name} guide": (LACKING, {"guide": {"name": name, "blocks": BLOCKS}}) for name in EXPERTS},
}


CAPTURING = "no: a CUDA graph: "
NOT_RECORDED = {  # for a factor or a category is waited, and Pyro's splines pick by masks
    "one_hot prior": "no: TraceEnum_ELBO, or a part of the VAE, needs Pyro's traces",
    **{f"{flow}_flow {role}": CAPTURING for flow in ("spline", "coupling") for role in ROLES},
    **{f"low_rank_normal {role}": CAPTURING for role in (*ROLES, "likelihood")},
    **{f"{name} guide": CAPTURING for name in ("mixture", *EXPERTS[1:])},
    "truncated_normal prior": CAPTURING,  # its ends say which map it has
}
ON_A_GPU = "as a CUDA graph: loss, gradients, update"


def test_the_table_is_whole():
    names = {case.split()[0] for case in CASES}
    assert names | {"columns", "hierarchy"} == set(pv.Conditional.registry)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_step_is_the_plain_one(case, dtype, recordings, device):
    x, parts = CASES[case]
    found = []
    for compile in (False, True):
        vae = pv.build(x, latent=3, hidden=[4], device=device, **parts).to(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what is not recorded
            history = pv.fit(vae, x, epochs=3, batch_size=8, progress=False, compile=compile)
        found.append(vae.state_dict())
    assert history.attrs["compiled"].startswith(NOT_RECORDED.get(case, ON_A_GPU))
    for name, value in found[0].items():
        off = 1e-9 if dtype == torch.float64 else 1e-2  # Adam steps by 1e-3 on rounding alone
        torch.testing.assert_close(found[1][name], value, rtol=off, atol=off, msg=name)


@pytest.mark.parametrize("prior", sorted(PRIORS.keys() - {"one_hot"}))
def test_recorded_chains_are_the_plain_ones(prior, request, device):
    found = []
    for recorded in (False, True):
        recordings = request.getfixturevalue("recordings") if recorded else []
        vae = pv.build(REAL, latent=3, hidden=[4], device=device, prior=PRIORS[prior])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of so short chains
            tree = pv.sample_posterior(vae, REAL[:3], num_samples=8, warmup=8, chains=2)
        found.append(tree["posterior"].z.values)
    assert recordings or f"{prior} prior" in NOT_RECORDED
    np.testing.assert_allclose(*found, rtol=rounding(1e-9, 1e-2))
