"""Hierarchy: the same densities as a hand-written Pyro model with a site for each layer."""

import pyro
import pytest
import torch
from pyro import distributions as dist

import pyro_vae as pv


def two_layers():
    vae = pv.build(
        {
            "event": [4],
            "latent": [5],
            "prior": {"name": "hierarchy", "layers": [3, 2], "hidden": [6]},
            "likelihood": {"name": "bernoulli", "network": {"hidden": [7]}},
            "guide": {
                "name": "hierarchy",
                "layers": [3, 2],
                "hidden": [6],
                "network": {"hidden": [7]},
            },
        }
    )
    return vae, torch.bernoulli(torch.full((10, 4), 0.5))


def hand_written(vae):
    """Burda et al. (2015), section 5: p(z2) p(z1|z2) p(x|z1), and q(z1|x) q(z2|z1)."""
    down, up = vae.prior.rest[0], vae.posterior.head.rest[0]

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", down(z2))
            pyro.sample("x", vae.likelihood(z1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            loc, scale = (t for t in _normal(vae.posterior.network(x)))
            z1 = pyro.sample("z1", dist.Normal(loc, scale).to_event(1))
            pyro.sample("z2", up(z1))

    def _normal(h):
        base = pv.Normal((3,))(h).base_dist
        return base.loc, base.scale

    return model, guide


def test_it_equals_a_hand_written_model_with_two_sites():
    vae, x = two_layers()
    ours, theirs = pv.terms(vae, x, num_samples=7), pv.terms(hand_written(vae), x, num_samples=7)
    torch.testing.assert_close(ours.log_weight, theirs.log_weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.log_guide, theirs.log_guide, rtol=1e-12, atol=1e-12)


def test_the_likelihood_sees_the_lowest_layer():
    vae, _ = two_layers()
    z = torch.randn(6, 5)
    other = torch.cat([z[:, :3], torch.randn(6, 2)], -1)
    assert torch.equal(vae.decode(z).base_dist.logits, vae.decode(other).base_dist.logits)
    assert vae.sample(3).shape == (3, 4)


def test_every_layer_trains():
    vae, x = two_layers()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    pv.fit(vae, x, loss="iwae", epochs=3, progress=False)
    for name, p in vae.named_parameters():
        assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize(
    "family", ["student_t", "mixture", "spline_flow", {"name": "mixture", "component": "student_t"}]
)
def test_layers_of_any_family(family):
    x = torch.poisson(torch.full((20, 3), 4.0))
    vae = pv.build(
        x,
        latent=3,
        prior={"name": "hierarchy", "layers": [2, 1], "family": family},
        likelihood="poisson",
    )
    pv.fit(vae, x, epochs=1, progress=False)
    assert vae.sample(5).shape == (5, 3)
    assert pv.log_evidence(vae, x, num_samples=10).log_evidence.notnull().all()


@pytest.mark.parametrize("layers", [[3, 3], [5, 0], [], 5])
def test_layers_must_add_up(layers):
    sizes, numbers = "Hierarchy needs layers that add up to its size", "every number in layers must"
    with pytest.raises(ValueError, match=f"{sizes}|{numbers}|layers must be a l"):
        pv.Hierarchy((5,), layers=layers)
