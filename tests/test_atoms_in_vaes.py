"""Families with atoms, limits, or over a turn as parts of VAEs: built by name, checked at the door,
saved, compared.
"""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats

import pyro_vae as pv
from pyro_vae.criticism.models import compare_models
from pyro_vae.density.identity import is_probability, measure_of

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(60, 3))
RAIN = np.where(RNG.random((60, 3)) < 0.4, 0.0, RNG.gamma(2.0, 3.0, (60, 3)))
SHARES = np.clip(RNG.normal(0.5, 0.4, (60, 3)), 0.0, 1.0)
COUNTS = RNG.poisson(1.0, (60, 3)).astype(float)
ANGLES = RNG.vonmises(3.0, 1.0, (60, 3))
DATA = {
    "zero_inflated_gamma": RAIN,
    "zero_inflated_log_normal": RAIN,
    "tweedie": RAIN,
    "censored_normal": np.maximum(NORMAL, 0.0),
    "truncated_normal": np.abs(NORMAL),
    "ordered_beta": SHARES,
    "von_mises": ANGLES,
    "hurdle_poisson": COUNTS,
    "hurdle_negative_binomial": COUNTS,
}
WITH_ATOMS = [name for name in DATA if name.startswith(("zero", "tw", "cens", "ord"))]


def vae_of(likelihood, x=RAIN, **options):
    return pv.build(x, latent=2, hidden=[4], likelihood=likelihood, **options)


@pytest.mark.parametrize("name", DATA)
def test_built_by_name_described_saved_loaded(name, tmp_path):
    x = DATA[name]
    vae = vae_of(name, x)
    again = pv.build(pv.describe(vae))
    assert pv.describe(again) == pv.describe(vae)
    path = tmp_path / "a.pvae"
    pv.save(vae, path)
    loaded = pv.load(path)
    assert pv.describe(loaded) == pv.describe(vae)
    assert repr(loaded.likelihood.support) == repr(vae.likelihood.support)
    z = torch.zeros(4, 2)
    scores = [part.likelihood(z).log_prob(torch.as_tensor(x[:4])) for part in (vae, loaded)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.filterwarnings("ignore:fit. training has not reached")
def test_missing_cells_and_reconstructions(name):
    x = DATA[name].copy()
    x[::3, 0] = np.nan
    x[1, 1] = np.nan
    vae = vae_of(name, x)
    history = pv.fit(vae, x, epochs=3, batch_size=16, progress=False)
    assert np.isfinite(history.loss).all()
    support = vae.likelihood.support
    for found in (vae.reconstruct(x, seed=0), vae.impute(x, seed=0)):
        found = torch.as_tensor(found)
        assert found.isfinite().all()
        if not support.is_discrete:
            assert bool(support.check(found).all())
    seen = ~np.isnan(x)
    filled = np.asarray(vae.impute(x, seed=0))
    assert np.array_equal(filled[seen], x[seen])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        evidence = pv.log_evidence(vae, x, num_samples=20).log_evidence
    assert np.isfinite(evidence).all()


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        ("zero_inflated_gamma", RAIN - 1, "needs numbers from 0 to inf, ends included"),
        ("tweedie", RAIN - 1, "Tweedie(3,) needs numbers from 0 to inf, ends included"),
        ("ordered_beta", 2 * SHARES, "needs numbers from 0 to 1, ends included; got"),
        ("censored_normal", NORMAL, "where the family has limits move low and high"),
        (
            {"name": "censored_normal", "low": [0.0, 0.1, 0.0], "high": [1.0, 9.0, 9.0]},
            np.full((9, 3), 1.5),
            "needs numbers from 0 to 9, ends included; got 1.5",
        ),
        ("truncated_normal", NORMAL, "TruncatedNormal(3,) needs numbers from 0 to inf; got"),
        (
            "von_mises",
            ANGLES * 180 / np.pi,
            "needs angles in radians from -pi to pi; got",
        ),
        ("hurdle_poisson", RAIN, "needs whole numbers from 0; got"),
        ("gamma", RAIN, "or a family with probability there ('zero_inflated_gamma', 'tweedie', "),
        ("beta", SHARES, "or a family with probability there ('zero_inflated_gamma', 'tweedie', "),
    ],
)
def test_the_door_names_what_the_data_need(likelihood, x, message):
    with pytest.raises(pv.DataError) as caught:
        vae_of(likelihood, x)
    assert message in str(caught.value)


@pytest.mark.parametrize("turn", [np.float32(np.pi), np.pi, -np.pi])
def test_half_a_turn_is_an_angle(turn):
    x = np.full((4, 1), turn)
    for dtype in (torch.float32, torch.float64):
        vae = vae_of("von_mises", ANGLES[:, :1]).to(dtype)
        assert np.isfinite(pv.fit(vae, x, epochs=1, progress=False).loss).all()


@pytest.mark.parametrize("ends", [(0.1, 0.3), (0.7, 123.456)])
def test_limits_rounded_to_single_precision_are_still_those_of_the_data(ends):
    """A model that was built in single precision and then scores data in double."""
    x = np.array([ends, ends]).T
    torch.set_default_dtype(torch.float32)
    limits = {"low": ends[0], "high": ends[1]}
    vae = vae_of({"name": "censored_normal", "loc": 0.2, "scale": 1.0, **limits}, x).double()
    torch.set_default_dtype(torch.float64)
    found = vae.likelihood().log_prob(torch.as_tensor(x))
    low, high = ends
    expected = 2 * np.array([stats.norm(0.2).logcdf(low), stats.norm(0.2).logsf(high)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isfinite(pv.log_evidence(vae, x, num_samples=5).log_evidence).all()


@pytest.mark.parametrize("name", ["truncated_normal", "censored_normal"])
@pytest.mark.parametrize("limits", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_limits_are_in_order(name, limits):
    low, high = limits
    with pytest.raises(ValueError, match="got values that do not fit together: low must be below"):
        pv.Conditional.registry[name]((3,), low=low, high=high)


@pytest.mark.parametrize("name", WITH_ATOMS)
def test_no_latent_lives_where_points_have_probabilities(name):
    with pytest.raises(ValueError, match=r"has support .*WithAtoms.*, which has no map to it"):
        pv.build({"event": [3], "latent": [2], "prior": name}, hidden=[4])


def test_a_truncated_prior_has_one_kind_of_ends():
    pv.build({"event": [3], "latent": [2], "prior": "truncated_normal"}, hidden=[4])
    prior = {"name": "truncated_normal", "low": [0.0, -math.inf], "high": math.inf}
    with pytest.raises(ValueError, match="which has no map to it"):
        pv.build({"event": [3], "latent": [2], "prior": prior}, hidden=[4])


# ----- units


@pytest.mark.parametrize("name", ["zero_inflated_gamma", "zero_inflated_log_normal", "tweedie"])
def test_amounts_start_at_their_unit(name):
    """In other units of money the same model: the density of a positive amount, by the Jacobian."""
    x = torch.as_tensor(RAIN)
    read = torch.randn(60, pv.Conditional.registry[name].example().num_params)
    heads = [vae_of(name, factor * RAIN).likelihood.head for factor in (1.0, 1000.0)]
    first, second = (
        head(read).base_dist.log_prob(factor * x)
        for head, factor in zip(heads, (1.0, 1000.0), strict=True)
    )
    expected = torch.where(x > 0, first - math.log(1000.0), first)
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-4)  # six digits of a unit


def test_a_fixed_dispersion_is_that_of_the_data():
    head = pv.Tweedie((2,), mean=3.0, dispersion=2.0, power=1.5, unit=100.0)
    np.testing.assert_allclose(head().base_dist.variance, 2.0 * 3.0**1.5)


def test_limits_stay_in_the_units_of_the_data():
    head = pv.CensoredNormal((2,), low=5.0, high=9.0, center=7.0, unit=2.0)
    cell = head(torch.zeros(4)).base_dist
    assert (cell.low[0], cell.high[0], cell.loc[0], cell.scale[0]) == (5.0, 9.0, 7.0, 2.0)


# ----- comparisons


def compared(likelihoods, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        models = {str(number): vae_of(one, x) for number, one in enumerate(likelihoods)}
        return compare_models(models, x, num_samples=5)


LOW = {"name": "censored_normal", "low": 0.0}
BLOCKS = {
    "name": "columns",
    "blocks": [
        {"columns": [1, 2], "name": "tweedie"},
        {"columns": [0], "name": "zero_inflated_gamma"},
    ],
}
POSITIVE_BLOCKS = {
    "name": "columns",
    "blocks": [{"columns": [1, 2], "name": "tweedie"}, {"columns": [0], "name": "normal"}],
}
PER_COLUMN = {"name": "censored_normal", "low": [0.0, -math.inf, 0.0]}
PER_COLUMN_BLOCKS = {
    "name": "columns",
    "blocks": [
        {"columns": [1], "name": "normal"},
        {"columns": [2, 0], "name": "censored_normal", "low": 0.0},
    ],
}
MIXED = {"name": "mixture", "components": 2, "component": LOW, "each": "element"}
WHOLE_MIXED = {"name": "mixture", "components": 2, "component": "tweedie"}


@pytest.mark.parametrize(
    ("likelihoods", "x"),
    [
        (["zero_inflated_gamma", "zero_inflated_log_normal", "tweedie", LOW], RAIN),
        (["tweedie", BLOCKS, MIXED, WHOLE_MIXED], RAIN),
        ([PER_COLUMN, PER_COLUMN_BLOCKS], np.maximum(NORMAL, 0.0)),
        (["hurdle_poisson", "zero_inflated_poisson", "poisson"], COUNTS),
        (["truncated_normal", "gamma"], np.abs(NORMAL)),
        (["von_mises", "normal"], ANGLES),
        (["normal", {"name": "censored_normal", "low": -math.inf, "high": math.inf}], NORMAL),
    ],
    ids=str,
)
def test_models_with_the_same_atoms_are_compared(likelihoods, x):
    assert len(compared(likelihoods, x)) == len(likelihoods)


AT_0 = "density beside probabilities at 0"
REFUSED = [
    (["zero_inflated_gamma", "normal"], RAIN, f"'0' gives a {AT_0}, '1' a density; "),
    (["tweedie", "student_t"], RAIN, f"'0' gives a {AT_0}, '1' a density; "),
    ([LOW, "truncated_normal"], np.maximum(NORMAL, 0.0), f"'0' gives a {AT_0}, '1' a density; "),
    (["ordered_beta", "continuous_bernoulli"], SHARES, f"{AT_0} and 1, '1' a density; "),
    (["ordered_beta", "tweedie"], SHARES, f"'0' gives a {AT_0} and 1, '1' a {AT_0}; "),
    (["zero_inflated_gamma", "poisson"], COUNTS, f"'0' gives a {AT_0}, '1' a probability; "),
    (
        [LOW, {"name": "censored_normal", "low": -1.0}],
        RAIN,
        f"'0' gives a {AT_0}, '1' a density beside probabilities at -1; ",
    ),
    ([LOW, PER_COLUMN], RAIN, f"'0' gives a {AT_0}, '1' a {AT_0} of column 0, density of column "),
    (["tweedie", POSITIVE_BLOCKS], RAIN, "a density of column 0, density beside probabilities"),
    ([MIXED, "normal"], RAIN, f"'0' gives a {AT_0}, '1' a density; "),
]


@pytest.mark.parametrize(("likelihoods", "x", "message"), REFUSED, ids=str)
def test_an_atom_beside_a_density_is_no_density(likelihoods, x, message):
    with pytest.raises(ValueError, match="compare_models needs one scale") as caught:
        compared(likelihoods, x)
    assert message in str(caught.value)


def test_no_bits_where_there_is_a_density():
    table = compared(["tweedie"], RAIN)
    assert table.bits_per_dim.isna().all()
    assert not is_probability(AT_0)


def test_results_of_before_say_their_atoms():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = pv.log_evidence(vae_of("tweedie"), RAIN, num_samples=5)
    assert result.attrs["measure"] == AT_0
    with pytest.raises(ValueError, match=f"'a' gives a {AT_0}, 'b' a density; "):
        compare_models({"a": result, "b": vae_of("normal")}, RAIN, num_samples=5)


def test_plain_pyro_functions_say_their_atoms():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0).expand([2]).to_event(1))
            head = pv.CensoredNormal((3,), loc=0.0, scale=1.0, low=0.0, high=math.inf)
            pyro.sample("x", head().expand(z.shape[:-1]), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(0.0, 1.0).expand([2]).to_event(1))

    with pytest.raises(ValueError, match=f"'a' gives a {AT_0}, 'b' a density; "):
        compare_models({"a": (model, guide), "b": vae_of("normal")}, torch.as_tensor(RAIN))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (5,), (4, 5)])
def test_atoms_of_each_element(shape, batch):
    """Limits that differ between elements, in any batch."""
    low = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    head = pv.CensoredNormal(shape, low=low, high=math.inf)
    found = measure_of(head(torch.zeros(*batch, head.num_params)))
    each = [f"density beside probabilities at {number}" for number in range(low.numel())]
    named = [f"{kind} of column {number}" for number, kind in enumerate(each)]
    assert found == (", ".join(named) if len(each) > 1 else each[0])


# ----- truth


def test_log_evidence_of_a_tobit_factor_model_equals_quadrature():
    """One latent, two columns between limits, some cells at them and one missing."""
    weight, bias, sd = np.array([1.5, -1.0]), np.array([0.3, 0.8]), 0.6
    head = pv.CensoredNormal((2,), scale=sd, low=0.0, high=[math.inf, 2.0])
    decoder = torch.nn.Linear(1, 2)
    decoder.weight.data = torch.tensor(weight)[:, None]
    decoder.bias.data = torch.tensor(bias)
    guide = pv.Amortised(pv.MLP(2, 2, hidden=[4]), pv.Normal((1,)))
    vae = pv.VAE(pv.Normal((1,), loc=0.0, scale=1.0), pv.Amortised(decoder, head), guide)
    x = np.array([[0.0, 2.0], [0.0, 0.0], [2.2, 0.4], [1.0, 2.0], [0.0, np.nan]])

    def joint(z, row):
        terms = stats.norm.logpdf(z)
        for value, loc, high in zip(row, weight * z + bias, (math.inf, 2.0), strict=True):
            normal = stats.norm(loc, sd)
            if value == 0.0:
                terms += normal.logcdf(0.0)
            elif value == high:
                terms += normal.logsf(high)
            elif not math.isnan(value):
                terms += normal.logpdf(value)
        return np.exp(terms)

    exact = [np.log(integrate.quad(joint, -12, 12, args=(row,), limit=200)[0]) for row in x]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = pv.log_evidence(vae, x, num_samples=20_000, seed=0)
    error = np.abs(found.log_evidence.values - exact)
    assert (error < 5 * found.se.values + 1e-6).all()
    assert (error < 0.05).all()
