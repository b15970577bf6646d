"""Flows: inverses, log-determinants against autograd's Jacobian, both directions, and what cannot
be a prior.
"""

import pytest
import torch
from torch.autograd.functional import jacobian

import pyro_vae as pv

INVERTIBLE = [pv.AutoregressiveFlow, pv.SplineFlow, pv.CouplingFlow]
SHAPES = [(1,), (4,), (2, 2)]


def perturbed(head, scale=0.1):
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return head


def built(cls, shape, learned, dtype):
    options = {"learned": True} if learned else {}
    head = perturbed(cls(shape, **options)).to(dtype)
    return head() if learned else head(torch.randn(7, head.num_params, dtype=dtype))


@pytest.mark.parametrize("cls", INVERTIBLE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_inverse(cls, shape, learned, dtype, tolerance):
    flow = built(cls, shape, learned, dtype)
    with torch.no_grad():
        u = flow.base_dist.sample((100,))
        z = u
        for transform in flow.transforms:
            z = transform(z)
        back = z.clone()
        for transform in reversed(flow.transforms):
            back = transform.inv(back)
    assert back.dtype == dtype
    assert ((back - u).abs() / u.abs().clamp(min=1)).max() < tolerance


@pytest.mark.parametrize("cls", [*INVERTIBLE, pv.PlanarFlow])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_determinant_equals_autograds_jacobian(cls, shape):
    head = perturbed(cls(shape))
    flow = head(torch.randn(head.num_params))

    def forward(u):
        z = u
        for transform in flow.transforms:
            z = transform(z)
        return z.reshape(-1)

    for _ in range(5):
        u = torch.randn(head.size)
        z, log_det = u, 0.0
        for transform in flow.transforms:
            y = transform(z)
            log_det = log_det + transform.log_abs_det_jacobian(z, y).sum()
            z = y
        expected = torch.linalg.slogdet(jacobian(forward, u)).logabsdet
        torch.testing.assert_close(log_det, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("cls", INVERTIBLE)
def test_density_integrates_to_one(cls):
    flow = built(cls, (1,), True, torch.float64)
    grid = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert abs(float(torch.trapezoid(flow.log_prob(grid).exp(), grid[:, 0])) - 1) < 1e-5


@pytest.mark.parametrize("cls", INVERTIBLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_given_values_score_like_own_draws(cls, dtype):
    flow = built(cls, (4,), False, dtype)
    with torch.no_grad():
        z = flow.sample((50,))
        torch.testing.assert_close(flow.log_prob(z.clone()), flow.log_prob(z), rtol=1e-4, atol=5e-3)


def test_a_prior_scores_by_the_fast_way():
    """One pass of each network scores a given z; drawing takes as many passes as there are
    elements.
    """
    for learned, fast in ((True, "score"), (False, "draw")):
        head = pv.AutoregressiveFlow((6,), layers=1, **({"learned": True} if learned else {}))
        calls = []
        head.layers[0].nn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        given = None if learned else torch.zeros(head.num_params)
        z = head(given).sample()
        drawn = len(calls)
        head(given).log_prob(z.clone())
        scored = len(calls) - drawn
        assert (scored if fast == "score" else drawn) == 1
        assert (drawn if fast == "score" else scored) >= 6


def test_planar_flows_are_refused_as_priors_and_likelihoods():
    x = torch.poisson(torch.full((20, 3), 4.0))
    for role in ("prior", "likelihood"):
        with pytest.raises(
            TypeError,
            match=rf"PlanarFlow\(\d,\) cannot stand as {role}: its transforms have no inv",
        ):
            pv.build(x, latent=2, **{role: "planar_flow"})
    for around in (
        {"name": "mixture", "component": "planar_flow"},
        {"name": "hierarchy", "layers": [1, 1]},
    ):
        inner = around if around["name"] == "mixture" else {**around, "family": "planar_flow"}
        with pytest.raises((TypeError, ValueError), match=r"cannot stand as prior|planar_flow"):
            pv.build(x, latent=2, prior=inner)
    vae = pv.build(x, latent=2, likelihood="poisson", guide="planar_flow", hidden=[8])
    pv.fit(vae, x, epochs=2, progress=False)
    assert pv.log_evidence(vae, x, num_samples=10).log_evidence.notnull().all()


def test_planar_flow_scores_its_own_draws_on_a_constrained_support():
    """The cached draws survive the change of precision and the map to the support."""
    x = torch.poisson(torch.full((20, 3), 4.0))
    vae = pv.build(
        x, latent=2, prior="gamma", likelihood="poisson", guide="planar_flow", hidden=[8]
    ).float()
    assert torch.isfinite(pv.terms(vae, x, num_samples=3).log_weight).all()


def test_wrong_context():
    with pytest.raises(
        ValueError,
        match=r"SplineFlow\(2,\) reads 20 numbers per datum; got a context of shape \(5, 3\)",
    ):
        pv.SplineFlow((2,))(torch.zeros(5, 3))
