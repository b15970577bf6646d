"""Missing data: masked cells change nothing, what is seen scores exactly, imputation equals the
exact conditional.
"""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from truth import LinearGaussian, affine

import pyro_vae as pv
from pyro_vae.assembly.missing import factorises, masked
from pyro_vae.distributions.supports import inside

FACTORISED = [
    name
    for name, cls in pv.Conditional.registry.items()
    if not cls.reads_guide and factorises((head := cls.example())(torch.zeros(head.num_params)))
]


def holes(x, share=0.3, seed=0):
    x = torch.as_tensor(x).clone()
    x[torch.as_tensor(np.random.default_rng(seed).random(x.shape) < share)] = float("nan")
    return x


def likelihood(name):
    head = pv.Conditional.registry[name].example()
    return pv.Amortised(pv.MLP(2, head.num_params, hidden=[8]), head) if head.num_params else head


@pytest.mark.parametrize("name", FACTORISED)
def test_the_fill_changes_loss_and_gradients_by_exactly_nothing(name):
    part = likelihood(name)
    z = torch.randn(20, 2)
    x = part(z).sample().to(z.dtype)
    missing = torch.rand(x.shape) < 0.4
    results = []
    for _ in range(2):
        of_seen, filled = masked(part(z), torch.where(missing, float("nan"), x), "x")
        # Any other value inside the support.
        filled = torch.where(missing, part(z).sample().to(z.dtype), filled)
        loss = of_seen.log_prob(filled).sum()
        parameters = list(part.parameters())
        gradients = torch.autograd.grad(loss, parameters) if parameters else ()
        results.append([loss.detach(), *gradients])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()


@pytest.mark.parametrize("name", FACTORISED)
def test_the_fill_is_inside_the_support(name):
    cell = pv.Conditional.registry[name].example()
    built = cell(torch.zeros(cell.num_params))
    like = torch.full((5, *cell.event_shape), float("nan"))
    assert built.support.check(inside(built.base_dist.support, like)).all()


@pytest.mark.parametrize("loss", ["elbo", "iwae", "mean_field", "dreg", "renyi"])
@pytest.mark.parametrize("name", ["normal", "gamma", "poisson", "beta", "categorical"])
def test_training_on_holes_stays_finite(name, loss):
    part = likelihood(name)
    x = holes(part(torch.randn(50, 2)).sample().double())
    guide = pv.Amortised(pv.MLP(3, 4, hidden=[8]), pv.Normal((2,)))
    vae = pv.VAE(pv.Normal((2,), loc=0.0, scale=1.0), part, guide)
    history = pv.fit(vae, x, loss=loss, epochs=3, progress=False)
    assert history.loss.notna().all()
    assert all(p.isfinite().all() for p in vae.parameters())


def test_evidence_and_imputation_equal_the_exact_gaussian():
    """What is seen of a Gaussian is Gaussian, and so is what is missing given it."""
    truth = LinearGaussian.with_diagonal_posterior(6, 2)
    vae = truth.vae(shrink=1.5)  # a guide wide enough to be safe for rows of which less is seen
    x = holes(truth.draw(30), share=0.4)
    x = x[(~x.isnan()).sum(1) > 2]
    covariance, bias = truth.weight @ truth.weight.T + np.diag(truth.noise), truth.bias
    with warnings.catch_warnings():
        # The guide does not know that cells are missing; k-hat says for which rows.
        warnings.simplefilter("ignore")
        evidence = pv.log_evidence(vae, x, num_samples=20_000)
    filled = vae.impute(x, num_samples=20_000)
    several = vae.impute(x, num_samples=20_000, draws=200)
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])
    assert torch.equal(several[:, ~x.isnan()], x[~x.isnan()].expand(200, -1))
    trusted = 0
    for i, row in enumerate(x.numpy()):
        seen = ~np.isnan(row)
        if evidence.khat[i] > 0.7 or seen.all():
            continue
        trusted += 1
        block = covariance[np.ix_(seen, seen)]
        exact = stats.multivariate_normal(bias[seen], block).logpdf(row[seen])
        assert abs(float(evidence.log_evidence[i]) - exact) < 5 * float(evidence.se[i]) + 1e-9
        cross = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(block)
        mean = bias[~seen] + cross @ (row[seen] - bias[seen])
        sd = np.sqrt(
            np.diag(covariance[np.ix_(~seen, ~seen)] - cross @ covariance[np.ix_(seen, ~seen)])
        )
        ess = float(evidence.ess[i])
        assert (np.abs(filled[i].numpy()[~seen] - mean) < 5 * sd / ess**0.5).all()
        drawn = several[:, i].numpy()[:, ~seen]
        assert (np.abs(drawn.mean(0) - mean) < 5 * sd * (1 / ess + 1 / 200) ** 0.5).all()
        assert (np.abs(drawn.std(0, ddof=1) / sd - 1) < 5 * (1 / ess + 0.5 / 200) ** 0.5).all()
    assert trusted > 10


def exact_vae():
    return LinearGaussian.with_diagonal_posterior(6, 2).vae(shrink=1.5)


def test_a_row_without_any_cell_has_evidence_zero():
    """Its weights are p(z) / q(z) for q at the mean of the data, whose average is 1."""
    truth = LinearGaussian.with_diagonal_posterior(6, 2)
    vae = truth.vae()
    vae.posterior = pv.Amortised(affine(np.zeros((2, 6)), np.zeros(2)), pv.Normal((2,), scale=1.1))
    x = torch.as_tensor(truth.draw(3))
    x[1] = float("nan")
    terms = pv.terms(vae, x, num_samples=2000)
    assert (terms.log_likelihood[:, 1] == 0).all()
    weight = terms.log_weight[:, 1].detach().exp()
    assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / 2000**0.5
    assert vae.impute(x).isfinite().all()


def test_classes_are_imputed_by_the_weightiest():
    x = np.repeat([[0.0, 0.0], [2.0, 2.0]], 40, axis=0)
    x[::7, 1] = np.nan
    vae = pv.build(x, latent=1, likelihood="categorical", hidden=[16])
    pv.fit(vae, x, epochs=150, learning_rate=1e-2, progress=False)
    filled = vae.impute(x, num_samples=200)
    assert torch.equal(filled, torch.as_tensor(np.repeat([[0.0, 0.0], [2.0, 2.0]], 40, axis=0)))
    assert set(vae.impute(x, draws=3).unique().tolist()) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize("name", ["student_t", "half_cauchy"])
def test_what_has_no_mean_is_imputed_by_its_mode(name):
    """A Student-t with one degree of freedom, a half-Cauchy: real numbers, of which no two are
    alike.
    """
    options = {"student_t": {"df": 1.0}}.get(name, {})
    head = pv.Conditional.registry[name]((3,), **options)
    vae = pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, head.num_params, hidden=[8]), head),
        pv.Amortised(pv.MLP(3, 4, hidden=[8]), pv.Normal((2,))),
    )
    x = holes(vae.sample(30))
    filled = vae.impute(x, num_samples=3000)
    assert filled.isfinite().all()
    assert vae.reconstruct(x).isfinite().all()


def test_the_guide_reads_missing_cells_at_the_mean():
    x = np.random.default_rng(0).normal(5.0, 2.0, (50, 3))
    vae = pv.build(x, latent=2)
    row = x[:1].copy()
    row[0, 1] = np.nan
    at_mean = row.copy()
    at_mean[0, 1] = x[:, 1].mean()
    torch.testing.assert_close(vae.encode(row).base_dist.loc, vae.encode(at_mean).base_dist.loc)


@pytest.mark.uses_store
@pytest.mark.parametrize(
    "name", ["dirichlet", "multivariate_normal", "multinomial", "mixture", "one_hot"]
)
def test_what_does_not_factorise_is_refused(name):
    head = pv.Conditional.registry[name].example()
    vae = pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, head.num_params, hidden=[8]), head),
        pv.Amortised(pv.MLP(3, 4, hidden=[8]), pv.Normal((2,))),
    )
    x = vae.sample(5).double()
    x[2, 1] = float("nan")
    for entry in (
        vae.encode,
        vae.impute,
        lambda x: pv.fit(vae, x),
        lambda x: pv.log_evidence(vae, x),
    ):
        with pytest.raises(
            pv.DataError,
            match="needs rows without missing cells, as its cells depend on each other; got",
        ):
            entry(x)
    with pytest.raises(
        pv.DataError, match="cannot leave out missing cells, as its cells depend on each other"
    ):
        vae.model(x)


def test_a_class_beside_a_number_without_mean_stays_a_class():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.standard_t(1, 60), rng.integers(0, 3, 60)])
    blocks = [
        {"columns": [0], "name": "student_t", "df": 1.0},
        {"columns": [1], "name": "categorical"},
    ]
    vae = pv.build(x, latent=1, likelihood={"name": "columns", "blocks": blocks}, hidden=[8])
    hidden = np.arange(60) % 3
    x[hidden == 0, 1], x[hidden == 1, 0] = np.nan, np.nan
    filled = vae.impute(x, num_samples=50)
    assert set(filled[:, 1].tolist()) <= {0.0, 1.0, 2.0}
    assert filled.isfinite().all()


def test_a_number_with_an_infinite_mean_beside_a_class_is_imputed_by_its_mode():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.abs(rng.standard_cauchy(40)), rng.integers(0, 3, 40)])
    blocks = [{"columns": [0], "name": "half_cauchy"}, {"columns": [1], "name": "categorical"}]
    vae = pv.build(x, latent=1, likelihood={"name": "columns", "blocks": blocks}, hidden=[8])
    x[0, 0] = x[1, 1] = np.nan
    assert vae.impute(x, num_samples=50).isfinite().all()
    assert vae.reconstruct(x).isfinite().all()


def test_every_imputation_is_a_draw_of_its_own():
    """Also of the same particle."""
    vae = exact_vae()
    x = holes(vae.sample(4), share=0.5)
    drawn = vae.impute(x, num_samples=1, draws=50)
    assert len(drawn[:, x.isnan()][:, 0].unique()) == 50


@pytest.mark.parametrize(
    "name", ["horseshoe_like", "logistic_normal", "von_mises_fisher", "spline_flow", "hierarchy"]
)
def test_what_knows_neither_mean_nor_mode_is_reconstructed(name):
    options = {"hierarchy": {"layers": [2, 1]}, "spline_flow": {"hidden": [4]}}.get(name, {})
    head = pv.Conditional.registry[name]((3,), **options)
    vae = pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(pv.MLP(2, head.num_params, hidden=[8]), head),
        pv.Amortised(pv.MLP(3, 4, hidden=[8]), pv.Normal((2,))),
    )
    x = vae.sample(5)
    assert vae.reconstruct(x).isfinite().all()
    assert torch.equal(vae.impute(x), x)


@pytest.mark.parametrize(
    "component", ["categorical", "ordinal", "binomial", "beta_binomial", "half_cauchy"]
)
@pytest.mark.parametrize("each", ["element", "event"])
def test_mixtures_as_likelihoods(component, each):
    x = np.random.default_rng(0).integers(1, 4, (40, 3))
    table = {"name": "mixture", "components": 2, "component": component, "each": each}
    vae = pv.build(x, latent=2, likelihood=table, hidden=[8])
    pv.fit(vae, x, epochs=2, progress=False)
    assert pv.log_evidence(vae, x, num_samples=10).log_evidence.notnull().all()
    assert vae.reconstruct(x).isfinite().all()
    if each == "element":
        assert vae.impute(holes(x.astype(float)), num_samples=20).isfinite().all()


def test_options_of_impute():
    vae = exact_vae()
    x = holes(vae.sample(4))
    assert torch.equal(vae.impute(x, num_samples=30, seed=3), vae.impute(x, num_samples=30, seed=3))
    for options in ({"num_samples": 0}, {"draws": 0}):
        with pytest.raises(ValueError, match="must be a whole number from 1"):
            vae.impute(x, **options)
