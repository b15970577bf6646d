"""A network for each block of columns, and an image beside a table: each network reads and writes
its own block, in its shape, and nothing else.
"""

import json
import tomllib

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from scipy import stats

import pyro_vae as pv

RNG = np.random.default_rng(0)
IMAGE, TABLE = [*range(3, 19)], [0, 1, 2]  # 16 pixels behind three columns
PIXELS = RNG.integers(0, 9, (40, 16)).astype(float)
NUMBERS = RNG.normal(3.0, 2.0, (40, 3))
X = np.column_stack([NUMBERS, PIXELS])
NAN = float("nan")

ENCODER = {"name": "conv_encoder", "channels": [3]}
DECODER = {"name": "conv_decoder", "channels": [3]}
SHAPE = [1, 4, 4]
READ = [
    {"columns": IMAGE, "shape": SHAPE, "network": ENCODER},
    {"columns": TABLE, "network": {"name": "mlp", "hidden": [5]}},
]
WRITTEN = [
    {"columns": IMAGE, "name": "binomial", "total_count": 8.0, "shape": SHAPE, "network": DECODER},
    {"columns": TABLE, "name": "normal"},
]
NAMES = ["product_of_experts", "mixture_of_experts", "mixture_of_products"]
SEEN = {"both": X, "image": X.copy(), "table": X.copy(), "neither": np.full_like(X, NAN)}
SEEN["image"][:, TABLE] = NAN
SEEN["table"][:, IMAGE] = NAN


def guide(blocks=READ, name="product_of_experts", **options):
    return {"name": name, "blocks": blocks, **options}


def likelihood(blocks=WRITTEN, **options):
    return {"name": "columns", "blocks": blocks, **options}


def built(x=X, **options):
    parts = {"likelihood": likelihood(), "guide": guide()}
    return pv.build(x, **{"latent": 2, "hidden": [6], **parts, **options})


# A network for each block is what one for all was


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("c", [None, RNG.normal(5.0, 2.0, (40, 2))], ids=["alone", "given c"])
def test_the_same_network_in_each_block_is_that_of_the_table(name, c):
    plain = [{"columns": columns} for columns in (IMAGE, TABLE)]
    network = {"name": "mlp", "hidden": [4]}
    own = [block | {"network": network} for block in plain]
    first = built(c=c, guide=guide(plain, name, network=network))
    second = built(c=c, guide=guide(own, name))
    assert pv.describe(first) == pv.describe(second)
    for (key, found), (other, expected) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(found, expected)
    rows = np.concatenate([SEEN["image"], X[:1]])
    given = () if c is None else (np.concatenate([c, c[:1]]),)
    z = torch.ones(2)
    found, expected = (vae.encode(rows, *given).log_prob(z) for vae in (first, second))
    assert torch.equal(found, expected)


def test_affine_networks_of_each_block_are_one_affine_network():
    """The rows of its matrix, in the order of the columns of each block."""
    affine = {"name": "mlp", "hidden": []}
    blocks = [
        {"columns": [1, 3], "name": "normal"},
        {"columns": [0], "name": "poisson"},
        {"columns": [2], "name": "gamma"},
    ]
    x = RNG.poisson(4.0, (40, 4)) + 1.0
    shared = pv.build(x, latent=2, likelihood=likelihood(blocks, network=affine))
    weight, bias = (p.data for p in shared.likelihood.network.layers.parameters())
    z = torch.randn(7, 2)
    for which in ([0], [1], [2], [0, 2], [0, 1, 2]):
        some = [
            block | ({"network": affine} if number in which else {})
            for number, block in enumerate(blocks)
        ]
        rest = {} if len(which) == 3 else {"network": affine}
        vae = pv.build(x, latent=2, likelihood=likelihood(some, **rest))
        network = vae.likelihood.network
        places = torch.arange(7).split([4, 1, 2])
        for number, place in enumerate(places):
            if number in which:
                layer = network.own[str(number)].layers[0]
                layer.weight.data, layer.bias.data = weight[place], bias[place]
        if network.shared is not None:
            place = torch.cat([p for number, p in enumerate(places) if number not in which])
            layer = network.shared.layers[0]
            layer.weight.data, layer.bias.data = weight[place], bias[place]
        density = vae.likelihood(z).log_prob(torch.as_tensor(x[:7]))
        expected = shared.likelihood(z).log_prob(torch.as_tensor(x[:7]))
        torch.testing.assert_close(density, expected, rtol=1e-12, atol=1e-12)


# What a network reads and writes


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_a_block_with_a_shape_is_read_as_an_image(batch):
    """Also where its columns stand in another order than in the data."""
    columns = RNG.permutation(IMAGE).tolist()
    vae = built(guide=guide([READ[0] | {"columns": columns}, READ[1]]))
    x = torch.as_tensor(X[RNG.integers(40, size=batch)])
    convolutions, mlp = vae.posterior.network.networks
    assert convolutions.in_shape == (1, 4, 4)
    by_hand = [convolutions(x[..., columns].reshape(*batch, 1, 4, 4)), mlp(x[..., TABLE])]
    torch.testing.assert_close(vae.posterior.network(x), torch.cat(by_hand, -1))


def test_an_image_gets_a_channel_for_each_number_of_c():
    c = RNG.normal(5.0, 2.0, (40, 2))
    vae = built(c=c)
    convolutions, mlp = vae.posterior.network.networks
    assert convolutions.in_shape == (3, 4, 4)
    assert mlp.in_shape == (5,)
    joined = np.concatenate(
        [PIXELS.reshape(40, 1, 4, 4), np.broadcast_to(c[:, :, None, None], (40, 2, 4, 4))], 1
    )
    by_hand = [convolutions(torch.as_tensor(joined)), mlp(torch.as_tensor(np.hstack([NUMBERS, c])))]
    found = vae.posterior.network(torch.as_tensor(np.hstack([X, c])))
    torch.testing.assert_close(found, torch.cat(by_hand, -1))
    np.testing.assert_allclose(convolutions.mean, joined.mean(0))
    np.testing.assert_allclose(convolutions.sd, joined.std(0))
    for network in (vae.likelihood.network.own["0"], vae.likelihood.network.shared):
        np.testing.assert_allclose(network.mean, [0, 0, *c.mean(0)])
        np.testing.assert_allclose(network.sd, [1, 1, *c.std(0)])
    pv.fit(vae, X, c, epochs=1, progress=False)


def test_a_shape_that_is_no_image_reads_c_behind_it():
    blocks = [READ[0] | {"shape": [2, 8], "network": {"name": "mlp", "hidden": [3]}}, READ[1]]
    assert built(guide=guide(blocks)).posterior.network.networks[0].in_shape == (2, 8)
    vae = built(guide=guide(blocks), c=RNG.normal(size=(40, 2)))
    assert vae.posterior.network.networks[0].in_shape == (18,)


def test_the_log_density_is_the_sum_of_both_families():
    vae = built()
    z = torch.randn(40, 2)
    network = vae.likelihood.network
    logits = network.own["0"](z).numpy(force=True)
    numbers = pv.Normal((3,), **vae.likelihood.head.parts[1].options)(network.shared(z))
    of_image = stats.binom.logpmf(PIXELS, 8, 1 / (1 + np.exp(-logits))).sum(-1)
    loc, scale = (moment.numpy(force=True) for moment in (numbers.mean, numbers.stddev))
    of_table = stats.norm.logpdf(NUMBERS, loc, scale).sum(-1)
    found = {
        seen: vae.log_likelihood(torch.as_tensor(x), z, None).detach() for seen, x in SEEN.items()
    }
    np.testing.assert_allclose(found["both"], of_image + of_table, rtol=1e-10)
    np.testing.assert_allclose(found["image"], of_image, rtol=1e-10)
    np.testing.assert_allclose(found["table"], of_table, rtol=1e-10)
    assert (found["neither"] == 0).all()


def test_two_numbers_for_each_pixel_are_two_images():
    """As a family over images reads them from the same convolutions."""
    blocks = [{"columns": IMAGE, "name": "normal", "shape": SHAPE, "network": DECODER}, WRITTEN[1]]
    vae = pv.build({"event": [19], "latent": [2], "likelihood": likelihood(blocks)})
    convolutions = vae.likelihood.network.own["0"]
    z = torch.randn(5, 2)
    of_images = pv.Amortised(convolutions, pv.Normal(SHAPE))(z).base_dist
    cells = vae.likelihood(z).base_dist.parts[0]
    assert torch.equal(cells.loc, of_images.loc.flatten(1))
    assert torch.equal(cells.scale, of_images.scale.flatten(1))


# Gradients


def parameters(network):
    return list(network.parameters())


def reached(loss, networks):
    """Whether the gradient of a loss reaches each network."""
    loss.backward()
    found = [
        {bool((p.grad != 0).any()) for p in parameters(network) if p.grad is not None}
        for network in networks
    ]
    return [True in of_network for of_network in found]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("seen", "expected"),
    [("both", [True, True]), ("image", [True, False]), ("table", [False, True])],
)
def test_the_gradient_reaches_each_network_from_its_block_alone(name, seen, expected):
    vae = built(guide=guide(name=name))
    loss = -pv.terms(vae, SEEN[seen], num_samples=3).log_weight.mean()
    assert loss.isfinite()
    written = [vae.likelihood.network.own["0"], vae.likelihood.network.shared]
    assert reached(loss, [*vae.posterior.network.networks, *written]) == [*expected, *expected]


# Missing cells


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_seen_in_part_is_read_at_what_is_typical(name):
    vae = built(guide=guide(name=name))
    part, filled = torch.as_tensor(X.copy()), torch.as_tensor(X.copy())
    part[:, 5:9], filled[:, 5:9] = NAN, filled[:, 5:9].mean(0)
    found, expected = vae.posterior.network(part), vae.posterior.network(filled)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected)
    assert vae.encode(part).log_prob(torch.zeros(2)).isfinite().all()


@pytest.mark.filterwarnings("ignore:log p")  # of a guide that is hardly trained
@pytest.mark.parametrize("name", NAMES)
def test_what_a_vae_does_with_data_it_does_with_views(name):
    x = np.concatenate([of_view[:10] for of_view in SEEN.values()])
    x[:3, 5] = NAN
    vae = built(x, guide=guide(name=name))
    before = [parameter.clone() for parameter in vae.parameters()]
    history = pv.fit(vae, x, epochs=2, progress=False)
    assert history.loss.notna().all()
    assert all(not torch.equal(*pair) for pair in zip(before, vae.parameters(), strict=True))
    imputed = vae.impute(x, num_samples=20)
    assert imputed.isfinite().all()
    known = torch.as_tensor(~np.isnan(x))
    assert torch.equal(imputed[known], torch.as_tensor(x)[known])
    assert vae.refine(x, steps=2).sample().isfinite().all()
    assert pv.log_evidence(vae, x, num_samples=100).log_evidence.notnull().all()
    assert vae.sample(3).shape == (3, 19)


# What networks know of the data


def test_each_network_is_standardised_by_what_it_sees():
    """One block as logarithms, one as it is; each by its own columns, and c likewise."""
    c = RNG.uniform(1.0, 50.0, (40, 1))
    blocks = [
        READ[0] | {"network": ENCODER | {"log1p": True}},
        READ[1] | {"network": {"name": "residual_mlp", "width": 4, "blocks": 1}},
    ]
    convolutions, mlp = built(guide=guide(blocks), c=c).posterior.network.networks
    pixels = np.log1p(PIXELS).reshape(40, 1, 4, 4)
    np.testing.assert_allclose(convolutions.mean[:1], pixels.mean(0))
    np.testing.assert_allclose(convolutions.sd[:1], pixels.std(0))
    np.testing.assert_allclose(convolutions.mean[1], np.log1p(c).mean())
    np.testing.assert_allclose(mlp.mean, [*NUMBERS.mean(0), c.mean()])
    np.testing.assert_allclose(mlp.sd, [*NUMBERS.std(0), c.std()])


def test_an_exposure_beside_networks_of_blocks():
    """The guide of each block sees its logarithm; the likelihood is that of the exposed rates."""
    counts, exposure = RNG.poisson(4.0, (40, 19)), RNG.uniform(1.0, 3.0, (40, 1))
    vae = pv.build(
        counts,
        c=exposure,
        condition={"exposure": 0},
        latent=2,
        likelihood="poisson",
        guide=guide(),
    )
    convolutions, mlp = vae.posterior.network.networks
    assert (convolutions.in_shape, mlp.in_shape) == ((2, 4, 4), (4,))
    seen = np.log1p(np.log(exposure))  # as the guide of counts sees it
    np.testing.assert_allclose(convolutions.mean[1], seen.mean())
    np.testing.assert_allclose(mlp.mean[-1], seen.mean())
    assert vae.posterior.network.networks[0].log1p
    pv.fit(vae, counts, exposure, epochs=1, progress=False)


# Specs and files


def test_spec_file_and_training(tmp_path):
    vae = built()
    pv.fit(vae, SEEN["image"], epochs=1, progress=False)
    spec = pv.describe(vae)
    image, table = spec["guide"]["blocks"]
    assert image["shape"] == SHAPE
    assert image["network"]["name"] == "conv_encoder"
    assert table["network"]["hidden"] == [5]
    assert "network" not in spec["guide"]
    image, table = spec["likelihood"]["blocks"]
    assert image["network"]["image"] == SHAPE
    assert "network" not in table
    assert spec["likelihood"]["network"]["hidden"] == [6]
    again = pv.build(spec, seed=7)
    assert pv.describe(again) == spec
    assert tomllib.loads(tomli_w.dumps(spec)) == json.loads(json.dumps(spec)) == spec

    again.load_state_dict(vae.state_dict())
    pv.save(vae, tmp_path / "vae.safetensors")
    z, rows = torch.zeros(2), np.concatenate([SEEN["table"], X])
    for other in (again, pv.load(tmp_path / "vae.safetensors")):
        assert torch.equal(other.encode(rows).log_prob(z), vae.encode(rows).log_prob(z))
        assert torch.equal(other.decode(z).mean, vae.decode(z).mean)
        assert pv.describe(other) == spec


def test_a_spec_in_toml(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(
        "event = [19]\nlatent = [2]\n[guide]\nname = 'product_of_experts'\nnetwork = 'mlp'\n"
        f"[[guide.blocks]]\ncolumns = {IMAGE}\nshape = [1, 4, 4]\nnetwork = 'conv_encoder'\n"
        f"[[guide.blocks]]\ncolumns = {TABLE}\n"
    )
    networks = pv.build(path, X, hidden=[7]).posterior.network.networks
    assert [type(network) for network in networks] == [pv.ConvEncoder, pv.MLP]
    assert networks[1].layers[0].out_features == 7


def test_names_of_columns():
    names = [f"column {number}" for number in range(19)]
    frame = pd.DataFrame(X, columns=names)
    named = [
        [block | {"columns": [names[c] for c in block["columns"]]} for block in blocks]
        for blocks in (WRITTEN, READ)
    ]
    vae = built(frame, likelihood=likelihood(named[0]), guide=guide(named[1]))
    numbered = built()
    assert pv.describe(vae) == pv.describe(numbered) | {"columns": names}
    turned = frame[names[::-1]]
    assert torch.equal(vae.encode(turned).mean, numbered.encode(X).mean)
    assert list(vae.reconstruct(turned).columns) == names[::-1]


def test_what_is_usual_goes_to_the_networks_of_blocks_too():
    """The widths of hidden layers, in both directions; a network that says its own keeps them."""
    blocks = [READ[0], {"columns": TABLE, "network": "mlp"}]
    written = [WRITTEN[0], WRITTEN[1] | {"network": {"activation": "tanh"}}]
    spec = pv.describe(built(guide=guide(blocks), likelihood=likelihood(written), hidden=[7]))
    assert spec["guide"]["blocks"][1]["network"]["hidden"] == [7]
    assert spec["likelihood"]["blocks"][1]["network"]["hidden"] == [7]
    assert pv.describe(built(hidden=[7]))["guide"]["blocks"][1]["network"]["hidden"] == [5]


def test_a_guide_by_name_takes_the_columns_of_the_likelihood():
    spec = pv.describe(built(guide="product_of_experts"))["guide"]
    assert spec["blocks"] == [{"columns": IMAGE}, {"columns": TABLE}]
    assert spec["network"]["hidden"] == [6]


def test_one_shared_network_may_read_several_shapes():
    halves = [
        {"columns": IMAGE[:8], "shape": [1, 4, 2]},
        {"columns": IMAGE[8:], "shape": [1, 2, 4]},
    ]
    blocks = [*halves, {"columns": TABLE, "shape": [1, 1, 3]}]
    vae = built(guide=guide(blocks, network=ENCODER))
    spec = pv.describe(vae)
    assert spec["guide"]["blocks"] == blocks
    assert pv.describe(pv.build(spec)) == spec


# What is refused


def replaced(blocks, number, **options):
    return [{**block, **options} if n == number else block for n, block in enumerate(blocks)]


def without(blocks, number, *keys):
    kept = {key: value for key, value in blocks[number].items() if key not in keys}
    return [kept if n == number else block for n, block in enumerate(blocks)]


ERRORS = {
    "a shape that does not hold the columns": (
        {"guide": guide(replaced(READ, 0, shape=[1, 4, 5]))},
        r"guide.blocks\[0\].shape: must hold the 16 columns of the block; got \[1, 4, 5\], which "
        "holds 20; change",
    ),
    "nor in the likelihood": (
        {"likelihood": likelihood(replaced(WRITTEN, 0, shape=[2, 4, 4]))},
        r"likelihood.blocks\[0\].shape: must hold the 16 columns of the block; got \[2, 4, 4\]",
    ),
    "no shape": (
        {"guide": guide(replaced(READ, 0, shape="4 x 4"))},
        r"guide.blocks\[0\].shape: every size of a shape must be a whole number",
    ),
    "an unknown network": (
        {"guide": guide(replaced(READ, 1, network="mpl"))},
        r"guide.blocks\[1\].network: no network is named 'mpl'; did you mean 'mlp'\?",
    ),
    "an unknown argument": (
        {"likelihood": likelihood(replaced(WRITTEN, 0, network=DECODER | {"chanels": [3]}))},
        r"likelihood.blocks\[0\].network.chanels: conv_decoder has no such argument; did you mean",
    ),
    "no table": (
        {"guide": guide(replaced(READ, 1, network=3))},
        r"guide.blocks\[1\].network: must be a table",
    ),
    "convolutions that read no image": (
        {"guide": guide(without(READ, 0, "shape"))},
        r"guide.blocks\[0\].network: ConvEncoder reads images of shape \(C, H, W\); got a context "
        r"of shape \(16,\); .* give a block of columns its shape",
    ),
    "convolutions that write none": (
        {"likelihood": likelihood(without(WRITTEN, 0, "shape"))},
        r"likelihood.blocks\[0\].network: ConvDecoder writes images of shape \(C, H, W\); got "
        r"image=\(16,\); .* give a block of columns its shape",
    ),
    "a shape and no network": (
        {"likelihood": likelihood(without(WRITTEN, 0, "network"))},
        r"likelihood.blocks\[0\].shape: needs a network that writes this block alone; got the one",
    ),
    "a network that nothing reads": (
        {"likelihood": likelihood(replaced(WRITTEN, 1, network="mlp", loc=0.0, scale=1.0))},
        r"likelihood.blocks\[1\].network: normal reads no context here, so it takes no network",
    ),
    "a network too many": (
        {"guide": guide(network="mlp")},
        "guide.network: product_of_experts needs none beside those of its blocks; got",
    ),
    "also where the rest reads nothing": (
        {"likelihood": likelihood(replaced(WRITTEN, 1, loc=0.0, scale=1.0), network="mlp")},
        "likelihood.network: columns needs none beside those of its blocks; got",
    ),
    "a prior": (
        {"prior": likelihood(), "latent": 19},
        "prior.network: columns reads no context here, so it takes no network; leave it out",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_refusals(case):
    options, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_in_python_networks_stand_before_the_conditional():
    for make, blocks in (
        (lambda blocks: pv.Columns((19,), blocks=blocks), WRITTEN),
        (lambda blocks: pv.ProductOfExperts((2,), blocks=blocks), READ),
    ):
        for key in ("network", "shape"):
            other = {"network": "shape", "shape": "network"}[key]
            some = without(blocks, 0, other)
            some = [
                block if n == 0 else without(some, n, "network")[n] for n, block in enumerate(some)
            ]
            with pytest.raises(ValueError, match=rf"blocks\[0\].{key}: needs a spec"):
                make(some)
    with pytest.raises(
        ValueError, match=r"blocks\[1\].shape: must hold the 2 columns of the block"
    ):
        pv.Blocks([[0], [1, 2]], 0, (pv.MLP(1, 2), pv.MLP(2, 2)), shapes=[None, [3]])
    with pytest.raises(TypeError, match="no spec can name normal behind ToBlocks for 2 blocks"):
        pv.describe(
            pv.Amortised(pv.ToBlocks([2, 4], {0: pv.MLP(2, 2)}, pv.MLP(2, 4)), pv.Normal(3))
        )


def test_outputs_that_would_be_read_by_another_block_are_refused():
    """As many in all, and not for each."""
    swapped = pv.ToBlocks([2, 1], {0: pv.MLP(4, 1), 1: pv.MLP(4, 2)})
    with pytest.raises(ValueError, match="block 0: needs a network with 2 outputs; got 1"):
        swapped(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="block 1: needs a network with 1 outputs; got 2"):
        pv.Blocks([[0], [1]], 0, (pv.MLP(1, 1), pv.MLP(1, 2)))(torch.zeros(3, 2))


def test_each_block_has_a_network():
    networks = [pv.MLP(1, 2)]
    with pytest.raises(ValueError, match="each of 2 blocks; got 1 networks and 2 shapes"):
        pv.Blocks([[0], [1]], 0, networks)
    with pytest.raises(ValueError, match="got 2 networks and 1 shapes"):
        pv.Blocks([[0], [1]], 0, networks * 2, shapes=[None])
    with pytest.raises(ValueError, match=r"got networks for \[7\]"):
        pv.ToBlocks([2, 1], {7: pv.MLP(4, 2)}, pv.MLP(4, 3))
    with pytest.raises(ValueError, match=r"got none for \[1\]; give shared"):
        pv.ToBlocks([2, 1], {0: pv.MLP(4, 2)})
