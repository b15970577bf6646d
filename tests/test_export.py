"""The ArviZ tree: its groups and names, a file and back, and the plots that a user would try."""

import inspect
import warnings

import numpy as np
import pyro
import pytest
import torch
import xarray
from pyro import distributions as dist
from scipy import stats
from setting import setting
from truth import LinearGaussian

import pyro_vae as pv

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
X = TRUTH.draw(5)
GROUPS = {
    "posterior",
    "sample_stats",
    "diagnostics",
    "guide",
    "importance",
    "log_likelihood",
    "conditional_log_likelihood",
    "observed_data",
}
GROUPS |= {"posterior_predictive", "prior", "prior_predictive"}


@pytest.fixture(scope="module")
def tree():
    with setting():
        vae = TRUTH.vae(shrink=1.2)
        posterior = pv.sample_posterior(vae, X, num_samples=300, warmup=200)
        return pv.to_datatree(vae, X, posterior=posterior, num_samples=100)


def test_groups_dimensions_and_numbers(tree):
    assert set(tree.children) == GROUPS
    assert tree["posterior"].z.dims == tree["guide"].z.dims == ("chain", "draw", "datum", "latent")
    assert tree["posterior_predictive"].x.dims == ("chain", "draw", "datum", "feature")
    assert tree["posterior_predictive"].x.shape == (4, 100, 5, 6)
    assert tree["prior_predictive"].x.dims == ("chain", "draw", "feature")
    z = tree["posterior"].z.values
    mean = z @ TRUTH.weight.T + TRUTH.bias
    exact = (-((X - mean) ** 2) / (2 * TRUTH.noise) - np.log(2 * np.pi * TRUTH.noise) / 2).sum(-1)
    np.testing.assert_allclose(tree["conditional_log_likelihood"].x, exact, rtol=1e-9)
    evidence = TRUTH.log_evidence(X)
    assert np.abs(tree["log_likelihood"].x - evidence).max() < 4 * 0.1  # of its tolerance
    assert np.abs(tree["importance"].log_evidence - evidence).max() < 0.5
    assert tree["importance"].log_weight.dims == ("chain", "draw", "datum")
    assert abs(float(tree["prior"].z.mean())) < 5 / 200**0.5
    assert tree.attrs["creation_library"] == "pyro-vae"


def test_a_file_and_back(tree, tmp_path):
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    again = xarray.open_datatree(tmp_path / "tree.nc", engine="h5netcdf")
    for name in GROUPS:
        xarray.testing.assert_equal(again[name].to_dataset().load(), tree[name].to_dataset())
    assert again.attrs["inference_library"] == "pyro-ppl"
    again.close()


def as_posterior(group):
    return xarray.DataTree.from_dict({"posterior": group.to_dataset()})


PLOTS = {
    "forest": lambda azp, dt: azp.plot_forest(dt, backend="matplotlib"),
    "trace": lambda azp, dt: azp.plot_trace(dt, backend="matplotlib"),
    "dist": lambda azp, dt: azp.plot_dist(dt, backend="matplotlib"),
    "pair": lambda azp, dt: azp.plot_pair(dt, coords={"datum": 0}, backend="matplotlib"),
    "rank": lambda azp, dt: azp.plot_rank(dt, backend="matplotlib"),
    "energy": lambda azp, dt: azp.plot_energy(dt, backend="matplotlib"),
    "ppc": lambda azp, dt: azp.plot_ppc_dist(dt, backend="matplotlib"),
    "guide": lambda azp, dt: azp.plot_forest(
        {"mcmc": dt, "guide": as_posterior(dt["guide"])}, backend="matplotlib"
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_plots_of_arviz(tree, name, tmp_path):
    import arviz_plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        PLOTS[name](arviz_plots, tree).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("judged", [False, True], ids=["guide", "mcmc"])
def test_loo_is_log_evidence(judged):
    """The guide is the posterior, so log p(x) has no error; the parameters are fixed, so leaving a
    datum out changes nothing of the others.
    """
    import arviz_stats

    x = TRUTH.draw(40)
    draws = {"num_samples": 200, "warmup": 100}
    posterior = pv.sample_posterior(TRUTH.vae(), x, **draws) if judged else None
    tree = pv.to_datatree(TRUTH.vae(), x, posterior=posterior, num_samples=200)
    loo = arviz_stats.loo(tree, pointwise=True)
    exact = TRUTH.log_evidence(x)
    np.testing.assert_allclose(loo.elpd_i, exact, atol=1e-5)
    assert loo.elpd == pytest.approx(exact.sum(), abs=1e-4)
    by_version = [exact.std(ddof=ddof) * 40**0.5 for ddof in (0, 1)]  # of ArviZ
    assert any(loo.se == pytest.approx(se, rel=1e-3) for se in by_version)
    assert not loo.warning


def test_compare_of_arviz_orders_models_by_log_evidence():
    import arviz_stats

    x = TRUTH.draw(40)
    wide = LinearGaussian(TRUTH.weight, TRUTH.bias, 2 * TRUTH.noise)
    models = {"true": TRUTH, "wide": wide}
    trees = {name: pv.to_datatree(m.vae(), x, num_samples=200) for name, m in models.items()}
    rounds = "round_to" in inspect.signature(arviz_stats.compare).parameters
    unrounded = {"round_to": "none"} if rounds else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about ArviZ
        table = arviz_stats.compare(trees, **unrounded)
    exact = {name: float(truth.log_evidence(x).sum()) for name, truth in models.items()}
    assert table.elpd["true"] - table.elpd["wide"] == pytest.approx(exact["true"] - exact["wide"])


def test_khat_plot_of_arviz(tree, tmp_path):
    import arviz_plots
    import arviz_stats

    loo = arviz_stats.loo(tree, pointwise=True)
    arviz_plots.plot_khat(loo, backend="matplotlib").savefig(tmp_path / "khat.png")
    assert (tmp_path / "khat.png").stat().st_size > 5000


def test_without_chains_the_guide_stands_in():
    x = np.random.default_rng(0).poisson(2.0, (6, 3)).astype(float)
    x[0, 0] = np.nan
    vae = pv.build(x, c=np.arange(6) % 2, latent=2, prior="gamma", likelihood="poisson", hidden=[4])
    tree = pv.to_datatree(vae, x, np.arange(6) % 2, num_samples=30)
    xarray.testing.assert_equal(tree["posterior"].to_dataset(), tree["guide"].to_dataset())
    assert "sample_stats" not in tree.children
    assert tree["prior_predictive"].x.dims == ("chain", "draw", "datum", "feature")
    assert tree["constant_data"].c.shape == (6,)
    assert tree["log_likelihood"].x.notnull().all()


def test_other_data_are_refused(tree):
    for other in (X[:4], X[::-1].copy()):
        with pytest.raises(
            pv.DataError,
            match="needs the data that the posterior was drawn for: its observed_data are",
        ):
            pv.to_datatree(TRUTH.vae(), other, posterior=tree)
    with pytest.raises(
        TypeError, match="to_datatree needs posterior as sample_posterior gives it, a tree; got str"
    ):
        pv.to_datatree(TRUTH.vae(), X, posterior="tree.nc")


def two_sites(x):
    """z ~ N(0, I) as a number and a vector, x ~ N(W z + b, noise)."""
    with pyro.plate("rows", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z = torch.cat([a[..., None], b], -1)
        mean = z @ torch.as_tensor(TRUTH.weight.T) + torch.as_tensor(TRUTH.bias)
        pyro.sample("y", dist.Normal(mean, torch.as_tensor(TRUTH.noise).sqrt()).to_event(1), obs=x)


def guide_of_two_sites(x):
    """The exact posterior, which is diagonal."""
    covariance, gain = (torch.as_tensor(part) for part in TRUTH.posterior())
    mean, sd = (x - torch.as_tensor(TRUTH.bias)) @ gain.T, covariance.diag().sqrt()
    with pyro.plate("rows", len(x), dim=-1):
        pyro.sample("a", dist.Normal(mean[:, 0], sd[0]))
        pyro.sample("b", dist.Normal(mean[:, 1:], sd[1]).to_event(1))


@pytest.mark.parametrize("judge", ["guide", "mcmc"])
def test_a_pair_with_two_sites(judge):
    pair = two_sites, guide_of_two_sites
    posterior = (
        pv.sample_posterior(pair, X, num_samples=300, warmup=100) if judge == "mcmc" else None
    )
    tree = pv.to_datatree(pair, X, posterior=posterior, num_samples=300)
    assert set(tree.children) == GROUPS - (
        set() if judge == "mcmc" else {"sample_stats", "diagnostics"}
    )
    assert tree["guide"].a.dims == tree["posterior"].a.dims == ("chain", "draw", "datum")
    draws = tree["posterior"]
    z = np.concatenate([draws.a.values[..., None], draws.b.values], -1)
    exact = stats.norm(z @ TRUTH.weight.T + TRUTH.bias, TRUTH.noise**0.5).logpdf(X).sum(-1)
    np.testing.assert_allclose(tree["conditional_log_likelihood"].x, exact, rtol=1e-9)
    np.testing.assert_allclose(tree["importance"].log_evidence, TRUTH.log_evidence(X))

    again = tree["posterior_predictive"].x.stack(sample=("chain", "draw"))
    covariance, gain = TRUTH.posterior()
    mean = (X - TRUTH.bias) @ gain.T @ TRUTH.weight.T + TRUTH.bias
    sd = np.sqrt(np.diag(TRUTH.weight @ covariance @ TRUTH.weight.T) + TRUTH.noise)
    error = sd / 300**0.5  # of chains, fewer draws count
    assert (np.abs(again.mean("sample") - mean) < 5 * error).all()
    assert (np.abs(again.std("sample") - sd) < 5 * error).all()
    first = tree["prior_predictive"].x
    assert first.dims == ("chain", "draw", "feature")
    assert (np.abs(first.mean("draw") - TRUTH.bias) < 5 * first.std("draw") / 300**0.5).all()


def test_a_vae_as_a_pair_gives_the_same_tree():
    vae = TRUTH.vae()
    ours, theirs = (
        pv.to_datatree(each, X, num_samples=20) for each in (vae, (vae.model, vae.guide))
    )
    for name in ours.children:
        xarray.testing.assert_allclose(ours[name].to_dataset(), theirs[name].to_dataset())


def test_a_model_that_does_not_observe_x_itself_is_refused():
    pair = (lambda x: two_sites(2 * x)), guide_of_two_sites
    with pytest.raises(ValueError, match="to_datatree needs a model that observes x, unchanged"):
        pv.to_datatree(pair, X)


def test_noise_of_predictions_is_not_that_of_latents():
    truth = LinearGaussian(np.ones((1, 1)), np.zeros(1), np.ones(1))
    tree = pv.to_datatree(truth.vae(), truth.draw(40), num_samples=100)
    z, x = tree["posterior"].z.values.ravel(), tree["posterior_predictive"].x.values.ravel()
    means = np.repeat(tree["posterior"].z.values.mean((0, 1))[None], 100, 0).ravel()
    assert abs(np.corrcoef(z - means, x - z)[0, 1]) < 5 / 4000**0.5


def test_columns_keep_their_names():
    import pandas

    x = pandas.DataFrame(TRUTH.draw(4), columns=list("abcdef"))
    tree = pv.to_datatree(TRUTH.vae(), x, num_samples=5)
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        assert list(tree[group].feature.values) == list("abcdef")
