"""log p(x): its value, its error, its diagnostics, its independence of how the work is cut."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from arviz_stats.base import array_stats
from setting import place, rounding
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence import importance as module
from pyro_vae.evidence import weights as weights_module

pytestmark = pytest.mark.usefixtures("device")
MODEL = LinearGaussian.with_diagonal_posterior(features=6, latents=3)
X = MODEL.draw(100)
NUMBERS = (
    "log_evidence", "se", "ess", "khat", "max_weight", "bias", "elbo", "num_samples", "curve",
    "blocks", "tail",
)  # fmt: skip


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **kwargs)


def test_exact_guide_in_single_precision():
    """Rounding makes the weights unequal; that is no tail, and nothing is flagged."""
    result = pv.log_evidence(MODEL.vae().float(), X, num_samples=50)
    np.testing.assert_allclose(result.log_evidence, MODEL.log_evidence(X), rtol=1e-5)
    assert (result.khat < 0.7).all()
    assert result.attrs["flagged"] == 0


def test_rows_may_come_in_any_order_and_any_number():
    """One row in each tile gets the same draws: the estimate of a datum does not depend on its
    neighbours' values.
    """
    vae = MODEL.vae(shrink=1.3)
    whole = pv.log_evidence(vae, X, num_samples=200)
    other = X.copy()
    other[1:] = X[:-1]
    np.testing.assert_allclose(
        pv.log_evidence(vae, other, num_samples=200).log_evidence[0], whole.log_evidence[0]
    )
    order = np.random.default_rng(0).permutation(100)
    shuffled = pv.log_evidence(vae, X[order], num_samples=20_000)
    exact = MODEL.log_evidence(X)[order]
    assert (np.abs(shuffled.log_evidence - exact) < 4.5 * shuffled.se).all()


def test_exact_guide_gives_the_evidence_itself():
    result = pv.log_evidence(MODEL.vae(), X, num_samples=50)
    atol = rounding(1e-10, 1e-4)
    np.testing.assert_allclose(result.log_evidence, MODEL.log_evidence(X), atol=atol)
    np.testing.assert_allclose(result.elbo, MODEL.log_evidence(X), atol=atol)
    np.testing.assert_allclose(result.ess, 50, rtol=1e-8)
    np.testing.assert_allclose(result.se, 0, atol=1e-5)
    assert result.attrs["flagged"] == 0


def test_estimate_and_error_are_honest():
    """A wider guide has bounded weights: z-scores of 100 data and 20 seeds are standard normal."""
    vae, truth = MODEL.vae(shrink=1.3, shift=0.3), MODEL.log_evidence(X)
    results = [pv.log_evidence(vae, X, num_samples=500, seed=seed) for seed in range(20)]
    z = np.concatenate([(result.log_evidence - truth) / result.se for result in results])
    # The log is biased by -se^2 / 2: -se / 2 in z.
    relative = float(np.mean([result.se for result in results]))
    assert abs(z.mean() + relative / 2) < 4 / math.sqrt(z.size)
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * z.size)
    assert (np.abs(z) < 4.5).all()


def test_mean_and_its_error():
    result = pv.log_evidence(MODEL.vae(shrink=1.3), X, num_samples=100)
    values = result.log_evidence.values
    assert result.attrs["mean"] == pytest.approx(values.mean())
    assert result.attrs["mean_se"] == pytest.approx(values.std(ddof=1) / 10)
    assert result.attrs["num_samples"] == 100
    alone = pv.log_evidence(MODEL.vae(shrink=1.3), X[:1], num_samples=100)
    assert alone.attrs["mean_se"] == pytest.approx(alone.se.item())


def test_memory_never_changes_the_answer():
    vae = MODEL.vae(shrink=1.3)
    whole = pv.log_evidence(vae, X, num_samples=777)
    for max_bytes in (1, 30_000, 2**40):
        part = pv.log_evidence(vae, X, num_samples=777, max_bytes=max_bytes)
        for name in NUMBERS:
            np.testing.assert_allclose(part[name], whole[name], rtol=1e-10, err_msg=name)


def test_merging_in_buffers_never_changes_the_answer(monkeypatch):
    vae = MODEL.vae(shrink=0.7)
    whole = quiet(vae, X, num_samples=3000)
    monkeypatch.setattr(weights_module, "BUFFER", 1)
    merged = quiet(vae, X, num_samples=3000)
    for name in NUMBERS:
        if name != "tail":  # what is kept beyond the tail itself depends on the order
            # To second order in the weights that are not kept.
            rtol = 1e-6 if name == "bias" else 1e-9
            np.testing.assert_allclose(merged[name], whole[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("num_samples", [1, 7, 64, 65, 1000, 4097])
def test_exactly_num_samples_are_drawn(num_samples, monkeypatch):
    """But for those beside them, which refute the guide and are not counted."""
    monkeypatch.setattr("pyro_vae.evidence.evidence.MOST_BESIDE", 0)
    drawn = []

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            drawn.append(pyro.sample("z", pyro.distributions.Normal(0.0, 1.0)).shape)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    result = quiet((model, guide), torch.randn(70), num_samples=num_samples)
    assert result.sizes["datum"] == 70
    for size in (64, 6):  # the tiles of data
        counted = [shape for shape in drawn if len(shape) == 2]  # not that of one datum, looked at
        assert sum(shape[0] for shape in counted if shape[1] == size) == num_samples


def test_running_sums_equal_the_plain_formulas():
    vae = MODEL.vae(shrink=0.8, shift=0.2)
    result = quiet(vae, X[:30], num_samples=100, seed=4)
    number = module.tile_rows(torch.device("cpu")) // 30
    assert number > 100, "one tile, so that the weights can be drawn again"
    seed = int(np.random.SeedSequence((4, 0)).generate_state(1)[0])
    terms = pv.terms(vae, X[:30], num_samples=100, seed=seed)
    weight = terms.log_weight.detach().cpu().double()
    np.testing.assert_allclose(result.log_evidence, weight.logsumexp(0) - math.log(100), rtol=1e-12)
    np.testing.assert_allclose(result.elbo, weight.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.ess, pv.ess(terms).detach().cpu(), rtol=rounding(1e-12, 1e-4))
    relative = (weight - weight.logsumexp(0)).exp() * 100
    np.testing.assert_allclose(result.se, relative.std(0) / 10, rtol=1e-10)
    np.testing.assert_allclose(result.khat, pv.khat(weight), rtol=1e-12)


def test_a_narrow_guide_is_flagged_and_a_wide_one_is_not():
    with pytest.warns(
        UserWarning,
        match=r"\d+ of 100 data cannot be trusted: of \d+ the weights have too heavy",
    ):
        narrow = pv.log_evidence(MODEL.vae(shrink=0.2), X, num_samples=5000)
    assert narrow.attrs["flagged"] >= 95
    assert pv.log_evidence(MODEL.vae(shrink=1.5), X, num_samples=5000).attrs["flagged"] == 0


def test_nothing_of_the_caller_changes():
    vae = MODEL.vae(shrink=1.3)
    vae.train()
    vae.likelihood.eval()
    modes = [part.training for part in vae.modules()]
    parameters = [p.detach().clone() for p in vae.parameters()]
    state = torch.get_rng_state()
    first = pv.log_evidence(vae, X, num_samples=10)
    pv.terms(vae, X)
    vae.reconstruct(X)
    vae.sample(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in vae.modules()] == modes
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), parameters, strict=True))
    assert all(p.grad is None for p in vae.parameters())
    assert first.equals(pv.log_evidence(vae, X, num_samples=10))
    assert not first.equals(pv.log_evidence(vae, X, num_samples=10, seed=1))


def test_the_prior_is_what_the_trace_says():
    """A peer assumes N(0, I) whatever the prior: here a swapped prior changes the evidence."""
    narrow = MODEL.vae()
    narrow.prior = place(pv.Normal((3,), loc=0.0, scale=0.5))
    half = LinearGaussian(MODEL.weight * 0.5, MODEL.bias, MODEL.noise)
    result = quiet(narrow, X, num_samples=20_000)
    assert (np.abs(result.log_evidence - half.log_evidence(X)) < 4.5 * result.se).all()


class TestKhat:
    def weights(self, num, seed=0):
        rng = np.random.default_rng(seed)
        return np.stack(
            [rng.pareto(1 / k, num) for k in (0.1, 0.4, 0.7, 1.2, 2.0)] + [rng.uniform(0.1, 1, num)]
        )

    @pytest.mark.parametrize("num", [30, 60, 225, 226, 1000, 5000])
    def test_equals_arviz(self, num):
        log_weight = np.log(self.weights(num) + 1e-3)
        _, expected = array_stats.psislw(-log_weight, axis=-1)
        np.testing.assert_allclose(pv.khat(torch.as_tensor(log_weight.T)), expected, atol=1e-10)

    @pytest.mark.parametrize("shape", [-0.5, 0.0, 0.3, 0.7, 1.0])
    def test_recovers_a_generalized_pareto_shape(self, shape):
        u = torch.rand(10_000, 50)
        x = -torch.log(u) if shape == 0 else (u**-shape - 1) / shape
        assert float(pv.khat((1 + x).log()).mean()) == pytest.approx(shape, abs=0.1)

    def test_equal_weights_are_perfect(self):
        assert (pv.khat(torch.full((100, 3), 2.5)) == -math.inf).all()

    def test_few_samples_are_unknown(self):
        assert pv.khat(torch.randn(24, 3)).isnan().all()
        assert pv.khat(torch.randn(1, 3)).isnan().all()
        assert pv.khat(torch.randn(25, 3)).isfinite().all()

    def test_ties_up_to_rounding_are_no_tail(self):
        log_weight = torch.full((1000, 1), -100.0)
        log_weight[:5] += 7.6e-6  # single precision, read in double
        assert pv.khat(log_weight).item() == -math.inf

    def test_a_guide_that_is_exact_in_single_precision_under_a_constrained_prior(self):
        """The sigmoid of a logistic draw is uniform; densities of z are in double, those of x are
        not.
        """
        likelihood = pv.Amortised(pv.MLP(2, 128, hidden=[]), pv.Normal((64,)))
        with torch.no_grad():
            likelihood.network.layers[0].weight.mul_(1e-6)
        prior, guide = pv.Uniform((2,), low=0.0, high=1.0), pv.Logistic((2,), loc=0.0, scale=1.0)
        vae = place(pv.VAE(prior, likelihood, guide)).float()
        result = pv.log_evidence(vae, torch.randn(100, 64) * 3, num_samples=1000)
        assert result.attrs["flagged"] == 0

    def test_one_weight_beyond_floating_point_is_infinite(self):
        log_weight = torch.randn(100, 1) * 1e5
        assert pv.khat(log_weight).item() == math.inf

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_bad_weights_are_unknown(self, bad):
        log_weight = torch.randn(100, 2)
        log_weight[7, 0] = bad
        assert pv.khat(log_weight).isnan().tolist() == [True, False]

    def test_impossible_draws_count_as_zeros(self):
        log_weight = torch.randn(1000, 1)
        log_weight[:500] = -math.inf
        assert pv.khat(log_weight).isfinite().all()
        assert (pv.khat(torch.full((100, 1), -math.inf))).isnan().all()


def constant_pair(log_likelihood):
    """A pair whose log p(x|z) is given, particle after particle: to see what bad weights do."""
    coming = iter(log_likelihood)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            values = torch.tensor([next(coming) for _ in range(len(z))])
            pyro.factor("x", values[:, None].expand(z.shape))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("weights", "log_evidence", "ess"),
    [
        ([math.nan, 0.0, 0.0], math.nan, math.nan),
        ([-math.inf, 0.0, 0.0], math.log(2 / 3), 2.0),
        ([-math.inf] * 3, -math.inf, 0.0),
        ([-math.inf, -1000.0, -1000.0], -1000 + math.log(2 / 3), 2.0),
        ([math.inf, 0.0, 0.0], math.inf, math.nan),
        ([1000.0, 0.0, -1000.0], 1000 - math.log(3), 1.0),
    ],
)
@pytest.mark.parametrize("buffer", [1, 4096])
def test_bad_weights_give_defined_results(weights, log_evidence, ess, buffer, monkeypatch):
    monkeypatch.setattr(weights_module, "BUFFER", buffer)
    # One weight at a time, or all at once.
    monkeypatch.setattr(module, "tile_rows", lambda _: 2 if buffer == 1 else 4096)
    result = quiet(constant_pair(weights), torch.zeros(2), num_samples=3)
    np.testing.assert_allclose(result.log_evidence, log_evidence)
    np.testing.assert_allclose(result.ess, ess)
    assert (result.flag == ("few draws" if math.isfinite(log_evidence) else "not finite")).all()
    assert result.attrs["flagged"] == 2


def test_one_sample_has_no_standard_error():
    result = pv.log_evidence(MODEL.vae(shrink=1.3), X[:3], num_samples=1)
    assert result.se.isnull().all()
    assert result.log_evidence.notnull().all()
    np.testing.assert_allclose(result.log_evidence, result.elbo)
