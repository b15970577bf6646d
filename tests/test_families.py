"""Every family's log density against scipy, at points that hypothesis draws."""

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

import pyro_vae as pv
from pyro_vae import distributions as dists

real = st.floats(-20, 20)
positive = st.floats(0.05, 20)
logit = st.floats(-8, 8)
quantile = st.floats(0.001, 0.999)


def zero_inflated(count, total_count, logits, gate_logits):
    base = stats.nbinom(total_count, special.expit(-logits))
    gate = special.expit(gate_logits)
    return np.logaddexp(
        np.log(gate) if count == 0 else -np.inf, np.log1p(-gate) + base.logpmf(count)
    )


def continuous_bernoulli(x, logits):
    """The normalising constant by quadrature, as nothing in scipy knows this family."""
    normaliser, _ = integrate.quad(lambda t: np.exp(t * logits), 0, 1, epsabs=0, epsrel=1e-11)
    return x * logits - np.log(normaliser)


# name: (parameters, the same distribution by scipy); the point x is a quantile of it
QUANTILE_FAMILIES = {
    "normal": ({"loc": real, "scale": positive}, lambda loc, scale: stats.norm(loc, scale)),
    "laplace": ({"loc": real, "scale": positive}, lambda loc, scale: stats.laplace(loc, scale)),
    "student_t": (
        {"df": st.floats(0.5, 30), "loc": real, "scale": positive},
        lambda df, loc, scale: stats.t(df, loc, scale),
    ),
    "logistic": ({"loc": real, "scale": positive}, lambda loc, scale: stats.logistic(loc, scale)),
    "log_normal": (
        {"loc": st.floats(-3, 3), "scale": st.floats(0.1, 3)},
        lambda loc, scale: stats.lognorm(scale, scale=np.exp(loc)),
    ),
    "gamma": (
        {"concentration": st.floats(0.3, 20), "rate": positive},
        lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
    ),
    "beta": (
        {"concentration1": st.floats(0.3, 20), "concentration0": st.floats(0.3, 20)},
        lambda concentration1, concentration0: stats.beta(concentration1, concentration0),
    ),
    "uniform": (
        {"low": st.floats(-20, 0), "high": st.floats(0.1, 20)},
        lambda low, high: stats.uniform(low, high - low),
    ),
    "truncated_normal": (
        {"loc": real, "scale": positive, "low": st.floats(-20, 0), "high": st.floats(0.1, 20)},
        lambda loc, scale, low, high: stats.truncnorm(
            (low - loc) / scale, (high - loc) / scale, loc=loc, scale=scale
        ),
    ),
    "von_mises": (
        {"loc": st.just(0.0), "concentration": positive},
        lambda loc, concentration: stats.vonmises(concentration, loc),
    ),
    "bernoulli": ({"logits": logit}, lambda logits: stats.bernoulli(special.expit(logits))),
    "binomial": (
        {"total_count": st.integers(1, 50), "logits": logit},
        lambda total_count, logits: stats.binom(total_count, special.expit(logits)),
    ),
    "exponential": ({"rate": positive}, lambda rate: stats.expon(scale=1 / rate)),
    "half_normal": ({"scale": positive}, lambda scale: stats.halfnorm(scale=scale)),
    "half_cauchy": ({"scale": positive}, lambda scale: stats.halfcauchy(scale=scale)),
    "beta_binomial": (
        {"total_count": st.integers(1, 50), "concentration1": positive, "concentration0": positive},
        lambda total_count, concentration1, concentration0: stats.betabinom(
            total_count, concentration1, concentration0
        ),
    ),
    "poisson": ({"rate": st.floats(0.01, 200)}, lambda rate: stats.poisson(rate)),
    "negative_binomial": (
        {"total_count": st.floats(0.1, 20), "logits": st.floats(-5, 3)},
        lambda total_count, logits: stats.nbinom(total_count, special.expit(-logits)),
    ),
}


def log_prob(name, x, **parameters):
    head = pv.Conditional.registry[name]((), **parameters)
    return float(head().log_prob(torch.as_tensor(x, dtype=torch.float64)))


@pytest.mark.parametrize("name", QUANTILE_FAMILIES)
@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data())
def test_log_density_equals_scipy(name, data):
    strategies, scipy_family = QUANTILE_FAMILIES[name]
    parameters = {key: data.draw(strategy, label=key) for key, strategy in strategies.items()}
    reference = scipy_family(**parameters)
    x = float(reference.ppf(data.draw(quantile, label="quantile")))
    discrete = hasattr(reference, "logpmf") and hasattr(reference.dist, "pmf")
    expected = reference.logpmf(x) if discrete else reference.logpdf(x)
    np.testing.assert_allclose(log_prob(name, x, **parameters), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("h", [-60.0, -20.0, 0.0, 20.0, 60.0])
def test_bernoulli_is_exact_where_it_is_almost_certain(h):
    head = pv.Bernoulli((2,), logits=h)()
    actual = head.base_dist.log_prob(torch.tensor([0.0, 1.0])).numpy()
    np.testing.assert_allclose(actual, special.log_expit([-h, h]), rtol=1e-6)


def test_bernoulli_takes_bytes():
    head = pv.Bernoulli((2,), logits=-3.0)()
    bits = torch.tensor([0, 1], dtype=torch.uint8)
    torch.testing.assert_close(head.log_prob(bits), head.log_prob(bits.double()))


def test_a_normal_far_from_its_mean_has_a_density_in_single_precision():
    actual = dists.Normal(torch.tensor(0.0), torch.tensor(1e-20)).log_prob(torch.tensor(1e-5))
    np.testing.assert_allclose(actual, stats.norm(0, 1e-20).logpdf(1e-5), rtol=1e-5)


def test_a_draw_of_a_normal_comes_with_its_density_and_the_gradient_of_both():
    """Against Pyro's normal, which goes by way of the draw."""
    pieces = []
    for family in (dists.Normal, pyro.distributions.Normal):
        loc = torch.linspace(-2.0, 2.0, 5, dtype=torch.float64, requires_grad=True)
        scale = torch.linspace(0.1, 3.0, 5, dtype=torch.float64, requires_grad=True)
        normal = family(loc.expand(3, 5), scale.expand(3, 5))
        torch.manual_seed(0)
        if family is dists.Normal:
            z, log_prob = normal.rsample_and_log_prob()
        else:
            z = normal.rsample()
            log_prob = normal.log_prob(z)
        gradients = torch.autograd.grad((2 * log_prob + z.sin()).sum(), (loc, scale))
        pieces.append((z, log_prob, *gradients))
    for ours, theirs in zip(*pieces, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(x=st.floats(0, 1), logits=logit)
def test_continuous_bernoulli_equals_quadrature(x, logits):
    actual = log_prob("continuous_bernoulli", x, logits=logits)
    np.testing.assert_allclose(actual, continuous_bernoulli(x, logits), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    count=st.integers(0, 60),
    total_count=st.floats(0.1, 20),
    logits=st.floats(-5, 3),
    gate_logits=st.floats(-5, 5),
)
def test_zero_inflated_negative_binomial_equals_scipy(count, total_count, logits, gate_logits):
    parameters = {"total_count": total_count, "logits": logits, "gate_logits": gate_logits}
    actual = log_prob("zero_inflated_negative_binomial", count, **parameters)
    np.testing.assert_allclose(actual, zero_inflated(count, **parameters), rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    concentration=st.lists(st.floats(0.3, 20), min_size=2, max_size=5), seed=st.integers(0, 2**20)
)
def test_dirichlet_equals_scipy(concentration, seed):
    x = np.random.default_rng(seed).dirichlet(np.add(concentration, 1.0))
    x = x / x.sum()
    head = pv.Dirichlet((len(concentration),), concentration=concentration)
    expected = stats.dirichlet(concentration).logpdf(x)
    np.testing.assert_allclose(
        float(head().log_prob(torch.as_tensor(x))), expected, rtol=1e-6, atol=1e-9
    )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(logits=st.lists(logit, min_size=2, max_size=6), data=st.data())
def test_categorical_equals_softmax(logits, data):
    x = data.draw(st.integers(0, len(logits) - 1))
    head = pv.Categorical((), categories=len(logits), logits=logits)
    actual = float(head().log_prob(torch.tensor(float(x))))
    np.testing.assert_allclose(actual, special.log_softmax(logits)[x], rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(count=st.integers(0, 60), rate=st.floats(0.01, 50), gate_logits=st.floats(-5, 5))
def test_zero_inflated_poisson_equals_scipy(count, rate, gate_logits):
    gate = special.expit(gate_logits)
    expected = np.logaddexp(
        np.log(gate) if count == 0 else -np.inf, np.log1p(-gate) + stats.poisson(rate).logpmf(count)
    )
    actual = log_prob("zero_inflated_poisson", count, rate=rate, gate_logits=gate_logits)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    predictor=st.floats(-5, 5),
    first=st.floats(-5, 5),
    gaps=st.lists(st.floats(0.1, 5), max_size=4),
    quantile=quantile,
)
def test_ordinal_equals_differences_of_scipys_logistic(predictor, first, gaps, quantile):
    cutpoints = first + np.cumsum([0.0, *gaps])
    edges = np.concatenate([[0.0], stats.logistic.cdf(cutpoints - predictor), [1.0]])
    x = min(int(quantile * (len(cutpoints) + 1)), len(cutpoints))
    head = pv.Ordinal((), categories=len(cutpoints) + 1, predictor=predictor, cutpoints=cutpoints)
    np.testing.assert_allclose(
        float(head().log_prob(torch.tensor(float(x)))), np.log(np.diff(edges)[x]), rtol=1e-6
    )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(x=st.integers(0, 255), loc=st.floats(-1.2, 1.2), scale=st.floats(0.01, 3))
def test_discretized_logistic_equals_differences_of_scipys_logistic(x, loc, scale):
    lower, upper = ((2 * edge / 255 - 1 - loc) / scale for edge in (x - 0.5, x + 0.5))
    log_upper = 0.0 if x == 255 else stats.logistic.logcdf(upper)
    log_lower = -np.inf if x == 0 else stats.logistic.logcdf(lower)
    flipped = (
        stats.logistic.logcdf(-lower) if x else 0.0,
        stats.logistic.logcdf(-upper) if x < 255 else -np.inf,
    )
    larger, smaller = (log_upper, log_lower) if upper < 0 else flipped
    expected = larger + np.log1p(-np.exp(smaller - larger))
    actual = log_prob("discretized_logistic", x, loc=loc, scale=scale, levels=256.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, derandomize=True)
@given(z=st.floats(-30, 30).filter(lambda z: abs(z) > 1e-3), scale=positive)
def test_horseshoe_like_equals_its_scale_mixture(z, scale):
    """A Cauchy whose scale is uniform on (0, scale), by quadrature."""
    expected, _ = integrate.quad(
        lambda u: stats.cauchy(0, scale * u).pdf(z), 0, 1, epsabs=0, epsrel=1e-9, limit=500
    )
    np.testing.assert_allclose(
        log_prob("horseshoe_like", z, scale=scale), np.log(expected), rtol=1e-6, atol=1e-7
    )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(counts=st.lists(st.integers(0, 20), min_size=2, max_size=6), data=st.data())
def test_multinomial_equals_scipy(counts, data):
    logits = data.draw(st.lists(st.floats(-4, 4), min_size=len(counts), max_size=len(counts)))
    head = pv.Multinomial((len(counts),), total_count=7, logits=logits)
    expected = stats.multinomial(sum(counts), special.softmax(logits)).logpmf(counts)
    np.testing.assert_allclose(
        float(head().log_prob(torch.tensor(counts).double())), expected, rtol=1e-6, atol=1e-9
    )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(logits=st.lists(logit, min_size=2, max_size=6), data=st.data())
def test_one_hot_equals_softmax(logits, data):
    j = data.draw(st.integers(0, len(logits) - 1))
    actual = pv.OneHot((len(logits),), logits=logits)().log_prob(
        torch.eye(len(logits), dtype=torch.float64)[j]
    )
    np.testing.assert_allclose(float(actual), special.log_softmax(logits)[j], rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(seed=st.integers(0, 2**20), size=st.integers(1, 5), rank=st.integers(1, 3))
def test_multivariate_normals_equal_scipy(seed, size, rank):
    rng = np.random.default_rng(seed)
    loc, x = rng.normal(size=(2, size))
    factor, diagonal = rng.normal(size=(size, rank)), rng.gamma(2, 1, size)
    covariance = factor @ factor.T + np.diag(diagonal)
    expected = stats.multivariate_normal(loc, covariance).logpdf(x)
    low_rank = pv.LowRankNormal((size,), rank=rank, loc=loc, cov_factor=factor, cov_diag=diagonal)
    full = pv.MultivariateNormal((size,), loc=loc, scale_tril=np.linalg.cholesky(covariance))
    for head in (low_rank, full):
        np.testing.assert_allclose(
            float(head().log_prob(torch.as_tensor(x))), expected, rtol=1e-6, atol=1e-9
        )


def test_a_full_normal_with_sharp_directions_scores_its_draws_in_single_precision():
    """A decoder makes posteriors a thousand times narrower in one direction than in another."""
    torch.manual_seed(0)
    head, context = pv.MultivariateNormal((8,)), torch.randn(500, 44)
    context[:, 8:][:, [0, 5, 20, 35]] -= 7.0  # some elements on the diagonal
    single, double = head(context.float()), head(context)
    z = single.sample()
    torch.testing.assert_close(
        single.log_prob(z).double(), double.log_prob(z.double()), atol=0.05, rtol=0.01
    )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(seed=st.integers(0, 2**20), size=st.integers(2, 6))
def test_logistic_normal_equals_a_normal_of_log_ratios(seed, size):
    """By change of variables to log-ratios of sticks: u_i = log(x_i / rest_i) + log(remaining)."""
    rng = np.random.default_rng(seed)
    loc, scale, x = (
        rng.normal(size=size - 1),
        rng.gamma(2, 1, size - 1),
        rng.dirichlet(np.full(size, 2.0)),
    )
    rest = 1 - np.cumsum(x)[:-1]
    before = np.concatenate([[1.0], rest[:-1]])
    u = np.log(x[:-1] / rest) + np.log(np.arange(size - 1, 0, -1))
    log_abs_det = np.log(before / (x[:-1] * rest))
    expected = (stats.norm(loc, scale).logpdf(u) + log_abs_det).sum()
    actual = pv.LogisticNormal((size,), loc=loc, scale=scale)().log_prob(torch.as_tensor(x))
    np.testing.assert_allclose(float(actual), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("total", [[10.0, 20.0], 2.5])
def test_a_multinomial_draws_one_whole_number_of_words(total):
    with pytest.raises(
        ValueError, match="Multinomial needs total_count as one whole number for all draws; got"
    ):
        pv.Multinomial((2, 5), total_count=total, logits=0.0)()


@pytest.mark.parametrize(
    "name", ["multivariate_normal", "logistic_normal", "von_mises_fisher", "uniform_sphere"]
)
def test_a_family_of_vectors_needs_vectors(name):
    with pytest.raises(ValueError, match=r"needs vectors; got single numbers, of event shape \(\)"):
        pv.Conditional.registry[name](())


def test_a_composition_with_tiny_parts_has_its_density():
    """The change of variables by hand, in exact arithmetic of logarithms: u = log(x_i / what is
    left) + log(places).
    """
    x = np.array([0.6, 0.4 - 2e-20, 1e-20, 1e-20])
    left = np.array([0.4, 2e-20, 1e-20])  # after each break
    u = np.log(x[:3]) - np.log(left) + np.log([3, 2, 1])
    log_abs_det = -(np.log(x[:3]) + np.log(left) - np.log([1.0, 0.4, 2e-20])).sum()
    expected = stats.norm(0, 6).logpdf(u).sum() + log_abs_det
    head = pv.LogisticNormal((4,), loc=0.0, scale=6.0)
    np.testing.assert_allclose(float(head().log_prob(torch.as_tensor(x))), expected, rtol=1e-10)
    assert head().expand([7]).log_prob(torch.as_tensor(x)).shape == (7,)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(seed=st.integers(0, 2**20), size=st.integers(2, 12), concentration=st.floats(1e-4, 200))
def test_von_mises_fisher_equals_scipy(seed, size, concentration):
    rng = np.random.default_rng(seed)
    mu, x = (v / np.linalg.norm(v) for v in rng.normal(size=(2, size)))
    expected = stats.vonmises_fisher(mu, concentration).logpdf(x)
    head = pv.VonMisesFisher((size,), loc=3 * mu, concentration=concentration)
    np.testing.assert_allclose(
        float(head().log_prob(torch.as_tensor(x))), expected, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("size", [2, 3, 10, 100])
def test_von_mises_fisher_is_exact_for_any_concentration(size):
    """Against scipy's scaled Bessel function, from nearly uniform to nearly a point."""
    order = size / 2 - 1
    concentration = np.logspace(-3, 6, 200)
    log_bessel = np.log(special.ive(order, concentration)) + concentration
    known = np.isfinite(log_bessel)  # scipy's is 0 where the order is high and the argument small
    log_normaliser = size / 2 * np.log(2 * np.pi) - order * np.log(concentration) + log_bessel
    loc = torch.eye(size)[0].expand(200, size)
    head = pv.VonMisesFisher((200, size), loc=loc, concentration=torch.as_tensor(concentration))
    actual = head().base_dist.log_prob(loc).numpy()
    expected = concentration - log_normaliser
    np.testing.assert_allclose(actual[known], expected[known], rtol=1e-9, atol=1e-9)
    assert known.sum() > 100


def test_the_gradient_of_von_mises_fisher_is_that_of_the_bessel_function():
    concentration = torch.logspace(-2, 5, 100, requires_grad=True)
    loc = torch.eye(3)[0].expand(100, 3)
    built = dists.VonMisesFisher(loc, concentration)
    (actual,) = torch.autograd.grad(built.log_prob(loc).sum(), concentration)
    kappa = concentration.detach().numpy()
    expected = 1 - (1 / np.tanh(kappa) - 1 / kappa)  # 1 - E height, in three dimensions
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-9)


def test_levels_may_differ_between_elements():
    head = pv.DiscretizedLogistic((2,), loc=0.0, scale=1.0, levels=[4, 16])
    inside = head.support.base_constraint.check(torch.tensor([[3.0, 15.0], [4.0, 16.0]]))
    assert inside.tolist() == [[True, True], [False, False]]
    mixture = pv.Mixture(
        (2,), components=3, component={"name": "discretized_logistic", "levels": [4, 16]}
    )
    built = mixture(torch.zeros(mixture.num_params))
    assert built.support.base_constraint.upper_bound.tolist() == [3, 15]


@pytest.mark.parametrize("size", [2, 3, 10])
def test_uniform_sphere_is_one_over_the_surface(size):
    surface = 2 * np.pi ** (size / 2) / special.gamma(size / 2)
    x = pv.UniformSphere((size,))().sample()
    np.testing.assert_allclose(
        float(pv.UniformSphere((size,))().log_prob(x)), -np.log(surface), rtol=1e-9
    )


def test_every_family_is_compared():
    apart = {
        "continuous_bernoulli",
        "zero_inflated_negative_binomial",
        "zero_inflated_poisson",
        "dirichlet",
    }
    apart |= {
        "categorical",
        "one_hot",
        "ordinal",
        "discretized_logistic",
        "horseshoe_like",
        "multinomial",
    }
    apart |= {
        "multivariate_normal",
        "low_rank_normal",
        "logistic_normal",
        "von_mises_fisher",
        "uniform_sphere",
    }
    apart |= {  # in test_atoms
        "zero_inflated_gamma",
        "zero_inflated_log_normal",
        "hurdle_poisson",
        "hurdle_negative_binomial",
        "tweedie",
        "censored_normal",
        "ordered_beta",
    }
    assert set(QUANTILE_FAMILIES) | apart == {
        n for n, c in pv.Conditional.registry.items() if issubclass(c, pv.Parametric)
    }


@pytest.mark.parametrize("total", [1, 3])
def test_counts_sum_to_one(total):
    counts = torch.arange(3000.0)[:, None]
    for head in (
        pv.Poisson((1,), rate=3.0),
        pv.NegativeBinomial((1,), total_count=total, logits=1.0),
        pv.ZeroInflatedNegativeBinomial((1,), total_count=total, logits=1.0, gate_logits=0.3),
    ):
        torch.testing.assert_close(
            head().log_prob(counts).logsumexp(0), torch.tensor(0.0), atol=1e-10, rtol=0
        )
