"""torch can trace the loss of a VAE in one piece, and export its encoder and its decoder."""

import pyro
import pytest
import torch
import torch._dynamo

import pyro_vae as pv
from pyro_vae.cli.catalogue import roles, small_spec
from pyro_vae.density.direct import Direct
from pyro_vae.training.losses import losses, objective
from pyro_vae.training.objectives import Objective

CASES = [(name, role) for name, cls in pv.Conditional.registry.items() for role in roles(cls)]
FAST = {
    ("normal", "prior"),
    ("gamma", "prior"),
    ("columns", "likelihood"),
    ("spline_flow", "guide"),
}
CASES = [
    pytest.param(*case, marks=() if case in FAST else pytest.mark.slow, id="-".join(case))
    for case in CASES
]
CANNOT = {  # losses whose step is no one function of the batch, with the reason
    "wake_sleep": "Pyro's own, which dreams by traces",
    "enum": "Pyro's own, which enumerates by traces",
    "mcem": "the chains of its step follow gradients of their own",
}
READS_VALUES = {  # what torch says of a part that asks for the value of a tensor
    # as discrete latents: how large is total_count?
    **dict.fromkeys(
        [(name, role) for name in ("binomial", "beta_binomial") for role in ("prior", "guide")],
        "enumerate_support",
    ),
    # is an end infinite? that says which map it has
    ("truncated_normal", "prior"): "Data-dependent branching",
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with pyro.validation_enabled(False):
        yield
    torch._dynamo.reset()


def loss_of(vae, name="elbo", beta=0.7, free_bits=None, missing=False):
    elbo = objective(vae, name, None, 1.0, free_bits)

    def loss(*batch):
        densities = Direct(vae, batch, missing=missing)
        if vae.is_discrete:
            terms = densities.enumerated()
            return (terms.log_guide.exp() * terms.log_weight).sum()
        return elbo.evaluate(densities, beta)

    return loss


def assert_compiles(vae, loss, batch):
    """Loss and gradients of the compiled function equal those of the function itself."""
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    found = []
    for function in (loss, compiled):
        torch.manual_seed(0)
        value = function(*batch)
        trained = [p for p in vae.parameters() if p.requires_grad]
        found.append([value, *torch.autograd.grad(value, trained, allow_unused=True)])
    for plain, traced in zip(*found, strict=True):
        assert (plain is None) == (traced is None)
        if plain is not None:
            torch.testing.assert_close(plain, traced, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "role"), CASES)
def test_the_whole_catalogue(name, role):
    vae = pv.build(small_spec(pv.Conditional.registry[name], role), hidden=[4])
    x = vae.sample(4).to(vae.reference)
    if (name, role) in READS_VALUES:
        with pytest.raises(torch._dynamo.exc.Unsupported, match=READS_VALUES[name, role]):
            assert_compiles(vae, loss_of(vae), (x,))
    else:
        assert_compiles(vae, loss_of(vae), (x,))


@pytest.mark.parametrize("name", losses)
def test_every_loss(name):
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    if name in CANNOT:
        assert losses[name].elbo.__module__.startswith("pyro.") or name == "mcem"
        return
    assert isinstance(objective(vae, name, None, 1.0, None), Objective)
    assert_compiles(vae, loss_of(vae, name), (torch.randn(4, 3),))


def test_free_bits():
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    assert_compiles(vae, loss_of(vae, free_bits=0.1), (torch.randn(4, 3),))


@pytest.mark.parametrize("condition", [{"size": 2}, {"categories": 3}])
def test_a_condition(condition):
    vae = pv.build({"event": [3], "latent": [2], "condition": condition}, hidden=[4])
    c = torch.arange(4.0) % 3 if "categories" in condition else torch.randn(4, 2)
    assert_compiles(vae, loss_of(vae), (torch.randn(4, 3), c))


@pytest.mark.parametrize("guide", ["product_of_experts", "mixture_of_products"])
def test_missing_blocks(guide):
    vae = pv.build(small_spec(pv.Conditional.registry[guide], "guide"), hidden=[4])
    x = vae.sample(4).to(vae.reference)
    x[1, 0] = torch.nan
    assert_compiles(vae, loss_of(vae, missing=True), (x,))


@pytest.mark.parametrize("likelihood", ["normal", "poisson", "columns"])
def test_missing_cells(likelihood):
    vae = pv.build(small_spec(pv.Conditional.registry[likelihood], "likelihood"), hidden=[4])
    x = vae.sample(4).to(vae.reference)
    x[1, 0] = torch.nan
    assert_compiles(vae, loss_of(vae, missing=True), (x,))


class Encoder(torch.nn.Module):
    """The mean of the guide."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        return self.vae.unconstrained_guide_of(x, None).mean


class Decoder(Encoder):
    """The mean of the likelihood."""

    def forward(self, z):
        return self.vae.likelihood_of(z, None, like=z).mean


IMAGES = {
    "event": [1, 8, 8],
    "latent": [2],
    "likelihood": {"name": "normal", "network": {"name": "conv_decoder", "channels": [2, 2]}},
    "guide": {"name": "normal", "network": {"name": "conv_encoder", "channels": [2, 2]}},
}
SPECS = {
    "normal": {"event": [3], "latent": [2]},
    "counts": {"event": [3], "latent": [2], "prior": "gamma", "likelihood": "poisson"},
    "images": IMAGES,
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("part", [Encoder, Decoder])
def test_export_with_any_number_of_data(name, part):
    vae = pv.build(SPECS[name])
    shape = vae.likelihood.event_shape if part is Encoder else vae.prior.event_shape
    module, few, many = part(vae), torch.rand(3, *shape), torch.rand(17, *shape)
    rows = torch.export.Dim("rows", min=2, max=10_000)
    program = torch.export.export(module, (few,), dynamic_shapes=({0: rows},))
    torch.testing.assert_close(program.module()(many), module(many))
