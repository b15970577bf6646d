"""fit: that it reaches known optima, what it promises about determinism, and what it leaves as it
was.
"""

import functools
import math
import subprocess
import sys
import warnings

import numpy as np
import pyro
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import FactorAnalysis
from truth import LinearGaussian, affine

import pyro_vae as pv
from pyro_vae.training.step import steps_of

quiet = functools.partial(pv.fit, progress=False)
X = LinearGaussian.with_diagonal_posterior(features=6, latents=3).draw(100)


def small(seed=0, **parts):
    return pv.build(X, latent=2, hidden=[8], seed=seed, **parts)


def snapshot(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


def equal(before, vae):
    return all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_a_linear_vae_reaches_factor_analysis(load):
    """Lucas et al. (2019): with an exact guide in the family, the optimum of the ELBO is the
    maximum likelihood.

    With 3 latents on breast cancer scikit-learn's EM ends in a local optimum, 0.7 nats below the
    linear VAE.
    """
    x = load().data
    x = (x - x.mean(0)) / x.std(0)
    features, latents = x.shape[1], 2
    analysis = FactorAnalysis(latents, tol=1e-8, max_iter=20_000, svd_method="lapack").fit(x)
    vae = pv.VAE(
        pv.Normal((latents,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(latents, features, hidden=()), pv.Normal((features,), scale="learned")),
        pv.Amortised(pv.MLP(features, latents, hidden=()), pv.Normal((latents,), scale="learned")),
    )
    rate = lambda epoch: 0.02 * 0.98 ** max(0, epoch - 150)  # noqa: E731
    quiet(vae, x, loss="mean_field", epochs=400, batch_size=100, learning_rate=rate)
    with warnings.catch_warnings():
        # Of one k-hat or another: the guide is as diagonal as it must be.
        warnings.simplefilter("ignore", UserWarning)
        evidence = pv.log_evidence(vae, x, num_samples=500)
    gap = evidence.attrs["mean"] - analysis.score(x)
    # The data are the same: only the draws of z err.
    error = math.sqrt(float((evidence.se**2).sum())) / len(x)
    assert -0.05 * features < gap < 4 * error, (gap, error)
    decoder, scale = (
        vae.likelihood.network.layers[0],
        vae.decode(torch.zeros(latents)).base_dist.scale,
    )
    weight, bias, scale = (
        tensor.detach().numpy() for tensor in (decoder.weight, decoder.bias, scale)
    )
    exact = LinearGaussian(weight, bias, scale**2).log_evidence(x)
    assert abs(evidence.attrs["mean"] - exact.mean()) < 4 * error


@pytest.mark.parametrize(
    "load",
    [pytest.param(load, marks=pytest.mark.slow) for load in (load_breast_cancer, load_wine)],
)
def test_evidence_under_the_parameters_of_factor_analysis(load):
    x = load().data
    x = (x - x.mean(0)) / x.std(0)
    analysis = FactorAnalysis(3, svd_method="lapack").fit(x)
    truth = LinearGaussian(analysis.components_.T, analysis.mean_, analysis.noise_variance_)
    covariance, gain = truth.posterior()
    # Covers the posterior, whatever its correlations.
    wide = 1.3 * np.sqrt(np.linalg.eigvalsh(covariance)[-1])
    vae = truth.vae()
    vae.posterior = pv.Amortised(affine(gain, -gain @ truth.bias), pv.Normal((3,), scale=wide))
    evidence = pv.log_evidence(vae, x, num_samples=20_000)
    z = (evidence.log_evidence - analysis.score_samples(x)) / evidence.se
    assert (np.abs(z) < 4).all()
    assert 0.8 < z.std() < 1.2


class TestLosses:
    @pytest.mark.parametrize("loss", ["elbo", "mean_field", "iwae", "renyi", "wake_sleep", "enum"])
    def test_every_named_loss_trains(self, loss):
        vae = small()
        with warnings.catch_warnings():
            if loss == "enum":  # nothing here can be enumerated, and Pyro says so
                warnings.simplefilter("ignore", UserWarning)
            history = quiet(vae, X, loss=loss, epochs=60, batch_size=50, learning_rate=1e-2)
        assert history.loss[50:].mean() < history.loss[:10].mean() - 0.3

    def test_a_pyro_elbo_trains(self):
        vae, other = small(), small()
        a = quiet(vae, X, loss="iwae", particles=5, epochs=3)
        theirs = pyro.infer.RenyiELBO(
            alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1
        )
        b = quiet(other, X, loss=theirs, epochs=3)
        assert a.loss.equals(b.loss)
        for name, parameter in other.named_parameters():  # the order of the sums is another
            torch.testing.assert_close(snapshot(vae)[name], parameter, rtol=1e-9, atol=1e-12)

    @pytest.mark.slow
    def test_wake_sleep_learns_the_guide_from_dreams(self):
        """With the model right and frozen, sleep teaches the guide the exact posterior: KL falls
        towards 0.
        """
        truth = LinearGaussian.with_diagonal_posterior(features=6, latents=3)
        vae = truth.vae()
        vae.posterior = pv.Amortised(pv.MLP(6, 6, hidden=()), pv.Normal((3,)))
        vae.likelihood.requires_grad_(False)
        x = truth.draw(200, seed=5)

        def gap():
            return float(
                (truth.log_evidence(x) - pv.log_evidence(vae, x, num_samples=24).elbo).mean()
            )

        before = gap()
        quiet(vae, x, loss="wake_sleep", epochs=600, learning_rate=lambda epoch: 0.03 * 0.99**epoch)
        assert gap() < 0.05 * before

    @pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
    def test_enum_needs_one_precision(self):
        vae = small(prior="gamma")
        with pytest.raises(ValueError, match="enum needs all densities in one precision"):
            quiet(vae.float(), X, loss="enum")
        quiet(vae.double(), X, loss="enum", epochs=1)

    def test_unknown_loss(self):
        with pytest.raises(
            ValueError, match="no loss is named 'elbow'; there are elbo, mean_field"
        ):
            quiet(small(), X, loss="elbow")

    @pytest.mark.parametrize("loss", ["iwae", "renyi", "wake_sleep"])
    @pytest.mark.parametrize("beta", [0.5, pv.linear_warmup(3)])
    def test_beta_needs_a_kl_term(self, loss, beta):
        vae = small()
        before = snapshot(vae)
        with pytest.raises(ValueError, match="fit: beta weighs the KL term of an ELBO"):
            quiet(vae, X, loss=loss, beta=beta)
        assert equal(before, vae)


class TestBeta:
    def loss(self, vae, **options):
        """The loss of the data at the present parameters: one step that does not move, with the
        same draws each time.
        """
        vae.times_fitted = 0
        return quiet(
            vae,
            X,
            epochs=1,
            batch_size=100,
            optimizer=torch.optim.SGD,
            learning_rate=0.0,
            **options,
        ).loss[0]

    def test_beta_weighs_the_kl_term(self):
        """With analytic KL and common draws the loss is linear in beta, and its slope is the mean
        KL.
        """
        vae = small()
        at = {beta: self.loss(vae, beta=beta, loss="mean_field") for beta in (0.0, 0.5, 1.0, 4.0)}
        q = vae.encode(X)
        kl = torch.distributions.kl_divergence(q, vae.prior().expand((100,))).mean().item()
        for beta, loss in at.items():
            assert loss == pytest.approx(at[0.0] + beta * kl, rel=1e-9)

    def test_beta_is_the_same_for_sampled_kl(self):
        vae = small()
        at = {beta: self.loss(vae, beta=beta, loss="elbo") for beta in (0.0, 0.5, 1.0, 4.0)}
        slope = at[1.0] - at[0.0]
        assert slope > 0
        without = self.loss(vae, beta=0.0, loss="mean_field")
        assert at[0.0] == pytest.approx(without, rel=1e-9), "what is left is the log likelihood"
        for beta, loss in at.items():
            assert loss == pytest.approx(at[0.0] + beta * slope, rel=1e-9)

    def test_schedules(self):
        linear = pv.linear_warmup(10, end=2.0)
        assert [linear(t) for t in (0, 5, 10, 99)] == [0, 1, 2, 2]
        cyclical = pv.cyclical_warmup(10, ramp=0.5, end=2.0)
        assert [cyclical(t) for t in (0, 2.5, 5, 9.9, 10, 12.5)] == [0, 1, 2, 2, 0, 1]

    def test_warmup_reaches_the_history(self):
        history = quiet(small(), X, beta=pv.linear_warmup(4), epochs=6, batch_size=100)
        assert history.beta.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    def test_learning_rate_may_be_a_schedule(self):
        history = quiet(small(), X, learning_rate=lambda epoch: 0.1 / (1 + epoch), epochs=2)
        assert history.learning_rate.tolist() == [0.1, 0.05]
        within = quiet(
            small(), X, learning_rate=lambda epoch: 0.1 / (1 + epoch), epochs=2, batch_size=50
        )
        # That of the last step.
        np.testing.assert_allclose(within.learning_rate, [0.1 / 1.5, 0.1 / 2.5])


class TestSteps:
    def test_one_step_is_the_gradient_of_the_loss_per_datum(self):
        vae = small()
        before = snapshot(vae)
        quiet(
            vae,
            X,
            epochs=1,
            batch_size=100,
            optimizer=torch.optim.SGD,
            learning_rate=0.1,
            loss="mean_field",
        )
        step = {name: (before[name] - p.detach()) / 0.1 for name, p in vae.named_parameters()}
        vae.load_state_dict(before)
        with pyro.get_param_store().scope(), torch.random.fork_rng():
            torch.manual_seed(0)
            x = torch.as_tensor(X)[torch.randperm(100)]
            pyro.infer.TraceMeanField_ELBO(max_plate_nesting=1).loss_and_grads(
                vae.model, vae.guide, x
            )
        for name, parameter in vae.named_parameters():
            torch.testing.assert_close(step[name], parameter.grad / 100, rtol=1e-6, atol=1e-10)

    def test_clipping_is_of_the_global_norm_per_datum(self):
        vae = small()
        before = snapshot(vae)
        options = {
            "epochs": 1,
            "batch_size": 100,
            "optimizer": torch.optim.SGD,
            "learning_rate": 1.0,
        }
        quiet(vae, X, clip_norm=0.01, **options)
        moved = [p.detach() - before[name] for name, p in vae.named_parameters()]
        assert float(torch.nn.utils.get_total_norm(moved)) == pytest.approx(0.01, rel=1e-4)

    def test_every_row_once_an_epoch(self):
        seen = []

        class Source(torch.utils.data.Dataset):
            def __len__(self):
                return 100

            def __getitem__(self, index):
                seen.append(index)
                return torch.as_tensor(X[index]), 0

        vae = small()
        rows = vae.check(Source())
        seen.clear()
        vae.check = lambda *_: rows  # the door has been passed
        quiet(vae, Source(), epochs=2, batch_size=32)
        first, second = seen[:100], seen[100:]  # the monitor looks at rows that it has kept
        assert sorted(first) == sorted(second) == list(range(100))
        assert first != second

    def test_dead_units_leave_no_subnormal_numbers_which_are_slow(self):
        vae = small().float()
        dead = vae.posterior.network.layers[0].bias[:4]
        made = []

        def adam(parameters, lr):
            made.append(torch.optim.Adam(parameters, lr))
            return made[0]

        @torch.no_grad()
        def rate(epoch):
            dead.fill_(-1e6 if epoch >= 1 else 0.0)
            return 1e-3

        quiet(vae, X, epochs=120, batch_size=10, learning_rate=rate, optimizer=adam)
        mean = torch.cat([state["exp_avg"].flatten() for state in made[0].state.values()])
        assert (mean == 0).any()
        assert not ((mean != 0) & (mean.abs() < torch.finfo(mean.dtype).tiny)).any()

    def test_under_autocast_it_trains_and_densities_are_not_coarse(self):
        """Torch keeps the casts of parameters, which must not outlive a step."""
        found = []
        for enabled in (False, True):
            vae = small().float()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                history = quiet(vae, X, epochs=40, learning_rate=1e-2)
                density = vae.likelihood_of(torch.zeros(3, 2), None).base_dist.loc
            assert density.dtype == torch.float32
            assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}
            found.append(history.loss.to_numpy())
        single, mixed = found
        assert single[-1] < single[0] - 1
        np.testing.assert_allclose(mixed, single, atol=0.05)

    def test_nothing_to_train(self):
        vae = small()
        vae.requires_grad_(False)
        with pytest.raises(ValueError, match="fit has nothing to train"):
            quiet(vae, X)

    def test_a_loss_without_a_gradient_moves_nothing(self):
        vae = small()
        vae.requires_grad_(False)
        vae.likelihood.unused = torch.nn.Parameter(torch.ones(()))
        before = snapshot(vae)
        assert quiet(vae, X, epochs=2).loss.notna().all()
        assert equal(before, vae)

    OPTIONS = {
        "epochs": (0, 2.5, True, "3"),
        "batch_size": (-1, 0.5),
        "patience": (0, 1.5),
        "particles": (0, 1.5),
        "seed": (None, -1, 1.5, 2**70),
        "beta": (-1.0, math.nan, "1"),
        "learning_rate": (-1.0, math.inf, "fast"),
        "clip_norm": (0, -1.0, math.nan),
    }

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, values in OPTIONS.items() for value in values]
    )
    def test_options_that_make_no_sense_are_refused_before_anything_moves(self, name, value):
        vae = small()
        before = snapshot(vae)
        with pytest.raises(ValueError, match=f"{name} must be a .*number.*; got"):
            quiet(vae, X, **{name: value})
        assert equal(before, vae)

    def test_wake_sleep_needs_two_particles(self):
        with pytest.raises(ValueError, match="particles must be a whole number from 2; got 1"):
            quiet(small(), X, loss="wake_sleep", particles=1)

    def test_iwae_with_one_particle_is_the_elbo(self):
        first, second = small(), small()
        quiet(first, X, loss="iwae", particles=1, epochs=3)
        quiet(second, X, loss="elbo", epochs=3)
        for p, q in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(p, q)

    def test_a_pair_is_not_trained_here(self):
        with pytest.raises(
            TypeError, match="fit needs a VAE; got tuple; a pair of Pyro functions trains by"
        ):
            quiet((small().model, small().guide), X)


class TestSurroundings:
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_gradients_are_on_inside(self, context):
        first, second = small(), small()
        quiet(first, X, epochs=2)
        with context():
            quiet(second, X, epochs=2)
        assert equal(snapshot(first), second)

    def test_threads_take_turns(self):
        from concurrent.futures import ThreadPoolExecutor

        alone = small()
        quiet(alone, X, epochs=5)
        vaes = [small() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda vae: quiet(vae, X, epochs=5), vaes))
            evidence = list(pool.map(lambda vae: pv.log_evidence(vae, X, num_samples=9), vaes))
        for vae, result in zip(vaes, evidence, strict=True):
            assert equal(snapshot(alone), vae)
            assert result.equals(evidence[0])

    def test_an_interrupt_keeps_the_best(self):
        vae = small()

        def rate(epoch):
            if epoch >= 6:
                raise KeyboardInterrupt
            return 1e-2 if epoch < 4 else 1.0

        with pytest.raises(KeyboardInterrupt):
            quiet(vae, X, validation=X, epochs=10, learning_rate=rate)
        other = small()
        history = quiet(
            other, X, validation=X, epochs=6, learning_rate=lambda epoch: 1e-2 if epoch < 4 else 1.0
        )
        assert history.validation.idxmin() <= 4
        assert equal(snapshot(other), vae)

    def test_a_schedule_is_checked_all_the_way(self):
        with pytest.raises(ValueError, match=r"learning_rate must be a number from 0, .* got nan"):
            quiet(small(), X, learning_rate=lambda epoch: 1e-2 if epoch < 1 else math.nan, epochs=3)

    @pytest.mark.parametrize("loss", [None, 3, pyro.infer.Trace_ELBO])
    def test_loss_is_a_name_or_an_elbo(self, loss):
        with pytest.raises(TypeError, match="fit needs loss as a name or as an instance of a pyro"):
            quiet(small(), X, loss=loss)

    @pytest.mark.parametrize(
        "optimizer", ["adam", torch.optim.LBFGS, pyro.optim.Adam, lambda parameters, lr: None]
    )
    def test_optimizer_makes_a_torch_optimiser(self, optimizer):
        with pytest.raises(
            TypeError, match="fit needs optimizer as a function of parameters and lr"
        ):
            quiet(small(), X, optimizer=optimizer)

    def test_groups_keep_a_rate_of_their_own(self):
        """One of 0 does not move; the others follow the schedule."""
        vae = small()
        before = {name: p.clone() for name, p in vae.named_parameters()}
        made = []

        def frozen_guide(parameters, lr):
            guide = set(vae.posterior.parameters())
            rest = [p for p in parameters if p not in guide]
            groups = [{"params": rest}, {"params": list(guide), "lr": 0.0}]
            made.append(torch.optim.Adam(groups, lr=lr))
            return made[0]

        rate = lambda epoch: 1e-2 / (1 + epoch)  # noqa: E731
        quiet(vae, X, epochs=3, learning_rate=rate, optimizer=frozen_guide)
        moved = {name for name, p in vae.named_parameters() if not torch.equal(p, before[name])}
        assert moved
        assert not any(name.startswith("posterior") for name in moved)
        assert [group["lr"] for group in made[0].param_groups] == [rate(2), 0.0]

    def test_a_frozen_group_stays_frozen_in_a_warm_up(self):
        """A rate that begins at 0 is that of the group too."""
        vae = small()
        before = [p.clone() for p in vae.posterior.parameters()]

        def frozen_guide(parameters, lr):
            guide = set(vae.posterior.parameters())
            rest = [p for p in parameters if p not in guide]
            return torch.optim.Adam([{"params": list(guide), "lr": 0.0}, {"params": rest}], lr=lr)

        rate = lambda epoch: 1e-2 * epoch  # noqa: E731
        history = quiet(vae, X, epochs=3, learning_rate=rate, optimizer=frozen_guide)
        assert all(map(torch.equal, before, vae.posterior.parameters()))
        assert history.learning_rate.tolist() == [0.0, 0.01, 0.02]

    def test_an_optimiser_of_other_parameters_is_refused(self):
        other = lambda _, lr: torch.optim.Adam(small().parameters(), lr)  # noqa: E731
        with pytest.raises(ValueError, match="got one of none of them"):
            quiet(small(), X, optimizer=other)

    def test_a_last_step_of_one_datum_is_joined_to_the_one_before(self):
        """Batch normalisation has no variance of one."""
        ends = lambda *given: [(s.start, s.stop) for s in steps_of(*given)]  # noqa: E731
        assert ends(129, 128) == [(0, 129)]
        assert ends(257, 128) == [(0, 128), (128, 257)]
        assert ends(130, 128) == [(0, 128), (128, 130)]
        assert ends(3, 1) == [(0, 1), (1, 2), (2, 3)]
        assert ends(1, 128) == [(0, 1)]

        vae = small()
        network = vae.posterior.network.layers
        network.insert(1, torch.nn.BatchNorm1d(network[0].out_features))
        quiet(vae, X[:33], epochs=1, batch_size=32)

    def test_reweighted_wake_sleep_itself(self):
        """Dreams come with a dimension of their own."""
        loss = pyro.infer.ReweightedWakeSleep(3, insomnia=0.5, max_plate_nesting=1)
        vae = small()
        before = snapshot(vae)
        quiet(vae, X, loss=loss, epochs=2)
        assert not any(torch.equal(before[name], p) for name, p in vae.named_parameters())


class TestDeterminism:
    def test_the_same_seed_gives_the_same_weights(self):
        first, second, third = small(), small(), small()
        quiet(first, X, epochs=3, seed=7)
        torch.randn(5)
        quiet(second, X, epochs=3, seed=7)
        quiet(third, X, epochs=3, seed=8)
        assert equal(snapshot(first), second)
        assert not equal(snapshot(first), third)

    @pytest.mark.slow
    def test_two_processes_give_the_same_weights(self):
        code = (
            "import hashlib, numpy as np, torch, pyro_vae as pv; torch.set_num_threads(1); x = "
            "np.random.default_rng(0).normal(size=(100, 6)); vae = pv.build(x, latent=2, "
            "hidden=[8]); pv.fit(vae, x, epochs=3); "
            "print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in "
            "vae.parameters())).hexdigest())"
        )
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            for _ in "ab"
        ]
        assert len(runs[0].stdout) == 65
        assert runs[0].stdout == runs[1].stdout

    def test_build_is_seeded(self):
        assert equal(snapshot(small(3)), small(3))
        assert not equal(snapshot(small(3)), small(4))

    def test_the_caller_is_left_alone(self):
        vae = small()
        vae.eval()
        vae.likelihood.train()
        modes = [part.training for part in vae.modules()]
        state = torch.get_rng_state()
        validate = torch.distributions.Distribution._validate_args
        for flag in (True, False):
            with pyro.validation_enabled(flag):
                quiet(vae, X, validation=X, epochs=2)
                assert pyro.infer.is_validation_enabled() == flag
                assert torch.distributions.Distribution._validate_args == flag
        assert torch.distributions.Distribution._validate_args == validate
        assert torch.equal(torch.get_rng_state(), state)
        assert [part.training for part in vae.modules()] == modes
        assert len(pyro.get_param_store()) == 0

    @pytest.mark.uses_store
    def test_the_store_of_the_caller_is_left_alone(self):
        mine = pyro.param("mine", torch.tensor(2.0))
        quiet(small(), X, epochs=1)
        assert list(pyro.get_param_store().keys()) == ["mine"]
        assert pyro.param("mine") is mine

    def test_dropout_is_on_in_training_and_off_in_validation(self):
        vae = small()
        modes = []
        vae.posterior.network.register_forward_pre_hook(
            lambda module, _: modes.append(module.training)
        )
        quiet(vae, X, validation=X, epochs=1, batch_size=100)
        assert modes[-4:] == [True, False, False, False]  # a step, validation, monitor, misfit


class TestValidation:
    @pytest.mark.filterwarnings("ignore:posterior collapse")  # what explodes may end in one
    def test_the_best_weights_are_restored(self):
        """A learning rate that explodes after a while: what comes back is what was best before."""
        vae = small()
        rate = lambda epoch: 1e-2 if epoch < 20 else 3.0  # noqa: E731
        history = quiet(
            vae,
            X[:50],
            validation=X[50:],
            epochs=40,
            learning_rate=rate,
            clip_norm=1.0,
            patience=100,
        )
        best = int(history.validation.idxmin())
        assert history.validation.iloc[-1] > history.validation[best] + 1
        again = small()
        quiet(again, X[:50], epochs=best + 1, learning_rate=rate, clip_norm=1.0)
        assert equal(snapshot(again), vae)

    def test_patience_stops(self):
        vae = small()
        history = quiet(vae, X[:50], validation=X[50:], epochs=1000, learning_rate=1e-2, patience=5)
        assert len(history) == history.validation.idxmin() + 6 < 1000

    def test_validation_is_the_negative_elbo_per_datum(self):
        vae = small()
        history = quiet(vae, X, validation=X, epochs=1, learning_rate=1e-9)
        elbo = float(pv.log_evidence(vae, X, num_samples=24).elbo.mean())
        spread = pv.elbo(pv.terms(vae, X, num_samples=1)).std().item() / 10
        assert abs(history.validation[0] + elbo) < 5 * spread

    def test_the_kl_term_counts_fully_in_validation(self):
        """Early stopping during warm-up, or at the start of a cycle, must not pick pure
        reconstruction.
        """
        vae = small()
        for beta in (pv.linear_warmup(2), pv.cyclical_warmup(1.0), 1.0):
            history = quiet(
                vae, X, validation=X, epochs=3, batch_size=25, beta=beta, learning_rate=0.0
            )
            assert history.validation.nunique() == 1
            assert history.validation[0] == pytest.approx(
                quiet(vae, X, validation=X, epochs=1, learning_rate=0.0).validation[0], rel=1e-12
            )

    @pytest.mark.filterwarnings("ignore:Encountered")
    def test_a_validation_loss_that_is_not_finite_stops(self):
        explode = {"learning_rate": 1e200, "batch_size": 100}
        with pytest.raises(
            FloatingPointError,
            match=r"the validation loss is (inf|nan) at epoch 0; training stopped",
        ):
            quiet(small(), X, validation=X, epochs=2, **explode)

    def test_validation_data_are_checked_before_anything_moves(self):
        vae = small()
        before = snapshot(vae)
        with pytest.raises(pv.DataError, match="shape"):
            quiet(vae, X, validation=X[:, :3])
        assert equal(before, vae)


class Poisoned(torch.optim.SGD):
    """From the fourth step on, the parameters are NaN after the step."""

    steps = 0

    def step(self, closure=None):
        super().step(closure)
        self.steps += 1
        if self.steps == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(math.nan)


# Pyro's own warning comes before our error.
class TestNan:
    @pytest.mark.filterwarnings("ignore:Encountered NaN")
    def test_a_loss_that_turns_nan_stops_at_that_step(self):
        vae = small()
        with pytest.raises(
            FloatingPointError,
            match=r"the loss \(nan\) is not finite at epoch 0, batch 3 \(site '.'",
        ):
            quiet(vae, X, batch_size=20, optimizer=Poisoned)

    def test_a_gradient_that_is_nan_leaves_the_parameters_of_before(self):
        vae, other = small(), small()
        step = 0

        def poison(grad):
            nonlocal step
            step += 1
            return grad * math.nan if step == 4 else grad

        handle = next(vae.parameters()).register_hook(poison)
        with pytest.raises(
            FloatingPointError,
            match="the gradient is not finite at epoch 1, batch 1; training stopped",
        ):
            quiet(vae, X, batch_size=50, epochs=5)
        handle.remove()
        assert all(p.isfinite().all() for p in vae.parameters())
        stopped = []

        class Stop(torch.optim.Adam):
            def step(self, closure=None):
                stopped.append(1)
                if len(stopped) <= 3:
                    super().step(closure)

        quiet(other, X, batch_size=50, epochs=2, optimizer=functools.partial(Stop, fused=True))
        assert equal(snapshot(vae), other)
        assert len(pyro.get_param_store()) == 0

    def test_a_model_whose_parameters_are_nan_is_named_before_the_data_are_blamed(self):
        vae = small()
        with torch.no_grad():
            vae.likelihood.network.layers[0].bias.fill_(math.nan)
        for call in (quiet, pv.log_evidence, pv.terms):
            with pytest.raises(
                ValueError,
                match=r"the parameter likelihood\.network\.layers\.0\.bias of the VAE is not fin",
            ):
                call(vae, X)

    @pytest.mark.filterwarnings("ignore:Encountered")
    def test_training_again_after_a_failure_starts_afresh(self):
        vae = small()
        with pytest.raises(FloatingPointError):
            quiet(vae, X, learning_rate=1e100, optimizer=torch.optim.SGD, epochs=50)
        assert all(p.grad is None for p in vae.parameters())
        vae.load_state_dict(snapshot(small()))
        quiet(vae, X, epochs=2)
        other = small()
        pv.terms(other, X).log_weight.sum().backward()  # gradients of the caller
        quiet(other, X, epochs=2)
        assert equal(snapshot(vae), other)

    @pytest.mark.filterwarnings("ignore:Encountered")
    def test_an_overflow_in_the_first_step_is_our_error(self):
        vae = small()
        with torch.no_grad():
            vae.posterior.network.layers[-1].weight.fill_(1e200)
        with pytest.raises(
            FloatingPointError, match=r"fit: the .* is not finite at epoch 0, batch 0"
        ):
            quiet(vae, X, loss="mean_field")

    @pytest.mark.filterwarnings("ignore:Encountered")
    def test_divergence_is_an_error_not_a_number(self):
        vae = small()
        with pytest.raises(FloatingPointError, match="Try a lower learning_rate"):
            quiet(vae, X, learning_rate=1e100, optimizer=torch.optim.SGD, epochs=50)
        assert all(p.isfinite().all() for p in vae.parameters())


def test_the_progress_bar_shows_rate_loss_and_time(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    pv.fit(small(), X, validation=X, epochs=3)
    shown = capsys.readouterr().err
    for part in ("epoch", "3/3", "loss", "validation", "nats", "data/s", "0:00:00"):
        assert part in shown
