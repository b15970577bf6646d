"""log p(data) of Pyro models that are no VAE, against closed forms and quadrature."""

import math

import numpy as np
import pyro
import pytest
import torch
import xarray
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS
from scipy import integrate, stats

import pyro_vae as pv
from pyro_vae.density.joint import Joint
from pyro_vae.evidence import any_model, optimal_bridge

RNG = np.random.default_rng(0)
Y = torch.as_tensor(RNG.normal(1.0, 2.0, 30))
DESIGN = torch.as_tensor(RNG.normal(size=(40, 3)))
RESPONSE = DESIGN @ torch.tensor([1.0, -0.5, 0.0]).double() + torch.as_tensor(
    0.7 * RNG.normal(size=40)
)
SCHOOLS = (
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double(),
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double(),
)
A0, B0, K0 = 3.0, 4.0, 0.5  # of the inverse gamma and the normal


def unknown_variance(y):
    v = pyro.sample("v", dist.InverseGamma(A0, B0))
    mu = pyro.sample("mu", dist.Normal(0.0, (v / K0).sqrt()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, v.sqrt()), obs=y)


def normal_inverse_gamma():
    """The parameters of the posterior, and log p(y) (Murphy, 2007)."""
    y, n = Y.numpy(), len(Y)
    kn, an = K0 + n, A0 + n / 2
    bn = B0 + 0.5 * ((y - y.mean()) ** 2).sum() + K0 * n * y.mean() ** 2 / (2 * kn)
    exact = math.lgamma(an) - math.lgamma(A0) + A0 * math.log(B0) - an * math.log(bn)
    exact += 0.5 * math.log(K0 / kn) - n / 2 * math.log(2 * math.pi)
    return kn, an, bn, exact


def of_unknown_variance(seed, shape=(4, 500)):
    """Independent draws of the posterior in place of MCMC."""
    rng = np.random.default_rng(seed)
    kn, an, bn, _ = normal_inverse_gamma()
    v = bn / rng.gamma(an, size=shape)
    mean = len(Y) * float(Y.mean()) / kn
    return {"v": v, "mu": mean + np.sqrt(v / kn) * rng.normal(size=shape)}


def regression(design, y):
    b = pyro.sample("b", dist.Normal(torch.zeros(design.shape[1]), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(design @ b, 0.7), obs=y)


def of_regression(seed, shape=(4, 250)):
    design, y = DESIGN.numpy(), RESPONSE.numpy()
    covariance = np.linalg.inv(design.T @ design / 0.49 + np.eye(3) / 4)
    mean = covariance @ design.T @ y / 0.49
    rng = np.random.default_rng(seed)
    return {"b": rng.multivariate_normal(mean, covariance, size=shape)}


def exact_of_regression(columns=slice(None)):
    design = DESIGN.numpy()[:, columns]
    covariance = 4 * design @ design.T + 0.49 * np.eye(len(design))
    return stats.multivariate_normal(np.zeros(len(design)), covariance).logpdf(RESPONSE.numpy())


def successes(y):
    p = pyro.sample("p", dist.Beta(1.0, 2.0))
    pyro.sample("y", dist.Binomial(20, p), obs=y)


def of_successes(seed, shape=(4, 500)):
    return {"p": np.random.default_rng(seed).beta(14, 9, size=shape)}


def unnormalised():
    u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("rest", u.new_full(u.shape[:-1], math.log(2 * math.pi)))


def of_unnormalised(seed, shape=(4, 500)):
    return {"u": np.random.default_rng(seed).normal(size=(*shape, 2))}


def schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)


def exact_of_schools():
    """By quadrature over tau: all else is normal."""
    y, sigma = (part.numpy() for part in SCHOOLS)

    def density(tau):
        covariance = np.diag(sigma**2 + tau**2) + 25.0
        likelihood = stats.multivariate_normal(np.zeros(8), covariance).pdf(y)
        return likelihood * stats.halfcauchy(scale=5.0).pdf(tau)

    return math.log(integrate.quad(density, 0, np.inf, limit=400)[0])


CASES = {
    "unknown variance": (
        unknown_variance, (Y,), of_unknown_variance, normal_inverse_gamma()[3]
    ),
    "regression": (regression, (DESIGN, RESPONSE), of_regression, exact_of_regression()),
    "successes": (
        successes, (torch.tensor(13.0),), of_successes, stats.betabinom(20, 1, 2).logpmf(13)
    ),
    "unnormalised": (unnormalised, (), of_unnormalised, math.log(2 * math.pi)),
}  # fmt: skip


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_evidence_is_the_exact_one(name, symmetric):
    model, data, draw, exact = CASES[name]
    found = pv.bridge_log_evidence(model, data, draw(1), symmetric=symmetric)
    assert abs(found.log_evidence - exact) < 4 * found.se
    assert found.se < 0.05
    assert found.khat < 0.7
    assert found.flag == ""
    assert found.attrs["flagged"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["unknown variance", "successes", "unnormalised"])
def test_the_error_is_that_of_repeats(name, symmetric):
    """100 sets of draws: z-scores have mean 0 and sd 1."""
    model, data, draw, exact = CASES[name]
    results = [
        pv.bridge_log_evidence(model, data, draw(seed), symmetric=symmetric, seed=seed)
        for seed in range(100)
    ]
    z = np.array([float((r.log_evidence - exact) / r.se) for r in results])
    assert abs(z.mean()) < 4 / 10
    assert 0.8 < z.std(ddof=1) < 1.25


@pytest.mark.slow
def test_eight_schools_by_nuts():
    """Draws of MCMC itself, of a dictionary, and of a tree are one and the same."""
    torch.manual_seed(0)
    mcmc = MCMC(NUTS(schools), num_samples=500, warmup_steps=300, disable_progbar=True)
    mcmc.run(*SCHOOLS)
    found = pv.bridge_log_evidence(schools, SCHOOLS, mcmc)
    assert abs(found.log_evidence - exact_of_schools()) < 4 * found.se
    assert found.flag == ""
    draws = {name: z.numpy() for name, z in mcmc.get_samples(group_by_chain=True).items()}
    sites = {
        name: (("chain", "draw", *(f"{name}_{i}" for i in range(z.ndim - 2))), z)
        for name, z in draws.items()
    }
    tree = xarray.DataTree.from_dict({"posterior": xarray.Dataset(sites)})
    for other in (draws, tree):
        again = pv.bridge_log_evidence(schools, SCHOOLS, other)
        assert float(again.log_evidence) == float(found.log_evidence)


def test_repetitions_are_told_and_the_middle_one_is_given():
    found = pv.bridge_log_evidence(successes, (torch.tensor(13.0),), of_successes(0), repetitions=5)
    assert found.repetitions.shape == (5,)
    assert float(found.log_evidence) == float(found.repetitions.median())
    assert len(np.unique(found.repetitions)) == 5


@pytest.mark.parametrize("name", CASES)
def test_all_draws_at_once_are_the_potential_of_pyro(name):
    model, data, draw, _ = CASES[name]
    joint = Joint(model, data)
    position = joint.unconstrain(draw(0))[0, :20]
    one_by_one = torch.stack([joint._one(u) for u in position])
    torch.testing.assert_close(joint(position), one_by_one)
    assert joint._is_its_potential
    assert not joint._mapped.one_by_one


def test_discrete_latents_are_summed_out():
    """A mixture of two normals, whose classes Pyro enumerates."""

    def model(y):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(y)):
            k = pyro.sample("k", dist.Bernoulli(p))
            pyro.sample("y", dist.Normal(4.0 * k, 1.0), obs=y)

    y = torch.tensor([0.2, 3.5, 4.2, -1.0, 2.1])

    def density(p):
        each = p * stats.norm.pdf(y, 4.0) + (1 - p) * stats.norm.pdf(y, 0.0)
        return stats.beta(2, 2).pdf(p) * each.prod()

    total = integrate.quad(density, 0, 1)[0]
    grid = np.linspace(0.0005, 0.9995, 1000)
    weight = np.array([density(p) for p in grid])
    draws = np.random.default_rng(0).choice(grid, size=(4, 250), p=weight / weight.sum())
    draws = draws + np.random.default_rng(1).uniform(-0.0005, 0.0005, draws.shape)
    found = pv.bridge_log_evidence(model, (y,), {"p": draws})
    assert abs(found.log_evidence - math.log(total)) < 4 * found.se


# refusals


def improper():
    u = pyro.sample("u", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("y", dist.Normal(u, 1.0), obs=torch.zeros(()))


def subsampled(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), subsample_size=3) as index:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[index])


def no_latent(y):
    pyro.sample("y", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "data", "posterior", "error", "said"),
    [
        (improper, (), {"u": np.zeros((1, 60))}, ValueError, "cannot be drawn from .Improper"),
        (subsampled, (Y,), {"mu": np.zeros((1, 60))}, ValueError, "takes 3 of 30"),
        (no_latent, (Y,), {}, ValueError, "no latent sites"),
        (successes, (torch.tensor(1.0),), {"q": np.zeros((1, 60))}, ValueError, r"\['p'\]"),
        (
            unknown_variance,
            (Y,),
            {"v": np.linspace(-1, 1, 60)[None], "mu": np.linspace(0, 1, 60)[None]},
            ValueError,
            "inside the",
        ),
        (
            successes,
            (torch.tensor(1.0),),
            {"p": np.full((1, 60), np.nan)},
            ValueError,
            r"some of \['p'\] are NaN",
        ),
        (
            successes,
            (torch.tensor(1.0),),
            MCMC(NUTS(successes), 5),
            TypeError,
            "got an MCMC that has not run",
        ),
        (successes, (torch.tensor(1.0),), {"p": np.full((1, 9), 0.5)}, ValueError, "at least 50"),
        (successes, (torch.tensor(1.0),), [0.5], TypeError, "MCMC that has run, a dictionary"),
        (regression, (DESIGN, RESPONSE), {"b": np.zeros((2, 50, 7))}, ValueError, "of shape"),
        (
            successes,
            (torch.tensor(1.0),),
            {"p": np.full(60, 0.5)},
            ValueError,
            r"'p' of shape \(chain, draw\); got \(60,\), without chains.*group_by_chain=True",
        ),
        (
            successes,
            (torch.tensor(1.0),),
            {"p": np.full((2, 60), 0.5)},
            ValueError,
            "all the same: the chains have not moved",
        ),
        (
            regression,
            (DESIGN,),
            {},
            TypeError,
            "missing a required argument: .*; got 1; give all as one tuple",
        ),
    ],
)
def test_what_is_refused(model, data, posterior, error, said):
    with pytest.raises(error, match=said):
        pv.bridge_log_evidence(model, data, posterior)


def test_a_pair_needs_no_draws_of_all_its_data():
    pair = successes, successes
    with pytest.raises(TypeError, match=r"needs the model alone .*; got a pair"):
        pv.bridge_log_evidence(pair, (torch.tensor(1.0),), {"p": np.full((1, 60), 0.5)})


def test_a_vae_takes_no_options_of_other_models():
    vae = pv.build(RNG.normal(size=(20, 3)), latent=1)
    with pytest.raises(ValueError, match="symmetric and repetitions are for a Pyro model without"):
        pv.bridge_log_evidence(vae, RNG.normal(size=(20, 3)), None, symmetric=True)


@pytest.mark.parametrize("name", ["unknown variance", "regression", "successes"])
def test_draws_of_other_data_are_refused(name):
    model, data, draw, _ = CASES[name]
    others = (*data[:-1], data[-1] / 2 - 1)
    with pytest.raises(ValueError, match="Stein's identity they are of another, by"):
        pv.bridge_log_evidence(model, others, draw(0))


@pytest.mark.uses_store
def test_nothing_of_the_caller_changes():
    pyro.param("mine", torch.ones(2))
    state = torch.get_rng_state()
    first = pv.bridge_log_evidence(unknown_variance, (Y,), of_unknown_variance(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    torch.rand(3)
    again = pv.bridge_log_evidence(unknown_variance, (Y,), of_unknown_variance(0))
    assert float(again.log_evidence) == float(first.log_evidence)


MEAN, SD, FIVE = 0.9, 0.5, np.array([0.4, 1.1, 2.0, 1.3, 0.2])


def of_five(values):
    mu = pyro.sample("mu", dist.Normal(MEAN, 1.0))
    with pyro.plate("data", len(values)):
        pyro.sample("y", dist.Normal(mu, SD), obs=values)


def bridged_by_draws_of(values, seed):
    """log p(FIVE) from exact draws of the posterior of these values."""
    precision = 1 + len(values) / SD**2
    centre = (MEAN + values.sum() / SD**2) / precision
    draws = stats.norm(centre, precision**-0.5).rvs((4, 500), random_state=seed)
    data = (torch.as_tensor(FIVE).float(),)
    return pv.bridge_log_evidence(of_five, data, {"mu": draws}, seed=seed)


@pytest.mark.parametrize("stein", [True, False])
def test_draws_of_nearly_the_same_data_are_flagged(stein, monkeypatch):
    """By Stein's identity; and by importance sampling with the same normal, where that is off."""
    if stein:
        monkeypatch.setattr(optimal_bridge, "ALLOWED", math.inf)
    else:
        monkeypatch.setattr(any_model, "DOUBTFUL", math.inf)
        monkeypatch.setattr(any_model, "MOST_OFF", math.inf)
    assert all(bridged_by_draws_of(FIVE, seed).flag == "" for seed in range(20))
    others = FIVE + np.array([0.3 if stein else 0.5, 0, 0, 0, 0])
    for seed in range(4):
        with pytest.warns(UserWarning, match="other draws refute it"):
            assert bridged_by_draws_of(others, seed).flag == "refuted"


def test_draws_of_some_of_the_data_are_refused():
    """Of four values of five: an error of a tenth of a nat."""
    for seed in range(5):
        with pytest.raises(ValueError, match="Stein's identity they are of another"):
            bridged_by_draws_of(FIVE[:4], seed)


def test_draws_that_depend_on_each_other_are_flagged():
    """Of 600 draws with a correlation of 0.99 few are effective, whatever R-hat says."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=600)
    u = np.empty(600)
    u[0] = noise[0]
    for i in range(1, 600):
        u[i] = 0.99 * u[i - 1] + (1 - 0.99**2) ** 0.5 * noise[i]
    p = stats.beta(14, 9).ppf(stats.norm.cdf(u))[None]
    with pytest.warns(UserWarning, match="the chains have not mixed"):
        found = pv.bridge_log_evidence(successes, (torch.tensor(13.0),), {"p": p})
    assert found.ess < 100
    assert found.flag == "not mixed"


def overflowing(y):
    """A Gaussian process whose covariance has no factor where its amplitude overflows."""
    amplitude = pyro.sample("amplitude", dist.LogNormal(0.0, 1.0))
    time = torch.arange(3.0)
    near = torch.exp(-0.5 * (time - time[:, None]) ** 2)
    covariance = amplitude**2 * near + 0.1 * torch.eye(3)
    mean = torch.zeros(3)
    normal = dist.MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(covariance))
    pyro.sample("y", normal, obs=y)


def test_a_matrix_without_a_factor_is_nan_for_its_own_draw():
    joint = Joint(overflowing, (torch.tensor([0.3, 0.1, -0.4]),))
    expected = joint(torch.tensor([[0.0], [1.0]]))
    found = joint(torch.tensor([[0.0], [500.0], [1.0]]))
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], expected)
    with pytest.raises(torch.linalg.LinAlgError):
        joint(torch.tensor([[500.0], [600.0]]))
