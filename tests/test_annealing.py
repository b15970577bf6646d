"""Annealed importance sampling against the linear-Gaussian model, from below and, on simulated
data, from above.
"""

import math
import os
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import integrate, stats
from truth import Direct, LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence import annealing as module
from pyro_vae.evidence.annealing_path import TARGET_ACCEPTANCE, temperatures

SEEDS = int(os.environ.get("PYRO_VAE_SEEDS", 10))
MODELS = {q: LinearGaussian.with_diagonal_posterior(q + 4, q) for q in (2, 10, 50)}
X = MODELS[2].draw(30)


def quiet(*args, method=pv.annealed_log_evidence, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return method(*args, **kwargs)


def annealed(vae, x, **options):
    options = {"num_distributions": 50, "chains": 32, "num_steps": 5} | options
    return quiet(vae, x, **options)


def in_standard_errors(result, exact):
    return ((result.log_evidence - exact) / result.se).values


def simulated(model, num, seed=0):
    """Latents and the data made from them: each z is an exact draw of its posterior."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num, model.weight.shape[1]))
    return z, z @ model.weight.T + model.bias + rng.normal(size=(num, len(model.bias))) * np.sqrt(
        model.noise
    )


@pytest.mark.parametrize(
    ("q", "method"),
    [
        *((q, "importance") for q in MODELS),
        (2, "guide"),
        *(pytest.param(q, "guide", marks=pytest.mark.slow) for q in (10, 50)),
        (2, "prior"),
    ],
)
def test_estimates_are_within_four_standard_errors(q, method):
    """Many data, each with draws of its own: at least 99 % within four, z-scores standard normal.

    In 50 dimensions a few dozen chains from the prior leave weights too heavy for an honest error,
    so that is left out.
    """
    model, z, relative = MODELS[q], [], []
    vae, (_, x) = (
        model.vae(shrink=1.2),
        simulated(model, (5 if (q, method) == (50, "guide") else 10) * SEEDS),
    )
    for seed, some in enumerate(np.array_split(x, -(-SEEDS // 10))):
        if method == "importance":
            result = quiet(vae, some, method=pv.log_evidence, num_samples=5000, seed=seed)
        else:
            result = annealed(
                vae, some, start=method, num_distributions=100 if q < 50 else 200, seed=seed
            )
        z.append(in_standard_errors(result, model.log_evidence(some)))
        relative.append(float(result.se.mean()))
    z = np.concatenate(z)
    assert (np.abs(z) < 4).mean() >= 0.99
    assert abs(z.std() - 1) < max(0.2, 4 / math.sqrt(2 * z.size))
    # Of 32 weights the error is skewed.
    assert abs(z.mean() + np.mean(relative) / 2) < 4 / math.sqrt(z.size) + 0.1


@pytest.mark.parametrize("schedule", ["sigmoidal", "linear"])
def test_weights_have_the_mean_of_the_evidence(schedule):
    """Unbiased however short the path and poor the chains: over 640 chains for each datum."""
    result = annealed(
        MODELS[2].vae(shrink=1.5, shift=0.5),
        X,
        num_distributions=5,
        num_steps=1,
        chains=640,
        schedule=schedule,
    )
    z = in_standard_errors(result, MODELS[2].log_evidence(X))
    assert result.attrs["flagged"] == 0
    assert (np.abs(z) < 4.5).all()
    assert 0.7 < z.std() < 1.35
    assert (result.se > 1e-3).all()


def test_one_distribution_is_importance_sampling():
    vae = MODELS[2].vae(shrink=1.3)
    result = annealed(vae, X, num_distributions=1, chains=2000)
    other = pv.log_evidence(vae, X, num_samples=2000)
    z = (result.log_evidence - other.log_evidence) / np.hypot(result.se, other.se)
    assert (np.abs(z) < 4.5).all()
    assert float((result.se / other.se).mean()) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(result.acceptance, 1.0)


def test_an_exact_guide_gives_the_evidence_itself():
    """All densities of the path are one: every weight is p(x), below as above."""
    z, x = simulated(MODELS[2], 10)
    result = annealed(MODELS[2].vae(), x, z=z, num_distributions=20)
    exact = MODELS[2].log_evidence(x)
    np.testing.assert_allclose(result.log_evidence, exact, atol=1e-9)
    np.testing.assert_allclose(result.upper, exact, atol=1e-9)
    np.testing.assert_allclose(result.gap, 0.0, atol=1e-9)


@pytest.mark.parametrize("start", [pytest.param("guide", marks=pytest.mark.slow), "prior"])
def test_the_truth_lies_between_the_bounds(start):
    """In the mean over simulated data; and the gap closes with a longer path."""
    model, gaps = MODELS[10], []
    vae, (z, x) = model.vae(shrink=1.5, shift=1.0), simulated(model, 50)
    exact = model.log_evidence(x)
    for num_distributions in (5, 30, 100):
        result = annealed(vae, x, z=z, num_distributions=num_distributions, chains=8, start=start)
        for error in (exact - result.log_evidence, result.upper - exact):
            assert error.mean() > -4 * error.std() / math.sqrt(len(x))
        np.testing.assert_allclose(result.gap, result.upper - result.log_evidence)
        assert result.attrs["gap"] == pytest.approx(float(result.gap.mean()))
        assert result.attrs["gap_se"] == pytest.approx(
            float(result.gap.std(ddof=1)) / math.sqrt(len(x))
        )
        gaps.append(result.attrs["gap"])
    assert gaps[0] > gaps[1] + 0.3 > gaps[2] + 0.3 - 4 * result.attrs["gap_se"]
    assert float((result.upper - exact).mean()) < 0.5


def test_backward_weights_have_the_mean_of_the_inverse():
    """Over z drawn afresh from the exact posterior of one x, the mean of 1 / upper is that of 1 /
    p(x).
    """
    model, num = MODELS[2], 400
    covariance, gain = model.posterior()
    x = X[:1].repeat(num, 0)
    z = (X[0] - model.bias) @ gain.T + np.random.default_rng(0).normal(size=(num, 2)) * np.sqrt(
        np.diag(covariance)
    )
    result = annealed(
        model.vae(shrink=0.8, shift=0.3), x, z=z, num_distributions=6, num_steps=2, chains=4
    )
    ratio = np.exp(model.log_evidence(x) - result.upper).values
    assert ratio.std() > 0.03
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(num)


def test_a_bad_guide_is_brought_to_the_truth():
    """Where importance sampling is flagged for nearly all data."""
    model, x = MODELS[10], MODELS[10].draw(30)
    vae, exact = model.vae(shift=2.0), model.log_evidence(x)
    plain = quiet(vae, x, method=pv.log_evidence, num_samples=2000)
    result = annealed(vae, x, num_distributions=100, chains=64)
    assert plain.attrs["flagged"] > 20
    light = (result.khat <= 0.7).values
    assert light.mean() > 0.8
    assert (np.abs(in_standard_errors(result, exact)[light]) < 4.5).all()
    assert float(np.abs(result.log_evidence - exact).mean()) < 0.2 * float(
        np.abs(plain.log_evidence - exact).mean()
    )


# the path


@pytest.mark.parametrize("num", [1, 2, 7, 100])
@pytest.mark.parametrize("schedule", ["sigmoidal", "linear"])
def test_betas(schedule, num):
    betas = np.array(temperatures(num, schedule))
    assert len(betas) == num + 1
    assert betas[0] == 0.0
    assert betas[-1] == 1.0
    steps = np.diff(betas)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps[::-1], rtol=1e-9)
    if schedule == "linear":
        np.testing.assert_allclose(steps, 1 / num)
    elif num == 100:
        assert steps[50] > 5 * steps[0]


def test_step_sizes_are_those_of_pilots_and_of_no_other(monkeypatch):
    """What happens to the chains that are weighed has no part in it."""
    seen = []

    class Watched(module.AnnealingPath):
        def forward(self, chains):
            seen.append(super().forward(chains))
            return seen[-1]

    class Stuck(Watched):
        def _moved(self, state, t, step_size):
            moved, acceptance = super()._moved(state, t, step_size)
            return moved, torch.cat([torch.zeros(16, len(X)), acceptance[16:]])

    vae = MODELS[2].vae(shrink=15)  # so wide that no step is near the longest
    for kind in (Watched, Stuck):
        monkeypatch.setattr(module, "AnnealingPath", kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # chains that hardly moved
            annealed(vae, X, chains=16, num_distributions=100)
    as_it_is, stuck = seen
    assert torch.equal(as_it_is.step_sizes, stuck.step_sizes)
    assert torch.equal(as_it_is.position, stuck.position)
    assert as_it_is.step_sizes.shape == (101, len(X))
    assert as_it_is.step_sizes.std(0).min() > 0, "the pilots adapt"
    assert (stuck.acceptance == 0).all()
    assert abs(float(as_it_is.acceptance.mean()) - TARGET_ACCEPTANCE) < 0.1


def test_trajectories_do_not_come_back_to_their_energy():
    """A normal target is followed almost exactly by steps of any size, to half a period where
    nothing is gained. At a quarter the weights of 50 latents are worth 30 of 32 chains; where the
    step sizes were free to grow, 22.
    """
    model = MODELS[50]
    result = annealed(model.vae(shrink=1.2), model.draw(5), num_distributions=100)
    assert result.acceptance.min() > 0.85
    assert result.ess.mean() > 28


# what models may be


def test_chains_outside_the_support_weigh_nothing():
    """The likelihood is 0 for z below 0: half of the chains from the prior are lost at once, and
    count as zeros.
    """

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            inside = dist.Normal(z, 0.5).log_prob(x)
            pyro.factor("x", torch.where(z > 0, inside, -math.inf))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0))

    x = torch.linspace(-1, 2, 20)
    joint = lambda z, v: stats.norm.pdf(z) * stats.norm.pdf(v, z, 0.5)  # noqa: E731
    exact = [math.log(integrate.quad(joint, 0, 10, args=(float(v),))[0]) for v in x]
    for start in ("guide", "prior"):
        result = annealed((model, guide), x, start=start, chains=200)
        z = in_standard_errors(result, exact)
        assert np.isfinite(result.log_evidence).all()
        assert (np.abs(z) < 4.5).all()
        assert z.std() < 1.35
        assert (result.ess < 180).all()


def test_data_that_are_impossible_or_unknown():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            far = torch.where(x > 5, -math.inf, torch.where(x < -5, math.nan, 0.0))
            pyro.factor("x", far + dist.Normal(z, 0.5).log_prob(x))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    x = torch.tensor([0.5, 6.0, -6.0])
    for start in ("guide", "prior"):
        with pytest.warns(UserWarning, match="log p.x. of 2 of 3 data cannot be trusted"):
            result = pv.annealed_log_evidence(
                (model, guide), x, num_distributions=10, chains=8, start=start
            )
        np.testing.assert_array_equal(result.log_evidence[1:], [-math.inf, math.nan])
        assert np.isfinite(result.log_evidence[0])


@pytest.mark.parametrize("start", [pytest.param("guide", marks=pytest.mark.slow), "prior"])
def test_a_constrained_prior(start):
    """Gamma-Poisson, with bounds from latents that made the data."""
    rng = np.random.default_rng(0)
    z = rng.gamma(2.0, 5.0, (40, 1))
    x = rng.poisson(z)
    make = lambda rate: dist.Poisson(rate, validate_args=False).to_event(1)  # noqa: E731
    guide = pv.Normal((1,), loc=2.0, scale=1.0)
    vae = pv.VAE(pv.Gamma((1,), concentration=2.0, rate=0.2), Direct((1,), make), guide)
    exact = stats.nbinom(2.0, 0.2 / 1.2).logpmf(x[:, 0])
    result = annealed(vae, x, z=z, start=start)
    z_scores = in_standard_errors(result, exact)
    assert (np.abs(z_scores) < 5).all()
    assert abs(z_scores.mean()) < 1
    assert float((result.upper - exact).mean()) > -4 * float(
        (result.upper - exact).std()
    ) / math.sqrt(40)
    assert abs(result.attrs["gap"]) < 0.2


def test_a_pair_of_functions_with_two_latents():
    """A positive one and a real one, which is integrated out by hand."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            s = pyro.sample("s", dist.Gamma(torch.tensor(3.0), 3.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))
            pyro.sample("s", dist.LogNormal(torch.tensor(0.0), 0.7))

    x = torch.linspace(-3, 3, 15)

    def density(s, v):
        return stats.gamma(3, scale=1 / 3).pdf(s) * stats.norm(0, math.sqrt(1 + s * s)).pdf(v)

    exact = [math.log(integrate.quad(density, 0, np.inf, args=(float(v),))[0]) for v in x]
    result = annealed((model, guide), x, chains=64)
    assert (np.abs(in_standard_errors(result, exact)) < 4.5).all()
    with pytest.raises(TypeError, match="z needs a model with one latent site; this one has 2"):
        annealed((model, guide), x, z=x, num_distributions=2)


def test_missing_cells():
    model, x = MODELS[2], X.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    covariance = model.weight @ model.weight.T + np.diag(model.noise)
    exact = []
    for row in x:
        (seen,) = np.nonzero(~np.isnan(row))
        marginal = stats.multivariate_normal(model.bias[seen], covariance[np.ix_(seen, seen)])
        exact.append(marginal.logpdf(row[seen]))
    result = annealed(model.vae(shrink=1.3), x)
    z = in_standard_errors(result, exact)
    assert (np.abs(z) < 4.75).all()
    assert 0.7 < z.std() < 1.4
    assert result.attrs["cells"] == int((~np.isnan(x)).sum())


def test_single_precision_has_the_same_truth():
    model = MODELS[2]
    result = annealed(model.vae(shrink=1.3).float(), X)
    assert (np.abs(in_standard_errors(result, model.log_evidence(X))) < 4.75).all()


# results and options


def test_the_dataset():
    z, x = simulated(MODELS[2], 5)
    result = annealed(MODELS[2].vae(shrink=1.2), x, z=z, num_distributions=10, chains=16)
    assert {"log_evidence", "se", "ess", "bias", "acceptance", "upper", "gap", "chains"} <= set(
        result
    )
    assert not {"elbo", "num_samples"} & set(result)
    assert result.attrs["chains"] == 16
    assert (result.chains == 16).all()
    assert result.khat.isnull().all()
    assert "upper" not in annealed(MODELS[2].vae(), x, num_distributions=2, chains=2)


def test_data_of_many_tiles(monkeypatch):
    """Bounds go with their data, tile by tile."""
    z, x = simulated(MODELS[2], 10)
    vae = MODELS[2].vae(shrink=1.1)
    monkeypatch.setattr(module, "tile_rows", lambda _: 3 * 32)
    result = annealed(vae, x, z=z, num_distributions=20)
    exact = MODELS[2].log_evidence(x)
    np.testing.assert_allclose(result.log_evidence, exact, atol=0.1)
    np.testing.assert_allclose(result.upper, exact, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_distributions": 0}, "num_distributions must be a whole number from 1; got 0"),
        ({"num_steps": 0}, "num_steps must be a whole number from 1; got 0"),
        ({"num_steps": True}, "num_steps must be a whole number from 1; got True"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
        ({"start": "posterior"}, "start must be 'guide' or 'prior'; got 'posterior'"),
        ({"schedule": "cosine"}, "schedule must be 'sigmoidal' or 'linear'; got 'cosine'"),
        ({"chains": 0}, "chains must be a whole number from 1; got 0"),
        ({"z": np.zeros((3, 2))}, "z needs a row for each datum; got 3 rows for 30 data"),
        ({"z": np.zeros((30, 3))}, "z needs"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        annealed(MODELS[2].vae(), X, **{"num_distributions": 2} | options)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_latents_that_the_prior_cannot_draw(bad):
    """They are no draws of a posterior, so there is no bound to be had from them."""
    make = lambda rate: dist.Poisson(rate, validate_args=False).to_event(1)  # noqa: E731
    prior = pv.Gamma((1,), concentration=2.0, rate=0.2)
    vae = pv.VAE(prior, Direct((1,), make), pv.Normal((1,), loc=2.0, scale=1.0))
    with pytest.raises(ValueError, match="z"):
        annealed(vae, np.array([[3], [4]]), z=np.array([[2.0], [bad]]), num_distributions=2)


def test_latents_of_one_number_each_have_the_shape_of_the_site():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x, 0.6))

    z = torch.randn(20)
    x = z + 0.5 * torch.randn(20)
    result = annealed((model, guide), x, z=z)
    np.testing.assert_allclose(result.upper, stats.norm(0, math.sqrt(1.25)).logpdf(x), atol=0.1)
    with pytest.raises(ValueError, match=r"z needs|[Ss]hape"):
        annealed((model, guide), x, z=z[:, None], num_distributions=2)


def test_a_discrete_latent_has_no_path():
    x = np.random.default_rng(0).poisson(4.0, (30, 3))
    vae = pv.build(x, latent=[4], prior="one_hot", likelihood="poisson", hidden=[6])
    with pytest.raises(TypeError, match="is discrete; log_evidence sums over it exactly"):
        annealed(vae, x)


@pytest.mark.uses_store
def test_nothing_of_the_caller_changes():
    vae = MODELS[2].vae(shrink=1.2)
    vae.train()
    vae.likelihood.eval()
    pyro.param("mine", torch.ones(2))
    modes = [part.training for part in vae.modules()]
    asked = [p.requires_grad for p in vae.parameters()]
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    first = annealed(vae, X, num_distributions=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in vae.modules()] == modes
    assert [p.requires_grad for p in vae.parameters()] == asked
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    torch.rand(7)
    assert annealed(vae, X, num_distributions=5).equals(first)
    assert not annealed(vae, X, num_distributions=5, seed=1).equals(first)
