"""What a caller adds is never lost: sites, methods, losses and handlers of theirs go by traces."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist

import pyro_vae as pv
from pyro_vae.density.direct import Direct
from pyro_vae.density.problem import Problem
from pyro_vae.density.traced import Traced
from pyro_vae.training.monitor import Watched

N = 6


def parts():
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    return vae.prior, vae.likelihood, vae.posterior


def small():
    return pv.VAE(*parts())


class Penalised(pv.Conditional):
    """A likelihood with a term of its own."""

    def __init__(self, inner, term):
        super().__init__()
        self.inner, self.term, self.event_shape = inner, term, inner.event_shape

    def forward(self, context=None):
        built = self.inner(context)
        self.term(built)
        return built

    @classmethod
    def example(cls):
        return cls(pv.Normal((3,)), lambda built: None)


TERMS = {
    "a factor": lambda built: pyro.factor("penalty", -10 * torch.ones(built.batch_shape)),
    "an observation": lambda built: pyro.sample(
        "seen", dist.Normal(torch.zeros(built.batch_shape), 1.0), obs=torch.ones(())
    ),
}


@pytest.mark.filterwarnings("ignore:trying to observe:RuntimeWarning")
@pytest.mark.parametrize("name", TERMS)
def test_a_site_inside_a_part_counts(name):
    prior, likelihood, guide = parts()
    plain = pv.VAE(prior, likelihood, guide)
    vae = pv.VAE(prior, Penalised(likelihood, TERMS[name]), guide)
    x = torch.randn(N, 3)
    assert Problem.of(vae, x).vae is None
    more = pv.terms(vae, x, num_samples=2).log_likelihood
    expected = -10.0 if name == "a factor" else -0.5 - 0.5 * math.log(2 * math.pi)
    less = pv.terms(plain, x, num_samples=2).log_likelihood
    torch.testing.assert_close(more - less, torch.full_like(more, expected))


def shifted(self, x, c):
    return dist.Normal(torch.full((len(x), 2), 5.0), 0.1).to_event(1)


OVERRIDES = {
    "guide_of": shifted,
    "prior_of": lambda self, c: dist.Normal(torch.full((2,), 5.0), 1.0).to_event(1),
    "likelihood_of": lambda self, z, c: dist.Normal(z[..., :1] + torch.ones(3), 0.1).to_event(1),
    "as_batch": lambda self, x: torch.zeros_like(x),
    "join": lambda self, part, context, c, event_dim: 0 * context,
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_methods_of_a_subclass_count(name):
    subclass = type("Mine", (pv.VAE,), {name: OVERRIDES[name]})
    vae, x = subclass(*parts()), torch.randn(N, 3)
    problem = Problem.of(vae, x)
    assert problem.vae is None
    ours = pv.terms(problem, num_samples=2, seed=1)
    with pyro.get_param_store().scope():
        torch.manual_seed(1)
        theirs = Traced(vae.model, vae.guide, (x,)).terms(2)
    torch.testing.assert_close(ours.log_weight, theirs.log_weight)


def test_so_does_one_that_shows_parameters():
    def shown(self):
        calls.append(self)

    calls = []
    vae = type("Mine", (pv.VAE,), {"register_parameters": shown})(*parts())
    problem = Problem.of(vae, torch.randn(N, 3))
    assert problem.vae is None
    pv.terms(problem)
    assert calls


def test_a_method_replaced_on_the_instance_counts():
    vae = small()
    vae.guide_of = lambda x, c: shifted(vae, x, c)
    assert Problem.of(vae, torch.randn(N, 3)).vae is None


class CountedBound(pv.ImportanceWeighted):
    """A loss with another way to its value."""

    calls = 0

    def loss_and_grads(self, model, guide, *args):
        type(self).calls += 1
        return super().loss_and_grads(model, guide, *args)


class Halved(pv.FreeBits):
    """A loss with another value."""

    def differentiable_loss(self, model, guide, *args):
        return 0.5 * super().differentiable_loss(model, guide, *args)


def fitted(vae, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.fit(vae, x, epochs=1, batch_size=len(x), progress=False, **options)


def test_a_loss_of_a_callers_is_called():
    fitted(small(), torch.randn(N, 3), loss=CountedBound(2))
    assert CountedBound.calls == 1
    vaes, x = (small(), small()), torch.randn(N, 3)
    whole = fitted(vaes[0], x, loss=pv.FreeBits(0.1)).loss[0]
    half = fitted(vaes[1], x, loss=Halved(0.1)).loss[0]
    assert half == pytest.approx(whole / 2)


def test_a_handler_counts_for_a_problem_that_was_made_before():
    problem = Problem.of(small(), torch.ones(N, 3))
    with pyro.poutine.mask(mask=False):
        assert (pv.terms(problem, num_samples=2).log_likelihood == 0).all()
    assert (pv.terms(problem, num_samples=2).log_likelihood != 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of weights
def test_gaps_see_a_handler_around_a_vae():
    """A mask takes log p(x given z) and log p(z) away: what is left is the guide alone."""
    vae = small()
    masked = pyro.poutine.mask(vae.model, mask=False), vae.guide
    problem = Problem.of(masked, torch.ones(N, 3))
    found = pv.gaps(problem, steps=5, num_samples=500)
    entropy = vae.encode(torch.ones(N, 3)).entropy().detach().numpy()
    assert (np.abs(found.elbo - entropy) < 5 / 500**0.5).all()


def test_what_was_kept_without_gradients_is_made_again():
    vae = pv.build({"event": [3], "latent": [2], "prior": {"name": "normal", "learned": True}})
    direct = Direct(vae, (torch.randn(N, 3),), missing=False)
    with torch.no_grad():
        direct.terms(2)
    assert direct.measure == "density"
    terms = direct.terms(2)
    terms.log_weight.sum().backward()
    for name in ("prior.loc", "prior.scale"):
        assert dict(vae.named_parameters())[name].grad.abs().sum() > 0
    assert all(p.grad is not None for p in vae.posterior.parameters())


@pytest.mark.parametrize("prior", ["normal", "gamma"])
@pytest.mark.parametrize("loss", ["elbo", "stl", "dreg", "piwae", "iwae"])
@pytest.mark.parametrize("way", ["direct", "traced"])
def test_the_encoder_runs_once_a_step(prior, loss, way):
    """Dropout and batch statistics are those of the draw."""
    subclass = type("Mine", (pv.VAE,), {"as_batch": lambda self, x: pv.VAE.as_batch(self, x)})
    built = pv.build({"event": [3], "latent": [2], "prior": prior}, hidden=[4])
    cls = pv.VAE if way == "direct" else subclass
    vae = cls(built.prior, built.likelihood, built.posterior)
    runs = []
    vae.posterior.network.register_forward_hook(lambda *_: runs.append(vae.training))
    fitted(vae, torch.randn(N, 3), loss=loss)
    assert sum(runs) == 1, "of these, in train mode"


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_dropout_drops_the_same_by_both_ways(prior):
    vae = pv.build({"event": [3], "latent": [2], "prior": prior}, hidden=[8])
    for part in (vae.posterior, vae.likelihood):
        part.network.layers.insert(1, torch.nn.Dropout(0.5))
    vae.train()
    x, found = torch.randn(N, 3), []
    for densities in (
        Direct(vae, (x,), missing=False),
        Traced(vae.model, vae.guide, (x,)),
    ):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            found.append(densities.terms(2).log_weight)
    torch.testing.assert_close(*found)


def test_a_statistic_that_fails_leaves_everything_as_it_was():
    vae, x = small(), torch.ones(N, 3)
    vae.train()
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError) as caught:
        pv.check_predictions(vae, x, statistics={"mine": lambda x: 1 / 0})
    assert caught.value.__traceback__ is not None  # the frames are alive
    assert vae.training
    assert all(p.requires_grad for p in vae.posterior.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_watched_rows_do_not_keep_their_batches():
    watched, batch = Watched(1000), torch.zeros(1000, 50)
    watched.take(np.arange(1000), (batch,))
    assert all(part.untyped_storage().nbytes() == 50 * 8 for (part,) in watched._kept.values())
    assert torch.equal(watched.batch[0], batch[watched.index])


def test_rows_of_a_caller_are_left_as_they_are():
    values = np.zeros((N, 3))
    rows = pv.data.as_rows(values)
    vae = small()
    first = Problem.of(vae, rows)
    digest = first.rows.summary.digest
    values += 1
    second = Problem.of(vae, rows)
    assert first.rows.summary.digest == digest != second.rows.summary.digest


def test_gradients_of_what_is_not_trained_do_not_grow():
    vae = small()
    of_guide = list(vae.posterior.parameters())
    fitted(
        vae,
        torch.randn(N, 3),
        optimizer=lambda parameters, lr: torch.optim.SGD(of_guide, lr=lr),
    )
    assert all(p.grad is None for p in vae.parameters())
