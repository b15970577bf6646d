"""Links by name, for parameters that are read or learned."""

import copy

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import constraints
from scipy import special, stats
from torch import nn

import pyro_vae as pv
from pyro_vae.distributions.links import NAMED, fitting

READ = torch.tensor([[-1.5, 0.3], [0.7, 2.0]], dtype=torch.float64)
X = np.array([[0.0, 3.0], [2.0, 5.0]])
NUMBERS = READ.numpy()


@pytest.mark.parametrize(
    ("part", "exact"),
    [
        (pv.Poisson((2,), links={"rate": "exp"}), stats.poisson(np.exp(NUMBERS))),
        (
            pv.Poisson((2,), links={"rate": "softplus"}),
            stats.poisson(np.logaddexp(0, NUMBERS) + 1e-6),
        ),
        (pv.Normal((2,), scale=2.0, links={"loc": "tanh"}), stats.norm(np.tanh(NUMBERS), 2.0)),
        (pv.Normal((2,), loc=0.0, links={"scale": "exp"}), stats.norm(0.0, np.exp(NUMBERS))),
        (
            pv.Normal((2,), loc=0.0, links={"scale": "sigmoid"}),
            stats.norm(0, special.expit(NUMBERS)),
        ),
        (
            pv.Poisson((2,), links={"rate": "exp"}, unit=[10.0, 0.1]),
            stats.poisson(np.exp(NUMBERS) * [10.0, 0.1]),
        ),
    ],
)
def test_a_parameter_is_that_function_of_what_is_read(part, exact):
    log_density = getattr(exact, "logpmf", None) or exact.logpdf
    np.testing.assert_allclose(part(READ).log_prob(torch.as_tensor(X)), log_density(X).sum(1))


@pytest.mark.parametrize(
    ("part", "exact"),
    [
        (pv.Poisson((2,), links={"rate": "identity"}), lambda z: stats.poisson(z)),
        (pv.Poisson((2,), links={"rate": "log1p"}), lambda z: stats.poisson(np.log1p(z))),
        (
            pv.Binomial((2,), total_count=6, links={"logits": "logit"}),
            lambda z: stats.binom(6, z),
        ),
        (
            pv.NegativeBinomial((2,), total_count=3.0, links={"logits": "log"}),
            lambda z: stats.nbinom(3, 1 / (1 + z)),
        ),
    ],
)
def test_latents_that_suit_the_domain_need_no_undoing(part, exact):
    read = READ.sigmoid()
    found = part(read).log_prob(torch.as_tensor(X))
    np.testing.assert_allclose(found, exact(read.numpy()).logpmf(X).sum(1))


@pytest.mark.parametrize("link", NAMED)
def test_links_invert(link):
    inside = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(NAMED[link](NAMED[link].inv(inside)), inside)
    again = copy.deepcopy(NAMED[link])
    torch.testing.assert_close(again.inv(again(inside)), inside)


def test_which_links_fit():
    everywhere = ["identity", "exp", "softplus", "sigmoid", "log", "log1p", "logit"]
    assert fitting(constraints.positive) == everywhere
    assert "exp" not in fitting(constraints.unit_interval)
    assert "sigmoid" in fitting(constraints.unit_interval)
    assert fitting(constraints.real) == list(NAMED)
    assert fitting(constraints.lower_cholesky) == []


def test_learned_parameters_start_at_the_standard_value():
    part = pv.Normal((2,), scale="learned", loc=0.0, links={"scale": "exp"})
    assert torch.equal(part.scale, torch.zeros(2, dtype=torch.float64))
    np.testing.assert_allclose(part().base_dist.scale.detach(), np.ones(2))


@pytest.mark.parametrize(
    ("part", "start"),
    [
        (pv.Normal((2,), loc="learned", scale=1.0, links={"loc": "exp"}), 1.0),
        (pv.Poisson((2,), rate="learned", links={"rate": "sigmoid"}), 0.5),
    ],
    ids=["loc", "rate"],
)
def test_where_the_standard_value_has_no_link_learning_starts_at_zero(part, start):
    """And not at an infinity that nothing leaves."""
    np.testing.assert_allclose(part().mean.detach(), start)


def test_the_support_is_known_though_a_link_takes_not_all_numbers():
    part = pv.BetaBinomial((2,), total_count=5, links={"concentration1": "log"})
    assert part.support.base_constraint.upper_bound.tolist() == [5, 5]


def test_the_table_is_copied():
    links = {"rate": "exp"}
    part = pv.Poisson((2,), links=links)
    links.clear()
    assert part.named_links == {"rate": "exp"} == part.options["links"]


def test_spec_file_and_training_carry_it(tmp_path):
    x = np.random.default_rng(0).poisson(3.0, (40, 2))
    likelihood = {"name": "poisson", "links": {"rate": "exp"}}
    vae = pv.build(x, latent=1, hidden=[4], likelihood=likelihood)
    assert pv.describe(vae)["likelihood"]["links"] == {"rate": "exp"}
    history = pv.fit(vae, x, epochs=2, progress=False)
    assert history.loss.notna().all()
    pv.save(vae, tmp_path / "a.pvae")
    again = pv.load(tmp_path / "a.pvae")
    z = torch.zeros(3, 1)
    assert torch.equal(again.decode(z).mean, vae.decode(z).mean)
    usual = pv.build(x, latent=1, hidden=[4], likelihood="poisson")
    assert "links" not in pv.describe(usual)["likelihood"]


def test_a_bent_location_is_that_function_itself():
    """Center and unit of the data would move its range; scales and rates stay in units."""
    x = np.random.default_rng(0).gamma(3.0, 4.0, (40, 2))
    likelihood = {"name": "normal", "scale": "learned", "links": {"loc": "exp"}}
    vae = pv.build(x, latent=1, hidden=[4], likelihood=likelihood)
    part = vae.likelihood.head
    np.testing.assert_allclose(part(torch.zeros(1, 2)).mean, 1.0)
    np.testing.assert_allclose(
        part(torch.zeros(1, 2)).base_dist.scale[0].detach(), x.std(0), rtol=1e-4
    )
    assert pv.build(pv.describe(vae)).likelihood.head.own_places == {"loc"}
    same = pv.Normal((2,), center=5.0, unit=2.0, scale=1.0, links={"loc": "identity"})
    np.testing.assert_allclose(same(torch.ones(1, 2)).mean, 7.0)


def test_in_a_block_of_columns_and_a_guide():
    blocks = [
        {"columns": [0], "name": "poisson", "links": {"rate": "exp"}},
        {"columns": [1], "name": "normal", "scale": "learned", "links": {"scale": "exp"}},
    ]
    x = np.random.default_rng(0).poisson(3.0, (40, 2))
    guide = {"name": "normal", "links": {"scale": "exp"}}
    vae = pv.build(
        x, latent=1, hidden=[4], likelihood={"name": "columns", "blocks": blocks}, guide=guide
    )
    assert pv.fit(vae, x, epochs=1, progress=False).loss.notna().all()
    assert pv.describe(vae)["guide"]["links"] == {"scale": "exp"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"links": {"rat": "exp"}}, "links: there is no parameter 'rat'; did you mean 'rate'?"),
        (
            {"links": {"rate": "expp"}},
            "links: rate takes one of identity, exp, softplus, sigmoid, log, log1p, logit; got 'ex",
        ),
        ({"links": {"rate": "tanh"}}, "links: rate takes one of"),
        ({"links": "exp"}, "links: must be a table such as {'rate': 'exp'}; got 'exp'"),
        ({"links": {"rate": "exp"}, "rate": 1.0}, "links: rate is fixed; leave out its link"),
    ],
)
def test_links_that_do_not_fit(options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        pv.Poisson((2,), **options)
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"likelihood\.links: "):
        pv.build({"event": [2], "latent": [1], "likelihood": {"name": "poisson", **options}})


def test_a_matrix_has_its_usual_link_only():
    with pytest.raises(ValueError, match="links: scale_tril takes its usual link only; got 'exp'"):
        pv.MultivariateNormal((2,), links={"scale_tril": "exp"})


@pytest.mark.filterwarnings("ignore:log p")
def test_a_number_outside_the_domain_is_named():
    part = pv.Poisson((2,), links={"rate": "identity"})
    message = r"Poisson\(2,\) needs rate in .*; its link 'identity' got -1.5; choose one"
    with pytest.raises(ValueError, match=message):
        part(READ)
    real = pv.Normal((2,), scale=1.0, links={"loc": "log"})
    with pytest.raises(ValueError, match=r"needs loc in Real.*; its link 'log' got -1.5"):
        real(READ)
    with pyro.validation_enabled(False):
        missing = part(torch.tensor([[torch.nan, 1.0]])).mean
    assert missing.isnan().any(), "which is for others to find"
    model = pv.VAE(
        pv.Gamma((2,), concentration=1.0, rate=1.0),
        pv.Amortised(nn.Identity(), part),
        pv.Amortised(pv.MLP(2, 4, hidden=[4]), pv.Normal((2,))),
    )
    assert pv.log_evidence(model, X, num_samples=50).log_evidence.notnull().all()
