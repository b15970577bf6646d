"""The direct way to the densities of a VAE equals the way by traces: values, draws, gradients."""

import itertools

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.catalogue import roles, small_spec
from pyro_vae.density.direct import Direct, plain_vae
from pyro_vae.density.problem import Problem
from pyro_vae.density.traced import Traced

K, N = 3, 4
CASES = [(name, role) for name, cls in pv.Conditional.registry.items() for role in roles(cls)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def case(name, role, condition=None, dtype=torch.float64):
    """A VAE with a conditional in a role, and data drawn from it."""
    spec = small_spec(pv.Conditional.registry[name], role)
    if condition:
        spec["condition"] = condition
    torch.set_default_dtype(dtype)
    vae = pv.build(spec, hidden=[4])
    c = None if condition is None else torch.arange(N, dtype=dtype) % 2
    x = vae.sample(N, c).to(dtype)
    network = getattr(vae.posterior, "network", None)
    if hasattr(network, "sd"):  # a guide of unscaled data is far narrower than its mean is precise
        network.sd.fill_(float(x.abs().max().clamp(min=1.0)))
    return vae, (x,) if c is None else (x, c)


def both(vae, batch, missing=False):
    direct = Direct(vae, batch, missing=missing)
    return direct, Traced(vae.model, vae.guide, batch)


def scored(densities, seed=0):
    """Terms of draws from one seed, and the gradients of their sum."""
    vae = densities.vae if isinstance(densities, Direct) else densities.model.__self__
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        terms = densities.enumerated() if vae.is_discrete else densities.terms(K)
        vae.zero_grad()
        total = terms.log_likelihood.sum() + 2 * terms.log_prior.sum() + 3 * terms.log_guide.sum()
        if total.requires_grad:
            total.backward()
    gradients = {name: p.grad for name, p in vae.named_parameters() if p.grad is not None}
    return terms, {name: gradient.clone() for name, gradient in gradients.items()}


def assert_equal(vae, batch, missing=False):
    rtol = TOLERANCE[vae.reference.dtype]
    (ours, of_ours), (theirs, of_theirs) = (scored(d) for d in both(vae, batch, missing))
    for name in ("log_likelihood", "log_prior", "log_guide"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.shape == b.shape == (len(a), N)
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, msg=name)
    assert of_ours.keys() == of_theirs.keys()
    for name, gradient in of_ours.items():
        scale = float(of_theirs[name].abs().max().clamp(min=1.0))
        torch.testing.assert_close(
            gradient, of_theirs[name], rtol=rtol, atol=rtol * scale, msg=name
        )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "role"), CASES)
def test_every_conditional_in_every_role(name, role, dtype):
    assert_equal(*case(name, role, dtype=dtype))


@pytest.mark.parametrize(("name", "role"), [pair for pair in CASES if pair[0] != "vamp"])
def test_with_a_condition(name, role):
    try:
        vae, batch = case(name, role, {"categories": 2, "seen_by": ["likelihood", "guide"]})
    except ValueError as error:
        pytest.fail(str(error))
    assert_equal(vae, batch)


@pytest.mark.parametrize("name", [name for name, role in CASES if role == "likelihood"])
def test_with_missing_cells(name):
    vae, (x,) = case(name, "likelihood")
    if x.dim() == 1 or not _factorises(vae):
        with pytest.raises(pv.DataError, match="missing"):
            vae.check(torch.full_like(x, torch.nan))
        return
    x[0, 0] = x[2, -1] = torch.nan
    assert_equal(vae, (x,), missing=True)
    x[1] = torch.nan
    direct, traced = both(vae, (x,), missing=True)
    assert (scored(direct)[0].log_likelihood[:, 1] == 0).all()
    assert (scored(traced)[0].log_likelihood[:, 1] == 0).all()


def _factorises(vae):
    from pyro_vae.assembly.missing import factorises

    return factorises(vae.likelihood_of(torch.zeros(2, *vae.prior.event_shape), None))


@pytest.mark.uses_store
@pytest.mark.parametrize("prior", ["normal", "gamma", "dirichlet", "mixture", "uniform_sphere"])
def test_given_latents_and_draws_of_the_prior(prior):
    """What annealing and bridge sampling ask: densities at values that the guide did not draw."""
    shape = [3] if prior in ("dirichlet", "uniform_sphere") else [2]
    vae = pv.build({"event": [4], "latent": shape, "prior": prior}, hidden=[4])
    x = vae.sample(N)
    direct, traced = both(vae, (x,))
    with torch.no_grad(), pyro.get_param_store().scope():
        torch.manual_seed(1)
        ours = direct.draw_prior(K)
        torch.manual_seed(1)
        theirs = traced.draw_prior(K)
        torch.testing.assert_close(ours["z"], theirs["z"], rtol=1e-12, atol=0.0)
        for a, b in zip(direct.log_model(ours), traced.log_model(ours), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        a, b = direct.log_guide(ours), traced.log_guide(ours)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        index = torch.tensor([2, 0])
        part = {"z": ours["z"][:, index]}
        torch.testing.assert_close(direct.select(index).log_guide(part), a[:, index])
    assert direct.latents.keys() == traced.latents.keys() == {"z"}
    assert direct.latents["z"].event_shape == traced.latents["z"].event_shape
    assert direct.measure == traced.measure
    assert direct.is_discrete == traced.is_discrete


PAIRS = {
    "its own methods": lambda vae: (vae.model, vae.guide),
    "a scaled model": lambda vae: (pyro.poutine.scale(vae.model, 2.0), vae.guide),
    "another guide": lambda vae: (vae.model, pv.build({"event": [3], "latent": [2]}).guide),
    "functions around them": lambda vae: (lambda x: vae.model(x), lambda x: vae.guide(x)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_who_is_asked_directly(name):
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    found = plain_vae(*PAIRS[name](vae))
    assert (found is vae) == (name == "its own methods")


class Louder(pv.VAE):
    """A subclass with a model of its own, which only a trace can see."""

    def model(self, x=None, c=None, *, size=None):
        with pyro.poutine.scale(scale=3.0):
            return super().model(x, c, size=size)


def test_a_subclass_with_a_model_of_its_own_is_traced():
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    louder = Louder(vae.prior, vae.likelihood, vae.posterior)
    problem = Problem.of(louder, torch.zeros(N, 3))
    assert problem.vae is None
    assert isinstance(problem.densities(problem.batch(slice(None))), Traced)
    pv.fit(louder, torch.randn(40, 3), epochs=1, progress=False)


class Restless(pv.Conditional):
    """A likelihood that draws a site of its own."""

    def __init__(self, event_shape):
        super().__init__()
        self.event_shape = torch.Size(event_shape)

    def forward(self, context=None):
        pyro.sample("own", pyro.distributions.Normal(torch.zeros(()), 1.0))
        return pyro.distributions.Normal(
            context.repeat(*[1] * (context.dim() - 1), 2), 1.0
        ).to_event(1)

    @classmethod
    def example(cls):
        return cls((2,))


def test_parts_that_draw_sites_of_their_own_are_traced():
    prior, guide = pv.Normal((1,), loc=0.0, scale=1.0), pv.Amortised(pv.MLP(2, 2), pv.Normal((1,)))
    vae = pv.VAE(prior, Restless((2,)), guide)
    assert Problem.of(vae, torch.zeros(N, 2)).vae is None
    with pytest.raises(ValueError, match="same latent sites"):
        pv.log_evidence(vae, torch.zeros(N, 2), num_samples=2)


def test_a_handler_around_the_call_is_seen():
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    with pyro.poutine.mask(mask=False):
        terms = pv.terms(vae, torch.ones(N, 3), num_samples=2)
    assert (terms.log_likelihood == 0).all()


def test_a_problem_is_given_alone():
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    problem = Problem.of(vae, torch.zeros(N, 3))
    assert Problem.of(problem) is problem
    with pytest.raises(TypeError, match="holds its data: give it without x and c"):
        pv.terms(problem, torch.zeros(N, 3))
    with pytest.raises(pv.DataError, match="data need rows: give x of shape"):
        pv.terms(vae)
    ours, theirs = pv.terms(problem, seed=3), pv.terms(vae, torch.zeros(N, 3), seed=3)
    assert torch.equal(ours.log_weight, theirs.log_weight)


def test_tiles_split_as_the_problem_would():
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    problem = Problem.of(vae, torch.randn(150, 3))
    whole = list(problem.tiles(32, (7, 5)))
    parts = list(itertools.chain(*(t.split(32, (7, 5)) for t in problem.tiles(64, (0,)))))
    assert [t.seed for t in parts] == [t.seed for t in whole]
    assert len({t.seed for t in whole}) == len(whole)
    for a, b in zip(parts, whole, strict=True):
        assert a.rows == b.rows
        assert torch.equal(a.batch[0], b.batch[0])
