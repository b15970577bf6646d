"""Every conditional, in every role, is traced by ``torch.compile`` as one graph, and equals itself.

A graph is whole only if no code asks for the value of a tensor. So these tests also say that no
density and no draw of a guide waits for the accelerator.
"""

import pyro
import pytest
import torch
from test_conditional import NAMES, example, is_guide, is_prior, learnable

import pyro_vae as pv
from pyro_vae.distributions.joint import enumerable

BATCH = (2, 7)
PRIORS = [name for name in NAMES if is_prior(name)]
LIKELIHOODS = [name for name in NAMES if pv.Conditional.registry[name].scores_any_value]
GUIDES = [name for name in NAMES if is_guide(name)]


def by_name(names):
    """Flows that take seconds to trace are in the slow lane; a coupling flow stands for them."""
    long = ("autoregressive_flow", "spline_flow")
    marks = {name: pytest.mark.slow if name in long else () for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with pyro.validation_enabled(False):
        yield
    torch._dynamo.reset()


def equals_itself_compiled(function, *arguments):
    torch.manual_seed(0)
    expected = function(*arguments)
    torch.manual_seed(0)
    actual = torch.compile(function, fullgraph=True, backend="eager")(*arguments)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def context(head):
    return 0.5 * torch.randn(BATCH[-1], head.num_params)


@by_name(LIKELIHOODS)
def test_likelihood(name):
    head = example(name)
    given = context(head)
    x = head(given).sample((2,)).clone()

    def scored(given, x):
        built = head(given)
        inside = built.support.check(x)
        return built.log_prob(x), built.expand(BATCH).log_prob(x), inside

    equals_itself_compiled(scored, given, x)


@by_name(PRIORS)
def test_prior(name):
    head = learnable(pv.Conditional.registry[name])
    z = head().sample(BATCH).clone()

    def scored(z):
        inside = head.support.check(z)
        return head().log_prob(z), head().expand(BATCH).log_prob(z), inside

    equals_itself_compiled(scored, z)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "one_hot"])
def test_sum_over_a_discrete_prior(name):
    head = learnable(pv.Conditional.registry[name])

    def summed():
        prior = enumerable(head())
        return prior.log_prob(prior.enumerate_support()).logsumexp(0)

    equals_itself_compiled(summed)


@by_name(GUIDES)
def test_guide(name):
    head = example(name)
    guide = pv.Amortised(pv.MLP(4, head.num_params, hidden=[5]), head)

    def drawn(x):
        built = guide(x)
        z = built.rsample((2,))
        return z, built.log_prob(z)

    equals_itself_compiled(drawn, torch.randn(BATCH[-1], 4))


@by_name([name for name in GUIDES if name in LIKELIHOODS])
def test_average_of_a_guide(name):
    head = example(name)
    guide = pv.Amortised(pv.MLP(4, head.num_params, hidden=[5]), head)
    prior = pv.Vamp(head.event_shape, (4,), components=3)

    def scored(z):
        return prior(guide).log_prob(z)

    equals_itself_compiled(scored, torch.randn(7, *head.event_shape))
