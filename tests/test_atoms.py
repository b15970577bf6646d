"""Distributions with atoms, limits, or over a turn, against scipy, quadrature and closed forms."""

import math

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

import pyro_vae as pv
from pyro_vae import distributions as dists
from pyro_vae.distributions.supports import bijection_to

INF = math.inf
P_VALUE = 1e-4
many = settings(deadline=None, max_examples=200, derandomize=True)
real, positive, logit = st.floats(-20, 20), st.floats(0.05, 20), st.floats(-8, 8)


def built(name, **parameters):
    """The distribution of one number."""
    return pv.Conditional.registry[name]((), **parameters)()


def log_prob(name, x, **parameters):
    return built(name, **parameters).log_prob(torch.as_tensor(x, dtype=torch.float64)).numpy()


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-9)


def draws(name, num=20_000, **parameters):
    torch.manual_seed(0)
    return built(name, **parameters).sample((num,)).numpy()


# ----- zero, or a number above zero


@many
@given(
    x=st.floats(1e-6, 50), concentration=st.floats(0.3, 20), rate=positive, gate=st.floats(-40, 40)
)
def test_zero_inflated_gamma_is_two_pieces(x, concentration, rate, gate):
    given = {"concentration": concentration, "rate": rate, "gate_logits": gate}
    above = stats.gamma(concentration, scale=1 / rate).logpdf(x)
    expected = [special.log_expit(gate), special.log_expit(-gate) + above]
    close(log_prob("zero_inflated_gamma", [0.0, x], **given), expected)


@many
@given(x=st.floats(1e-6, 50), loc=st.floats(-3, 3), scale=st.floats(0.1, 3), gate=logit)
def test_zero_inflated_log_normal_is_two_pieces(x, loc, scale, gate):
    given = {"loc": loc, "scale": scale, "gate_logits": gate}
    above = stats.lognorm(scale, scale=np.exp(loc)).logpdf(x)
    expected = [special.log_expit(gate), special.log_expit(-gate) + above]
    close(log_prob("zero_inflated_log_normal", [0.0, x], **given), expected)


@many
@given(count=st.integers(1, 60), rate=st.floats(1e-3, 50), gate=logit)
def test_hurdle_poisson_equals_scipy(count, rate, gate):
    base = stats.poisson(rate)
    above = base.logpmf(count) - np.log(-np.expm1(-rate)) + special.log_expit(-gate)
    actual = log_prob("hurdle_poisson", [0, count], rate=rate, gate_logits=gate)
    close(actual, [special.log_expit(gate), above])


@many
@given(count=st.integers(1, 60), total=st.floats(0.05, 20), logits=st.floats(-5, 3), gate=logit)
def test_hurdle_negative_binomial_equals_scipy(count, total, logits, gate):
    base = stats.nbinom(total, special.expit(-logits))
    log_some = np.log(-np.expm1(total * special.log_expit(-logits)))
    above = base.logpmf(count) - log_some + special.log_expit(-gate)
    given = {"total_count": total, "logits": logits, "gate_logits": gate}
    close(
        log_prob("hurdle_negative_binomial", [0, count], **given), [special.log_expit(gate), above]
    )


def test_counts_above_zero_have_a_limit_where_they_are_rare():
    """A Poisson given that it is not zero is then 1; a negative binomial logarithmic, or 1."""
    share = np.log1p(-special.expit(0.3))
    close(log_prob("hurdle_poisson", [1.0], rate=1e-300, gate_logits=0.3), share)
    given = {"total_count": 2.0, "logits": -800.0, "gate_logits": 0.3}
    close(log_prob("hurdle_negative_binomial", [1.0], **given), share)
    given = {"total_count": 1e-12, "logits": 1.0, "gate_logits": 0.3}
    expected = stats.logser(special.expit(1.0)).logpmf([1, 2, 9]) + share
    close(log_prob("hurdle_negative_binomial", [1.0, 2.0, 9.0], **given), expected)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("hurdle_poisson", {"rate": 0.02}),
        ("hurdle_poisson", {"rate": 3.0}),
        ("hurdle_poisson", {"rate": 200.0}),
        ("hurdle_negative_binomial", {"total_count": 0.3, "logits": -3.0}),
        ("hurdle_negative_binomial", {"total_count": 0.3, "logits": 3.0}),
        ("hurdle_negative_binomial", {"total_count": 8.0, "logits": 1.0}),
    ],
)
def test_hurdle_counts_sum_to_one_and_draws_follow(name, given):
    counts = np.arange(3000.0)
    probs = np.exp(log_prob(name, counts, gate_logits=-0.5, **given))
    close(probs.sum(), 1.0)
    head = built(name, gate_logits=-0.5, **given)
    close(float(head.mean), probs @ counts)
    close(float(head.variance), probs @ counts**2 - (probs @ counts) ** 2)
    drawn = np.bincount(draws(name, gate_logits=-0.5, **given).astype(int), minlength=3000)
    common = probs * 20_000 > 10
    observed = np.append(drawn[common], drawn[~common].sum())
    expected = 20_000 * np.append(probs[common], 1 - probs[common].sum())
    known = expected > 1e-3
    assert stats.chisquare(observed[known], expected[known], sum_check=False).pvalue > P_VALUE


# ----- Tweedie


def convolution(x, mean, dispersion, power, terms=20_000):
    """The sum over Poisson counts of gamma densities."""
    rate = mean ** (2 - power) / (dispersion * (2 - power))
    concentration = (2 - power) / (power - 1)
    scale = dispersion * (power - 1) * mean ** (power - 1)
    n = np.arange(1, terms)
    each = stats.poisson(rate).logpmf(n) + stats.gamma(n * concentration, scale=scale).logpdf(x)
    return special.logsumexp(each)


@many
@given(
    log_mean=st.floats(-2, 3),
    log_dispersion=st.floats(-1, 1.5),
    power=st.floats(1.01, 1.99),
    log_x=st.floats(-4, 0.7),
)
def test_tweedie_equals_the_sum_over_counts(log_mean, log_dispersion, power, log_x):
    given = {"mean": 10**log_mean, "dispersion": 10**log_dispersion, "power": power}
    x = given["mean"] * 10**log_x
    close(log_prob("tweedie", x, **given), convolution(x, **given))
    rate = given["mean"] ** (2 - power) / (given["dispersion"] * (2 - power))
    close(log_prob("tweedie", 0.0, **given), -rate)


@pytest.mark.parametrize("power", [1.1, 1.5, 1.9])
@pytest.mark.parametrize("dispersion", [0.3, 4.0])
def test_tweedie_has_its_mass_mean_and_variance(power, dispersion):
    given = {"mean": 2.0, "dispersion": dispersion, "power": power}
    t = np.linspace(-140.0, np.log(400.0), 30_001)  # x = exp(t)
    density = np.exp(log_prob("tweedie", np.exp(t), **given) + t)
    zero = np.exp(log_prob("tweedie", 0.0, **given))
    mass, mean, square = (
        integrate.simpson(density * np.exp(order * t), x=t) for order in (0, 1, 2)
    )
    head = built("tweedie", **given)
    np.testing.assert_allclose(zero + mass, 1.0, rtol=1e-6)
    np.testing.assert_allclose([mean, float(head.mean)], 2.0, rtol=1e-6)
    expected = dispersion * 2.0**power
    np.testing.assert_allclose([square - 4.0, float(head.variance)], expected, rtol=1e-6)


@pytest.mark.parametrize("power", [1.05, 1.5, 1.8])
def test_draws_of_tweedie_follow_the_sum_over_counts(power):
    x = draws("tweedie", mean=3.0, dispersion=2.0, power=power)
    rate = 3.0 ** (2 - power) / (2.0 * (2 - power))
    scale, n = 2.0 * (power - 1) * 3.0 ** (power - 1), np.arange(1, 100)
    zeros = (x == 0).sum()
    assert stats.binomtest(int(zeros), len(x), np.exp(-rate)).pvalue > P_VALUE

    weights = stats.poisson(rate).pmf(n) / -np.expm1(-rate)
    concentrations = n * (2 - power) / (power - 1)

    def cdf(values):
        return weights @ stats.gamma(concentrations[:, None], scale=scale).cdf(values)

    assert stats.kstest(x[x > 0], cdf).pvalue > P_VALUE


@pytest.mark.parametrize("x", [0.0, 1e-3, 2.0, 3e3, 1e5])
def test_the_gradient_of_tweedie_is_that_of_its_density(x):
    """Where the series is over all n, and where it is over some."""
    given = tuple(torch.tensor(v, requires_grad=True) for v in (2e3, 0.7, 1.6))

    def density(mean, dispersion, power):
        parts = {"mean": mean, "dispersion": dispersion, "power": power}
        return dists.Tweedie(**parts).log_prob(torch.tensor(x))

    torch.autograd.gradcheck(density, given, eps=1e-6, atol=1e-5, rtol=1e-5)


# ----- limits

LIMITS = [(0.0, INF), (-INF, 1.0), (-1.0, 2.0), (0.0, 0.01), (-INF, INF)]


@pytest.mark.parametrize(("low", "high"), LIMITS)
@pytest.mark.parametrize("loc", [-1e4, -300.0, -40.0, -3.0, 0.0, 0.5, 3.0, 40.0, 1e4])
def test_a_truncated_normal_equals_scipy(low, high, loc):
    reference = stats.truncnorm(low - loc, high - loc, loc=loc)
    if low == -INF or high == INF:
        x = np.clip([loc - 2, loc, loc + 3, 0.5], low, high)
    else:
        x = low + (high - low) * np.array([0.0, 1e-3, 0.5, 1.0])
    given = {"loc": loc, "scale": 1.0, "low": low, "high": high}
    np.testing.assert_allclose(
        log_prob("truncated_normal", x, **given), reference.logpdf(x), rtol=1e-8, atol=1e-7
    )


@pytest.mark.parametrize("loc", [-1e6, -1e3, -40.0])
def test_a_normal_cut_far_in_its_tail_is_exponential(loc):
    """With the rate -loc, up to terms in 1 / loc²; its cdf and its mean in closed form."""
    given = {"loc": loc, "scale": 1.0, "low": 0.0, "high": INF}
    x = np.array([0.0, 1.0, 5.0]) / -loc
    expected = stats.expon(scale=-1 / loc).logpdf(x)
    np.testing.assert_allclose(log_prob("truncated_normal", x, **given), expected, atol=40 / loc**2)
    mean = float(built("truncated_normal", **given).mean)
    np.testing.assert_allclose(mean, -1 / loc, rtol=3 / loc**2 + 4e-16 * loc**2)
    drawn = draws("truncated_normal", **given)
    mills = special.log_ndtr(loc)

    def cdf(value):
        return -np.expm1(special.log_ndtr(loc - value) - mills)

    assert stats.kstest(drawn, cdf).pvalue > P_VALUE


@pytest.mark.parametrize(("low", "high"), LIMITS)
@pytest.mark.parametrize("loc", [-8.0, -1.0, 0.3, 9.0])
def test_draws_and_mean_of_a_truncated_normal(low, high, loc):
    reference = stats.truncnorm((low - loc) / 2, (high - loc) / 2, loc=loc, scale=2)
    given = {"loc": loc, "scale": 2.0, "low": low, "high": high}
    head = built("truncated_normal", **given)
    np.testing.assert_allclose(float(head.mean), reference.mean(), rtol=1e-7)
    drawn = draws("truncated_normal", **given)
    assert ((low <= drawn) & (drawn <= high)).all()
    assert stats.kstest(drawn, reference.cdf).pvalue > P_VALUE


@many
@given(loc=real, scale=positive, low=st.floats(-20, 0), width=st.floats(0.1, 40))
def test_a_censored_normal_has_the_tails_at_its_limits(loc, scale, low, width):
    high = low + width
    given = {"loc": loc, "scale": scale, "low": low, "high": high}
    x, normal = low + 0.3 * width, stats.norm(loc, scale)
    expected = [normal.logcdf(low), normal.logpdf(x), normal.logsf(high)]
    close(log_prob("censored_normal", [low, x, high], **given), expected)
    a, b = (low - loc) / scale, (high - loc) / scale
    within = special.ndtr(b) - special.ndtr(a)
    inner = loc * within + scale * (stats.norm.pdf(a) - stats.norm.pdf(b))
    mean = inner + low * special.ndtr(a) + high * special.ndtr(-b)
    np.testing.assert_allclose(float(built("censored_normal", **given).mean), mean, atol=1e-9)


@pytest.mark.parametrize("loc", [-1e4, -50.0, 50.0, 1e4])
def test_censored_normals_in_their_far_tails(loc):
    given = {"loc": loc, "scale": 1.0}
    close(log_prob("censored_normal", 0.0, low=0.0, high=INF, **given), special.log_ndtr(-loc))
    close(log_prob("censored_normal", 0.0, low=-INF, high=0.0, **given), special.log_ndtr(loc))
    mean = float(built("censored_normal", low=0.0, high=INF, **given).mean)
    close(mean, max(loc, 0.0))


def test_without_limits_both_are_the_normal():
    x = np.linspace(-4, 4, 9)
    for name in ("truncated_normal", "censored_normal"):
        actual = log_prob(name, x, loc=0.3, scale=1.5, low=-INF, high=INF)
        close(actual, stats.norm(0.3, 1.5).logpdf(x))


@pytest.mark.parametrize(("low", "high"), [*LIMITS, (-np.pi, np.pi)])
def test_latents_between_limits_have_their_mass_in_unconstrained_space(low, high):
    """There the density of a prior is that of the latent times the slope of the map."""
    given = {"loc": 0.4, "scale": 1.0, "low": low, "high": high}
    prior = built("truncated_normal", **given)
    if high == np.pi:
        prior = built("von_mises", loc=0.4, concentration=2.0)
    bijection = bijection_to(prior.support)
    u = torch.linspace(-30.0, 30.0, 20_001)
    z = bijection(u)
    density = prior.log_prob(z) + bijection.log_abs_det_jacobian(u, z)
    close(integrate.simpson(density.exp().numpy(), x=u.numpy()), 1.0)


# ----- shares


@many
@given(
    x=st.floats(1e-6, 1 - 1e-6),
    predictor=logit,
    concentration=st.floats(0.1, 50),
    lower=st.floats(-5, 5),
    gap=st.floats(1e-3, 8),
)
def test_ordered_beta_is_three_pieces(x, predictor, concentration, lower, gap):
    cuts = [lower, lower + gap]
    given = {"predictor": predictor, "concentration": concentration, "cutpoints": cuts}
    zero, one = special.expit(lower - predictor), special.expit(predictor - cuts[1])
    share = special.expit(predictor)
    beta = stats.beta(concentration * share, concentration * (1 - share))
    between = special.expit(predictor - lower) * special.expit(cuts[1] - predictor)
    log_between = np.log(between * -np.expm1(-gap))
    expected = [np.log(zero), log_between + beta.logpdf(x), np.log(one)]
    np.testing.assert_allclose(
        log_prob("ordered_beta", [0.0, x, 1.0], **given), expected, rtol=1e-7, atol=1e-8
    )
    head, inner = built("ordered_beta", **given), np.exp(log_between)
    mean = one + inner * share
    close(float(head.mean), mean)
    close(float(head.variance), one + inner * (beta.var() + share**2) - mean**2)


def test_one_cut_point_is_a_symmetric_pair():
    head = pv.OrderedBeta((3,), cutpoints=1.5)
    assert head.cutpoints.tolist() == [[-1.5, 1.5]] * 3
    with pytest.raises(ValueError, match="cutpoints in OrderedVector"):
        pv.OrderedBeta((), cutpoints=[1.0, 0.0])


# ----- angles


@many
@given(x=st.floats(-3.14, 3.14), loc=real, log_concentration=st.floats(-3, 6))
def test_von_mises_equals_scipy(x, loc, log_concentration):
    kappa = 10**log_concentration
    expected = stats.vonmises(kappa).logpdf(x - loc)
    actual = log_prob("von_mises", x, loc=loc, concentration=kappa)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("loc", "kappa"), [(0.0, 0.1), (3.0, 5.0), (-9.0, 300.0)])
def test_draws_of_von_mises(loc, kappa):
    drawn = draws("von_mises", loc=loc, concentration=kappa)
    assert (np.abs(drawn) <= np.pi).all()
    centred = np.angle(np.exp(1j * (drawn - loc)))
    assert stats.kstest(centred, stats.vonmises(kappa).cdf).pvalue > P_VALUE
    mean = float(built("von_mises", loc=loc, concentration=kappa).mean)
    np.testing.assert_allclose(mean, np.angle(np.exp(1j * loc)), atol=1e-12)


# ----- extremes

EXTREME = {  # points, and parameters that a network may give
    "zero_inflated_gamma": ([0.0, 1e-300, 1e-8, 1e8], [1e-6, 1e3], [1e-6, 1e3], [-500.0, 500.0]),
    "zero_inflated_log_normal": ([0.0, 1e-300, 1e8], [-30.0, 30.0], [1e-3, 9.0], [-500.0, 500.0]),
    "hurdle_poisson": ([0.0, 1.0, 1e4], [1e-6, 1e5], [-500.0, 500.0]),
    "hurdle_negative_binomial": ([0.0, 1.0, 1e4], [1e-6, 1e5], [-300.0, 30.0], [-500.0, 500.0]),
    "tweedie": ([0.0, 1e-300, 1.0, 1e8], [1e-6, 1e5], [1e-6, 1e5], [1.01, 1.99]),
    "truncated_normal": ([0.0, 1e-8, 30.0], [-1e4, 1e4], [1e-3, 1e4], [-INF, 0.0], [30.0, INF]),
    "censored_normal": ([0.0, 1e-8, 30.0], [-1e4, 1e4], [1e-3, 1e4], [-INF, 0.0], [30.0, INF]),
    "von_mises": ([-3.14, 0.0, 3.14], [-1e3, 1e3], [1e-6, 1e8]),
}


@pytest.mark.parametrize("name", EXTREME)
def test_extremes_have_finite_densities_and_gradients(name):
    points, *values = EXTREME[name]
    grid = torch.cartesian_prod(*map(torch.tensor, (points, *values))).requires_grad_()
    x, *columns = grid.unbind(-1)
    params = pv.Conditional.registry[name].params
    found = pv.Conditional.registry[name].family(**dict(zip(params, columns, strict=True)))
    log_density = found.log_prob(x.detach())
    assert log_density.isfinite().all()
    free = [column for column in columns if bool(column.isfinite().all())]
    for gradient in torch.autograd.grad(log_density.sum(), free):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_ordered_beta_is_finite_for_any_predictor(dtype):
    x = torch.tensor([0.0, 1e-30, 0.5, 1.0], dtype=dtype)[:, None]
    predictor = torch.tensor([-800.0, -90.0, 0.0, 30.0, 800.0], dtype=dtype, requires_grad=True)
    concentration = torch.tensor(2.0, dtype=dtype, requires_grad=True)
    cuts = torch.tensor([-1.0, 1.0], dtype=dtype, requires_grad=True)
    found = dists.OrderedBeta(predictor, concentration, cuts).log_prob(x)
    assert found.isfinite().all()
    for gradient in torch.autograd.grad(found.sum(), (predictor, concentration, cuts)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", EXTREME)
def test_extremes_have_draws_that_have_a_density(name, dtype):
    grid = torch.cartesian_prod(*(torch.tensor(v, dtype=dtype) for v in EXTREME[name][1:]))
    columns = dict(zip(pv.Conditional.registry[name].params, grid.unbind(-1), strict=True))
    found = pv.Conditional.registry[name].family(**columns)
    x = found.sample((200,))
    assert x.dtype == dtype
    assert found.support.check(x).all()
    assert (found.log_prob(x) > -torch.inf).all()
    assert found.mean.isfinite().all()


NAMES = [*EXTREME, "ordered_beta"]


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(name):
    head = pv.Conditional.registry[name].example()
    with pyro.validation_enabled(False):
        cell = head(torch.zeros(head.num_params)).base_dist
        assert cell.log_prob(torch.full((3,), torch.nan)).isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_agrees_with_double(name):
    torch.manual_seed(0)
    head = pv.Conditional.registry[name].example()
    read = 2 * torch.randn(500, head.num_params)
    x = head(read).sample().float()
    double = head(read.float().double()).log_prob(x.double())
    single = head.float()(read.float()).log_prob(x)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
