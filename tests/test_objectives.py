"""Importance-weighted bounds with four gradients, and free bits: values and gradients against
independent ones.
"""

import functools
import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.distributions.links import Positive
from pyro_vae.training.adapters import Tempered
from pyro_vae.training.free_bits import FreeBits
from pyro_vae.training.importance_weighted import GRADIENTS, ImportanceWeighted

MODEL = LinearGaussian.with_diagonal_posterior(features=4, latents=2)
X = torch.as_tensor(MODEL.draw(12))
gradients = pytest.mark.parametrize("gradient", GRADIENTS)


def linear(shrink=1.0, shift=0.0):
    """The linear-Gaussian VAE with every parameter learned; the guide is exact unless told
    otherwise.
    """
    vae = MODEL.vae(shift=shift)
    sd = torch.as_tensor(shrink * np.sqrt(np.diag(MODEL.posterior()[0])))
    head = pv.Normal((2,), scale="learned")
    with torch.no_grad():
        head.scale.copy_(Positive().inv(sd))
    vae.posterior = pv.Amortised(vae.posterior.network, head)
    vae.prior = pv.Normal((2,), loc="learned", scale="learned")
    return vae


def gamma():
    """A constrained prior and a discrete likelihood; 30 data."""
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.Gamma((2,), concentration=2.0, rate="learned"),
        pv.Amortised(pv.MLP(2, 5, hidden=[8]), pv.Bernoulli((5,))),
        pv.Amortised(pv.MLP(5, 4, hidden=[8]), pv.Normal((2,))),
    )
    return vae, vae.sample(30)


def run(elbo, vae, x=X, seed=0):
    """Loss and gradients by name from a given seed; nothing of Pyro's remains."""
    vae.zero_grad()
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = elbo.loss_and_grads(vae.model, vae.guide, x)
    return loss, {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}


def value(elbo, vae, x=X, seed=0):
    with pyro.get_param_store().scope(), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return float(elbo.loss(vae.model, vae.guide, x))


def replicate(elbo, vae, rounds, x=X, part=""):
    """Gradients of one part in many rounds, shape (rounds, parameters)."""
    with pyro.validation_enabled(False):
        rows = [run(elbo, vae, x, seed)[1] for seed in range(rounds)]
    return torch.stack(
        [torch.cat([g.flatten() for n, g in row.items() if n.startswith(part)]) for row in rows]
    )


def of_guide(gradients):
    return {name: gradient for name, gradient in gradients.items() if name.startswith("posterior")}


def of_model(gradients):
    return {
        name: gradient for name, gradient in gradients.items() if not name.startswith("posterior")
    }


def close(first, second, tolerance=1e-10):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], rtol=tolerance, atol=tolerance, msg=name
        )


class TestBound:
    """What all gradients share: the value."""

    @gradients
    def test_it_equals_iwae_of_the_same_draws(self, gradient):
        vae, groups = linear(0.6, 0.5), 2 if gradient == "piwae" else 1
        elbo = ImportanceWeighted(3, groups=groups, gradient=gradient)
        expected = -pv.iwae(pv.terms(vae, X, num_samples=3 * groups, seed=5)).sum().item()
        assert value(elbo, vae, seed=5) == pytest.approx(expected, rel=1e-10)
        assert run(elbo, vae, seed=5)[0] == pytest.approx(expected, rel=1e-10)

    def test_it_equals_renyi_elbo_in_value_and_gradient(self):
        vae = linear(0.6, 0.5)
        theirs = RenyiELBO(alpha=0, num_particles=7, max_plate_nesting=1, vectorize_particles=True)
        (loss, ours), (expected, grads) = run(ImportanceWeighted(7), vae), run(theirs, vae)
        assert loss == pytest.approx(expected, rel=1e-10)
        close(ours, grads)

    def test_groups_are_averaged(self):
        vae = linear(0.6, 0.5)
        log_weight = pv.terms(vae, X, num_samples=12, seed=5).log_weight
        expected = -np.mean(
            [(w.logsumexp(0) - math.log(4)).sum().item() for w in log_weight.split(4)]
        )
        for gradient in ("pathwise", "stl", "dreg"):
            assert value(
                ImportanceWeighted(4, groups=3, gradient=gradient), vae, seed=5
            ) == pytest.approx(expected)

    def test_groups_lie_between_the_elbo_and_the_bound_of_all(self):
        vae, rounds = linear(0.6, 0.5), 200
        elbos = [
            ImportanceWeighted(1, groups=16),
            ImportanceWeighted(4, groups=4),
            ImportanceWeighted(16),
        ]
        with pyro.validation_enabled(False):
            bounds = -torch.tensor(
                [[value(elbo, vae, seed=seed) for seed in range(rounds)] for elbo in elbos]
            )
        assert (bounds.diff(dim=0) >= 0).all(), "of the same draws, by Jensen"
        bounds = torch.stack([bounds[0], bounds[1].roll(1), bounds[2].roll(2)])  # independent draws
        for low, high in itertools.pairwise(bounds):
            assert high.mean() - low.mean() > 4 * (high - low).std() / math.sqrt(rounds)

    def test_masks_count_and_scales_do_not(self):
        vae, elbo, mask = linear(0.6, 0.5), ImportanceWeighted(5), torch.arange(12) % 2 == 0

        def loss(wrap):
            with pyro.get_param_store().scope():
                torch.manual_seed(1)
                return elbo.loss(wrap(vae.model), wrap(vae.guide), X)

        plain = pv.iwae(pv.terms(vae, X, num_samples=5, seed=1))
        assert loss(lambda f: pyro.poutine.scale(f, 3.0)) == pytest.approx(-plain.sum().item())
        assert loss(lambda f: pyro.poutine.mask(f, mask)) == pytest.approx(
            -plain[mask].sum().item()
        )


class TestGradients:
    @pytest.mark.parametrize("groups", [1, 3])
    def test_the_model_gets_the_gradient_of_the_bound(self, groups):
        vae = linear(0.6, 0.5)
        expected = of_model(run(ImportanceWeighted(4, groups=groups), vae)[1])
        assert len(expected) == 4
        for gradient in ("stl", "dreg"):
            close(
                of_model(run(ImportanceWeighted(4, groups=groups, gradient=gradient), vae)[1]),
                expected,
            )

    @pytest.mark.parametrize("groups", [1, 3])
    def test_dreg_is_unbiased_and_stl_is_not(self, groups):
        """Over independent draws; the rows of a batch are replications too."""
        vae, rounds, x = linear(0.7, 0.5), 150, X[:3].repeat(20, 1)
        draws = {
            gradient: replicate(
                ImportanceWeighted(4, groups=groups, gradient=gradient), vae, rounds, x, "posterior"
            )
            for gradient in ("pathwise", "dreg", "stl")
        }
        z = {
            gradient: ((draws[gradient] - draws["pathwise"].roll(1, 0)).mean(0) * math.sqrt(rounds))
            / (draws[gradient].var(0) + draws["pathwise"].var(0)).sqrt()
            for gradient in ("dreg", "stl")
        }
        assert z["dreg"].numel() == 12
        assert z["dreg"].abs().max() < 4.5, z["dreg"]
        assert z["stl"].abs().max() > 10, "the test has no power"

    @pytest.mark.parametrize("particles", [1, 5])
    def test_where_the_guide_is_exact_there_is_no_noise_without_the_score(self, particles):
        vae = linear()
        for gradient in ("stl", "dreg"):
            guide = of_guide(run(ImportanceWeighted(particles, gradient=gradient), vae)[1])
            assert len(guide) == 3
            assert all(float(g.abs().max()) < 1e-10 for g in guide.values())
        noise = of_guide(run(ImportanceWeighted(particles), vae)[1])
        assert all(float(g.abs().min()) > 1e-4 for g in noise.values())

    def test_signal_to_noise_falls_with_particles_for_pathwise_and_rises_for_dreg(self):
        vae, rounds = linear(0.95, 0.1), 150
        ratio = {}
        for particles in (2, 64):
            draws = {
                gradient: replicate(
                    ImportanceWeighted(particles, gradient=gradient), vae, rounds, part="posterior"
                )
                for gradient in ("pathwise", "dreg")
            }
            # Both have the same mean, and this one has less noise.
            signal = draws["dreg"].mean(0).norm()
            ratio[particles] = {
                gradient: float(signal / d.var(0).sum().sqrt()) for gradient, d in draws.items()
            }
        assert ratio[64]["pathwise"] < 0.5 * ratio[2]["pathwise"], ratio
        assert ratio[64]["dreg"] > 2 * ratio[2]["dreg"], ratio

    @pytest.mark.parametrize(
        "make", [lambda: (linear(0.6, 0.5), X), gamma], ids=["linear", "gamma"]
    )
    def test_stl_equals_a_guide_with_frozen_parameters(self, make):
        """The estimator by its definition: log q from a second run of the guide, without gradients
        for parameters.
        """
        vae, x = make()
        _, ours = run(ImportanceWeighted(1, groups=3, gradient="stl"), vae, x)
        vae.zero_grad()
        torch.manual_seed(0)
        with pyro.get_param_store().scope(), pyro.plate("particles", 3, dim=-2):
            trace = pyro.poutine.trace(vae.guide).get_trace(x)
            model = pyro.poutine.trace(pyro.poutine.replay(vae.model, trace)).get_trace(x)
            vae.posterior.requires_grad_(False)
            frozen = pyro.poutine.trace(pyro.poutine.replay(vae.guide, trace)).get_trace(x)
            vae.posterior.requires_grad_(True)
        (-(model.log_prob_sum() - frozen.log_prob_sum()) / 3).backward()
        close(ours, {name: p.grad for name, p in vae.named_parameters()}, tolerance=1e-8)

    @pytest.mark.parametrize(
        "make", [lambda: (linear(0.6, 0.5), X), gamma], ids=["linear", "gamma"]
    )
    def test_dreg_is_what_its_formula_says(self, make):
        """By hand: the guide's gradient goes through z alone, with squared weights."""
        vae, x = make()
        _, ours = run(ImportanceWeighted(4, gradient="dreg"), vae, x, seed=3)
        torch.manual_seed(3)
        z = vae.encode(x).rsample((4,))
        leaf = z.detach().requires_grad_()
        log_weight = (
            vae.decode(leaf).log_prob(x) + vae.prior().log_prob(leaf) - vae.encode(x).log_prob(leaf)
        )
        weight = log_weight.softmax(0).detach()
        (along,) = torch.autograd.grad((weight.square() * log_weight).sum(), leaf)
        names, parameters = zip(*vae.posterior.named_parameters(), strict=True)
        expected = torch.autograd.grad(-z, parameters, along)
        expected = {
            f"posterior.{name}": gradient for name, gradient in zip(names, expected, strict=True)
        }
        close(of_guide(ours), expected, tolerance=1e-8)

    def test_piwae_is_each_of_two_bounds(self):
        vae = linear(0.6, 0.5)
        _, ours = run(ImportanceWeighted(4, groups=3, gradient="piwae"), vae)
        close(of_model(ours), of_model(run(ImportanceWeighted(12), vae)[1]))
        close(of_guide(ours), of_guide(run(ImportanceWeighted(4, groups=3), vae)[1]))

    @gradients
    def test_what_is_frozen_stays_so_and_the_rest_is_unchanged(self, gradient):
        vae = linear(0.6, 0.5)
        elbo = ImportanceWeighted(4, groups=2, gradient=gradient)
        _, all_of_them = run(elbo, vae)
        vae.posterior.requires_grad_(False)
        close(run(elbo, vae)[1], of_model(all_of_them))
        vae.requires_grad_(False)
        assert run(elbo, vae)[1] == {}
        vae.posterior.requires_grad_(True)
        close(run(elbo, vae)[1], of_guide(all_of_them))

    @gradients
    def test_the_encoder_runs_once_dropout_and_all(self, gradient):
        vae = linear()
        calls = []
        vae.posterior.network.register_forward_hook(lambda *_: calls.append(1))
        run(ImportanceWeighted(4, groups=2, gradient=gradient), vae)
        assert len(calls) == 1


class TestFreeBits:
    """The guide of `linear(shrink, shift)` has another KL in each dimension of z."""

    def kl(self, vae, x=X):
        """KL of the guide from the standard normal, by hand: shape (N, 2)."""
        q = vae.encode(x).base_dist
        return (q.scale**2 + q.loc**2 - 1) / 2 - q.scale.log()

    def expected(self, vae, chosen, beta=1.0, x=X, seed=0):
        """Gradients of minus the log likelihood plus KL of the chosen dimensions."""
        torch.manual_seed(seed)
        vae.zero_grad()
        loss = -vae.decode(vae.encode(x).rsample()).log_prob(x).sum()
        (loss + beta * (self.kl(vae, x) * torch.tensor(chosen)).sum()).backward()
        grads = {name: p.grad for name, p in vae.named_parameters() if p.grad is not None}
        return loss.item(), {name: g.clone() for name, g in grads.items()}

    def vae(self):
        vae = linear(0.6, 0.5)
        vae.prior = pv.Normal((2,), loc=0.0, scale=1.0)
        return vae

    @pytest.mark.parametrize(
        ("factor", "chosen"), [(0.9, (1.0, 1.0)), (1.1, (0.0, 1.0)), (1e3, (0.0, 0.0))]
    )
    def test_only_what_exceeds_the_free_bits_is_charged(self, factor, chosen):
        vae = self.vae()
        kl = self.kl(vae).mean(0).detach()
        order = kl.argsort()
        chosen = [chosen[i] for i in order.argsort()]
        assert kl.max() > 1.2 * kl.min()
        free = factor * kl.min().item()
        loss, grads = run(FreeBits(free), vae)
        log_likelihood, expected = self.expected(vae, chosen)
        assert loss == pytest.approx(
            log_likelihood + 12 * kl.clamp(min=free).sum().item(), rel=1e-10
        )
        close(grads, expected)

    def test_without_free_bits_it_is_the_elbo(self):
        vae = self.vae()
        loss, grads = run(FreeBits(1e-9), vae)
        expected, theirs = run(TraceMeanField_ELBO(max_plate_nesting=1), vae)
        assert loss == pytest.approx(expected, rel=1e-10)
        close(grads, theirs)
        particles = TraceMeanField_ELBO(5, max_plate_nesting=1, vectorize_particles=True)
        assert value(FreeBits(1e-9, 5), vae) == pytest.approx(value(particles, vae), rel=1e-10)

    def test_where_kl_has_no_closed_form_it_is_estimated_per_dimension(self):
        """A normal guide pushed onto the positive numbers, and a gamma prior."""
        vae, x = gamma()
        sampled = Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True)
        (loss, grads), (expected, theirs) = run(FreeBits(1e-9, 3), vae, x), run(sampled, vae, x)
        z = vae.prior().sample((30,))
        torch.manual_seed(0)
        q, p = vae.encode(x), vae.prior()
        z = q.rsample((3,))
        normal, element = q.base_dist.base_dist, p.base_dist
        kl = normal.log_prob(z.log()) - z.log() - element.log_prob(z)  # (3, 30, 2)
        assert (kl.mean((0, 1)) > 1e-9).all()
        assert loss == pytest.approx(expected, rel=1e-9)
        close(grads, theirs, tolerance=1e-8)
        free = kl.mean((0, 1)).mean().item()
        charge = 30 * kl.mean((0, 1)).clamp(min=free).sum().item()
        log_likelihood = vae.decode(z).log_prob(x).sum().item() / 3
        assert run(FreeBits(free, 3), vae, x)[0] == pytest.approx(charge - log_likelihood, rel=1e-9)

    def test_a_latent_that_does_not_factorise_is_one(self):
        x = torch.as_tensor(
            np.random.default_rng(0).dirichlet(np.ones(3), 20) > 0.4, dtype=torch.float64
        )
        vae = pv.VAE(
            pv.Dirichlet((3,), concentration=2.0),
            pv.Amortised(pv.MLP(3, 3, hidden=()), pv.Bernoulli((3,))),
            pv.Amortised(pv.MLP(3, 4, hidden=()), pv.Normal((2,))),
        )
        with torch.no_grad():
            torch.manual_seed(0)
            z = vae.encode(x).rsample((1,))
            kl = float((vae.encode(x).log_prob(z) - vae.prior().log_prob(z)).mean())
            log_likelihood = float(vae.decode(z).log_prob(x).sum())
        assert kl > 0
        for free in (0.9 * kl / 3, 1.1 * kl / 3):
            expected = 20 * max(kl, 3 * free) - log_likelihood
            assert value(FreeBits(free), vae, x) == pytest.approx(expected, rel=1e-9)

    def test_scales_weigh_the_charge_and_masks_count(self):
        vae, tempered, mask = self.vae(), Tempered(), torch.arange(12) % 3 == 0
        tempered.beta = 0.3
        kl, free = self.kl(vae).detach(), 1.1 * self.kl(vae).mean(0).min().item()
        loss = functools.partial(FreeBits(free).loss)
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            weighed = loss(tempered(vae.model), tempered(vae.guide), X)
            torch.manual_seed(0)
            masked = loss(pyro.poutine.mask(vae.model, mask), pyro.poutine.mask(vae.guide, mask), X)
        log_likelihood, _ = self.expected(vae, (0.0, 0.0))
        assert weighed == pytest.approx(
            log_likelihood + 0.3 * 12 * kl.mean(0).clamp(min=free).sum().item()
        )
        torch.manual_seed(0)
        log_likelihood = -vae.decode(vae.encode(X).rsample()).log_prob(X)[mask].sum().item()
        assert masked == pytest.approx(
            log_likelihood + 4 * kl[mask].mean(0).clamp(min=free).sum().item()
        )


OBJECTIVES = {
    **{
        gradient: functools.partial(ImportanceWeighted, 3, groups=2, gradient=gradient)
        for gradient in GRADIENTS
    },
    "free_bits": functools.partial(FreeBits, 0.1, 2),
}
objectives = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


class TestTraining:
    @objectives
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_fit_trains_every_parameter_on_a_constrained_prior(self, make, dtype):
        torch.set_default_dtype(dtype)
        vae, x = gamma()
        before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        _, grads = run(make(), vae, x)
        assert all(g.isfinite().all() and g.dtype == dtype for g in grads.values())
        history = pv.fit(vae, x, validation=x, loss=make(), epochs=2, batch_size=16, progress=False)
        assert np.isfinite(history[["loss", "validation"]]).all(axis=None)
        assert all(not torch.equal(before[name], p) for name, p in vae.named_parameters())

    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_fit_reaches_the_evidence(self, gradient):
        """From a guide that is off, with the model fixed; the bound rises to log p(x)."""
        vae, truth = linear(0.6, 0.5), float(MODEL.log_evidence(X.numpy()).mean())
        vae.prior.requires_grad_(False)
        vae.likelihood.requires_grad_(False)
        elbo = ImportanceWeighted(2, groups=2, gradient=gradient)
        before = truth - pv.elbo(pv.terms(vae, X, num_samples=500)).mean().item()
        pv.fit(vae, X, loss=elbo, epochs=150, batch_size=12, learning_rate=0.02, progress=False)
        after = truth - pv.elbo(pv.terms(vae, X, num_samples=500)).mean().item()
        assert after < 0.2 * before, (before, after)

    @objectives
    @pytest.mark.uses_store
    def test_a_pair_with_parameters_in_the_store_and_a_context(self, make):
        """Further arguments of the functions are passed on; every parameter is found and moves."""

        def model(x, c, *, shift):
            loc = pyro.param("loc", torch.tensor(0.5))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", pyro.distributions.Normal(loc, 1.0))
                pyro.sample("x", pyro.distributions.Normal(z + c + shift, 1.0), obs=x)

        def guide(x, c, *, shift):
            scale = pyro.param(
                "scale", torch.tensor(0.3), constraint=pyro.distributions.constraints.positive
            )
            with pyro.plate("data", len(x)):
                pyro.sample("z", pyro.distributions.Normal((x - c - shift) / 2, scale))

        elbo = make()
        svi = SVI(
            model,
            guide,
            pyro.optim.SGD({"lr": 1e-3}),
            elbo.loss,
            loss_and_grads=elbo.loss_and_grads,
        )
        x, c = torch.randn(9), torch.randn(9)
        assert math.isfinite(svi.step(x, c, shift=1.0))
        assert math.isfinite(svi.evaluate_loss(x, c, shift=1.0))
        store = pyro.get_param_store()
        assert set(store.keys()) == {"loc", "scale"}
        assert store["loc"].item() != 0.5
        assert store["scale"].item() != pytest.approx(0.3)

    @objectives
    def test_an_error_leaves_the_parameters_as_they_were(self, make):
        vae = linear(0.6, 0.5)
        vae.prior.requires_grad_(False)
        before = [(p.requires_grad, p.clone()) for p in vae.parameters()]
        vae.likelihood.network.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(make(), vae)
        for (required, tensor), parameter in zip(before, vae.parameters(), strict=True):
            assert parameter.requires_grad == required
            assert parameter.grad is None
            assert torch.equal(tensor, parameter)


ERRORS = {
    "gradient": (
        lambda: ImportanceWeighted(gradient="dregs"),
        "'dregs'; there are pathwise, stl, dreg, piwae",
    ),
    "particles": (
        lambda: ImportanceWeighted(0),
        "num_particles must be a whole number from 1; got 0",
    ),
    "groups": (
        lambda: ImportanceWeighted(4, groups=0),
        "groups must be a whole number from 1; got 0",
    ),
    "fraction": (
        lambda: FreeBits(0.5, 1.5),
        "num_particles must be a whole number from 1; got 1.5",
    ),
    "piwae": (
        lambda: ImportanceWeighted(4, gradient="piwae"),
        "'piwae' needs groups from 2; got 1",
    ),
    "zero bits": (lambda: FreeBits(0.0), "free_bits must be a finite number above 0; got 0.0"),
    "endless bits": (
        lambda: FreeBits(math.inf),
        "free_bits must be a finite number above 0; got inf",
    ),
    "word": (lambda: FreeBits("many"), "free_bits must be a finite number above 0; got 'many'"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_options_are_checked_at_once(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def observed(z, x):
    pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)


def latent(name, family=pyro.distributions.Normal, *values):
    return pyro.sample(name, family(*values or (0.0, 1.0)))


PAIRS = {
    "no rsample": (
        lambda x: observed(latent("z", pyro.distributions.Poisson, 1.0), x),
        lambda x: latent("z", pyro.distributions.Poisson, 1.0),
        r"needs a guide that can be reparameterised; site 'z' has a distribution without rsample",
    ),
    "latents": (
        lambda x: observed(latent("z"), x),
        lambda x: latent("y"),
        r"same latent sites; got \['z'\] and \['y'\]",
    ),
    "nothing observed": (
        lambda x: latent("z"),
        lambda x: latent("z"),
        "the model observes nothing",
    ),
}


@pytest.mark.parametrize(("model", "guide", "message"), PAIRS.values(), ids=PAIRS)
@objectives
def test_pairs_are_checked(make, model, guide, message):
    def inside(function):
        def wrapped(x):
            with pyro.plate("data", len(x)):
                function(x)

        return wrapped

    with pytest.raises(ValueError, match=message):
        make().loss_and_grads(inside(model), inside(guide), torch.randn(4))


class TestTwoLatents:
    """One drawn from the other, in another order than in the model: the guide is exact."""

    normal = pyro.distributions.Normal

    def model(self, x):
        with pyro.plate("data", len(x)):
            observed(latent("b", self.normal, latent("a"), 1.0), x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            latent(
                "a", self.normal, latent("b", self.normal, 2 * x / 3, (2 / 3) ** 0.5) / 2, 0.5**0.5
            )

    @pytest.mark.parametrize("gradient", ["pathwise", "piwae"])
    def test_weights_are_those_of_both(self, gradient):
        x = torch.randn(4)
        evidence = self.normal(0.0, 3**0.5).log_prob(x).sum().item()
        loss = ImportanceWeighted(3, groups=2, gradient=gradient).loss_and_grads(
            self.model, self.guide, x
        )
        assert loss == pytest.approx(-evidence)

    @pytest.mark.parametrize("name", ["stl", "dreg", "free_bits"])
    def test_their_score_and_kl_cannot_be_told_apart(self, name):
        with pytest.raises(
            ValueError,
            match=r"needs a guide with one latent site; got \['a', 'b'\]; use Importance",
        ):
            OBJECTIVES[name]().loss(self.model, self.guide, torch.randn(4))


@pytest.mark.parametrize("scale", [2.0, torch.tensor([1.0, 2.0]).repeat(6)])
def test_free_bits_need_one_scale(scale):
    vae = linear()
    guide = pyro.poutine.scale(vae.guide, scale)
    with (
        pyro.get_param_store().scope(),
        pytest.raises(ValueError, match=r"needs one scale.*got \[1\.0, 2\.0\]"),
    ):
        FreeBits(0.1).loss(vae.model, guide, X)
