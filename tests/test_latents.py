"""What the latents mean: straight lines of linear-Gaussian models, scikit-learn's components."""

import warnings

import numpy as np
import pandas
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from sklearn.decomposition import PCA
from truth import Direct, LinearGaussian

import pyro_vae as pv
from pyro_vae.criticism import plots

TRUTH = LinearGaussian.with_diagonal_posterior(6, 3)
X = TRUTH.draw(80)


def line(z):
    """The mean of x where latents are z."""
    return z @ TRUTH.weight.T + TRUTH.bias


def on_prior(prior, latents=2):
    """A VAE whose decoder is the identity."""
    likelihood = Direct((latents,), lambda z: dist.Normal(z, 1.0).to_event(1))
    guide = pv.Amortised(pv.MLP(latents, 2 * latents, hidden=()), pv.Normal((latents,)))
    return pv.VAE(prior, likelihood, guide)


# traverse


def test_a_traversal_is_a_straight_line_along_the_loading():
    found = pv.traverse(TRUTH.vae(), steps=5)
    assert dict(found.sizes) == {"dimension": 3, "step": 5, "feature": 6}
    assert found.dimension.values.tolist() == [0, 1, 2]
    assert "kl" not in found
    assert found["quantile"].values == pytest.approx(np.linspace(0.02, 0.98, 5))
    for number in range(3):
        z = np.zeros((5, 3))
        z[:, number] = stats.norm.ppf(np.linspace(0.02, 0.98, 5))
        assert found.z.sel(dimension=number).values == pytest.approx(z[:, number], abs=1e-9)
        assert found["mean"].sel(dimension=number).values == pytest.approx(line(z), abs=1e-9)


def test_the_others_stay_at_what_the_guide_says_of_a_datum():
    _, gain = TRUTH.posterior()
    found = pv.traverse(TRUTH.vae(), X, at=7, steps=4)
    for number in range(3):
        z = np.tile(gain @ (X[7] - TRUTH.bias), (4, 1))
        z[:, number] = stats.norm.ppf(np.linspace(0.02, 0.98, 4))
        assert found["mean"].sel(dimension=number).values == pytest.approx(line(z), abs=1e-9)


def test_the_order_is_that_of_the_kl():
    covariance, gain = TRUTH.posterior()
    mean, variance = (X - TRUTH.bias) @ gain.T, np.diag(covariance)
    kl = 0.5 * (variance + mean**2 - 1 - np.log(variance)).mean(0)
    found = pv.traverse(TRUTH.vae(), X)
    order = np.argsort(-kl)
    assert order.tolist() != [0, 1, 2]
    assert found.dimension.values.tolist() == order.tolist()
    assert found.kl.values == pytest.approx(kl[order])
    some = pv.traverse(TRUTH.vae(), X, dimensions=[2, 0])
    assert some.dimension.values.tolist() == [2, 0]
    assert some.kl.values == pytest.approx(kl[[2, 0]])
    xarray_same = found.sel(dimension=[2, 0])
    assert some["mean"].values == pytest.approx(xarray_same["mean"].values)


def test_the_kl_is_that_of_all_rows_and_not_of_a_block(monkeypatch):
    from pyro_vae.criticism import latents

    whole = pv.traverse(TRUTH.vae(), X).kl
    monkeypatch.setattr(latents, "ROWS", 7)
    assert pv.traverse(TRUTH.vae(), X).kl.values == pytest.approx(whole.values)


def test_the_kl_is_that_of_the_history():
    vae = TRUTH.vae(shrink=1.1)
    history = pv.fit(vae, X, epochs=1, learning_rate=1e-12, progress=False)
    found = pv.traverse(vae, X)
    for number in range(3):
        kept = float(found.kl.sel(dimension=number))
        assert history[f"kl_{number}"].iloc[-1] == pytest.approx(kept, rel=1e-6)


@pytest.mark.parametrize(
    ("prior", "truth", "centre"),
    [
        (lambda: pv.Normal((2,), loc=1.0, scale=2.0), stats.norm(1, 2), 1.0),
        (lambda: pv.Exponential((2,), rate=2.0), stats.expon(scale=0.5), 0.5),
        (lambda: pv.LogNormal((2,), loc=0.0, scale=1.0), stats.lognorm(1), np.exp(0.5)),
        (lambda: pv.HalfCauchy((2,), scale=1.0), stats.halfcauchy(), 1.0),
    ],
    ids=["normal", "exponential", "log-normal", "half-Cauchy: no mean"],
)
def test_quantiles_and_centres_that_are_known(prior, truth, centre):
    found = pv.traverse(on_prior(prior()), steps=9)
    expected = truth.ppf(np.linspace(0.02, 0.98, 9))
    assert found.z.values == pytest.approx(np.tile(expected, (2, 1)), rel=1e-6)
    assert found["mean"].values[0, :, 0] == pytest.approx(expected, rel=1e-6)
    # of what is pushed through a map the mean is that of draws
    assert found["mean"].values[0, :, 1] == pytest.approx(np.full(9, centre), rel=0.15)


@pytest.mark.parametrize(
    ("prior", "truth"),
    [
        (lambda: pv.Gamma((2,), concentration=3.0, rate=2.0), stats.gamma(3, scale=0.5)),
        (lambda: pv.Beta((2,), concentration1=2.0, concentration0=5.0), stats.beta(2, 5)),
        (lambda: pv.MultivariateNormal((2,), loc=0.0, scale_tril=1.0), stats.norm()),
    ],
    ids=["gamma", "beta", "together"],
)
def test_quantiles_by_draws(prior, truth):
    """Within 5 standard errors of a quantile of 10,000 draws."""
    found = pv.traverse(on_prior(prior()), steps=7)
    shares = np.linspace(0.02, 0.98, 7)
    at = truth.ppf(shares)
    error = np.sqrt(shares * (1 - shares) / 10_000) / truth.pdf(at)
    assert (np.abs(found.z.values[0] - at) < 5 * error).all()


def test_a_datum_with_a_condition_and_holes():
    frame = pandas.DataFrame(X.copy(), columns=list("abcdef"), index=range(100, 180))
    frame.iloc[3, 2] = np.nan
    c = pandas.DataFrame({"site": ["left", "right"] * 40})
    vae = pv.build(frame, c=c, latent=2)
    found = pv.traverse(vae, frame, c, at=3, steps=3)
    assert found.feature.values.tolist() == list("abcdef")
    z = torch.zeros(1, 2)
    mean = vae.encode(frame.iloc[[3]], c.iloc[[3]]).mean
    for place, number in enumerate(found.dimension.values):
        z = mean.clone()
        z[0, number] = found.z.values[place, 0]
        direct = vae.decode(z, c.iloc[[3]]).mean[0]
        assert found["mean"].values[place, 0] == pytest.approx(direct.numpy(force=True))
    other = pv.traverse(vae, frame, c, at=4, steps=3)
    assert not np.allclose(other["mean"], found["mean"])
    with pytest.raises(ValueError, match="of a conditional VAE needs at="):
        pv.traverse(vae, frame, c)


def test_a_prior_that_sees_c_moves_within_what_it_says_of_it():
    c = np.random.default_rng(0).normal(size=(80, 1))
    condition = {"size": 1, "seen_by": ["prior", "likelihood", "guide"]}
    vae = pv.build(X, c=c, condition=condition, latent=2)
    for at in (3, 4):
        found = pv.traverse(vae, X, c, at=at, steps=3)
        encoded = vae.check(X, c).c.take(slice(at, at + 1), like=vae.reference)
        with torch.no_grad():
            prior = vae.prior_of(vae.encode_condition(1, encoded)).base_dist
            z = prior.icdf(torch.linspace(0.02, 0.98, 3)[:, None, None])[:, 0].T
        assert found.z.values == pytest.approx(z.numpy()[found.dimension.values])


@pytest.mark.parametrize(
    "likelihood", ["categorical", "poisson", "bernoulli", "logistic_normal", "one_hot"]
)
def test_means_or_modes(likelihood):
    rng = np.random.default_rng(0)
    x = {
        "one_hot": np.eye(4)[rng.integers(0, 4, 30)],
        "logistic_normal": rng.dirichlet(np.ones(4), 30),
        "bernoulli": rng.integers(0, 2, (30, 4)),
    }.get(likelihood, rng.integers(0, 3, (30, 4)))
    found = pv.traverse(pv.build(x, likelihood=likelihood, latent=2), x, steps=3)
    assert np.isfinite(found["mean"]).all()
    assert found["mean"].shape == (2, 3, 4)


def test_images_and_priors_in_one_piece():
    x = np.random.default_rng(0).integers(0, 2, (20, 5, 5))
    vae = pv.build(x, likelihood="bernoulli", latent=2, prior="vamp")
    found = pv.traverse(vae, x, steps=3)
    assert found["mean"].dims == ("dimension", "step", "feature_0", "feature_1")
    assert "kl" not in found
    assert found.dimension.values.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("prior", "options", "error", "message"),
    [
        ("dirichlet", {}, ValueError, "needs numbers that are free to; got a prior on Simplex"),
        ("one_hot", {}, ValueError, "needs numbers that are free to"),
        ("uniform_sphere", {}, ValueError, "needs numbers that are free to"),
        ("normal", {"steps": 1}, ValueError, "steps must be a whole number from 2"),
        ("normal", {"dimensions": [2]}, ValueError, "dimensions must be a whole number from 0 to"),
        ("normal", {"dimensions": []}, ValueError, "one dimension at least"),
        ("normal", {"at": 0}, ValueError, "needs x to stay at"),
        ("normal", {"at": 80, "x": X}, ValueError, "at must be a whole number from 0 to 79"),
    ],
)
def test_what_cannot_be_traversed(prior, options, error, message):
    vae = pv.build(X, prior=prior, latent=2)
    with pytest.raises(error, match=message):
        pv.traverse(vae, **options)


def test_nothing_of_the_caller_changes():
    vae = on_prior(pv.Gamma((2,), concentration=3.0, rate=2.0))
    state = torch.get_rng_state()
    first = pv.traverse(vae, X[:, :2], at=0, seed=1)
    assert first.identical(pv.traverse(vae, X[:, :2], at=0, seed=1))
    placed = pv.embed(vae, X[:, :2])
    pv.interpolate(vae, X[:2, :2], X[2:4, :2])
    assert torch.equal(state, torch.get_rng_state())
    assert all(part.training for part in vae.modules())
    assert placed.equals(pv.embed(vae, X[:, :2]))


# embed


def test_two_latents_are_the_plane():
    vae = LinearGaussian.with_diagonal_posterior(6, 2).vae()
    means = vae.encode(X).mean.numpy(force=True)
    found = pv.embed(vae, X)
    assert list(found.columns) == ["z_0", "z_1"]
    np.testing.assert_allclose(found, means)
    assert found.attrs["share"] == pytest.approx(means.var(0) / means.var(0).sum())


def test_more_are_principal_components():
    vae = LinearGaussian.with_diagonal_posterior(6, 5).vae()
    means = vae.encode(X).mean.numpy(force=True)
    pca = PCA(2, svd_solver="full")
    frame = pandas.DataFrame(X, index=[f"row {n}" for n in range(80)])
    found = pv.embed(vae, frame)
    np.testing.assert_allclose(found, pca.fit_transform(means), atol=1e-12)
    assert list(found.columns) == ["component_0", "component_1"]
    assert list(found.index) == list(frame.index)
    assert found.attrs["share"] == pytest.approx(pca.explained_variance_ratio_.tolist())


def test_a_collapsed_guide_is_a_point():
    guide = pv.Normal((3,), loc=0.0, scale=1.0)
    likelihood = pv.Amortised(pv.MLP(3, 6, hidden=()), pv.Normal((6,), scale=1.0))
    vae = pv.VAE(pv.Normal((3,), loc=0.0, scale=1.0), likelihood, guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pv.embed(vae, X)
    assert (found == 0).all(axis=None)
    assert found.attrs["share"] == [0.0, 0.0]


@pytest.mark.parametrize(("latents", "num"), [(1, 80), (3, 1)])
def test_what_has_no_plane(latents, num):
    vae = LinearGaussian.with_diagonal_posterior(6, latents).vae()
    with pytest.raises(ValueError, match="two data and two latents at least"):
        pv.embed(vae, X[:num])


# interpolate


def means_of(vae, x, c=None):
    """The means of the guide in unconstrained space."""
    distribution = vae.encode(x, c)
    return getattr(distribution, "base_dist", distribution).mean


def test_the_way_between_two_data_is_a_straight_line():
    _, gain = TRUTH.posterior()
    found = pv.interpolate(TRUTH.vae(), X[:7], X[7:14], steps=5)
    assert dict(found.sizes) == {"pair": 7, "step": 5, "feature": 6, "latent": 3}
    assert found.share.values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    starts, ends = (X[:7] - TRUTH.bias) @ gain.T, (X[7:14] - TRUTH.bias) @ gain.T
    for number, share in enumerate(found.share.values):
        z = (1 - share) * starts + share * ends
        assert found.z.values[:, number] == pytest.approx(z, abs=1e-10)
        assert found["mean"].values[:, number] == pytest.approx(line(z), abs=1e-10)


@pytest.mark.parametrize(
    ("prior", "guide", "inside"),
    [
        ("gamma", "normal", lambda z: (z > 0).all()),
        ("beta", "normal", lambda z: (z > 0).all() and (z < 1).all()),
        ("dirichlet", "normal", lambda z: (z > 0).all() and abs(z.sum(-1) - 1).max() < 1e-12),
        ("uniform_sphere", "normal", lambda z: abs((z**2).sum(-1) - 1).max() < 1e-12),
        ("normal", "multivariate_normal", lambda z: np.isfinite(z).all()),
        ("vamp", "normal", lambda z: np.isfinite(z).all()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_way_stays_in_the_support_and_ends_at_the_means(prior, guide, inside, dtype):
    torch.set_default_dtype(dtype)
    vae = pv.build(X, prior=prior, guide=guide, latent=3)
    with torch.no_grad():
        vae.posterior.network.layers[-1].weight.mul_(3)  # far apart
    found = pv.interpolate(vae, X[:20], X[20:40])
    assert inside(found.z.values)
    close = 1e-9 if dtype == torch.float64 else 1e-4
    for place, x in ((0, X[:20]), (-1, X[20:40])):
        u = means_of(vae, x)
        z = u if vae.bijection is None else vae.bijection(u.double())
        assert found.z.values[:, place] == pytest.approx(z.numpy(force=True), abs=close)
        direct = vae.decode(z).mean.numpy(force=True)
        assert found["mean"].values[:, place] == pytest.approx(direct, abs=close)
    middle = 0.5 * (means_of(vae, X[:20]) + means_of(vae, X[20:40]))
    middle = middle if vae.bijection is None else vae.bijection(middle.double())
    assert found.z.values[:, 4] == pytest.approx(middle.numpy(force=True), abs=close)


def test_a_way_there_is_the_way_back():
    there = pv.interpolate(TRUTH.vae(), X[:3], X[3:6])
    back = pv.interpolate(TRUTH.vae(), X[3:6], X[:3])
    assert there["mean"].values == pytest.approx(back["mean"].values[:, ::-1], abs=1e-12)
    to_itself = pv.interpolate(TRUTH.vae(), X[:3], X[:3])
    assert (to_itself.z == to_itself.z[:, :1]).all()


def test_the_ways_are_the_same_a_few_pairs_at_a_time(monkeypatch):
    from pyro_vae.assembly import streams

    whole = pv.interpolate(TRUTH.vae(), X[:20], X[20:40])
    monkeypatch.setattr(streams, "NUMBERS", 9 * 512 * 7)
    some = pv.interpolate(TRUTH.vae(), X[:20], X[20:40])
    np.testing.assert_allclose(some["mean"], whole["mean"], atol=1e-12)
    np.testing.assert_allclose(some.z, whole.z, atol=1e-12)


def test_a_way_under_a_condition_with_holes():
    frame = pandas.DataFrame(X.copy(), columns=list("abcdef"), index=range(100, 180))
    frame.iloc[3, 2] = frame.iloc[45, 0] = np.nan
    c = pandas.DataFrame({"site": ["left", "right"] * 40})
    vae = pv.build(frame, c=c, latent=2)
    a, b, given = frame[:10], frame[40:50], c[:10]
    found = pv.interpolate(vae, a, b, given, steps=3)
    assert found.feature.values.tolist() == list("abcdef")
    assert np.isfinite(found["mean"]).all()
    middle = 0.5 * (vae.encode(a, given).mean + vae.encode(b, given).mean)
    direct = vae.decode(middle, given).mean.numpy(force=True)
    assert found["mean"].values[:, 1] == pytest.approx(direct)
    other = pv.interpolate(vae, a, b, c[1:11], steps=3)
    assert not np.allclose(other["mean"], found["mean"])
    with pytest.raises(pv.DataError, match="c"):
        pv.interpolate(vae, a, b)


def test_ways_of_images_and_of_classes():
    x = np.random.default_rng(0).integers(0, 3, (20, 5, 5))
    found = pv.interpolate(pv.build(x, likelihood="poisson", latent=(2, 2)), x[:4], x[4:8])
    assert found["mean"].dims == ("pair", "step", "feature_0", "feature_1")
    assert found["z"].dims == ("pair", "step", "latent_0", "latent_1")
    classes = pv.build(x, likelihood="categorical", latent=2)
    assert set(pv.interpolate(classes, x[:4], x[4:8])["mean"].values.flat) <= {0, 1, 2}


def test_a_flow_has_the_mean_of_its_draws():
    vae = pv.build(X, latent=2, guide={"name": "spline_flow"})
    state = torch.get_rng_state()
    first, again = (pv.interpolate(vae, X[:2], X[2:4], seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.identical(again)
    with torch.no_grad():
        drawn = vae.encode(X[:2]).sample(torch.Size([4000]))
    error = drawn.std(0).numpy() * (1 / 1000 + 1 / 4000) ** 0.5
    assert (np.abs(first.z.values[:, 0] - drawn.mean(0).numpy()) < 5 * error).all()


@pytest.mark.parametrize(
    ("prior", "a", "b", "options", "error", "message"),
    [
        (
            "one_hot",
            X[:2],
            X[2:4],
            {},
            ValueError,
            "needs latents that are continuous; got a prior",
        ),
        ("normal", X[:2], X[2:4], {"steps": 1}, ValueError, "steps must be a whole number from 2"),
        ("normal", X[:2], X[2:5], {}, pv.DataError, "as many rows of b as of a; got 3 and 2"),
        ("normal", X[:2], X[2:4], {"c": [0, 1]}, ValueError, "takes no c"),
        ("normal", X[:2], X[2:4, :5], {}, pv.DataError, "shape"),
        ("normal", X[:2], np.full((2, 6), np.inf), {}, pv.DataError, "inf"),
    ],
)
def test_what_has_no_way_between(prior, a, b, options, error, message):
    vae = pv.build(X, prior=prior, latent=2)
    with pytest.raises(error, match=message):
        pv.interpolate(vae, a, b, **options)
    with pytest.raises(TypeError, match="interpolate needs a VAE; got ndarray"):
        pv.interpolate(a, b, b)


# pictures


def test_pictures(tmp_path):
    figure = plots.traversal(pv.traverse(TRUTH.vae(), X))
    axes, _ = figure.axes
    assert axes.images[0].get_array().shape == (6, 3)
    np.testing.assert_allclose(np.abs(axes.images[0].get_array()).max(1), 1)  # in their own units
    wide = LinearGaussian.with_diagonal_posterior(64, 2)
    figure = plots.traversal(pv.traverse(wide.vae(), steps=5))
    assert len(figure.axes) == 10
    assert [axes.get_ylabel() for axes in figure.axes[::5]] == ["z 0", "z 1"]
    figure.savefig(tmp_path / "traversal.png")
    ways = pv.interpolate(wide.vae(), wide.draw(3), wide.draw(3, seed=2), steps=4)
    figure = plots.interpolation(ways)
    assert len(figure.axes) == 12
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_allclose(np.ravel(shown), ways["mean"].values.ravel())
    with pytest.raises(TypeError, match="needs what interpolate gave"):
        plots.interpolation(pv.traverse(TRUTH.vae()))
    with pytest.raises(ValueError, match="needs square images"):
        plots.interpolation(pv.interpolate(TRUTH.vae(), X[:2], X[2:4]))
    with pytest.raises(TypeError, match="needs what traverse gave"):
        plots.traversal(pv.log_evidence(TRUTH.vae(), X, num_samples=2))
    figure = plots.latent_space(TRUTH.vae(), X, np.arange(80) % 3)
    assert figure.axes[0].get_xlabel() == "component 0"
