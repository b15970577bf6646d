"""Mixtures: against their family, the average of the guide, and finite differences."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_vae as pv

CONTINUOUS = ["normal", "laplace", "student_t", "gamma", "beta", "dirichlet", "log_normal"]


@pytest.mark.parametrize(
    "name", [*CONTINUOUS, "poisson", "negative_binomial", "categorical", "bernoulli"]
)
def test_one_component_is_its_family(name):
    table = {"name": name, **({"categories": 4} if name == "categorical" else {})}
    family = pv.Conditional.registry[name](
        (3,), **{key: v for key, v in table.items() if key != "name"}
    )
    mixture = pv.Mixture((3,), components=1, component=table)
    given = torch.randn(7, family.num_params)
    x = family(given).sample((5,))
    built = mixture(torch.cat([torch.randn(7, 1), given], -1))
    torch.testing.assert_close(built.log_prob(x), family(given).log_prob(x))
    assert built.support.check(x).all()


def test_it_equals_scipys_weighted_sum():
    weight, loc, scale = (
        np.array([0.2, 0.5, 0.3]),
        np.array([-1.0, 0.0, 4.0]),
        np.array([0.5, 1.0, 2.0]),
    )
    prior = pv.Mixture((1,), components=3, learned=True)
    # Softplus with 1 at the origin, without its floor.
    raw = np.log(np.expm1(scale)) - np.log(np.expm1(1.0))
    prior.parameters_read.data = torch.tensor(np.stack([np.log(weight), loc, raw], -1))
    x = np.linspace(-5, 8, 50)
    expected = np.log((weight * stats.norm(loc, scale).pdf(x[:, None])).sum(1))
    np.testing.assert_allclose(
        prior().log_prob(torch.tensor(x)[:, None]).detach(), expected, rtol=1e-5
    )


def test_each_element_has_a_mixture_of_its_own():
    head = pv.Mixture((3,), components=2, component="discretized_logistic", each="element")
    given = torch.randn(7, head.num_params)
    x = head(given).sample()
    alone = pv.Mixture((1,), components=2, component="discretized_logistic", each="element")
    pieces = [
        alone(part).log_prob(x[:, i : i + 1])
        for i, part in enumerate(given.split(head.num_params // 3, -1))
    ]
    torch.testing.assert_close(head(given).log_prob(x), sum(pieces))


@pytest.mark.parametrize("each", ["event", "element"])
def test_draws_have_the_gradient_of_the_expectation(each):
    """d E[x1 + x2^2] / d parameters, by draws against finite differences of the exact mean."""
    head = pv.Mixture((2,), components=3, each=each)
    given = torch.randn(head.num_params, requires_grad=True)

    def exact(given):
        built = head(given)
        base = built.base_dist if each == "element" else built
        weight = base.mixture_distribution.probs
        part = base.component_distribution
        loc, scale = (
            (part.base_dist.loc, part.base_dist.scale)
            if each == "event"
            else (part.loc, part.scale)
        )
        if each == "event":
            return (weight * (loc[:, 0] + loc[:, 1] ** 2 + scale[:, 1] ** 2)).sum()
        return (weight[0] * loc[0]).sum() + (weight[1] * (loc[1] ** 2 + scale[1] ** 2)).sum()

    (expected,) = torch.autograd.grad(exact(given), given)
    gradients = []
    for _ in range(200):
        x = head(given).rsample((500,))
        gradients.append(torch.autograd.grad((x[:, 0] + x[:, 1] ** 2).mean(), given)[0])
    gradients = torch.stack(gradients)
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - expected).abs() < 5 * error + 1e-9).all()


def vamp(guide="normal", components=4):
    x = np.random.default_rng(0).poisson(4.0, (50, 3))
    return pv.build(
        x,
        latent=2,
        prior={"name": "vamp", "components": components},
        likelihood="poisson",
        guide=guide,
        hidden=[8],
    ), x


@pytest.mark.parametrize("guide", ["normal", "multivariate_normal", "spline_flow"])
def test_vamp_is_the_average_of_the_guide(guide):
    vae, x = vamp(guide)
    z = torch.randn(7, 2)
    with torch.no_grad():
        each = torch.stack([vae.posterior(u).log_prob(z) for u in vae.prior.pseudo_inputs])
        prior = vae.prior(vae.posterior)
        torch.testing.assert_close(prior.log_prob(z), each.logsumexp(0) - np.log(4))
    assert {tuple(u) for u in vae.prior.pseudo_inputs.tolist()} <= {
        tuple(row) for row in x.tolist()
    }


def test_vamp_follows_a_guide_that_was_replaced_and_a_copy():
    vae, x = vamp()
    before = pv.log_evidence(vae, x, num_samples=20).log_evidence
    vae.posterior = pv.Amortised(pv.MLP(3, 4, hidden=[8]), pv.Normal((2,)))
    assert not np.allclose(before, pv.log_evidence(vae, x, num_samples=20).log_evidence)
    assert "guide" not in " ".join(vae.state_dict())


def test_the_seed_decides_where_vamp_starts():
    state = torch.random.get_rng_state()
    first, second = vamp()[0], vamp()[0]
    assert torch.equal(first.prior.pseudo_inputs, second.prior.pseudo_inputs)
    assert torch.equal(state, torch.random.get_rng_state())


def test_vamp_with_more_components_than_data():
    vae, x = vamp(components=120)
    assert vae.prior.pseudo_inputs.shape == (120, 3)
    assert len({tuple(u) for u in vae.prior.pseudo_inputs.tolist()}) == len(
        {tuple(row) for row in x.tolist()}
    )


ERRORS = {
    "components": (
        lambda: pv.Mixture((2,), components=0),
        "components must be a whole number from 1; got 0",
    ),
    "each": (
        lambda: pv.Mixture((2,), each="pixel"),
        "each must be 'event' or 'element'; got 'pixel'",
    ),
    "component": (
        lambda: pv.Mixture((2,), component="nrmal"),
        "component: no conditional is named 'nrmal'; did you",
    ),
    "component of no name": (
        lambda: pv.build(torch.ones(9, 3), likelihood={"name": "mixture", "component": 5}),
        "likelihood.component: must be a name or a table such as",
    ),
    "context": (
        lambda: pv.Mixture((2,), components=2)(torch.zeros(7, 3)),
        "Mixture(2,) reads 10 numbers per datum",
    ),
    "no context": (
        lambda: pv.Mixture((2,), components=2)(),
        "Mixture(2,) reads 10 numbers per datum; got no context",
    ),
    "vamp": (
        lambda: pv.Vamp((2,), (3,))(torch.zeros(2)),
        "Vamp reads the guide as its context; the VAE gives it",
    ),
    "guide without gradient": (
        lambda: pv.VAE(
            pv.Normal((2,), loc=0.0, scale=1.0),
            pv.Amortised(nn.Linear(2, 3), pv.Poisson((3,))),
            pv.Amortised(nn.Linear(3, 10), pv.Mixture((2,), components=2, component="laplace")),
        ),
        "draws of the guide Mixture(2,) have no gradient; use a guide with rsample, such as a "
        "mixture of normals",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)
