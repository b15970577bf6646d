"""sample_posterior: exact posteriors, any model, what it says of its chains, and what it leaves as
it was.
"""

import numpy as np
import pyro
import pytest
import torch
from arviz_stats.base import array_stats
from pyro import distributions as dist
from scipy import stats
from torch import nn
from truth import Direct, LinearGaussian, check_moments

import pyro_vae as pv
from pyro_vae.posterior.trees import draws_by_site

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(200)
KERNELS = ["hmc", pytest.param("nuts", marks=pytest.mark.slow)]


def draws(tree, name="z"):
    return tree["posterior"][name].values


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("hmc", {"num_samples": 500, "warmup": 200}),
        pytest.param(
            "nuts", {"num_samples": 400, "warmup": 150, "chains": 2}, marks=pytest.mark.slow
        ),
    ],
)
def test_200_exact_posteriors_at_once(kernel, options):
    vae = TRUTH.vae(shrink=0.7, shift=1.0)  # chains begin at a guide that is wrong
    tree = pv.sample_posterior(vae, X, kernel=kernel, **options)
    covariance, gain = TRUTH.posterior()
    check_moments(
        draws(tree),
        (X - TRUTH.bias) @ gain.T,
        np.diag(covariance),
        floor=50 if kernel == "nuts" else 400,
    )
    assert (tree["diagnostics"].rhat < 1.05).all()
    assert (tree["diagnostics"].divergences == 0).all()


class Constant(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.register_buffer("values", torch.zeros(width))

    def forward(self, x):
        return self.values.expand(*x.shape[:-1], -1)


def conjugate(name):
    """Prior, likelihood, data, posterior mean and variance."""
    rng = np.random.default_rng(0)
    if name == "gamma x Poisson":
        x = rng.poisson(rng.gamma(0.5, 1.0, (60, 1)))
        likelihood = Direct((1,), lambda z: dist.Poisson(z, validate_args=False).to_event(1))
        return (
            pv.Gamma((1,), concentration=0.5, rate=1.0),
            likelihood,
            x,
            (x + 0.5) / 2,
            (x + 0.5) / 4,
        )
    if name == "beta x binomial":
        x = rng.binomial(10, rng.beta(2, 2, (60, 1)))
        likelihood = Direct(
            (1,), lambda z: dist.Binomial(10, probs=z, validate_args=False).to_event(1)
        )
        posterior = stats.beta(x + 2, 12 - x)
        return (
            pv.Beta((1,), concentration1=2.0, concentration0=2.0),
            likelihood,
            x,
            posterior.mean(),
            posterior.var(),
        )
    x = np.array([rng.multinomial(20, p) for p in rng.dirichlet([1.0] * 4, 60)])
    likelihood = Direct((4,), lambda z: dist.Multinomial(20, probs=z, validate_args=False))
    mean = (x + 1) / 24
    return pv.Dirichlet((4,), concentration=1.0), likelihood, x, mean, mean * (1 - mean) / 25


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", ["gamma x Poisson", "beta x binomial", "dirichlet x multinomial"])
def test_latents_on_a_constrained_support(name, dtype):
    prior, likelihood, x, mean, variance = conjugate(name)
    size = prior.event_shape.numel() - (prior.name == "dirichlet")
    vae = pv.VAE(prior, likelihood, pv.Amortised(Constant(2 * size), pv.Normal((size,)))).to(dtype)
    tree = pv.sample_posterior(vae, x, num_samples=2000, warmup=300)
    check_moments(draws(tree), mean, variance)


def test_missing_cells_and_a_condition_count():
    """The posterior given the cells that are seen; the condition moves the mean of the prior."""
    x = X[:40].copy()
    x[:, 0] = np.nan
    seen = LinearGaussian(TRUTH.weight[1:], TRUTH.bias[1:], TRUTH.noise[1:])
    covariance, gain = seen.posterior()
    tree = pv.sample_posterior(TRUTH.vae(), x, num_samples=400, warmup=200)
    check_moments(draws(tree), (x[:, 1:] - seen.bias) @ gain.T, np.diag(covariance))

    c = np.linspace(-3, 3, 40)[:, None]
    reads = nn.Linear(1, 1)
    nn.init.ones_(reads.weight), nn.init.zeros_(reads.bias)
    vae = pv.VAE(
        pv.Amortised(reads, pv.Normal((1,), scale=1.0)),
        Direct((1,), lambda z: dist.Normal(z, 1.0).to_event(1)),
        pv.Amortised(nn.Linear(1, 1), pv.Normal((1,), scale=1.0)),
        condition=pv.Condition(size=1, seen_by=["prior"]),
    )
    y = c[::-1].copy()
    tree = pv.sample_posterior(vae, y, c, num_samples=400, warmup=200)
    check_moments(draws(tree), (c + y) / 2, np.full((40, 1), 0.5))
    assert tree["constant_data"].c.shape == (40, 1)


def two_sites(x):
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        level = pyro.sample("level", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("count", dist.Poisson(rate), obs=x[:, 0])
        pyro.sample("number", dist.Normal(level, 1.0).to_event(1), obs=x[:, 1:])


def two_guides(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("rate", dist.LogNormal(torch.zeros(len(x)), 1.0))
        pyro.sample("level", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


@pytest.mark.parametrize("kernel", KERNELS)
def test_any_pair_of_pyro_functions(kernel):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.poisson(2.0, 20), rng.normal(size=(20, 2))]).astype(float)
    size = {"hmc": (500, 4), "nuts": (1000, 2)}[kernel]
    options = dict(zip(("num_samples", "chains"), size, strict=True), warmup=200)
    tree = pv.sample_posterior((two_sites, two_guides), x, kernel=kernel, **options)
    check_moments(draws(tree, "rate"), (x[:, 0] + 2) / 2, (x[:, 0] + 2) / 4, floor=200)
    check_moments(draws(tree, "level"), x[:, 1:] / 2, np.full((20, 2), 0.5), floor=200)


@pytest.mark.slow
def test_the_base_space_of_a_flow_gives_the_same_posterior():
    torch.manual_seed(0)
    vae = TRUTH.vae()
    head = pv.SplineFlow((2,), hidden=[8], features=2)
    vae = pv.VAE(
        vae.prior, vae.likelihood, pv.Amortised(pv.MLP(6, head.num_params, hidden=[16]), head)
    )
    tree = pv.sample_posterior(vae, X[:30], num_samples=800, warmup=300, neutra=True)
    covariance, gain = TRUTH.posterior()
    check_moments(draws(tree), (X[:30] - TRUTH.bias) @ gain.T, np.diag(covariance))


def sizes_differ(x):
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("b", dist.Dirichlet(torch.ones(3)))
        pyro.sample("x", dist.Normal(a[..., 0], 1.0), obs=x[:, 0])


def guides_differ(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("a", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("b", dist.Dirichlet(torch.ones(len(x), 3)))


def test_sites_of_different_size_have_dimensions_of_their_own():
    tree = pv.sample_posterior((sizes_differ, guides_differ), X[:3], num_samples=300, warmup=200)
    assert tree["posterior"].a.dims == ("chain", "draw", "datum", "a_dim")
    assert tree["posterior"].b.shape == (4, 300, 3, 3)
    assert pv.compare_posteriors((sizes_differ, guides_differ), X[:3], tree).sd_ratio.shape == (
        3,
        5,
    )


@pytest.mark.parametrize("name", ["latent", "datum", "chain", "draw", "latent_dim"])
@pytest.mark.parametrize("beside", [None, "z", "datum_"])
def test_any_name_of_a_site(name, beside):
    """xarray keeps these names for dimensions; two names of a site may not meet either."""
    x = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    sites = [name] if beside is None else [name, beside]

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            z = sum(pyro.sample(site, normal) for site in sites)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        num = len(sites)
        with pyro.plate("data", len(x), dim=-1):
            for site in sites:
                normal = dist.Normal(x / (1 + num), (num / (1 + num)) ** 0.5).to_event(1)
                pyro.sample(site, normal)

    pair = model, guide
    options = {"num_samples": 200, "warmup": 100}
    tree = pv.sample_posterior(pair, x, **options)
    assert list(draws_by_site(tree["posterior"].to_dataset())) == sites
    found = pv.bridge_log_evidence(pair, x, tree)
    exact = stats.norm(0, (1 + len(sites)) ** 0.5).logpdf(x).sum(1)
    assert (abs(found.log_evidence - exact) < 4 * found.se).all()
    compared = pv.compare_posteriors(pair, x, tree)
    assert float(compared.kl.max()) < 0.5


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_need_not_be_on(kernel, around):
    vae = TRUTH.vae()
    with around():
        tree = quietly(vae, X[:3], kernel=kernel, chains=1)
    assert np.isfinite(draws(tree)).all()


@pytest.mark.slow
def test_both_kernels_agree_on_a_nonlinear_decoder():
    """No closed form: means and variances of HMC and NUTS are within 5 standard errors."""
    x = np.random.default_rng(0).poisson(3.0, (8, 5)).astype(float)
    torch.manual_seed(0)
    vae = pv.build(x, latent=2, likelihood="poisson", hidden=[16])
    pv.fit(vae, x, epochs=200, learning_rate=1e-2, progress=False)
    hmc = draws(pv.sample_posterior(vae, x, num_samples=2000, warmup=300))
    nuts = draws(
        pv.sample_posterior(vae, x, kernel="nuts", num_samples=500, warmup=200, chains=2, seed=1)
    )
    for power in (1, 2):
        found = []
        for z in (hmc**power, nuts**power):
            ess = array_stats.ess(z.astype(float), chain_axis=0, draw_axis=1, method="mean")
            found.append((z.mean((0, 1)), z.var((0, 1)) / ess))
        (a, a_error), (b, b_error) = found
        assert (np.abs(a - b) < 5 * np.sqrt(a_error + b_error)).all()


def square(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.sample("x", dist.Normal(z**2, 0.2), obs=x[:, 0])


def wide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_two_modes_are_told(kernel):
    """z and -z are as likely; no chain ever crosses. The warning is about the line that called."""
    x = np.full((5, 1), 9.0)
    with pytest.warns(
        UserWarning, match=r"chains of \d of 5 data have not mixed \(R-hat above 1.05 or"
    ) as told:
        tree = pv.sample_posterior((square, wide), x, kernel=kernel, num_samples=200, warmup=200)
    assert told[0].filename == __file__
    signs = np.sign(draws(tree).mean(1))  # (chain, datum)
    apart = np.abs(signs.sum(0)) < 4
    assert apart.any()
    assert (tree["diagnostics"].rhat.values[apart] > 1.5).all()


def quietly(*arguments, **options):
    """A few draws, of which nothing is expected but a warning."""
    with pytest.warns(UserWarning, match="have not mixed"):
        return pv.sample_posterior(*arguments, num_samples=20, warmup=20, **options)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_draws():
    vae = TRUTH.vae()
    first, second, third = (quietly(vae, X[:5], seed=seed, chains=2) for seed in (0, 0, 1))
    one, two = (quietly(vae, X[:5], kernel="nuts", chains=chains) for chains in (1, 2))
    np.testing.assert_array_equal(draws(first), draws(second))
    assert not np.array_equal(draws(first), draws(third))
    np.testing.assert_array_equal(draws(one)[0], draws(two)[0])
    apart = quietly(vae, X[:5], kernel="nuts", chains=2, processes=2)
    np.testing.assert_array_equal(draws(apart), draws(two))


def shifted(x):
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.slow
@pytest.mark.uses_store
def test_other_processes_know_the_parameters_of_a_pair():
    pyro.get_param_store()["shift"] = torch.tensor(10.0)
    here, there = (
        quietly((shifted, wide), np.zeros((2, 1)), kernel="nuts", chains=1, processes=processes)
        for processes in (1, 2)
    )
    np.testing.assert_array_equal(draws(here), draws(there))
    assert abs(draws(here).mean() - 5.0) < 1.0


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_nothing_of_the_callers_is_touched(kernel):
    vae = TRUTH.vae().train()
    vae.prior.loc.requires_grad_(False)
    before = [
        (name, p.requires_grad, p.detach().clone(), p.grad) for name, p in vae.named_parameters()
    ]
    state = torch.random.get_rng_state()
    with pytest.warns(UserWarning, match="have not mixed"):
        pv.sample_posterior(vae, X[:3], kernel=kernel, num_samples=5, warmup=5, chains=1)
    assert vae.training
    assert torch.equal(state, torch.random.get_rng_state())
    for (name, asked, value, grad), (_, p) in zip(before, vae.named_parameters(), strict=True):
        assert p.requires_grad == asked, name
        assert torch.equal(p, value)
        assert p.grad is grad


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_statistics_of_the_sampler(kernel):
    tree = pv.sample_posterior(TRUTH.vae(), X[:7], kernel=kernel, num_samples=200, warmup=100)
    stats_ = tree["sample_stats"]
    assert stats_.energy.dims == ("chain", "draw")
    assert (tree["diagnostics"].bfmi > 0.5).all()
    for name in ("acceptance_rate", "diverging", "lp", "step_size"):
        assert stats_[name].dims == ("chain", "draw", "datum")
        assert stats_[name].shape == (4, 200, 7)
    z = torch.as_tensor(draws(tree)[:, -1])
    with pyro.validation_enabled(False), pyro.get_param_store().scope():
        joint = TRUTH.vae().log_joint(torch.as_tensor(X[:7]), z, None)
    np.testing.assert_allclose(stats_.lp.values[:, -1], joint.detach(), rtol=1e-10)
    assert tree["posterior"].z.dims == ("chain", "draw", "datum", "latent")
    np.testing.assert_array_equal(tree["observed_data"].x, X[:7])


def one_hot():
    x = np.random.default_rng(0).poisson(2.0, (20, 3))
    return pv.build(x, latent=3, prior="one_hot", likelihood="poisson", hidden=[4]), x


ERRORS = {
    "kernel": (
        lambda: pv.sample_posterior(TRUTH.vae(), X, kernel="gibbs"),
        ValueError,
        "no kernel is named 'gibbs'; th",
    ),
    "chains": (
        lambda: pv.sample_posterior(TRUTH.vae(), X, chains=0),
        ValueError,
        "chains must be a whole number from 1",
    ),
    "processes": (
        lambda: pv.sample_posterior(TRUTH.vae(), X, processes=2),
        ValueError,
        "'hmc' runs all chains as one",
    ),
    "discrete": (
        lambda: pv.sample_posterior(*one_hot()),
        TypeError,
        "MCMC needs continuous latents; site 'z' is discrete; log_evidence sums over it exactly",
    ),
    "a list": (
        lambda: pv.sample_posterior(TRUTH.vae(), X, kernel=["hmc"]),
        ValueError,
        "no kernel is named ['hmc']; th",
    ),
    "sites": (
        lambda: pv.sample_posterior((square, guides_differ), X),
        ValueError,
        "model and guide must have the same latent sites; got ['z'] and ['a', 'b']",
    ),
    "neutra": (
        lambda: pv.sample_posterior(TRUTH.vae(), X, neutra=True),
        TypeError,
        "neutra needs a VAE whose guide is a flow, such as 'spline_flow'",
    ),
    "data": (lambda: pv.sample_posterior(TRUTH.vae(), X[:, :3]), pv.DataError, "shape"),
    "no vae": (
        lambda: pv.sample_posterior(3, X),
        TypeError,
        "a pair (model, guide) of Pyro functions; got int",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
