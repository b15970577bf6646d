"""The sums over importance weights: against plain formulas, however they are cut, joined, kept and
read again.
"""

import math
import os
import warnings

import numpy as np
import pyro
import pytest
import torch
import xarray
from arviz_stats.base import array_stats
from pyro import distributions as dist
from scipy.special import logsumexp
from setting import place
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence.pareto import tail_length
from pyro_vae.evidence.weights import concatenate, from_blocks

pytestmark = pytest.mark.usefixtures("device")
SEEDS = int(os.environ.get("PYRO_VAE_SEEDS", 10))
EPS = float(np.finfo(float).eps)
SIZES = [1, 2, 7, 64, 1000, 2500]
MODEL = LinearGaussian.with_diagonal_posterior(features=6, latents=2)
X = MODEL.draw(70)
TRUTH = MODEL.log_evidence(X)
ADDED = ("log_evidence", "se", "ess", "khat", "max_weight", "elbo", "num_samples")


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.log_evidence(*args, **kwargs)


def random_weights(num, data=5, seed=0):
    """Log weights with light and heavy tails, at levels that would overflow as weights."""
    rng = np.random.default_rng((seed, num))
    spread = np.linspace(0.1, 4.0, data)
    return torch.as_tensor(spread * rng.normal(size=(num, data)) + np.linspace(-2000, 2000, data))


def cut(log_weight, sizes):
    """Blocks of these sizes, again and again."""
    done, number = 0, 0
    while done < len(log_weight):
        yield log_weight[done : done + sizes[number % len(sizes)]]
        done, number = done + sizes[number % len(sizes)], number + 1


def jackknife(log_weight):
    """The bias of log p_K, by leaving out each draw in turn."""
    num = len(log_weight)
    whole = logsumexp(log_weight, 0) - math.log(num)
    without = [logsumexp(np.delete(log_weight, k, 0), 0) for k in range(num)]
    return (num - 1) * (np.mean(without, 0) - math.log(num - 1) - whole)


@pytest.mark.parametrize(
    "sizes", [[10_000], [1], [3, 1, 50], [64]], ids=["whole", "ones", "uneven", "even"]
)
@pytest.mark.parametrize("num", SIZES)
def test_sums_equal_the_plain_formulas_however_they_are_cut(num, sizes):
    log_weight = random_weights(num)
    plain = log_weight.numpy()
    figures = from_blocks(cut(log_weight, sizes), EPS).figures()
    share = np.exp(plain - logsumexp(plain, 0))
    ess = 1 / np.square(share).sum(0)
    np.testing.assert_allclose(
        figures["log_evidence"], logsumexp(plain, 0) - math.log(num), rtol=1e-12
    )
    np.testing.assert_allclose(figures["elbo"], plain.mean(0), rtol=1e-12)
    np.testing.assert_allclose(figures["ess"], ess, rtol=1e-8)
    np.testing.assert_allclose(figures["max_weight"], share.max(0), rtol=1e-9)
    assert (figures["num_samples"] == num).all()
    if num == 1:
        assert figures["se"].isnan().all()
        assert figures["bias"].isnan().all()
    else:
        np.testing.assert_allclose(
            figures["se"], (num * share).std(0, ddof=1) / math.sqrt(num), rtol=1e-7
        )


@pytest.mark.parametrize("sizes", [[10_000], [5, 40]], ids=["whole", "cut"])
@pytest.mark.parametrize("num", [2, 3, 7, 17, 64, 1000])
def test_bias_is_the_jackknife(num, sizes):
    log_weight = random_weights(num)
    found, exact = from_blocks(cut(log_weight, sizes), EPS).bias, jackknife(log_weight.numpy())
    np.testing.assert_allclose(found, exact, rtol=1e-7 if num <= 17 else 1e-2)
    assert (found < 0).all()


def test_bias_of_a_weight_that_is_all_of_the_sum():
    """What is left without it is far too small to be one less its share."""
    log_weight = torch.tensor([0.0, -1000.0, -1001.0], dtype=torch.float64)[:, None]
    np.testing.assert_allclose(
        from_blocks([log_weight], EPS).bias, jackknife(log_weight.numpy()), rtol=1e-9
    )


@pytest.mark.parametrize("sizes", [[10_000], [1], [3, 1, 50], [64], [1000]])
@pytest.mark.parametrize("num", SIZES)
def test_curve_is_the_mean_over_disjoint_blocks(num, sizes):
    log_weight = random_weights(num)
    found = from_blocks(cut(log_weight, sizes), EPS)
    assert len(found.curve) == len(found.blocks) == int(math.log2(num)) + 1
    for level, (mean, blocks) in enumerate(zip(found.curve, found.blocks, strict=True)):
        count = num // 2**level
        whole = log_weight[: count * 2**level].numpy().reshape(count, 2**level, -1)
        expected = (logsumexp(whole, 1) - level * math.log(2)).mean(0)
        np.testing.assert_allclose(mean, expected, rtol=1e-12)
        assert (blocks == count).all()


@pytest.mark.parametrize("num", [30, 60, 226, 1000, 5000])
def test_khat_through_figures_equals_arviz(num):
    log_weight = random_weights(num)
    _, expected = array_stats.psislw(-log_weight.numpy().T, axis=-1)
    np.testing.assert_allclose(
        from_blocks(cut(log_weight, [37]), EPS).figures()["khat"], expected, atol=1e-9
    )


@pytest.mark.parametrize(
    ("first", "second"), [(1, 1), (7, 64), (64, 7), (225, 1), (1000, 1000), (100, 5000)]
)
def test_two_parts_equal_the_whole(first, second):
    log_weight = random_weights(first + second)
    parts = from_blocks([log_weight[:first]], EPS).merge(from_blocks([log_weight[first:]], EPS))
    whole = from_blocks([log_weight], EPS)
    for name, values in whole.figures().items():
        rtol = 1e-2 if name == "bias" else 1e-8
        np.testing.assert_allclose(parts.figures()[name], values, rtol=rtol, err_msg=name)
    needed = min(first + second, tail_length(first + second) + 1)
    assert torch.equal(parts.tail[:needed], whole.tail[:needed])
    assert (parts.blocks[0] == first + second).all()
    torch.testing.assert_close(parts.curve[0], whole.curve[0])


def test_the_tail_suffices_after_many_additions():
    """Fifty parts of 100 draws: the tail of 5000 has three times the draws that the tail of 100
    has.
    """
    log_weight = random_weights(5000, data=20)
    first, *others = (from_blocks([part], EPS) for part in log_weight.split(100))
    for other in others:
        first = first.merge(other)
    np.testing.assert_allclose(first.khat, pv.khat(log_weight), rtol=1e-9)


def test_a_part_of_the_data_and_back():
    short, long = (
        from_blocks([random_weights(64)], EPS),
        from_blocks([random_weights(1000, seed=1)], EPS),
    )
    index = torch.tensor([3, 1])
    mixed = short.replace(index, long.select(index))
    for name, values in mixed.figures().items():
        expected = short.figures()[name].clone()
        expected[index] = long.figures()[name][index]
        torch.testing.assert_close(values, expected, msg=name)
    for level in range(10):
        assert mixed.curve[level].isnan().tolist() == [
            level > 6 and n not in (1, 3) for n in range(5)
        ]
    assert mixed.blocks[9].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    whole = from_blocks([random_weights(64)], EPS)
    again = concatenate([whole.select(torch.tensor([0, 1])), whole.select(torch.tensor([2, 3, 4]))])
    for name, values in whole.figures().items():
        assert torch.equal(again.figures()[name], values), name
    nobody = torch.tensor([], dtype=torch.long)
    assert torch.equal(short.replace(nobody, long.select(nobody)).khat, short.khat)


def test_data_with_unequal_numbers_of_draws_are_added_to():
    short, long = (
        from_blocks([random_weights(64)], EPS),
        from_blocks([random_weights(1000, seed=1)], EPS),
    )
    index, more = torch.tensor([3, 1]), random_weights(500, seed=2)
    added = short.replace(index, long.select(index)).merge(from_blocks([more], EPS))
    for datum, before in enumerate([64, 1000, 64, 1000, 64]):
        first = random_weights(before, seed=0 if before == 64 else 1)[:, [datum]]
        alone = from_blocks([torch.cat([first, more[:, [datum]]])], EPS)
        for name in ("log_evidence", "se", "ess", "elbo", "max_weight", "num_samples", "khat"):
            torch.testing.assert_close(
                added.figures()[name][[datum]], alone.figures()[name], rtol=1e-9, atol=0.0
            )
    assert added.curve[:9].isfinite().all()


SHAPES = {
    "equal": (torch.full((1000,), 3.0), 3.0, 1000.0, -math.inf),
    "few equal": (torch.full((3,), 3.0), 3.0, 3.0, math.nan),
    "all impossible": (torch.full((1000,), -math.inf), -math.inf, 0.0, math.nan),
    "one alone": (
        torch.full((1000,), -math.inf).index_fill(0, torch.tensor(7), 2.0),
        2 - math.log(1000),
        1.0,
        None,
    ),
    "one beyond all": (
        torch.zeros(1000).index_fill(0, torch.tensor(7), 5e3),
        5e3 - math.log(1000),
        1.0,
        math.inf,
    ),
    "infinite": (
        torch.zeros(1000).index_fill(0, torch.tensor(7), math.inf),
        math.inf,
        math.nan,
        math.nan,
    ),
    "unknown": (
        torch.zeros(1000).index_fill(0, torch.tensor(7), math.nan),
        math.nan,
        math.nan,
        math.nan,
    ),
    "half impossible": (
        torch.zeros(1000).index_fill(0, torch.arange(500), -math.inf),
        -math.log(2),
        500.0,
        None,
    ),
}


@pytest.mark.parametrize("sizes", [[5000], [1], [64]], ids=["whole", "ones", "blocks"])
@pytest.mark.parametrize("shape", SHAPES)
def test_degenerate_weights_are_defined(shape, sizes):
    """No warning and no traceback; a datum beside them is as it is alone."""
    column, log_evidence, ess, khat = SHAPES[shape]
    good = random_weights(len(column), data=1)
    found = from_blocks(cut(torch.stack([column.double(), good[:, 0]], 1), sizes), EPS)
    figures = {name: values.numpy() for name, values in found.figures().items()}
    np.testing.assert_allclose(figures["log_evidence"][0], log_evidence, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(figures["ess"][0], ess)
    if khat is not None:
        np.testing.assert_equal(figures["khat"][0], khat)
    np.testing.assert_allclose(figures["elbo"][0], column.mean().numpy())
    if shape.endswith("equal"):
        np.testing.assert_allclose(figures["se"][0], 0.0, atol=1e-7)
        np.testing.assert_allclose(figures["bias"][0], 0.0, atol=1e-6)
    if shape.startswith("one"):
        assert figures["max_weight"][0] == pytest.approx(1.0)
        assert figures["se"][0] == pytest.approx(1.0)
    alone = from_blocks([good], EPS).figures()
    for name, values in figures.items():
        rtol = 1e-2 if name == "bias" else 1e-8
        np.testing.assert_allclose(values[1], alone[name][0], rtol=rtol, err_msg=name)


# more


def drawn(vae, num_samples=400, **options):
    return quiet(vae, X, num_samples=num_samples, **options)


def test_more_adds_draws_and_the_figures_are_those_of_all():
    vae = MODEL.vae(shrink=1.3)
    first = drawn(vae)
    both = drawn(vae, 600, more=first)
    assert (both.num_samples == 1000).all()
    assert both.attrs["num_samples"] == 1000
    second = np.log(1000 * np.exp(both.log_evidence) - 400 * np.exp(first.log_evidence)) - math.log(
        600
    )
    np.testing.assert_allclose(
        both.elbo, 0.4 * first.elbo + 0.6 * (1000 * both.elbo - 400 * first.elbo) / 600
    )
    assert (np.abs(second - TRUTH) > 1e-6).all()
    assert (np.abs(second - first.log_evidence) > 1e-6).all(), "the added draws are new ones"
    assert (np.abs(second - TRUTH) < 5 * first.se).all()
    assert (both.blocks[0] == 1000).all()
    np.testing.assert_allclose(both.curve[0], both.elbo)
    assert float((both.se / first.se).mean()) == pytest.approx(math.sqrt(0.4), abs=0.05)


def test_errors_stay_honest_when_draws_are_added():
    """Three calls, one after the other, over data and seeds: z-scores are standard normal."""
    vae, z, relative = MODEL.vae(shrink=1.3, shift=0.3), [], []
    for seed in range(SEEDS):
        result = None
        for _ in range(3):
            result = drawn(vae, 200, seed=seed, more=result)
        z.append((result.log_evidence - TRUTH) / result.se)
        relative.append(float(result.se.mean()))
    z = np.concatenate(z)
    assert (result.num_samples == 600).all()
    assert abs(z.mean() + np.mean(relative) / 2) < 4 / math.sqrt(z.size)
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * z.size)
    assert (np.abs(z) < 4.75).all()


def test_more_gives_the_same_for_any_memory():
    vae = MODEL.vae(shrink=1.3)
    whole = drawn(vae, 333, more=drawn(vae, 777))
    part = drawn(vae, 333, more=drawn(vae, 777, max_bytes=1), max_bytes=50_000)
    assert (part.flag == whole.flag).all()
    for name in whole:
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-9, err_msg=name)


def test_a_result_outlives_a_file(tmp_path):
    vae = MODEL.vae(shrink=0.8)
    first = drawn(vae)
    first.to_netcdf(tmp_path / "evidence.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "evidence.nc", engine="h5netcdf") as file:
        again = file.load()
    xarray.testing.assert_equal(again, first)
    assert again.attrs == first.attrs
    direct, continued = drawn(vae, more=first), drawn(vae, more=again)
    xarray.testing.assert_equal(continued, direct)
    timed = dict.fromkeys(["seconds", "seconds_guide"])
    assert continued.attrs | timed == direct.attrs | timed


def test_a_result_with_impossible_data_outlives_a_file_and_is_continued(tmp_path):
    """Weights of zero stay zero in the sums; a NaN stays a NaN."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            far = torch.where(x > 1, -math.inf, torch.where(x < -1, math.nan, -((x - z) ** 2)))
            pyro.factor("x", far)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    x = torch.tensor([0.0, 2.0, -2.0])
    first = quiet((model, guide), x, num_samples=100)
    first.to_netcdf(tmp_path / "evidence.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "evidence.nc", engine="h5netcdf") as file:
        both = quiet((model, guide), x, num_samples=50, more=file.load())
    assert both.attrs["flagged"] == 2
    np.testing.assert_array_equal(both.log_evidence[1:], [-math.inf, math.nan])
    np.testing.assert_array_equal(both.ess[1:], [0.0, math.nan])
    assert np.isfinite(both.log_evidence[0])
    assert (both.num_samples == 150).all()


def test_what_more_refuses():
    vae = MODEL.vae(shrink=1.3)
    first = drawn(vae, 50)
    with pytest.raises(
        TypeError,
        match="more needs what log_evidence gave earlier, with its tail and num_samples; got dict",
    ):
        drawn(vae, 50, more={"tail": 1})
    with pytest.raises(TypeError, match="more needs what log_evidence gave earlier"):
        drawn(vae, 50, more=first.drop_vars("tail"))
    with pytest.raises(pv.DataError, match="more needs the result for these very data"):
        quiet(vae, X[::-1].copy(), num_samples=50, more=first)
    with pytest.raises(pv.DataError, match="more needs the result for these very data"):
        quiet(vae, X[:30], num_samples=50, more=first.isel(datum=slice(30)))
    with pytest.raises(ValueError, match="more needs the result of this very model"):
        drawn(MODEL.vae(shrink=1.4), 50, more=first)
    with pytest.raises(ValueError, match="the earlier result was made with a tolerance"):
        drawn(vae, 50, more=drawn(vae, 50, tolerance=1.0))
    with pytest.raises(ValueError, match="give one of the two"):
        drawn(vae, 50, more=first, tolerance=1.0)


def test_more_refuses_another_prior_with_the_same_parameters():
    """A Laplace prior with the loc of 0 and the scale of 1 of the normal one is another model."""
    vae = MODEL.vae(shrink=1.3)
    first = drawn(vae, 50)
    vae.prior = place(pv.Laplace((2,), loc=0.0, scale=1.0))
    with pytest.raises(ValueError, match="more needs the result of this very model"):
        drawn(vae, 50, more=first)


def test_more_tells_pairs_apart():
    """By what they close over, by their constants, and by the distributions that they name."""

    def pair(scale, likelihood, narrow=False):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", likelihood(z, scale), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

        def narrower(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(()), 0.9))

        return model, narrower if narrow else guide

    normal, laplace = (lambda z, s: dist.Normal(z, s)), (lambda z, s: dist.Laplace(z, s))
    x = torch.randn(5)
    first = quiet(pair(1.0, normal), x, num_samples=30)
    again = quiet(pair(1.0, normal), x, num_samples=30, more=first)
    assert again.attrs["num_samples"] == 60
    for other in (pair(2.0, normal), pair(1.0, laplace), pair(1.0, normal, narrow=True)):
        with pytest.raises(ValueError, match="more needs the result of this very model"):
            quiet(other, x, num_samples=30, more=first)


def test_more_refuses_data_in_another_order_and_fewer_of_them():
    vae = MODEL.vae(shrink=1.3)
    first = drawn(vae, 50)
    order = np.random.default_rng(0).permutation(len(X))
    for changed in (
        first.isel(datum=order),
        first.isel(datum=slice(1)),
        first.isel(datum=slice(30)),
    ):
        with pytest.raises(ValueError, match="more needs"):
            drawn(vae, 50, more=changed)


def test_more_refuses_a_result_of_annealing():
    vae = MODEL.vae(shrink=1.3)
    annealed = pv.annealed_log_evidence(vae, X, num_distributions=3, chains=4)
    with pytest.raises((TypeError, ValueError), match="more"):
        drawn(vae, 50, more=annealed)


# the bias


@pytest.mark.parametrize("num", [4, 10])
def test_the_estimate_of_the_bias_is_honest(num):
    """Over data and seeds the mean error of log p_K is the mean of its estimated bias.

    The jackknife itself is off by the next order in 1 / K, a fifth of the bias at most for such
    light weights.
    """
    vae = MODEL.vae(shrink=1.2, shift=0.2)
    results = [drawn(vae, num, seed=1000 + seed) for seed in range(20 * SEEDS)]
    error = np.concatenate([result.log_evidence - TRUTH for result in results])
    bias = np.concatenate([result.bias for result in results])
    difference = error - bias
    se = difference.std() / math.sqrt(difference.size)
    assert error.mean() < -6 * error.std() / math.sqrt(error.size), "there is a bias to be found"
    assert abs(difference.mean()) < 4 * se + 0.2 * abs(error.mean())


def test_the_curve_is_honest():
    """At each K its mean over data and seeds is that of estimates with K draws of their own."""
    vae = MODEL.vae(shrink=1.3, shift=0.3)
    results = [drawn(vae, 256, seed=seed) for seed in range(SEEDS)]
    curve = np.concatenate([result.curve.values - TRUTH for result in results], 1)
    for level in (0, 2, 4):
        own = np.concatenate(
            [
                drawn(vae, 2**level, seed=500 + seed).log_evidence - TRUTH
                for seed in range(2 * SEEDS)
            ]
        )
        se = math.sqrt(own.var() / own.size + curve[level].var() / curve[level].size)
        assert abs(own.mean() - curve[level].mean()) < 4 * se
    mean = curve.mean(1)
    assert (np.diff(mean[:6]) > 0).all()
    assert (mean < 4 * curve.std(1) / math.sqrt(curve.shape[1])).all()
