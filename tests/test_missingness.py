"""Cells that are missing for a reason: p(x_seen, s) by scipy's multivariate normal, imputation by
the closed form of a tilted normal, other families by quadrature.
"""

import math
import warnings

import numpy as np
import pandas
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy import integrate, stats
from truth import LinearGaussian, check_moments

import pyro_vae as pv
from pyro_vae.density.direct import Direct
from pyro_vae.density.traced import Traced
from pyro_vae.distributions.selected import (
    given_missing,
    has_closed_form,
    log_mean_probit,
    log_probit,
)

SLOPE = np.array([1.5, -0.8, 0.0, 3.0])
THRESHOLD = np.array([0.3, -0.5, 0.0, 0.2])


def linear_gaussian(missingness=None, features=4, latents=2):
    """The model, a guide wide enough for rows of which little is seen, its VAE."""
    truth = LinearGaussian.with_diagonal_posterior(features, latents)
    vae = truth.vae(shrink=1.6)
    if missingness is not None:
        vae = pv.VAE(vae.prior, vae.likelihood, vae.posterior, missingness=missingness)
    return truth, vae


def known(slope=SLOPE, threshold=THRESHOLD):
    return pv.SelfMasking((len(slope),), slope=slope, threshold=threshold)


def log_joint(truth, row, slope, threshold):
    """log p(x_seen, s): the normal density of what is seen, and the probability that a normal
    vector of missing x and noise lies in an orthant.
    """
    covariance = truth.weight @ truth.weight.T + np.diag(truth.noise)
    seen = ~np.isnan(row)
    score = slope * (row - threshold)
    total = stats.norm.logcdf(-score[seen]).sum()
    mean, block = truth.bias[~seen], covariance[np.ix_(~seen, ~seen)]
    if seen.any():
        within = covariance[np.ix_(seen, seen)]
        total += stats.multivariate_normal(truth.bias[seen], within).logpdf(row[seen])
        gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(within)
        mean = mean + gain @ (row[seen] - truth.bias[seen])
        block = block - gain @ covariance[np.ix_(seen, ~seen)]
    if seen.all():
        return total
    b, t = slope[~seen], threshold[~seen]
    above = stats.multivariate_normal(b * (t - mean), b[:, None] * block * b + np.eye(len(b)))
    return total + np.log(above.cdf(np.zeros(len(b))))


def with_holes(truth, num=12):
    x = truth.draw(num)
    rng = np.random.default_rng(5)
    return np.where(rng.random(x.shape) < stats.norm.cdf(SLOPE * (x - THRESHOLD)), np.nan, x)


def test_evidence_is_that_of_what_is_seen_and_of_which_cells_are():
    truth, vae = linear_gaussian(known())
    x = with_holes(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pv.log_evidence(vae, x, num_samples=20_000)
        climbed = pv.log_evidence(vae, x, tolerance=0.01)
    exact = np.array([log_joint(truth, row, SLOPE, THRESHOLD) for row in x])
    trusted = found.khat.values < 0.7
    assert trusted.sum() >= 8
    error = np.abs(found.log_evidence.values - exact) / found.se.values
    assert (error[trusted] < 5).all()
    assert (np.abs(climbed.log_evidence.values - exact) < 5 * climbed.se.values).all()
    assert "missing" in found.attrs["measure"]


def test_a_slope_of_zero_is_chance_alone():
    """log p(x, s) is log p(x) and a number for each pattern."""
    truth, vae = linear_gaussian(known(np.zeros(4), np.ones(4)))
    _, ignorable = linear_gaussian()
    x = with_holes(truth)
    both = [pv.terms(each, x, num_samples=3, seed=1) for each in (vae, ignorable)]
    difference = both[0].log_likelihood - both[1].log_likelihood
    torch.testing.assert_close(difference, torch.full_like(difference, 4 * math.log(0.5)))


@pytest.mark.parametrize("missingness", ["known", "self_masking", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_traces_and_the_direct_way_agree_draw_for_draw(missingness, dtype):
    torch.set_default_dtype(dtype)
    parts = {
        "known": known,
        "self_masking": lambda: pv.SelfMasking((4,), direction="low"),
        "logistic": lambda: pv.LogisticMissingness((4,), hidden=[3]),
    }
    truth, vae = linear_gaussian(parts[missingness]())
    x = torch.as_tensor(with_holes(truth), dtype=dtype)
    found = []
    for densities in (Direct(vae, (x,), missing=True), Traced(vae.model, vae.guide, (x,))):
        torch.manual_seed(0)
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            terms = densities.terms(3)
            loss = terms.log_weight.sum()
            trained = [p for p in vae.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append(
            [terms.log_likelihood, terms.log_weight, *(g for g in gradients if g is not None)]
        )
        assert densities.estimates == (missingness == "logistic")
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_is_that_of_the_exact_density():
    """Of intercept and slope, by differences of scipy's number; here x does not depend on z."""
    rows = np.array([[np.nan, 0.4], [0.1, np.nan], [np.nan, np.nan]])
    part = pv.SelfMasking((2,))
    with torch.no_grad():
        part.raw_slope.copy_(torch.tensor([0.7, -1.2]))
        part.intercept.copy_(torch.tensor([0.2, 0.1]))
    loc, scale = torch.tensor([0.5, -0.2]), torch.tensor([0.8, 1.3])
    likelihood = pyro.distributions.Normal(loc, scale).to_event(1).expand([3])
    total = part.log_prob(likelihood, torch.as_tensor(rows)).sum()
    (of_intercept, of_slope) = torch.autograd.grad(total, [part.intercept, part.raw_slope])

    def exact(intercept, slope):
        score = stats.norm.logcdf(-(intercept + slope * rows))
        seen = stats.norm.logpdf(rows, loc, scale) + score
        mean = (intercept + slope * loc.numpy()) / np.sqrt(1 + (slope * scale.numpy()) ** 2)
        return np.where(np.isnan(rows), stats.norm.logcdf(mean), seen).sum()

    a, b = part.intercept.detach().numpy(), part.raw_slope.detach().numpy()
    assert abs(float(total.detach()) - exact(a, b)) < 1e-12
    for place in range(2):
        step = np.eye(2)[place] * 1e-5
        numeric = (exact(a + step, b) - exact(a - step, b)) / 2e-5
        assert abs(numeric - float(of_intercept[place])) < 1e-8
        numeric = (exact(a, b + step) - exact(a, b - step)) / 2e-5
        assert abs(numeric - float(of_slope[place])) < 1e-8


CELLS = {
    "normal": lambda: pyro.distributions.Normal(
        torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])
    ),
    "bernoulli": lambda: pyro.distributions.Bernoulli(torch.tensor([0.3, 0.9])),
    "binomial": lambda: pyro.distributions.Binomial(6, torch.tensor([0.3, 0.9])),
    "binomials": lambda: pyro.distributions.Binomial(
        torch.tensor([6.0, 3.0]), torch.tensor([0.3, 0.9])
    ),
    "beta_binomial": lambda: pyro.distributions.BetaBinomial(
        torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), 6
    ),
    "categorical": lambda: pyro.distributions.Categorical(torch.tensor([[0.2, 0.8], [0.5, 0.5]])),
    "student_t": lambda: pyro.distributions.StudentT(4.0, torch.tensor([0.3, -1.0]), 0.7),
    "gamma": lambda: pyro.distributions.Gamma(torch.tensor([2.0, 5.0]), torch.tensor([1.0, 3.0])),
}
DENSITIES = {
    "student_t": [stats.t(4, loc, 0.7) for loc in (0.3, -1.0)],
    "gamma": [stats.gamma(2), stats.gamma(5, scale=1 / 3)],
    "normal": [stats.norm(0.3, 0.5), stats.norm(-1, 2)],
}
PROBABILITIES = {
    "bernoulli": [stats.bernoulli(0.3), stats.bernoulli(0.9)],
    "binomial": [stats.binom(6, 0.3), stats.binom(6, 0.9)],
    "binomials": [stats.binom(6, 0.3), stats.binom(3, 0.9)],
    "beta_binomial": [stats.betabinom(6, 1, 2), stats.betabinom(6, 3, 2)],
    "categorical": [stats.bernoulli(0.8), stats.bernoulli(0.5)],
}


@pytest.mark.parametrize("name", sorted(CELLS))
def test_the_mean_of_the_probit_equals_quadrature(name):
    """Exactly, or, where it is drawn, within 5 standard errors."""
    cell, a, b = CELLS[name](), np.array([0.2, -0.4]), np.array([2.5, -0.7])
    values = np.arange(7)
    exact = []
    for place in range(2):
        if name in DENSITIES:
            density = DENSITIES[name][place].pdf

            def product(x, place=place, density=density):
                return density(x) * stats.norm.cdf(a[place] + b[place] * x)

            exact.append(integrate.quad(product, -np.inf, np.inf, epsabs=1e-12)[0])
        else:
            chance = stats.norm.cdf(a[place] + b[place] * values)
            exact.append(float(PROBABILITIES[name][place].pmf(values) @ chance))
    intercept, slope = torch.as_tensor(a), torch.as_tensor(b)
    if has_closed_form(cell):
        found = log_mean_probit(cell, intercept, slope).exp().numpy()
        assert found == pytest.approx(exact, rel=1e-9)
        return
    drawn = log_mean_probit(cell.expand([20_000, 2]), intercept, slope).exp().numpy()
    error = drawn.std(0, ddof=1) / math.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - exact) < 5 * error).all()


def test_far_in_the_tail_density_and_gradient_are_finite():
    for dtype in (torch.float32, torch.float64):
        loc = torch.tensor([-300.0, 300.0], dtype=dtype, requires_grad=True)
        cell = pyro.distributions.Normal(loc, torch.tensor(0.1, dtype=dtype))
        slope = torch.tensor([50.0, 50.0], dtype=dtype)
        value = log_mean_probit(cell, torch.zeros_like(slope), slope)
        (gradient,) = torch.autograd.grad(value.sum(), loc)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        score = 50 * np.array([-300.0, 300]) / math.sqrt(1 + 25)
        assert value.detach().numpy() == pytest.approx(stats.norm.logcdf(score), rel=1e-5)


def test_imputation_equals_the_mean_of_a_tilted_normal():
    """With one cell missing, x_m given what is seen is normal, times the probit."""
    truth, vae = linear_gaussian(known())
    x = truth.draw(20)
    cells = np.resize([0, 1, 3], 20)
    x[np.arange(20), cells] = np.nan
    covariance = truth.weight @ truth.weight.T + np.diag(truth.noise)
    filled = vae.impute(x, num_samples=40_000).numpy()
    drawn = vae.impute(x, num_samples=40_000, draws=400).numpy()
    ess = pv.ess(pv.terms(vae, x, num_samples=40_000)).detach().numpy()
    for row, cell in enumerate(cells):
        seen = np.arange(4) != cell
        gain = covariance[cell, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        m = truth.bias[cell] + gain @ (x[row, seen] - truth.bias[seen])
        v = covariance[cell, cell] - gain @ covariance[seen, cell]
        b, a = SLOPE[cell], -SLOPE[cell] * THRESHOLD[cell]
        root = math.sqrt(1 + b * b * v)
        t = (a + b * m) / root
        mills = math.exp(stats.norm.logpdf(t) - stats.norm.logcdf(t))
        mean = m + b * v / root * mills
        sd = math.sqrt(v - (b * v / root) ** 2 * mills * (t + mills))
        assert abs(filled[row, cell] - mean) < 5 * sd / math.sqrt(ess[row])
        of_draws, lost = drawn[:, row, cell], math.sqrt(1 / ess[row] + 1 / 400)
        assert abs(of_draws.mean() - mean) < 5 * sd * lost
        assert abs(of_draws.std(ddof=1) / sd - 1) < 5 * lost


def test_logistic_missingness_is_unbiased():
    """One missing cell: the integral over it by quadrature."""
    part = pv.LogisticMissingness((4,))
    with torch.no_grad():
        part.network.layers[-1].weight.copy_(torch.randn(4, 4))
    truth, vae = linear_gaussian(part)
    x = truth.draw(6)
    x[np.arange(6), np.resize([0, 1, 2, 3], 6)] = np.nan
    covariance = truth.weight @ truth.weight.T + np.diag(truth.noise)
    found = pv.log_evidence(vae, x, num_samples=20_000)
    for row in range(6):
        seen = ~np.isnan(x[row])
        within = covariance[np.ix_(seen, seen)]
        gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(within)
        mean = (truth.bias[~seen] + gain @ (x[row, seen] - truth.bias[seen]))[0]
        sd = math.sqrt(
            (covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)])[0, 0]
        )
        grid = torch.linspace(mean - 9 * sd, mean + 9 * sd, 4001)
        whole = torch.as_tensor(np.where(seen, x[row], 0.0)).repeat(len(grid), 1)
        whole[:, ~seen] = grid[:, None]
        missing = torch.as_tensor(~seen).expand_as(whole)
        chance = part.log_chance(whole, missing).sum(-1).exp().detach().numpy()
        inner = integrate.simpson(chance * stats.norm.pdf(grid, mean, sd), x=grid)
        exact = stats.multivariate_normal(truth.bias[seen], within).logpdf(x[row, seen])
        error = float(found.log_evidence[row]) - exact - math.log(inner)
        assert abs(error) < 5 * float(found.se[row])


def test_mcmc_and_what_needs_the_joint_density_work_or_say_why_not():
    truth, vae = linear_gaussian(known(), latents=1)
    x = with_holes(truth)[:3]
    draws = pv.sample_posterior(vae, x, num_samples=500, warmup=300, progress=False)
    z = draws.posterior["z"].values
    grid = torch.linspace(-6, 6, 2001)
    log_p = vae.log_joint(torch.as_tensor(x), grid[:, None, None].expand(-1, 3, 1), None)
    weight = log_p.detach().softmax(0).numpy()
    mean = (weight * grid.numpy()[:, None]).sum(0)
    sd = np.sqrt((weight * grid.numpy()[:, None] ** 2).sum(0) - mean**2)
    for datum in range(3):
        check_moments(z[:, :, datum], mean[datum], sd[datum] ** 2)

    _, drawn = linear_gaussian(pv.LogisticMissingness((4,)))
    with pytest.raises(TypeError, match="draws missing cells afresh"):
        pv.sample_posterior(drawn, x, progress=False)
    with pytest.raises(TypeError, match="without a tolerance"):
        pv.log_evidence(drawn, x, tolerance=0.1)


def test_the_model_draws_data_with_holes_and_sample_complete_ones():
    truth, vae = linear_gaussian(known())
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        x = vae.model(size=4000)
    share = x.isnan().double().mean(0).numpy()
    covariance = truth.weight @ truth.weight.T + np.diag(truth.noise)
    score = SLOPE * (truth.bias - THRESHOLD) / np.sqrt(1 + SLOPE**2 * np.diag(covariance))
    exact = stats.norm.cdf(score)
    assert (np.abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / 4000)).all()
    assert vae.sample(50).isfinite().all()


@pytest.mark.slow
def test_the_guide_is_calibrated_where_data_are_drawn_with_their_holes():
    """MCMC's ranks are uniform: draws of the model have the holes that it says."""
    _, vae = linear_gaussian(known())
    ranks = pv.calibrate(vae, num_simulations=300, num_samples=49, kernel="hmc")
    assert float(ranks.p_location.min()) > 1e-3
    assert float(ranks.p_spread.min()) > 1e-3


def test_models_with_and_without_missingness_are_not_compared():
    truth, vae = linear_gaussian(known())
    _, other = linear_gaussian()
    with pytest.raises(ValueError, match="one scale"):
        pv.compare_models({"a": vae, "b": other}, with_holes(truth))


@pytest.mark.parametrize("missingness", sorted(pv.Missingness.registry))
@pytest.mark.parametrize("loss", ["elbo", "iwae", "dreg", "wake_sleep", "mean_field", "renyi"])
def test_every_loss_trains(missingness, loss):
    truth, _ = linear_gaussian()
    x = with_holes(truth, 40)
    vae = pv.build(x, latent=2, missingness=missingness, hidden=[8])
    before = [p.clone() for p in vae.missingness.parameters()]
    history = pv.fit(vae, x, loss=loss, epochs=3, progress=False)
    assert history.loss.notna().all()
    assert all(p.isfinite().all() for p in vae.parameters())
    moved = zip(before, vae.missingness.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


def test_pyro_trains_it_too():
    truth, _ = linear_gaussian()
    x = torch.as_tensor(with_holes(truth, 40))
    vae = pv.build(x, latent=2, missingness="self_masking", hidden=[8])
    with pyro.get_param_store().scope():
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(x) for _ in range(30)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def censored(num=600, seed=3):
    """One latent, four columns; two of them are missing where they are high."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num, 1))
    full = z @ np.array([[1.0, 0.9, 1.1, 0.8]]) + 0.4 * rng.normal(size=(num, 4))
    x = full.copy()
    x[:, :2][full[:, :2] > 0.3] = np.nan
    return full, x


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["high", "either"])
def test_it_mends_the_bias_of_imputation(direction):
    """A linear decoder, whose values beyond the threshold follow from those below."""
    full, x = censored()
    holes = np.isnan(x)
    linear = {"name": "normal", "scale": "learned", "network": {"name": "mlp", "hidden": []}}
    error = {}
    for name, part in (("none", None), ("own", {"name": "self_masking", "direction": direction})):
        vae = pv.build(x, latent=1, likelihood=linear, missingness=part, hidden=[32])
        pv.fit(vae, x, loss="iwae", epochs=150, learning_rate=5e-3, progress=False)
        error[name] = (vae.impute(x).numpy() - full)[holes]
    assert error["none"].mean() < -0.5
    assert abs(error["own"].mean()) < 0.4 * abs(error["none"].mean())
    assert np.square(error["own"]).mean() < 0.4 * np.square(error["none"]).mean()
    beyond, below = (torch.tensor([[value] * 4]) for value in (0.8, -0.2))
    missing = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        assert (vae.missingness.log_chance(beyond, missing).exp()[0, :2] > 0.9).all()
        assert (vae.missingness.log_chance(below, missing).exp()[0, :2] < 0.2).all()
    assert (vae.missingness.log_chance(below, missing).exp()[0, 2:] < 0.01).all()


def test_spec_and_file_carry_it(tmp_path):
    _, x = censored(60)
    vae = pv.build(
        x, latent=1, missingness={"name": "self_masking", "direction": "low"}, hidden=[4]
    )
    pv.fit(vae, x, epochs=1, progress=False)
    spec = pv.describe(vae)
    assert spec["missingness"]["direction"] == "low"
    assert pv.describe(pv.build(spec)) == spec
    pv.save(vae, tmp_path / "m.safetensors")
    again = pv.load(tmp_path / "m.safetensors")
    assert torch.equal(again.missingness.slope, vae.missingness.slope)
    one, other = (pv.terms(each, x, num_samples=5).log_weight for each in (vae, again))
    assert torch.equal(one, other)


def test_it_starts_at_chance():
    """At the share of each column that is missing, whatever the values."""
    _, x = censored()
    vae = pv.build(x, latent=1, missingness="self_masking")
    missing = torch.ones(5, 4, dtype=torch.bool)
    share = vae.missingness.log_chance(torch.randn(5, 4), missing).exp().detach().numpy()
    expected = (np.isnan(x).sum(0) + 0.5) / (len(x) + 1)
    assert share == pytest.approx(np.broadcast_to(expected, (5, 4)), rel=1e-5)
    logistic = pv.build(x, latent=1, missingness="logistic").missingness
    share = logistic.log_chance(torch.randn(5, 4), missing).exp().detach().numpy()
    assert share == pytest.approx(np.broadcast_to(expected, (5, 4)), rel=1e-5)


def test_each_column_may_have_a_total_of_its_own():
    totals = np.array([3.0, 5.0, 9.0])
    x = np.random.default_rng(0).binomial(totals.astype(int), 0.4, (40, 3)).astype(float)
    x[::3, 1] = np.nan
    likelihood = {"name": "binomial", "total_count": totals.tolist()}
    vae = pv.build(x, latent=1, likelihood=likelihood, missingness="self_masking", hidden=[4])
    history = pv.fit(vae, x, epochs=3, progress=False)
    assert history.loss.notna().all()
    assert all(p.isfinite().all() for p in vae.parameters())
    drawn = vae.impute(x, num_samples=50, draws=20)
    assert drawn[:, ::3, 1].max() <= 5


COLUMNS = {
    "name": "columns",
    "blocks": [
        {"columns": [0], "name": "normal"},
        {"columns": [1], "name": "student_t"},
        {"columns": [2], "name": "categorical", "categories": 3},
    ],
}


def test_mixed_columns_are_integrated_family_by_family():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=50), rng.normal(size=50), rng.integers(0, 3, 50)], 1)
    x[rng.random(x.shape) < 0.3] = np.nan
    vae = pv.build(x, latent=2, likelihood=COLUMNS, missingness="self_masking", hidden=[8])
    assert vae.draws_missing  # of student_t
    pv.fit(vae, x, epochs=3, progress=False)
    filled = vae.impute(x, num_samples=200)
    assert filled.isfinite().all()
    assert set(filled[:, 2].tolist()) <= {0.0, 1.0, 2.0}
    assert set(vae.impute(x, draws=2, num_samples=50)[..., 2].unique().tolist()) <= {0.0, 1.0, 2.0}


def test_discrete_latents_are_summed_over():
    _, x = censored(60)
    vae = pv.build(x, latent=3, prior="one_hot", missingness="self_masking", hidden=[8])
    pv.fit(vae, x, epochs=2, progress=False)
    found = pv.log_evidence(vae, x)
    assert (found.se == 0).all()
    with pytest.raises(ValueError, match="summed over exactly"):
        pv.build(x, latent=3, prior="one_hot", missingness="logistic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missingness": "self_maskin"}, "did you mean 'self_masking'"),
        ({"missingness": {"name": "self_masking", "direction": "up"}}, "missingness.direction"),
        ({"missingness": {"name": "self_masking", "direction": ["high"]}}, "each of"),
        ({"missingness": {"name": "self_masking", "slope": 1.0}}, "give both, or none"),
        ({"missingness": 3}, "missingness"),
        ({"missingness": "self_masking", "likelihood": "poisson"}, "use normal"),
        ({"missingness": "logistic", "likelihood": "bernoulli"}, "use normal"),
        ({"missingness": "self_masking", "likelihood": "multivariate_normal"}, "independent"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    x = np.random.default_rng(0).integers(0, 2, (20, 3)).astype(float)
    with pytest.raises(ValueError, match=message):
        pv.build(x, latent=2, **options)


def test_parts_that_do_not_fit_are_refused():
    _, vae = linear_gaussian()
    with pytest.raises(ValueError, match="different data"):
        pv.VAE(vae.prior, vae.likelihood, vae.posterior, missingness=pv.SelfMasking((3,)))
    with pytest.raises(TypeError, match="as a Missingness"):
        pv.VAE(vae.prior, vae.likelihood, vae.posterior, missingness="self_masking")


def test_data_are_odd_by_their_holes_too():
    """p-values of the model's own data are uniform; a datum with holes where values are low stands
    out.
    """
    truth, vae = linear_gaussian(known())
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(1)
        x = vae.model(size=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no outlier was found
        found = pv.outliers(vae, x, num_samples=20, num_draws=500, seed=2)
    assert stats.kstest(found.p_value, "uniform").pvalue > 1e-3
    odd = torch.as_tensor(truth.bias)[None].clone()
    odd[0, 3] = 4.0  # seen, where it should be missing
    assert float(pv.outliers(vae, odd, num_samples=200, num_draws=500).p_value[0]) < 0.05


def test_predictions_have_the_holes_of_the_model():
    _, vae = linear_gaussian(known())
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(1)
        x = vae.model(size=100)
    share = {"missing": lambda values: float(np.isnan(values).mean())}
    table = pv.check_predictions(vae, x, statistics=share, num_samples=200, progress=False)
    assert table.loc["missing", "sd"] > 0
    assert table.loc["missing", "p_value"] > 0.01


@pytest.mark.parametrize("threshold", [0.0, 3.0, 8.0])
def test_cells_given_that_they_are_missing_have_the_tilted_moments(threshold):
    """By quadrature, in the bulk and far out, where hardly a draw of the normal would be hidden."""
    slope = 20.0
    grid = np.linspace(-2, threshold + 8, 200_001)
    log_density = stats.norm.logpdf(grid) + stats.norm.logcdf(slope * (grid - threshold))
    density = np.exp(log_density - log_density.max())
    density /= integrate.simpson(density, x=grid)
    mean = integrate.simpson(density * grid, x=grid)
    sd = math.sqrt(integrate.simpson(density * (grid - mean) ** 2, x=grid))
    cell = pyro.distributions.Normal(torch.zeros(1), torch.ones(1))
    hidden = given_missing(cell, torch.tensor([-slope * threshold]), torch.tensor([slope]))
    assert float(hidden.mean) == pytest.approx(mean, rel=1e-7)
    drawn = hidden.sample((40_000,)).numpy()
    assert abs(drawn.mean() - mean) < 5 * sd / 200
    assert (
        stats.kstest(
            drawn[:, 0],
            lambda x: np.interp(x, grid, integrate.cumulative_simpson(density, x=grid, initial=0)),
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("name", sorted(PROBABILITIES))
def test_few_values_given_that_they_are_missing_have_the_tilted_weights(name):
    a, b = np.array([0.2, -0.4]), np.array([2.5, -0.7])
    hidden = given_missing(CELLS[name](), torch.as_tensor(a), torch.as_tensor(b))
    values = np.arange(7)
    drawn = hidden.sample((20_000,)).numpy()
    for place in range(2):
        share = PROBABILITIES[name][place].pmf(values) * stats.norm.cdf(
            a[place] + b[place] * values
        )
        share /= share.sum()
        if name == "categorical":
            assert hidden.mean.isnan().all()
        else:
            assert float(hidden.mean[place]) == pytest.approx(share @ values, rel=1e-9)
        assert float(hidden.mode[place]) == values[share.argmax()]
        counts = np.bincount(drawn[:, place].astype(int), minlength=7)[share > 0]
        assert stats.chisquare(counts, 20_000 * share[share > 0]).pvalue > 1e-3


def test_imputation_beyond_a_hard_limit_stays_beyond_it():
    _, vae = linear_gaussian(known(np.full(4, 1e3), np.full(4, 6.0)))
    x = np.full((3, 4), 0.5)
    x[:, 1] = np.nan
    assert (vae.impute(x, num_samples=500).numpy()[:, 1] > 6).all()
    assert (vae.impute(x, num_samples=500, draws=50).numpy()[..., 1] > 5.99).all()


def test_a_run_is_not_resumed_with_another_missingness(tmp_path):
    _, x = censored(60)
    parts = {"latent": 1, "hidden": [4]}
    vae = pv.build(x, missingness="self_masking", **parts)
    pv.fit(vae, x, epochs=2, checkpoint=tmp_path, progress=False)
    for other in ({"name": "self_masking", "direction": "high"}, "logistic", None):
        again = pv.build(x, missingness=other, **parts)
        with pytest.raises((pv.CheckpointError, ValueError), match="missingness"):
            pv.fit(again, x, epochs=3, checkpoint=tmp_path, resume=True, progress=False)
    again = pv.build(x, missingness="self_masking", **parts)
    assert len(pv.fit(again, x, epochs=3, checkpoint=tmp_path, resume=True, progress=False)) == 3


@pytest.mark.parametrize("missingness", sorted(pv.Missingness.registry))
def test_a_report_is_written(missingness, tmp_path):
    _, x = censored(40)
    vae = pv.build(x, latent=1, missingness=missingness, hidden=[4])
    path = pv.report(vae, x, tmp_path / "r.html", num_mcmc=2, num_simulations=20, num_samples=30)
    text = path.read_text()
    assert missingness in text
    assert ("No MCMC" in text) == (missingness == "logistic")


def test_unknown_classes_and_holes_together():
    """log p(x, s) is the sum over classes of p(c) p(x, s | c)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    x[rng.random(x.shape) < 0.3] = np.nan
    c = np.where(np.arange(30) < 10, np.arange(30) % 2, np.nan)
    vae = pv.build(x, c=c, latent=1, classifier="one_hot", missingness="self_masking", hidden=[8])
    pv.fit(vae, x, c, epochs=3, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pv.log_evidence(vae, x, c, num_samples=3000)
        each = [pv.log_evidence(vae, x, np.full(30, k), num_samples=3000) for k in (0, 1)]
    log_prior = vae.classifier.prior().logits.detach().numpy()
    terms = [one.log_evidence.values + log_prior[k] for k, one in enumerate(each)]
    error = np.hypot(found.se.values, np.max([one.se.values for one in each], 0))
    difference = found.log_evidence.values - np.logaddexp(*terms)
    assert (np.abs(difference[10:]) < 5 * error[10:]).all()


@pytest.mark.parametrize("slope", [math.nan, math.inf, True, "a", [1.0, 2.0]])
def test_a_known_slope_must_be_a_finite_number(slope):
    with pytest.raises(ValueError, match="slope must be a finite number"):
        pv.SelfMasking((3,), slope=slope, threshold=0.0)


def test_only_what_reads_data_has_a_mask():
    network = {"name": "mlp", "mask": True}
    with pytest.raises(ValueError, match="the likelihood reads no data"):
        pv.build(np.zeros((5, 2)), latent=1, likelihood={"name": "normal", "network": network})


def test_each_column_has_a_direction():
    part = pv.SelfMasking((3,), direction=["high", "low", "either"])
    with torch.no_grad():
        part.raw_slope.copy_(torch.tensor([-1.0, -1.0, -1.0]))
    assert (part.slope.sign() == torch.tensor([1.0, -1.0, -1.0])).all()
    assert part.slope[2] == -1


def test_a_threshold_far_away_hides_nothing_and_trains():
    """In single precision, where torch's gradient of log Phi would be no number."""
    torch.set_default_dtype(torch.float32)
    _, x = censored(100)
    reason = {"name": "self_masking", "slope": 1.0, "threshold": [0.3, 0.3, 1e6, 1e6]}
    vae = pv.build(x, latent=1, missingness=reason, hidden=[8])
    history = pv.fit(vae, x, epochs=3, progress=False)
    assert history.loss.notna().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_log_of_the_probit_and_its_gradient_have_all_digits(dtype):
    at = np.array([-1e4, -300.0, -30.0, -5.0, -1.0, 0.0, 3.0])
    x = torch.tensor(at, dtype=dtype, requires_grad=True)
    value = log_probit(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    exact = stats.norm.logcdf(at)
    slope = np.exp(stats.norm.logpdf(at) - exact)
    rel = 1e-5 if dtype == torch.float32 else 1e-10
    assert value.detach().numpy() == pytest.approx(exact, rel=rel)
    assert gradient.numpy()[1:] == pytest.approx(slope[1:], rel=rel)
    assert float(gradient[0]) == pytest.approx(1e4 + 1e-4, rel=rel)


def test_seen_cells_come_back_as_they_were():
    """A frame in double precision, a VAE in single."""
    torch.set_default_dtype(torch.float32)
    values = np.array([[432118410.0, 1.5], [611945332.0, np.nan], [119067142.0, 2.5]])
    frame = pandas.DataFrame(values, columns=["a", "b"])
    filled = pv.build(frame, latent=1, hidden=[4]).impute(frame, num_samples=50)
    assert (filled["a"] == frame["a"]).all()
    assert filled.notna().all().all()
