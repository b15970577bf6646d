"""The formulas of the families, transcribed from their LaTeX, against what the code computes.

What is only proportional to a density is normalised by quadrature over the support.
"""

import math

import numpy as np
import pytest
from formulas import normal, plus, tensor
from scipy import integrate, special, stats

import pyro_vae as pv

INF = math.inf
sigma, softmax, log_gamma = special.expit, special.softmax, special.gammaln


def gamma(x, a, b):
    return a * np.log(b) - log_gamma(a) + (a - 1) * np.log(x) - b * x


def poisson(x, rate):
    return x * np.log(rate) - rate - log_gamma(x + 1)


def negative_binomial(x, r, h):
    """The one whose mean is r e^h."""
    return stats.nbinom(r, 1 / (1 + np.exp(h))).logpmf(x)


def in_proportion(log_f, x, low, high):
    """log of what is proportional to exp(log_f) from low to high, at x."""
    peak = log_f(x)
    edges = [low, x, high]
    pieces = [
        integrate.quad(lambda t: np.exp(log_f(t) - peak), *edges[i : i + 2], epsabs=0, epsrel=1e-10)
        for i in range(2)
    ]
    return -np.log(sum(area for area, _ in pieces))


def zero_or(x, share, log_density):
    """Zeros of this probability, and a density of what is above zero."""
    return np.log(share) if x == 0 else np.log1p(-share) + log_density(x)


def zero_inflated(x, share, log_p):
    return np.log(share * (x == 0) + (1 - share) * np.exp(log_p(x)))


def hurdle(x, share, log_p):
    return np.log(share) if x == 0 else np.log1p(-share) + log_p(x) - np.log1p(-np.exp(log_p(0)))


def student(u, df):
    return (
        log_gamma((df + 1) / 2)
        - log_gamma(df / 2)
        - np.log(df * np.pi) / 2
        - (df + 1) / 2 * np.log1p(u**2 / df)
    )


def logistic(x, loc, s):
    u = (x - loc) / s
    return np.log(sigma(u) * sigma(-u) / s)


def beta_binomial(x, n, a, b):
    """The binomial, with p integrated out."""
    density = stats.beta(a, b).pdf
    area, _ = integrate.quad(lambda p: stats.binom(n, p).pmf(x) * density(p), 0, 1, epsrel=1e-10)
    return np.log(area)


def tweedie(x, mu, phi, p):
    """A Poisson number of gamma amounts, whose sum is a gamma as well."""
    rate = mu ** (2 - p) / (phi * (2 - p))
    if x == 0:
        return -rate
    n = np.arange(1, 400)
    amounts = gamma(x, n * (2 - p) / (p - 1), mu ** (1 - p) / (phi * (p - 1)))
    return special.logsumexp(poisson(n, rate) + amounts)


def ordered_beta(x, h, phi, c1, c2):
    if x in (0, 1):
        return np.log(sigma(h - c2) if x else sigma(c1 - h))
    mu = sigma(h)
    between = 1 - sigma(c1 - h) - sigma(h - c2)
    return np.log(between) + stats.beta(mu * phi, (1 - mu) * phi).logpdf(x)


def ordinal(x, h, cutpoints):
    below = [0.0, *sigma(cutpoints - h), 1.0]  # p(x < 0), p(x < 1), ...
    return np.log(below[int(x) + 1] - below[int(x)])


def discretized(x, loc, s, levels):
    place, delta = 2 * x / (levels - 1) - 1, 1 / (levels - 1)
    above = 1.0 if x == levels - 1 else sigma((place + delta - loc) / s)
    below = 0.0 if x == 0 else sigma((place - delta - loc) / s)
    return np.log(above - below)


def censored(x, loc, s, low, high):
    if x == low:
        return stats.norm.logcdf((low - loc) / s)
    if x == high:
        return stats.norm.logcdf((loc - high) / s)
    return normal(x, loc, s**2)


def lower(numbers):
    """L row by row: a diagonal of [.]_+, and before it the numbers times the diagonal."""
    rows = [numbers[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] for i in range(3)]
    found = np.zeros((3, 3))
    for i, row in enumerate(rows):
        found[i, i] = plus(row[i])
        found[i, :i] = row[:i] * found[i, i]
    return found


def with_covariance(x, mean, covariance):
    return stats.multivariate_normal(mean, covariance).logpdf(x)


def stick_breaking(x, h1, h2):
    """u of x, and the slopes of x in u; in x one number less, as the last is what is left."""
    left = np.concatenate([[1.0], 1 - np.cumsum(x)[:-2]])
    share = x[:-1] / left
    u = special.logit(share) + np.log(np.arange(len(x) - 1, 0, -1))
    log_slopes = np.log(left * share * (1 - share))
    return (normal(u, h1, plus(h2) ** 2) - log_slopes).sum()


def von_mises_fisher(x, h1, h2):
    mu = (h1 + 1) / np.linalg.norm(h1 + 1)
    return stats.vonmises_fisher(mu, plus(h2)).logpdf(x)


COMPOSITIONS = np.random.default_rng(1).dirichlet(np.ones(3), 3)
VECTORS = np.random.default_rng(2).normal(size=(3, 3))
DIRECTIONS = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
REALS, POSITIVES, SHARES = [-2.3, 0.1, 1.7], [0.2, 1.1, 4.0], [0.1, 0.5, 0.8]
COUNTS, AMOUNTS, ONES = [0, 1, 6], [0.0, 0.3, 2.5], np.eye(3)
LIMITS = {"low": -1.0, "high": 2.0}

# name: (fixed parameters, points, the formula: log p of x and of h_1, h_2, ... that are read)
FAMILIES = {
    "normal": ({}, REALS, lambda x, h1, h2: normal(x, h1, plus(h2) ** 2)),
    "laplace": (
        {}, REALS, lambda x, h1, h2: np.log(np.exp(-abs(x - h1) / plus(h2)) / (2 * plus(h2)))
    ),
    "student_t": (
        {}, REALS,
        lambda x, h1, h2, h3: student((x - h2) / plus(h3), plus(h1, 4.0)) - np.log(plus(h3)),
    ),
    "logistic": ({}, REALS, lambda x, h1, h2: logistic(x, h1, plus(h2))),
    "horseshoe_like": (
        {}, REALS,
        lambda z, h: np.log(np.log(1 + plus(h) ** 2 / z**2) / (2 * np.pi * plus(h))),
    ),
    "von_mises": (
        {}, REALS,
        lambda x, h1, h2: np.log(
            np.exp(plus(h2) * np.cos(x - h1)) / (2 * np.pi * special.i0(plus(h2)))
        ),
    ),
    "log_normal": (
        {}, POSITIVES, lambda x, h1, h2: normal(np.log(x), h1, plus(h2) ** 2) - np.log(x)
    ),
    "gamma": (
        {}, POSITIVES,
        lambda x, h1, h2: in_proportion(
            lambda t: (plus(h1) - 1) * np.log(t) - plus(h2) * t, x, 0, INF
        ),
    ),
    "exponential": ({}, POSITIVES, lambda x, h: np.log(plus(h) * np.exp(-plus(h) * x))),
    "half_normal": (
        {}, POSITIVES,
        lambda x, h: in_proportion(lambda t: -(t**2) / (2 * plus(h) ** 2), x, 0, INF),
    ),
    "half_cauchy": (
        {}, POSITIVES,
        lambda x, h: in_proportion(lambda t: -np.log(1 + t**2 / plus(h) ** 2), x, 0, INF),
    ),
    "beta": (
        {}, SHARES,
        lambda x, h1, h2: in_proportion(
            lambda t: (plus(h1) - 1) * np.log(t) + (plus(h2) - 1) * np.log(1 - t), x, 0, 1
        ),
    ),
    "uniform": (LIMITS, [-1.0, 0.3, 1.9], lambda x: np.log(1 / (2.0 - -1.0))),
    "continuous_bernoulli": (
        {}, [0.0, 0.4, 1.0],
        lambda x, h: in_proportion(
            lambda t: t * np.log(sigma(h)) + (1 - t) * np.log(1 - sigma(h)), x, 0, 1
        ),
    ),
    "truncated_normal": (
        LIMITS, [-1.0, 0.3, 2.0],
        lambda x, h1, h2: in_proportion(lambda t: normal(t, h1, plus(h2) ** 2), x, -1.0, 2.0),
    ),
    "censored_normal": (
        LIMITS, [-1.0, 0.3, 2.0], lambda x, h1, h2: censored(x, h1, plus(h2), -1.0, 2.0)
    ),
    "zero_inflated_gamma": (
        {}, AMOUNTS,
        lambda x, h1, h2, h3: zero_or(x, sigma(h3 - 2), lambda t: gamma(t, plus(h1), plus(h2))),
    ),
    "zero_inflated_log_normal": (
        {}, AMOUNTS,
        lambda x, h1, h2, h3: zero_or(
            x, sigma(h3 - 2), lambda t: normal(np.log(t), h1, plus(h2) ** 2) - np.log(t)
        ),
    ),
    "tweedie": (
        {}, AMOUNTS,
        lambda x, h1, h2, h3: tweedie(x, plus(h1), plus(h2), 1.01 + 0.98 * sigma(h3)),
    ),
    "ordered_beta": (
        {"cutpoints": 1.5}, [0.0, 0.3, 1.0],
        lambda x, h1, h2: ordered_beta(x, h1, plus(h2, 2.0), -1.5, 1.5),
    ),
    "bernoulli": ({}, [0, 1], lambda x, h: np.log(sigma(h) if x else 1 - sigma(h))),
    "categorical": ({"categories": 3}, [0, 1, 2], lambda x, h: np.log(softmax(h)[x])),
    "one_hot": ({}, ONES, lambda x, h: np.log(softmax(h)[x.argmax()])),
    "ordinal": (
        {"categories": 3, "cutpoints": [-0.4, 1.1]}, [0, 1, 2],
        lambda x, h: ordinal(x, h, np.array([-0.4, 1.1])),
    ),
    "binomial": ({"total_count": 7}, COUNTS, lambda x, h: stats.binom(7, sigma(h)).logpmf(x)),
    "beta_binomial": (
        {"total_count": 7}, COUNTS, lambda x, h1, h2: beta_binomial(x, 7, plus(h1), plus(h2))
    ),
    "poisson": ({}, COUNTS, lambda x, h: poisson(x, plus(h))),
    "negative_binomial": ({}, COUNTS, lambda x, h1, h2: negative_binomial(x, plus(h1), h2)),
    "zero_inflated_poisson": (
        {}, COUNTS,
        lambda x, h1, h2: zero_inflated(x, sigma(h2 - 2), lambda t: poisson(t, plus(h1))),
    ),
    "zero_inflated_negative_binomial": (
        {}, COUNTS,
        lambda x, h1, h2, h3: zero_inflated(
            x, sigma(h3 - 2), lambda t: negative_binomial(t, plus(h1), h2)
        ),
    ),
    "hurdle_poisson": (
        {}, COUNTS, lambda x, h1, h2: hurdle(x, sigma(h2 - 2), lambda t: poisson(t, plus(h1)))
    ),
    "hurdle_negative_binomial": (
        {}, COUNTS,
        lambda x, h1, h2, h3: hurdle(
            x, sigma(h3 - 2), lambda t: negative_binomial(t, plus(h1), h2)
        ),
    ),
    "discretized_logistic": (
        {"levels": 4}, [0, 2, 3], lambda x, h1, h2: discretized(x, h1, plus(h2, 0.5), 4)
    ),
    "multinomial": (
        {"total_count": 1}, [[1, 0, 4], [0, 0, 2], [3, 3, 3]],
        lambda x, h: log_gamma(x.sum() + 1) - log_gamma(x + 1).sum() + x @ np.log(softmax(h)),
    ),
    "multivariate_normal": (
        {}, VECTORS, lambda x, h1, h2: with_covariance(x, h1, lower(h2) @ lower(h2).T)
    ),
    "low_rank_normal": (
        {"rank": 2}, VECTORS,
        lambda x, h1, h2, h3: with_covariance(
            x, h1, (h2 + 0.1 * np.eye(3, 2)) @ (h2 + 0.1 * np.eye(3, 2)).T + np.diag(plus(h3))
        ),
    ),
    "dirichlet": ({}, COMPOSITIONS, lambda x, h: stats.dirichlet(plus(h)).logpdf(x)),
    "logistic_normal": ({}, COMPOSITIONS, stick_breaking),
    "von_mises_fisher": ({}, DIRECTIONS, von_mises_fisher),
    "uniform_sphere": (
        {}, DIRECTIONS, lambda x: np.log(special.gamma(3 / 2) / (2 * np.pi ** (3 / 2)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_formula_of_a_family_is_what_it_computes(name):
    fixed, points, formula = FAMILIES[name]
    head = pv.Conditional.registry[name](np.shape(points[0]), **fixed)
    rng = np.random.default_rng(0)
    for x in np.asarray(points):
        read = rng.normal(size=head.num_params)
        pieces = np.split(read, np.cumsum(head.sizes)[:-1])
        h = [piece.reshape(size) for piece, size in zip(pieces, head.read.values(), strict=False)]
        actual = head(tensor(read)).log_prob(tensor(x))
        np.testing.assert_allclose(float(actual), formula(x, *h), rtol=1e-6, atol=1e-9)


def test_every_family_has_a_formula_and_each_is_checked():
    families = {n: c for n, c in pv.Conditional.registry.items() if issubclass(c, pv.Parametric)}
    assert set(FAMILIES) == set(families)
    assert all(".. math::" in cls.__doc__ for cls in families.values())
