"""The formulas of flows, of what is made of others, and of missingness, transcribed from their
LaTeX, against what the code computes. What networks give is taken from them as it is.
"""

import itertools

import numpy as np
import pytest
import torch
from formulas import independent, normal, numbers, plus, tensor
from scipy import special, stats

import pyro_vae as pv

U = np.array([-0.7, 2.1, 0.4])
BLOCKS = [{"columns": [0]}, {"columns": [1]}, {"columns": [2]}]
NORMAL_AND_COUNT = [{"columns": [0, 2], "name": "normal"}, {"columns": [1], "name": "poisson"}]


def perturbed(module):
    """A module whose networks are not near those of a start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def affine(layer, features, u):
    m, s = map(numbers, layer.nn(tensor(u), context=features))
    return m + np.exp(s) * u, s.sum()


def rho(u, widths, heights, slopes):
    """The spline at a number, which may be complex."""
    if abs(u.real) > 6:
        return u
    least = 0.001  # of the share of a bin, and of a slope
    w, h = (12 * (least + (1 - 8 * least) * shares) for shares in (widths, heights))
    left, low = (np.array([-6.0, *(np.cumsum(sizes) - 6)]) for sizes in (w, h))
    slopes = [1.0, *(slopes + least), 1.0]

    k = np.searchsorted(left, u.real) - 1
    a, b, w, h, d, d_next = left[k], low[k], w[k], h[k], slopes[k], slopes[k + 1]
    xi, s = (u - a) / w, h / w
    between = xi * (1 - xi)
    return b + h * (s * xi**2 + d * between) / (s + (d + d_next - 2 * s) * between)


def splines(u, spline):
    """rho of each element, and the sum of its log slopes: by a step along the imaginary axis."""
    theta = [numbers(each) for each in spline._params()[:3]]
    found = [rho(u[i] + 1e-30j, *(each[i] for each in theta)) for i in range(len(u))]
    return np.array([f.real for f in found]), sum(np.log(f.imag / 1e-30) for f in found)


def autoregressive(layer, features, u):
    return splines(u, layer.condition(features).spline.condition(tensor(u)))


def coupling(layer, features, u):
    places = np.arange(len(u))[:: -1 if layer.backwards else 1]
    a, b = np.split(places, [(len(u) + 1) // 2])
    seen = torch.cat([tensor(u[b]), features, torch.ones(1)])
    f = u.copy()
    f[a], log_slopes = splines(u[a], layer.spline.condition(seen))
    return f, log_slopes


def planar(layer, features, u):
    b, a, w = map(numbers, layer.nn(features))
    a = a + (np.log1p(np.exp(w @ a)) - 1 - w @ a) * w / (w @ w)  # bent
    assert w @ a > -1
    push = np.tanh(w @ u + b)
    return u + a * push, np.log(np.linalg.det(np.eye(3) + np.outer(a, (1 - push**2) * w)))


FLOWS = {
    "autoregressive_flow": affine,
    "spline_flow": autoregressive,
    "coupling_flow": coupling,
    "planar_flow": planar,
}


@pytest.mark.parametrize("name", FLOWS)
def test_the_formula_of_a_flow_is_the_density_of_its_draws(name):
    head = perturbed(pv.Conditional.registry[name]((3,), features=2, hidden=[8]))
    read = np.random.default_rng(0).normal(size=head.num_params)
    mu, sigma, features = read[:3], plus(read[3:6]), tensor(read[6:])
    y, expected = U, normal(U, 0, 1).sum() - np.log(sigma).sum()
    for layer in head.layers:
        y, log_slopes = FLOWS[name](layer, features, y)
        expected -= log_slopes

    built = head(tensor(read))
    z = tensor(U)
    for transform in built.transforms:  # planar maps know the density of what they drew
        z = transform(z)
    np.testing.assert_allclose(numbers(z), mu + sigma * y, rtol=1e-9)
    np.testing.assert_allclose(numbers(built.log_prob(z)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["autoregressive_flow", "spline_flow"])
def test_the_maps_of_a_prior_are_the_inverses_of_the_formula(name):
    head = perturbed(pv.Conditional.registry[name]((3,), hidden=[8], learned=True))
    affine = head.affine().base_dist
    mu, sigma = numbers(affine.loc), numbers(affine.scale)
    u, expected = U, -np.log(sigma).sum()
    for layer in reversed(head.layers):
        u, log_slopes = FLOWS[name](layer, torch.zeros(0), u)
        expected += log_slopes
    expected += normal(u, 0, 1).sum()
    actual = head().log_prob(tensor(mu + sigma * U))
    np.testing.assert_allclose(numbers(actual), expected, rtol=1e-6)


def mixture(x):
    head = pv.Mixture((3,), components=2)
    h = np.random.default_rng(0).normal(size=(2, 7))  # of each component a weight, then its own
    expected = sum(special.softmax(h[:, 0])[k] * np.exp(independent(x, h[k, 1:])) for k in range(2))
    return head(tensor(h.ravel())), np.log(expected)


def vamp(x):
    guide = perturbed(pv.Amortised(pv.MLP((4,), 6, hidden=[5]), pv.Normal((3,))))
    prior = pv.Vamp((3,), (4,), components=5)
    each = [independent(x, numbers(guide.network(u))) for u in prior.pseudo_inputs]
    return prior(guide), np.log(np.mean(np.exp(each)))


def hierarchy(z, learned):
    head = perturbed(pv.Hierarchy((3,), layers=[2, 1], hidden=[4], learned=learned))
    z1, z2 = z[:2], z[2:]
    read = np.random.default_rng(0).normal(size=head.num_params)
    above, below = (z2, z1) if learned else (z1, z2)
    first = normal(above, 0, 1).sum() if learned else independent(above, read)
    expected = first + independent(below, numbers(head.rest[0].network(tensor(above))))
    return head(None if learned else tensor(read)), expected


def columns(x):
    head = pv.Columns((3,), blocks=NORMAL_AND_COUNT)
    h = np.random.default_rng(0).normal(size=5)
    counts = stats.poisson(plus(h[4])).logpmf(x[1])
    return head(tensor(h)), independent(x[[0, 2]], h[:4]) + counts


def product(x, mu, sigma):
    """q_S: the standard normal times these experts, normalised; of normals in closed form."""
    precision = 1 + sum(1 / sigma**2)
    return normal(x, sum(mu / sigma**2) / precision, 1 / precision).sum()


def experts(name, x, sets):
    """Of three blocks the second is not seen; `sets` are those that are averaged."""
    head = pv.Conditional.registry[name]((3,), blocks=BLOCKS)
    h = np.random.default_rng(0).normal(size=(3, 6))
    h[1] = np.inf
    mu, sigma = h[:, :3], plus(h[:, 3:])
    each = [np.exp(product(x, mu[some], sigma[some])) for some in sets]
    return head(tensor(h.ravel())), np.log(np.mean(each))


SEEN = [0, 2]
OTHERS = {
    "mixture": mixture,
    "vamp": vamp,
    "hierarchy": lambda z: hierarchy(z, learned=True),
    "hierarchy as a guide": lambda z: hierarchy(z, learned=False),
    "columns": columns,
    "product_of_experts": lambda x: experts("product_of_experts", x, [SEEN]),
    "mixture_of_experts": lambda x: experts("mixture_of_experts", x, [[0], [2]]),
    "mixture_of_products": lambda x: experts("mixture_of_products", x, [[0], [2], SEEN]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_formula_of_what_is_made_of_others(name):
    x = np.array([U[0], 3.0, U[2]]) if name == "columns" else U
    built, expected = OTHERS[name](x)
    np.testing.assert_allclose(numbers(built.log_prob(tensor(x))), expected, rtol=1e-6)


def logistic(x):
    model = perturbed(pv.LogisticMissingness((3,)))
    return model, special.expit(numbers(model.network(tensor(x))))


def self_masking(x):
    model = perturbed(pv.SelfMasking((3,), direction=["high", "low", "either"]))
    b, t = numbers(model.slope), numbers(model.threshold)
    assert b[0] > 0 > b[1]
    return model, stats.norm.cdf(b * (x - t))


MISSINGNESS = {"logistic": logistic, "self_masking": self_masking}


@pytest.mark.parametrize("name", MISSINGNESS)
def test_the_formula_of_a_missingness(name):
    model, chance = MISSINGNESS[name](U)
    for missing in itertools.product([False, True], repeat=3):
        expected = np.log(np.where(missing, chance, 1 - chance))
        actual = model.log_chance(tensor(U), torch.tensor(missing))
        np.testing.assert_allclose(numbers(actual), expected, rtol=1e-6)


def test_every_other_entry_has_a_formula_and_each_is_checked():
    entries = {n: c for n, c in pv.Conditional.registry.items() if not issubclass(c, pv.Parametric)}
    assert {*FLOWS, *(name.split()[0] for name in OTHERS)} == set(entries)
    assert set(MISSINGNESS) == set(pv.Missingness.registry)
    for cls in [*entries.values(), *pv.Missingness.registry.values()]:
        assert ".. math::" in cls.__doc__
