"""The ladder of proposals: bad guides are seen, brought to the truth, and named by the rung they
needed.
"""

import itertools
import math
import os
import warnings
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import integrate, special, stats
from truth import Direct, LinearGaussian, affine

import pyro_vae as pv
from pyro_vae.density.target import Target
from pyro_vae.density.traced import Traced
from pyro_vae.evidence.climb import RUNGS
from pyro_vae.evidence.proposals import (
    FREEDOM,
    PRIOR_SHARE,
    StudentTMixture,
    with_prior,
    with_shares,
)
from pyro_vae.evidence.weights import from_blocks

SEEDS = int(os.environ.get("PYRO_VAE_SEEDS", 10))
MODELS = {
    2: LinearGaussian.with_diagonal_posterior(6, 2),
    10: LinearGaussian.with_diagonal_posterior(12, 10),
}
DATA = {q: model.draw(100) for q, model in MODELS.items()}
BAD = {"narrow": {"shrink": 0.2}, "off": {"shift": 3.0}}


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **kwargs)


def in_standard_errors(result, exact):
    return ((result.log_evidence - exact) / result.se).values


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("q", MODELS)
def test_a_bad_guide_is_seen(q, bad):
    assert quiet(MODELS[q].vae(**BAD[bad]), DATA[q], num_samples=5000).attrs["flagged"] >= 95


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("q", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_bad_guide_is_brought_to_the_truth(q, bad):
    """Over data and seeds z-scores are standard normal, and the error is what was asked for."""
    vae, exact, z = MODELS[q].vae(**BAD[bad]), MODELS[q].log_evidence(DATA[q]), []
    for seed in range(max(2, SEEDS // 5)):
        result = pv.log_evidence(vae, DATA[q], num_samples=1000, tolerance=0.05, seed=seed)
        assert result.attrs["flagged"] == 0
        assert (result.se <= 0.05).all()
        assert (result.khat <= 0.7).all()
        assert set(result.rung.values) <= set(RUNGS[1:] if q == 10 else RUNGS)
        z.append(in_standard_errors(result, exact))
        assert (np.abs(z[-1]) < 4).mean() >= 0.95
    z = np.concatenate(z)
    assert 0.8 < z.std() < 1.25
    # The log is biased by half a squared error.
    assert abs(z.mean()) < 4 / math.sqrt(z.size) + 0.025


def test_the_guide_alone_would_have_been_wrong():
    """What the tests above are worth: without a tolerance most estimates of the shifted guide are
    far off.
    """
    result = quiet(MODELS[10].vae(shift=3.0), DATA[10], num_samples=5000)
    assert (np.abs(in_standard_errors(result, MODELS[10].log_evidence(DATA[10]))) > 4).mean() > 0.5


@pytest.mark.parametrize("q", MODELS)
def test_a_heavy_tailed_guide_is_not_flagged(q):
    """A Student-t with the exact mean and scale: bounded weights."""
    model = MODELS[q]
    covariance, gain = model.posterior()
    sd = torch.as_tensor(np.sqrt(np.diag(covariance)))
    vae = model.vae()
    vae.posterior = pv.Amortised(
        affine(gain, -gain @ model.bias), pv.StudentT((q,), df=5.0, scale=sd)
    )
    result = pv.log_evidence(vae, DATA[q], num_samples=2000)
    assert result.attrs["flagged"] == 0
    z = in_standard_errors(result, model.log_evidence(DATA[q]))
    assert (np.abs(z) < 4.5).all()
    assert (pv.log_evidence(vae, DATA[q], num_samples=2000, tolerance=0.1).rung == "guide").all()


def test_a_good_guide_stays_where_it_is():
    vae = MODELS[2].vae(shrink=1.2)
    plain = pv.log_evidence(vae, DATA[2], num_samples=500, seed=3)
    climbed = pv.log_evidence(vae, DATA[2], num_samples=500, seed=3, tolerance=0.1)
    assert (climbed.rung == "guide").all()
    assert (climbed.num_samples == 500).all()
    assert climbed.se.mean() < math.sqrt(2) * plain.se.mean()  # never twice the draws
    assert (np.abs(in_standard_errors(climbed, MODELS[2].log_evidence(DATA[2]))) < 4.5).all()


def test_draws_are_added_only_where_they_are_needed():
    """An error between those of the data: some have enough draws, others get more of the guide."""
    vae, exact = MODELS[2].vae(shrink=1.5), MODELS[2].log_evidence(DATA[2])
    plain = pv.log_evidence(vae, DATA[2], num_samples=500, tolerance=10.0)
    tolerance = float(plain.se.median())
    result = pv.log_evidence(vae, DATA[2], num_samples=500, tolerance=tolerance)
    content = (plain.se <= tolerance).values
    assert (result.rung == "guide").all()
    assert (result.num_samples[content] == 500).all()
    assert (result.num_samples[~content] > 500).all()
    assert (result.se <= tolerance).all()
    np.testing.assert_array_equal(result.log_evidence[content], plain.log_evidence[content])
    assert (np.abs(in_standard_errors(result, exact)) < 4.5).all()
    assert result.attrs["num_samples"] == int(result.num_samples.max())


def test_memory_never_changes_the_answer():
    vae = MODELS[2].vae(shift=2.0)
    whole = quiet(vae, DATA[2][:20], num_samples=200, tolerance=0.05)
    part = quiet(vae, DATA[2][:20], num_samples=200, tolerance=0.05, max_bytes=1)
    assert (part.rung == whole.rung).all()
    for name in ("log_evidence", "se", "khat", "num_samples"):
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-9, err_msg=name)


@pytest.mark.slow
def test_the_last_rung_is_reached_and_right(monkeypatch):
    """With the moments of the posterior of no use, annealing must do it."""
    monkeypatch.setattr("pyro_vae.evidence.budget.DISTRIBUTIONS", (100,))
    monkeypatch.setattr("pyro_vae.evidence.climb.WIDTHS", (2.5,))
    model, x = MODELS[10], DATA[10][:5]
    result = quiet(model.vae(shift=3.0), x, num_samples=50, tolerance=0.25, max_samples=50)
    annealed = result.isel(datum=(result.rung == "annealed").values)
    assert annealed.sizes["datum"] >= 3
    assert (annealed.num_samples == 64).all()
    assert (np.abs(in_standard_errors(annealed, model.log_evidence(x)[annealed.datum])) < 4.5).all()


# constrained priors


class Sight(torch.nn.Module):
    """An encoder that sees nothing."""

    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", torch.as_tensor(values))

    def forward(self, x):
        return self.values.expand(*x.shape[:-1], -1)


def gamma_poisson():
    x = np.arange(0, 40)[:, None]
    make = lambda z: dist.Poisson(z, validate_args=False).to_event(1)  # noqa: E731
    prior = pv.Gamma((1,), concentration=2.0, rate=0.2)
    return prior, Direct((1,), make), 1, x, stats.nbinom(2.0, 0.2 / 1.2).logpmf(x[:, 0])


def dirichlet_multinomial():
    rng, a = np.random.default_rng(0), 1.5
    x = np.array([rng.multinomial(20, p) for p in rng.dirichlet([a] * 4, 50)])
    each = special.gammaln(x + a) - special.gammaln(x + 1) - special.gammaln(a)
    exact = special.gammaln(21) + special.gammaln(4 * a) - special.gammaln(20 + 4 * a) + each.sum(1)
    make = lambda z: dist.Multinomial(20, probs=z, validate_args=False)  # noqa: E731
    return pv.Dirichlet((4,), concentration=a), Direct((4,), make), 3, x, exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("make", [gamma_poisson, dirichlet_multinomial])
def test_a_constrained_prior_with_a_bad_guide(make, dtype):
    """A guide that sees no data and is far too narrow: the same for all."""
    prior, likelihood, size, x, exact = make()
    guide = pv.Amortised(Sight([0.5] * size), pv.Normal((size,), scale=0.1))
    vae = pv.VAE(prior, likelihood, guide).to(dtype)
    result = quiet(vae, x, num_samples=1000, tolerance=0.05)
    z = in_standard_errors(result, exact)
    assert result.attrs["flagged"] == 0
    assert (np.abs(z) < 4).mean() >= 0.95
    assert 0.6 < z.std() < 1.3
    assert (result.rung != "guide").mean() > 0.5


def normal_pair(scale=0.05, to=0.0):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.tensor(to), scale))

    return model, guide


def test_a_pair_of_plain_functions():
    x = torch.linspace(-3, 3, 60)
    result = quiet(normal_pair(), x, num_samples=500, tolerance=0.03)
    z = in_standard_errors(result, stats.norm(0, math.sqrt(1.25)).logpdf(x.numpy()))
    assert result.attrs["flagged"] == 0
    assert (np.abs(z) < 4.5).all()
    assert 0.7 < z.std() < 1.3


@pytest.mark.slow
def test_a_pair_with_two_latents_one_of_them_positive():
    """The scale of x has a prior of its own; the truth by quadrature."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            s = pyro.sample("s", dist.Gamma(torch.tensor(3.0), 3.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.1 * x, 0.05))
            pyro.sample("s", dist.LogNormal(torch.tensor(0.0), 0.1))

    x = torch.linspace(-2, 2, 5)

    def density(s, v):
        return stats.gamma(3, scale=1 / 3).pdf(s) * stats.norm(0, math.sqrt(1 + s * s)).pdf(v)

    exact = [math.log(integrate.quad(density, 0, np.inf, args=(float(v),))[0]) for v in x]
    result = quiet((model, guide), x, num_samples=500, tolerance=0.05)
    assert result.attrs["flagged"] == 0
    assert (np.abs(in_standard_errors(result, exact)) < 4.5).all()


def test_missing_cells():
    """The evidence of the cells that are seen, rung by rung."""
    model, x = MODELS[2], DATA[2].copy()
    x[np.random.default_rng(0).random(x.shape) < 0.4] = np.nan
    covariance = model.weight @ model.weight.T + np.diag(model.noise)
    exact = np.zeros(len(x))
    for n, row in enumerate(x):
        (seen,) = np.nonzero(~np.isnan(row))
        if len(seen):
            marginal = stats.multivariate_normal(model.bias[seen], covariance[np.ix_(seen, seen)])
            exact[n] = marginal.logpdf(row[seen])
    vae = model.vae(shrink=0.2)
    result = quiet(vae, x, num_samples=1000, tolerance=0.05)
    z = in_standard_errors(result, exact)
    some = ~np.isnan(x).all(1)
    assert result.attrs["flagged"] == 0
    assert (np.abs(z[some]) < 4.5).all()
    assert 0.8 < z[some].std() < 1.25


def test_a_condition_reaches_every_rung():
    """The mean of x depends on c: rows of c go with the rows of x that climb."""

    def model(x, c):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + c[:, 0], 0.5), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * (x - c[:, 0]), torch.where(c[:, 0] > 0, 0.01, 0.5)))

    x = torch.randn(40)
    c = torch.linspace(-5, 5, 40)[torch.randperm(40)][:, None]
    result = quiet((model, guide), x, c, num_samples=500, tolerance=0.03)
    exact = stats.norm(c[:, 0].numpy(), math.sqrt(1.25)).logpdf(x.numpy())
    assert (np.abs(in_standard_errors(result, exact)) < 4.5).all()
    climbed = (result.rung != "guide").values
    assert climbed.any()
    assert (c[climbed] > 0).all()


# what stays flagged


def test_impossible_and_unknown_data_stay_so():
    """Weights that are all zero, or NaN, become no number on any rung; their neighbours are not
    touched.
    """

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            far = torch.where(x > 5, -math.inf, torch.where(x < -5, math.nan, 0.0))
            pyro.factor("x", far + dist.Normal(z, 0.5).log_prob(x))

    x = torch.tensor([0.5, 6.0, -6.0, -0.5])
    with pytest.warns(
        UserWarning, match="log p.x. of 2 of 4 data cannot be trusted.*no draw of z gives"
    ):
        result = pv.log_evidence((model, normal_pair()[1]), x, num_samples=100, tolerance=0.05)
    np.testing.assert_array_equal(result.log_evidence[1:3], [-math.inf, math.nan])
    assert (result.rung[1:3] == "guide").all()
    good = result.isel(datum=[0, 3])
    assert (
        np.abs(good.log_evidence - stats.norm(0, math.sqrt(1.25)).logpdf(0.5)) < 4.5 * good.se
    ).all()
    assert (good.se <= 0.05).all()


def test_a_weight_that_is_infinite_stays_so():
    """A density that is infinite where the guide draws, which another proposal would not meet."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.factor("x", torch.where((z - 1).abs() < 1e-4, math.inf, 0.0) + 0 * x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.tensor(1.0), 1e-4))

    result = quiet((model, guide), torch.zeros(2), num_samples=100, tolerance=0.05)
    assert not np.isfinite(result.log_evidence).any()
    assert result.attrs["flagged"] == 2


def test_all_data_unknown():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.factor("x", z * math.nan)

    result = quiet((model, normal_pair()[1]), torch.zeros(3), num_samples=100, tolerance=0.05)
    assert result.log_evidence.isnull().all()
    assert result.attrs["flagged"] == 3


def test_a_guide_of_no_width():
    """All draws are nearly one: no moments to begin with, and the truth is found all the same."""
    x = torch.linspace(-2, 2, 9)
    result = quiet(normal_pair(scale=1e-6), x, num_samples=500, tolerance=0.05)
    exact = stats.norm(0, math.sqrt(1.25)).logpdf(x.numpy())
    assert (np.abs(in_standard_errors(result, exact)) < 4.5)[(result.khat <= 0.7).values].all()
    assert result.attrs["flagged"] == 0


def test_latents_outside_the_support_have_no_density():
    """A guide over the whole line for a prior on the positive half: half of the draws count
    nothing.
    """

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Exponential(torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.tensor(0.0), 2.0))

    exact = math.log(integrate.quad(lambda z: math.exp(-z) * stats.norm.pdf(0.0, z), 0, 30)[0])
    for options in ({"num_samples": 5000}, {"num_samples": 500, "tolerance": 0.02}):
        result = quiet((model, guide), torch.zeros(3), **options)
        assert (np.abs(in_standard_errors(result, exact)) < 4.5).all()


def two_modes():
    """x is z squared, at x = 1: the guide knows the mode at 1 and not the one at -1."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.tensor(1.0), 0.05))

    half = integrate.quad(lambda z: stats.norm.pdf(z) * stats.norm.pdf(1.0, z * z, 0.3), 0, 5)[0]
    return model, guide, math.log(2 * half)


@pytest.mark.slow
def test_draws_of_the_prior_find_the_mode_that_the_guide_misses():
    model, guide, exact = two_modes()
    result = quiet((model, guide), torch.ones(40), num_samples=1000, tolerance=0.1)
    assert (result.rung != "guide").mean() > 0.9
    climbed = result.isel(datum=(result.rung != "guide").values)
    z = in_standard_errors(climbed, exact)
    assert (np.abs(z) < 4.5).all()
    assert 0.7 < z.std() < 1.25


def test_the_curve_of_a_mixture_is_that_of_independent_draws():
    """A block of the curve is a mixture as all of the draws are, not those of one stratum."""
    model, _, exact = two_modes()
    about = StudentTMixture.about(torch.ones(20, 1), torch.full((20, 1, 1), 0.05))
    proposal = replace(about, widths=(1.2, 2.5))
    target = Target(Traced(model, model, (torch.ones(20),)))
    blocks = with_prior(target, proposal, 4096)
    found = from_blocks((log_weight for _, log_weight in blocks), 1e-16)
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(4000, 32))
    radius = rng.choice([1.2, 2.5], normal.shape) * np.sqrt(
        FREEDOM / rng.chisquare(FREEDOM, normal.shape)
    )
    z = np.where(rng.random(normal.shape) < PRIOR_SHARE, normal, 1.0 + 0.05 * radius * normal)
    density = np.mean([stats.t(FREEDOM, 1.0, 0.05 * width).pdf(z) for width in (1.2, 2.5)], 0)
    prior = stats.norm.pdf(z)
    weight = (
        prior
        * stats.norm.pdf(1.0, z * z, 0.3)
        / ((1 - PRIOR_SHARE) * density + PRIOR_SHARE * prior)
    )
    own = np.log(weight.mean(1))
    assert abs(found.log_evidence.mean() - exact) < 0.05
    assert abs(float(found.curve[5].mean()) - own.mean()) < 5 * own.std() / math.sqrt(2000)


def test_the_elbo_stays_that_of_the_guide():
    vae, x = MODELS[10].vae(shift=3.0), DATA[10][:10]
    plain = quiet(vae, x, num_samples=500)  # half of the draws are the guide's
    climbed = quiet(vae, x, num_samples=1000, tolerance=0.05)
    assert (climbed.rung != "guide").any()
    np.testing.assert_allclose(climbed.elbo, plain.elbo)


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tolerance": 0.0},
            "tolerance must be a standard error in nats above 0, such as 0.05; got 0.0",
        ),
        ({"tolerance": -1}, "tolerance must be a standard error"),
        ({"tolerance": math.nan}, "tolerance must be a standard error"),
        ({"tolerance": math.inf}, "tolerance must be a standard error"),
        ({"tolerance": True}, "tolerance must be a standard error"),
        ({"tolerance": "0.1"}, "tolerance must be a standard error"),
        (
            {"tolerance": 0.1, "num_samples": 24},
            "num_samples with a tolerance must be a whole number from 25; got 24",
        ),
        (
            {"tolerance": 0.1, "max_samples": 999},
            "max_samples must be a whole number from 1000; got 999",
        ),
        ({"tolerance": 0.1, "max_samples": 2e4}, "max_samples must be a whole number"),
        ({"max_bytes": 0}, "max_bytes must be a whole number from 1; got 0"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
        ({"num_samples": 0}, "num_samples must be a whole number from 1; got 0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        pv.log_evidence(MODELS[2].vae(), DATA[2], **options)


def test_a_discrete_latent_is_summed_over_whatever_the_tolerance():
    x = np.random.default_rng(0).poisson(4.0, (30, 3))
    vae = pv.build(x, latent=[4], prior="one_hot", likelihood="poisson", hidden=[6])
    exact = pv.log_evidence(vae, x)
    result = pv.log_evidence(vae, x, tolerance=0.01, num_samples=25)
    np.testing.assert_array_equal(result.log_evidence, exact.log_evidence)
    assert (result.se == 0).all()
    assert result.attrs["flagged"] == 0


def test_a_discrete_latent_of_a_pair_stays_with_the_guide():
    """It has no unconstrained space to climb in: what the guide's draws give, they give."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.9)))

    x = torch.tensor([0.0, 2.0, 0.5])
    exact = np.log(0.5 * stats.norm.pdf(x, 0.0) + 0.5 * stats.norm.pdf(x, 2.0))
    result = quiet((model, guide), x, num_samples=1000, tolerance=0.01, max_samples=2000)
    assert (np.abs(in_standard_errors(result, exact)) < 4.5).all()
    assert (result.rung == "guide").all()


@pytest.mark.uses_store
def test_nothing_of_the_caller_changes():
    vae = MODELS[2].vae(shift=2.0)
    vae.train()
    vae.likelihood.eval()
    vae.prior.requires_grad_(False)
    pyro.param("mine", torch.ones(2))
    modes = [part.training for part in vae.modules()]
    asked = [p.requires_grad for p in vae.parameters()]
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = quiet(vae, DATA[2][:10], num_samples=100, tolerance=0.1)
    assert (first.rung != "guide").any()
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert [part.training for part in vae.modules()] == modes
    assert [p.requires_grad for p in vae.parameters()] == asked
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    torch.rand(7)
    assert quiet(vae, DATA[2][:10], num_samples=100, tolerance=0.1).equals(first)
    assert not quiet(vae, DATA[2][:10], num_samples=100, tolerance=0.1, seed=1).equals(first)


# Students


def students(size, num=3, widths=(0.7, 2.0), centres=1):
    factors = torch.tril(torch.randn(centres, num, size, size))
    factors.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
    shares = torch.rand(centres, num).softmax(0)
    return StudentTMixture(5 * torch.randn(centres, num, size), factors, shares, widths)


def test_shares_follow_the_weights():
    """Of two modes, half in equal parts and half as their masses: 0.1 and 0.9."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 5.0).to_event(1))
            near = dist.Normal(torch.tensor([-4.0, 4.0]), 0.5).log_prob(z)
            pyro.factor("x", (near + torch.tensor([0.1, 0.9]).log()).logsumexp(-1) + 0 * x)

    target = Target(Traced(model, model, (torch.zeros(6),)))
    centres = torch.tensor([-4.0, 4.0])[:, None, None].expand(2, 6, 1)
    factors, equal = torch.full((2, 6, 1, 1), 0.5), torch.full((2, 6), 0.5)
    found = with_shares(target, StudentTMixture(centres, factors, equal))
    torch.testing.assert_close(found.shares.sum(0), torch.ones(6))
    assert ((found.shares[0] - 0.3).abs() < 0.02).all()


@pytest.mark.parametrize("centres", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_students_have_the_density_of_scipy(size, centres):
    proposal = students(size, centres=centres)
    at = torch.randn(20, 3, size) * 3
    for n in range(3):
        shapes = proposal.factors[:, n] @ proposal.factors[:, n].mT
        parts = [
            stats.multivariate_t(centre.numpy(), (width**2 * shape).numpy(), FREEDOM).logpdf(
                at[:, n].numpy()
            )
            for width in proposal.widths
            for centre, shape in zip(proposal.centres[:, n], shapes, strict=True)
        ]
        shares = np.tile(proposal.shares[:, n] / len(proposal.widths), len(proposal.widths))
        expected = special.logsumexp(parts, 0, shares[:, None])
        np.testing.assert_allclose(proposal.log_prob(at)[:, n], expected, rtol=1e-10)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(
        proposal.select(index).log_prob(at[:, index]), proposal.log_prob(at)[:, index]
    )


@pytest.mark.parametrize("centres", [1, 3])
@pytest.mark.parametrize("size", [1, 3])
def test_students_draw_what_they_score(size, centres):
    """Every projection of a multivariate Student-t is one, so a mixture of them has a known
    distribution function.
    """
    proposal = students(size, centres=centres)
    draws = proposal.sample(torch.Size([5000]))
    assert draws.shape == (5000, 3, size)
    p_values = []
    for n in range(3):
        for direction in torch.randn(3, size):
            sds = (direction @ proposal.factors[:, n]).norm(dim=-1).tolist()
            centers = (proposal.centres[:, n] @ direction).tolist()
            shares = proposal.shares[:, n].tolist()
            projected = (draws[:, n] @ direction).numpy()

            def cdf(v, shares=shares, centers=centers, sds=sds):
                each = itertools.product(zip(shares, centers, sds, strict=True), (0.7, 2.0))
                return sum(a / 2 * stats.t(FREEDOM, c, s * w).cdf(v) for (a, c, s), w in each)

            p_values.append(stats.kstest(projected, cdf).pvalue)
    assert min(p_values) > 1e-4
