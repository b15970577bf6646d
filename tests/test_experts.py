"""Guides of several views: exact where the model is linear, whatever is missing; an expert is left
out where its block is, and only there.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from truth import LinearGaussian, affine

import pyro_vae as pv
from pyro_vae.conditionals.blocks import Blocks

NAMES = ["product_of_experts", "mixture_of_experts", "mixture_of_products"]
COLUMNS = [[0, 2, 4], [3], [5, 1]]
BLOCKS = [{"columns": columns} for columns in COLUMNS]
PATTERNS = list(itertools.product([True, False], repeat=3))  # which blocks are seen
RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 2.0, (40, 6))
NAN = float("nan")

per_name = pytest.mark.parametrize("name", NAMES)


def with_missing(x, seen):
    """Data whose blocks are missing where `seen` says so."""
    x = np.array(x, dtype=float)
    for columns, is_seen in zip(COLUMNS, seen, strict=True):
        if not is_seen:
            x[..., columns] = NAN
    return x


def built(name, x=X, **options):
    return pv.build(x, latent=2, guide={"name": name, "blocks": BLOCKS}, hidden=[5], **options)


def numbers(loc, scale):
    """What a normal expert reads to have this mean and sd."""
    normal = pv.Normal((len(scale),))
    unconstrained = normal.links["scale"].inv(torch.as_tensor(scale)) - normal.origins["scale"]
    return np.concatenate([loc, unconstrained.numpy()])


# A linear-Gaussian model, whose experts are the factors of the likelihood


def linear_truth():
    """Six columns, of which blocks of three, one and two tell of two latents; the block of one
    column tells nothing of the first, and no column of the second tells of both.
    """
    truth = LinearGaussian(np.zeros((6, 2)), RNG.normal(size=6), RNG.uniform(0.3, 1.0, 6))
    for columns, seed in ((COLUMNS[0], 1), (COLUMNS[2], 2)):
        part = LinearGaussian.with_diagonal_posterior(len(columns), 2, seed)
        truth.weight[columns], truth.noise[columns] = part.weight, part.noise
    truth.weight[COLUMNS[1]] = [[0.0, 1.3]]
    return truth


def exact_expert(truth, columns):
    r"""A network without hidden layers whose expert is p(x_b | z) as a function of z.

    Its precision is :math:`W_b^\top N_b^{-1} W_b`, which is diagonal here and may be 0.
    """
    weight, noise = truth.weight[columns], truth.noise[columns]
    precision = np.diag(weight.T / noise @ weight)
    known = precision > 0
    gain = (
        np.where(known[:, None], weight.T / noise, 0.0) / np.where(known, precision, 1.0)[:, None]
    )
    scale = np.where(known, np.where(known, precision, 1.0) ** -0.5, 1e200)
    bias = numbers(-gain @ truth.bias[columns], scale)
    return affine(np.concatenate([gain, np.zeros((2, len(columns)))]), bias)


def exact_vae(truth, name="product_of_experts"):
    head = pv.Conditional.registry[name]((2,), blocks=BLOCKS)
    experts = tuple(exact_expert(truth, columns) for columns in COLUMNS)
    vae = truth.vae()
    return pv.VAE(vae.prior, vae.likelihood, pv.Amortised(Blocks(COLUMNS, 0, experts), head))


def log_weights(vae, x):
    """Those of rows that may all be without any cell, beside one that is whole."""
    rows = np.concatenate([x, np.zeros((1, 6))])
    return pv.terms(vae, rows, num_samples=30).log_weight[:, :-1].detach()


@pytest.mark.parametrize("seen", PATTERNS)
def test_the_product_is_the_posterior_whatever_is_missing(seen):
    truth = linear_truth()
    x = with_missing(truth.draw(5), seen)
    log_weight = log_weights(exact_vae(truth), x)
    cells = ~np.isnan(x[0])
    expected = np.zeros(5)
    if cells.any():
        of_seen = LinearGaussian(truth.weight[cells], truth.bias[cells], truth.noise[cells])
        expected = of_seen.log_evidence(x[:, cells])
    torch.testing.assert_close(
        log_weight, torch.as_tensor(expected).expand(30, 5), rtol=0.0, atol=1e-10
    )


@pytest.mark.parametrize("seen", [pattern for pattern in PATTERNS if sum(pattern) < 2])
def test_with_one_block_or_none_the_mixtures_are_the_posterior_too(seen):
    truth = linear_truth()
    x = with_missing(truth.draw(5), seen)
    for name in NAMES[1:]:
        log_weight = log_weights(exact_vae(truth, name), x)
        assert float(log_weight.std(0).max()) < 1e-10


@pytest.mark.parametrize("seen", PATTERNS)
def test_networks_of_their_own_keep_the_posterior(seen):
    """A spec with an affine network for each block on both sides, one of them read as an image."""
    truth = linear_truth()
    network = {"name": "mlp", "hidden": []}
    shapes = ({"shape": [3, 1, 1]}, {}, {})
    blocks = [
        block | shape | {"network": network} for block, shape in zip(BLOCKS, shapes, strict=True)
    ]
    families = [
        block | {"name": "normal", "scale": truth.noise[block["columns"]] ** 0.5}
        for block in blocks
    ]
    spec = {
        "event": [6],
        "latent": [2],
        "likelihood": {"name": "columns", "blocks": families},
        "guide": {"name": "product_of_experts", "blocks": blocks},
    }
    vae = pv.build(spec)
    for block, columns in enumerate(COLUMNS):
        expert = exact_expert(truth, columns)
        vae.posterior.network.networks[block].layers.load_state_dict(expert.layers.state_dict())
        decoder = affine(truth.weight[columns], truth.bias[columns])
        own = vae.likelihood.network.own[str(block)]
        own.layers.load_state_dict(decoder.layers.state_dict())
    x = with_missing(truth.draw(5), seen)
    expected = log_weights(exact_vae(truth), x)
    torch.testing.assert_close(log_weights(vae, x), expected, rtol=0.0, atol=1e-10)
    assert float(log_weights(vae, x).std(0).max()) < 1e-10


# Formulas and densities


def test_one_block_is_a_normal_guide_times_the_standard_normal():
    """The same network gives the plain guide its expert; their product is in every textbook."""
    network = pv.MLP(6, 4, hidden=[5])
    head = pv.ProductOfExperts((2,), blocks=[{"columns": list(range(6))}])
    product = pv.Amortised(Blocks([list(range(6))], 0, (network,)), head)(torch.as_tensor(X))
    expert = pv.Amortised(network, pv.Normal((2,)))(torch.as_tensor(X)).base_dist
    precision = 1 + expert.scale**-2
    torch.testing.assert_close(product.base_dist.scale, precision**-0.5)
    torch.testing.assert_close(product.base_dist.loc, expert.loc * expert.scale**-2 / precision)
    for name in NAMES[1:]:
        same = pv.Conditional.registry[name]((2,), blocks=head.options["blocks"])
        z = product.sample()
        log_q = same(network(torch.as_tensor(X))).log_prob(z)
        torch.testing.assert_close(log_q, product.log_prob(z))


MEANS, SDS = np.array([-2.0, 0.5, 3.0]), np.array([0.3, 2.0, 0.7])


def guide_of_one_latent(name, seen):
    head = pv.Conditional.registry[name]((1,), blocks=BLOCKS)
    read = [numbers([mean], [sd]) for mean, sd in zip(MEANS, SDS, strict=True)]
    read = np.where(np.array(seen)[:, None], read, np.inf)
    return head(torch.as_tensor(read.flatten()))


def by_definition(name, seen):
    """The density by quadrature of products of scipy's densities."""
    blocks = [block for block in range(3) if seen[block]]
    sets = [[block] for block in blocks] if name == "mixture_of_experts" else [blocks]
    if name == "mixture_of_products":
        every = (itertools.combinations(blocks, size) for size in range(1, 4))
        sets = list(itertools.chain(*every))

    def product(some):
        def kernel(z):
            return stats.norm.pdf(z) * np.prod(
                [stats.norm.pdf(z, MEANS[b], SDS[b]) for b in some], axis=0
            )

        total = integrate.quad(kernel, -12, 12, points=[-2, -1, 0, 1, 2, 3], limit=500)[0]
        return lambda z: kernel(z) / total

    products = [product(some) for some in sets or [[]]]
    return lambda z: np.mean([one(z) for one in products], axis=0)


@per_name
@pytest.mark.parametrize("seen", PATTERNS)
def test_densities_are_those_of_the_definition_and_integrate_to_1(name, seen):
    guide = guide_of_one_latent(name, seen)
    z = np.linspace(-8, 8, 4001)
    density = guide.log_prob(torch.as_tensor(z)[:, None]).exp().numpy()
    assert abs(integrate.simpson(density, x=z) - 1) < 1e-9
    np.testing.assert_allclose(density, by_definition(name, seen)(z), rtol=1e-6, atol=1e-12)


@per_name
@pytest.mark.parametrize("seen", [(True, True, True), (True, False, True), (False,) * 3])
def test_draws_belong_to_the_density(name, seen):
    guide = guide_of_one_latent(name, seen)
    torch.manual_seed(0)
    drawn = guide.rsample((4000,))[:, 0].detach().numpy()
    z = np.linspace(-8, 8, 4001)
    cumulative = integrate.cumulative_simpson(by_definition(name, seen)(z), x=z, initial=0)
    assert stats.kstest(drawn, lambda at: np.interp(at, z, cumulative)).pvalue > 1e-3


@per_name
def test_a_draw_has_the_gradient_of_its_distribution(name):
    r"""The derivative of E z\ :sup:`2` by draws, against that of the density by quadrature."""
    head = pv.Conditional.registry[name]((1,), blocks=BLOCKS)
    read = np.array([numbers([m], [s]) for m, s in zip(MEANS, SDS, strict=True)])
    read[1] = np.inf
    given = torch.as_tensor(read.flatten()).requires_grad_()
    torch.manual_seed(0)
    each = head(given.expand(20_000, 6))
    z = each.rsample()
    mean = torch.autograd.grad(z.square().mean(), given)[0].numpy()
    grid = torch.linspace(-10, 10, 20_001)[:, None]
    moment = torch.trapezoid(grid[:, 0] ** 2 * head(given).log_prob(grid).exp(), grid[:, 0])
    exact = torch.autograd.grad(moment, given)[0].numpy()
    np.testing.assert_allclose(mean, exact, rtol=0.1, atol=0.05)
    assert (exact[2:4] == 0).all()
    assert (mean[2:4] == 0).all()


def test_several_dimensions_of_a_latent():
    head = pv.MixtureOfProducts((2, 3), blocks=BLOCKS)
    flat = pv.MixtureOfProducts((6,), blocks=BLOCKS)
    read = torch.randn(7, head.num_params)
    z = torch.randn(5, 7, 2, 3)
    torch.testing.assert_close(head(read).log_prob(z), flat(read).log_prob(z.reshape(5, 7, 6)))
    assert head(read).rsample().shape == (7, 2, 3)


# What is missing


def gradients(vae, x):
    torch.manual_seed(0)
    loss = -pv.terms(vae, x, num_samples=3).log_weight.mean()
    parameters = list(vae.posterior.network.parameters())
    return torch.autograd.grad(loss, parameters), len(parameters) // 3


@per_name
@pytest.mark.parametrize("block", range(3))
def test_the_encoder_of_a_missing_block_gets_no_gradient(name, block):
    vae = built(name)
    found, each = gradients(vae, with_missing(X, [b != block for b in range(3)]))
    for number, gradient in enumerate(found):
        assert gradient.isfinite().all()
        assert (gradient == 0).all() if number // each == block else (gradient != 0).any()


@per_name
def test_rows_without_a_block_tell_its_network_nothing(name):
    """Its gradient is that of the other rows."""
    guide = built(name).posterior
    half = torch.as_tensor(with_missing(X, (False, True, True)))
    half[:20] = torch.as_tensor(X[:20])
    parameters = list(guide.network.networks[0].parameters())
    of_all, of_whole = (
        torch.autograd.grad(guide(x).log_prob(torch.ones(2)).sum(), parameters)
        for x in (half, half[:20])
    )
    for found, expected in zip(of_all, of_whole, strict=True):
        torch.testing.assert_close(found, expected)
        assert (found != 0).any()


@per_name
def test_the_guide_does_not_see_what_is_missing(name):
    """It is that of the blocks that are seen: the same, whatever the others' networks are."""
    vae = built(name)
    x = with_missing(X, (True, False, True))
    before = vae.encode(x).log_prob(torch.zeros(2))
    for parameter in vae.posterior.network.networks[1].parameters():
        parameter.data.fill_(1e3)
    assert torch.equal(vae.encode(x).log_prob(torch.zeros(2)), before)
    assert not torch.equal(vae.encode(X).log_prob(torch.zeros(2)), before)


@per_name
def test_a_block_that_is_seen_in_part_keeps_its_expert(name):
    """It reads missing cells at the mean, as any guide does."""
    vae = built(name)
    part, filled = X.copy(), X.copy()
    part[:, 2], filled[:, 2] = NAN, X[:, 2].mean()
    z = torch.zeros(2)
    torch.testing.assert_close(vae.encode(part).log_prob(z), vae.encode(filled).log_prob(z))


@pytest.mark.parametrize("loss", ["elbo", "iwae", "dreg", "mean_field"])
@per_name
def test_training_with_missing_blocks_keeps_parameters_finite(name, loss):
    x = np.concatenate([with_missing(X, seen) for seen in PATTERNS])
    x[:5, 0] = NAN
    vae = built(name, x)
    before = [parameter.clone() for parameter in vae.parameters()]
    history = pv.fit(vae, x, loss=loss, epochs=2, progress=False)
    assert history.loss.notna().all()
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    assert all(not torch.equal(*pair) for pair in zip(before, vae.parameters(), strict=True))


@per_name
def test_a_broken_encoder_is_not_taken_for_a_missing_block(name):
    vae = built(name)
    with torch.no_grad():
        next(vae.posterior.network.networks[0].parameters()).fill_(NAN)
    read = vae.posterior.network(torch.as_tensor(X))
    assert read[:, :4].isnan().all()
    with pytest.raises(ValueError, match=r"NaN|nan|finite|Expected parameter"):
        pv.fit(vae, X, epochs=1, progress=False)


@pytest.mark.filterwarnings("ignore:log p")  # of an untrained guide
@per_name
def test_what_a_vae_does_with_data_it_does_with_missing_blocks(name):
    vae = built(name)
    x = np.concatenate([with_missing(X[:3], seen) for seen in PATTERNS])
    assert vae.encode(x).sample().isfinite().all()
    assert vae.reconstruct(x).isfinite().all()
    assert vae.impute(x, num_samples=20).isfinite().all()
    assert vae.refine(x, steps=2).sample().isfinite().all()
    result = pv.log_evidence(vae, x, num_samples=400)
    assert result.log_evidence.notnull().all()
    with torch.no_grad():
        whole = vae.encode(x).log_prob(torch.ones(2))
        each = [vae.encode(x[row : row + 1]).log_prob(torch.ones(2)) for row in range(len(x) - 3)]
    torch.testing.assert_close(whole[:-3], torch.cat(each))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:log p")  # k-hat: so it is a bound
def test_upper_and_lower_halves_of_digits():
    """Trained with a third of the halves missing, a product gives a half a higher bound by 500
    draws than a guide that reads the mean in place of the other half. (log p(x) itself, by
    annealing, was the same: it is the guide that is better.)
    """
    x = pv.data.as_rows(pv.data.load("digits")).take(slice(None)).double().numpy()
    rng = np.random.default_rng(0)
    x = x[rng.permutation(len(x))]
    train, test = x[:1400].copy(), x[1400:]
    halves = [range(32), range(32, 64)]
    lacks = rng.choice(3, 1400, p=[1 / 3, 1 / 3, 1 / 3])  # the upper half, the lower, none
    for number, half in enumerate(halves):
        train[np.ix_(lacks == number, half)] = NAN
    blocks = [{"columns": list(half)} for half in halves]
    found = []
    for guide in ("normal", {"name": "product_of_experts", "blocks": blocks}):
        likelihood = {"name": "binomial", "total_count": 16.0}
        vae = pv.build(train, likelihood=likelihood, guide=guide, hidden=[64])
        options = {"batch_size": 100, "learning_rate": 2e-3, "progress": False}
        pv.fit(vae, train, epochs=100, **options)
        of_halves = []
        for half in halves:
            one = np.full_like(test, NAN)
            one[:, half] = test[:, half]
            of_halves.append(pv.log_evidence(vae, one, num_samples=500).log_evidence.values)
        found.append(np.stack(of_halves))
    better = found[1] - found[0]
    assert (better.mean(1) > 0.5).all()
    for of_half in better:
        assert stats.wilcoxon(of_half, alternative="greater").pvalue < 1e-3


# Specs, files, names


@per_name
def test_spec_and_file(name, tmp_path):
    vae = built(name)
    spec = pv.describe(vae)
    assert spec["guide"]["blocks"] == BLOCKS
    assert spec["guide"]["network"]["name"] == "mlp"
    assert pv.describe(pv.build(spec)) == spec
    pv.save(vae, tmp_path / "vae.safetensors")
    again = pv.load(tmp_path / "vae.safetensors")
    x, z = with_missing(X, (True, False, True)), torch.zeros(2)
    assert torch.equal(again.encode(x).log_prob(z), vae.encode(x).log_prob(z))
    assert pv.describe(again) == spec


def test_different_networks_stand_in_the_tables_of_their_blocks():
    networks = tuple(pv.MLP(len(c), 4, hidden=[len(c)]) for c in COLUMNS)
    head = pv.ProductOfExperts((2,), blocks=BLOCKS)
    table = pv.describe(pv.Amortised(Blocks(COLUMNS, 0, networks), head))
    assert [block["network"]["hidden"] for block in table["blocks"]] == [[3], [1], [2]]
    assert "network" not in table
    other = pv.Amortised(Blocks(COLUMNS[::-1], 0, networks), head)
    with pytest.raises(TypeError, match="product_of_experts behind Blocks with other columns"):
        pv.describe(other)


def test_every_network_knows_where_its_columns_lie():
    for log1p in (False, True):
        network = {"name": "mlp", "hidden": [4], "log1p": log1p}
        x = X + np.arange(6) * 10
        guide = {"name": "product_of_experts", "blocks": BLOCKS, "network": network}
        vae = pv.build(x, latent=1, guide=guide)
        seen = np.sign(x) * np.log1p(np.abs(x)) if log1p else x
        for columns, of_block in zip(COLUMNS, vae.posterior.network.networks, strict=True):
            np.testing.assert_allclose(of_block.mean, seen[:, columns].mean(0))
            np.testing.assert_allclose(of_block.sd, seen[:, columns].std(0))


def test_blocks_may_name_their_columns_and_follow_the_likelihood():
    frame = pd.DataFrame(np.abs(X) + 1, columns=list("abcdef"))
    named = [{"columns": ["b", "a", "f"]}, {"columns": ["c", "d", "e"]}]
    expected = [{"columns": [1, 0, 5]}, {"columns": [2, 3, 4]}]
    families = ({"name": "gamma"}, {"name": "normal"})
    likelihood = {
        "name": "columns",
        "blocks": [block | family for block, family in zip(named, families, strict=True)],
    }
    given = {"name": "product_of_experts", "blocks": named}
    for guide in (given, "product_of_experts", {"name": "product_of_experts"}):
        vae = pv.build(frame, latent=1, likelihood=likelihood, guide=guide, hidden=[3])
        assert pv.describe(vae)["guide"]["blocks"] == expected
    with pytest.raises(ValueError, match=r"guide.blocks\[0\].columns: no column is named 'bb'"):
        pv.build(frame, guide={**given, "blocks": [{"columns": ["bb"]}]})
    with pytest.raises(ValueError, match="guide: product_of_experts needs blocks"):
        pv.build(frame, guide="product_of_experts")


@per_name
def test_c_goes_to_every_expert(name):
    c = RNG.normal(5.0, 2.0, (40, 2))
    vae = built(name, c=c)
    z = torch.zeros(2)
    for seen in PATTERNS:
        x = np.concatenate([with_missing(X[1:], seen), X[:1]])
        first, second = (vae.encode(x, given).log_prob(z) for given in (c, c + 1.0))
        assert torch.equal(first[:-1], second[:-1]) == (not any(seen))
    for network in vae.posterior.network.networks:
        np.testing.assert_allclose(network.mean[-2:], c.mean(0))
    assert pv.describe(pv.build(pv.describe(vae))) == pv.describe(vae)


ERRORS = {
    "two have a column": ([[0, 1, 2], [2, 3, 4, 5]], "guide.blocks: every column must be in"),
    "a gap": ([[0, 1], [3, 4, 5]], "guide.blocks: every column must be in exactly one"),
    "out of range": ([[0, 1, 2], [3, 4, 5, 6]], "guide.blocks: product_of_experts reads rows of 7"),
    "below 0": ([[0, 1], [-1]], r"guide.blocks\[1\].columns: every column must be a whole number"),
    "one is left": ([[0, 1, 2], [3, 4]], "every column must be in exactly one of the blocks"),
    "no block": ([], "guide.blocks: every column must be in exactly one"),
    "an empty one": ([[0, 1, 2, 3, 4, 5], []], "and every block must have some"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_blocks_that_are_refused(case):
    columns, message = ERRORS[case]
    blocks = [{"columns": some} for some in columns]
    with pytest.raises(ValueError, match=message):
        pv.build(X, latent=2, guide={"name": "product_of_experts", "blocks": blocks})


def test_other_refusals():
    guide = {"name": "product_of_experts", "blocks": BLOCKS}
    with pytest.raises(ValueError, match=r"guide.blocks\[0\].name: a block of experts has columns"):
        pv.build(X, guide={**guide, "blocks": [{"columns": [0], "name": "normal"}]})
    with pytest.raises(ValueError, match=r"guide.network.hiden: mlp has no such argument; did you"):
        pv.build(X, guide={**guide, "network": {"name": "mlp", "hiden": [3]}})
    with pytest.raises(ValueError, match="so it cannot stand as likelihood; use it as a guide"):
        pv.build(X, likelihood=guide)
    with pytest.raises(ValueError, match="reads rows of 6 columns; got data of shape"):
        pv.build(X.reshape(-1, 2, 3), guide=guide)
    eleven = [{"columns": [column]} for column in range(11)]
    with pytest.raises(ValueError, match="all sets of at most 10 blocks; got 11; use"):
        pv.MixtureOfProducts((2,), blocks=eleven)
