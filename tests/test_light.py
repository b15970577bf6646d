"""The warning light of log p(x), on a sample of the grid of benchmarks/light.py; and its parts."""

import importlib.util
import math
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import integrate, special, stats
from setting import setting
from truth import Direct, LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence.controls import adjusted, summed
from pyro_vae.evidence.weights import from_blocks, unreached

GRID = Path(__file__).parents[1] / "benchmarks" / "light.py"
TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)


def quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **options)


def grid():
    spec = importlib.util.spec_from_file_location("light", GRID)
    light = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(light)
    return light


@pytest.mark.parametrize("by", ["model", "guide"])
def test_the_tables_of_the_site_have_the_rows_and_columns_of_the_grid(by):
    """Those that the benchmark leaves in docs/measured."""
    light = grid()
    some = pd.DataFrame({"model": "m", "guide": "g", "tolerance": [0.05, np.nan]})
    columns = light.summary(some.assign(z=0.0, flagged=False), by).columns
    table = pd.read_csv(GRID.parents[1] / "docs" / "measured" / f"light_by_{by}.csv", index_col=by)
    assert list(table.columns) == list(columns)
    assert set(table.index) == set({"model": light.NAMES, "guide": light.GUIDES}[by])
    shares = table.iloc[:, [0, 1, 3, 4]].stack().dropna()
    assert len(shares) > 2 * len(table)
    assert shares.between(0, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("latents", "unflagged"), [(10, 1.0), (50, 0.8)])
def test_many_latents_whose_first_moments_are_poor(latents, unflagged):
    """No estimate explains where chains from the prior end, until chains of HMC have settled."""
    light = grid()
    torch.manual_seed(0)
    known = light.Known.named(f"linear gaussian {latents}", 30)
    vae = light.fitted(known, "normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        z, flagged = light.z_scores(vae, known, light.TOLERANCE, num_samples=1000)
    kept = z[~flagged]
    assert len(kept) >= unflagged * 30
    assert (np.abs(kept) < 4).all()
    assert abs(kept.std() - 1) < 4 / (2 * len(kept)) ** 0.5


@pytest.mark.slow
def test_what_is_not_flagged_is_right():
    """Dirichlet(0.3) is the model where a fitted guide misses most of what it cannot see."""
    light = grid()
    names = ["dirichlet multinomial 0.3", "gamma poisson 0.5", "linear gaussian 2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = light.measure(names, data=40, num_samples=1000)
    kept = found[~found.flagged]
    plain, climbed = kept[kept.tolerance.isna()].z, kept[kept.tolerance.notna()].z
    assert len(climbed) > 0.99 * len(found) / 2
    assert (climbed.abs() < 4).mean() >= 0.99
    assert 0.8 < climbed.std() < 1.25
    assert len(plain) > 0.2 * len(found) / 2
    assert (plain.abs() < 4).mean() >= 0.98
    assert 0.8 < plain.std() < 1.25


def two_modes(far):
    """z is 1 or -1 alike, and the guide knows only of 1, where it is exact: equal weights."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 3.0))
            near = dist.MixtureSameFamily(
                dist.Categorical(torch.ones(2)), dist.Normal(far * torch.tensor([1.0, -1.0]), 0.5)
            )
            pyro.factor("x", near.log_prob(z) - dist.Normal(0.0, 3.0).log_prob(z) + 0 * x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.tensor(far), 0.5))

    return model, guide


def test_a_mode_that_the_guide_misses_refutes_it():
    """By its own weights, which are all equal, the guide is perfect, and wrong by log 2."""
    found = quiet(two_modes(3.0), torch.zeros(30), num_samples=1000)
    np.testing.assert_allclose(found.log_evidence, -math.log(2), atol=0.01)
    assert (found.khat < 0.5).all()
    assert (found.flag != "").all()
    assert (np.abs(found.second_opinion) < 0.7).all()
    climbed = quiet(two_modes(3.0), torch.zeros(30), num_samples=1000, tolerance=0.05)
    assert (climbed.flag == "").all()
    assert (np.abs(climbed.log_evidence / climbed.se) < 4.5).all()


def test_an_exact_guide_is_not_refuted():
    for seed in range(3):
        found = quiet(TRUTH.vae(), TRUTH.draw(200), num_samples=200, seed=seed)
        assert found.attrs["flagged"] == 0
        assert (np.abs(found.second_opinion - found.log_evidence) < 1e-6).all()


@pytest.mark.parametrize("shrink", [1.0, 1.2, 0.8])
def test_the_defence_does_not_cost_twice(shrink):
    """With a guide that is nearly right, as many draws in all give no error twice as large."""
    vae, x = TRUTH.vae(shrink=shrink), TRUTH.draw(50)
    plain = quiet(vae, x, num_samples=1000)
    both = quiet(vae, x, num_samples=1000, tolerance=10.0)
    assert (both.num_samples == 1000).all()
    assert both.se.mean() < math.sqrt(2) * plain.se.mean() + 1e-8


def test_control_variates_take_off_what_they_explain():
    """Against least squares by NumPy, in two parts as in one."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(400, 2, 3))
    weight = np.exp(0.1 * rng.normal(size=(400, 3))) + 0.3 * h[:, 0] - 0.2 * h[:, 1] + 3.0
    log_weight, controls = torch.as_tensor(np.log(weight)), torch.as_tensor(h)
    parts = [summed(controls[half], torch.exp(log_weight[half])) for half in halves(400)]
    totals = [torch.exp(log_weight[half]).sum(0) for half in halves(400)]
    sums = parts[0][0] + parts[1][0]
    explained = (parts[0][1] + parts[1][1]) / (totals[0] + totals[1])
    relative = weight / weight.mean(0)
    variance = torch.as_tensor(relative.var(0))
    factor, share = adjusted(sums, explained, torch.full((3,), 400.0), variance)
    for n in range(3):
        design = np.column_stack([np.ones(400), h[..., n]])
        fit, *_ = np.linalg.lstsq(design, relative[:, n], rcond=None)
        left = relative[:, n] - design @ fit
        assert float(factor[n]) == pytest.approx(fit[0])
        expected = left.var() / relative[:, n].var() * 399 / 397  # two slopes are fitted
        assert float(share[n]) == pytest.approx(expected)


def halves(num):
    return slice(0, num // 2), slice(num // 2, num)


def test_control_variates_of_no_use_change_nothing():
    weights = from_blocks([torch.randn(100, 4)], 1e-16)
    assert torch.equal(weights.log_evidence, weights.log_sum - math.log(100))
    nothing = unreached(3, 1e-16)
    assert nothing.log_evidence.isnan().all()
    assert nothing.se.isnan().all()
    assert nothing.khat.isnan().all()


def test_what_the_prior_bounds_needs_no_chains():
    """A gamma prior with its mass at 0, of which a normal guide sees little: the exact answer."""
    x = np.arange(0, 12)[:, None]
    make = lambda z: dist.Poisson(z, validate_args=False).to_event(1)  # noqa: E731
    prior = pv.Gamma((1,), concentration=0.3, rate=1.0)
    vae = pv.VAE(prior, Direct((1,), make), pv.Normal((1,), loc=0.0, scale=1.0))
    found = quiet(vae, x, num_samples=1000, tolerance=0.05)
    exact = stats.nbinom(0.3, 0.5).logpmf(x[:, 0])
    assert (found.flag == "").all()
    assert (np.abs(found.log_evidence - exact) < 4.5 * found.se).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_a_dirichlet_with_its_mass_at_the_edge(dtype):
    a, size, total = 0.3, 5, 12
    rng = np.random.default_rng(0)
    x = np.array([rng.multinomial(total, p) for p in rng.dirichlet([a] * size, 20)])
    each = special.gammaln(x + a) - special.gammaln(x + 1) - special.gammaln(a)
    exact = special.gammaln(total + 1) + special.gammaln(size * a) + each.sum(1)
    exact -= special.gammaln(total + size * a)
    make = lambda z: dist.Multinomial(total, z, validate_args=False)  # noqa: E731
    prior = pv.Dirichlet((size,), concentration=a)
    guide = pv.Normal((size - 1,), loc=0.0, scale=2.0)
    vae = pv.VAE(prior, Direct((size,), make), guide).to(dtype)
    found = quiet(vae, x, num_samples=500, tolerance=0.1, max_samples=5000)
    z = (found.log_evidence - exact) / found.se
    assert (found.flag == "").mean() > 0.9
    assert (np.abs(z)[(found.flag == "").values] < 4.5).all()


# what an estimate must survive


def test_one_datum_with_a_tolerance():
    x = TRUTH.draw(1)
    found = quiet(TRUTH.vae(shift=1.0), x, num_samples=200, tolerance=0.1)
    assert abs(found.log_evidence[0] - TRUTH.log_evidence(x)[0]) < 4.5 * found.se[0]


def half_seen():
    """A prior on all real numbers, a guide on the positive half: x is of z squared."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LogNormal(torch.zeros(()), 0.5))

    half = lambda v: integrate.quad(  # noqa: E731
        lambda z: stats.norm.pdf(z) * stats.norm.pdf(v, z * z, 0.5), 0, 8
    )[0]
    x = torch.tensor([1.0, 2.5, 0.3])
    return (model, guide), x, np.log([2 * half(float(v)) for v in x])


def test_a_guide_on_half_of_the_support_is_refuted():
    pair, x, exact = half_seen()
    found = quiet(pair, x, num_samples=2000)
    assert (found.flag != "").all()
    climbed = quiet(pair, x, num_samples=2000, tolerance=0.05)
    assert (climbed.flag == "").all()
    assert (np.abs(climbed.log_evidence - exact) < 4.5 * climbed.se).all()


def test_a_latent_on_a_circle():
    """Beyond pi its density repeats, and counts no more."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.VonMises(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(torch.cos(z), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.VonMises(torch.zeros(()), 0.5))

    x = torch.tensor([0.9, -0.5])
    exact = [
        math.log(
            integrate.quad(
                lambda z, v=float(v): (
                    stats.vonmises.pdf(z, 1.0) * stats.norm.pdf(v, np.cos(z), 0.5)
                ),
                -np.pi,
                np.pi,
            )[0]
        )
        for v in x.tolist()
    ]
    for tolerance in (None, 0.02):
        found = quiet((model, guide), x, num_samples=2000, tolerance=tolerance)
        assert (found.flag == "").all()
        assert (np.abs(found.log_evidence - exact) < 4.5 * found.se).all()


def test_a_single_precision_network_behind_a_positive_latent():
    network = torch.nn.Linear(1, 1).float()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(torch.full((), 2.0, dtype=torch.float32), 1.0))
            pyro.sample("x", dist.Normal(network(z[..., None])[..., 0], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LogNormal(torch.zeros((), dtype=torch.float32), 0.5))

    x = torch.tensor([0.5, 1.5], dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)

        with setting(torch.float32):
            found = pv.log_evidence((model, guide), x.numpy(), num_samples=200, tolerance=0.1)
    assert np.isfinite(found.log_evidence).all()


class Single(torch.nn.Module):
    """A decoder that computes in single precision whatever it is given, and cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.layer = torch.nn.Linear(2, 3).float()

    def forward(self, z):
        return self.layer(z.float())


def test_a_vae_that_has_no_double():

    with setting(torch.float32):
        prior = pv.Normal((2,), loc=0.0, scale=1.0)
        likelihood = pv.Amortised(Single(), pv.Normal((3,), scale=1.0))
        vae = pv.VAE(prior, likelihood, pv.Amortised(pv.MLP(3, 4), pv.Normal((2,)))).float()
        found = quiet(vae, np.zeros((4, 3)), num_samples=100)
    assert np.isfinite(found.log_evidence).all()


def test_draws_that_are_added_to_none_heal():
    """A first call that had no time is a first call of no draws."""
    vae, x = TRUTH.vae(shrink=1.2), TRUTH.draw(130)
    first = quiet(vae, x, num_samples=200, max_seconds=1e-9)
    assert (first.num_samples[64:] == 0).all()
    both = quiet(vae, x, num_samples=200, more=first)
    assert (both.num_samples[64:] == 200).all()
    assert both.attrs["flagged"] == 0
    assert (np.abs(both.log_evidence - TRUTH.log_evidence(x)) < 4.75 * both.se).all()


def test_a_few_more_draws_clear_no_flag():
    vae, x = TRUTH.vae(shrink=0.2), TRUTH.draw(10)
    first = quiet(vae, x, num_samples=500)
    assert first.attrs["flagged"] == 10
    assert quiet(vae, x, num_samples=10, more=first).attrs["flagged"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [25, 50])
def test_errors_of_few_draws_are_errors(num_samples):
    vae, x = TRUTH.vae(shrink=0.8, shift=0.3), TRUTH.draw(400)
    exact, far = TRUTH.log_evidence(x), []
    for seed in range(4):
        found = quiet(vae, x, num_samples=num_samples, tolerance=10.0, seed=seed)
        error = np.abs(found.log_evidence - exact)
        far.append(int(((error > 4 * found.se) & (error > 0.05)).sum()))
    assert np.mean(far) <= 2, far
