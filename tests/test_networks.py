"""What every registered network promises, and what the convolutions do.

A new network needs a line in EXAMPLES.
"""

import itertools

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.conditionals import convolutions, networks
from pyro_vae.conditionals.convolutions import ConvDecoder, ConvEncoder
from pyro_vae.conditionals.networks import MLP, Network, ResidualMLP, Standardized, fold
from pyro_vae.distributions.links import link

EXAMPLES = {  # the shape of the context, the number of outputs, options
    "mlp": ((2, 3), 4, {"hidden": [6]}),
    "residual_mlp": ((2, 3), 4, {"width": 6, "blocks": 2}),
    "conv_encoder": ((2, 5, 6), 4, {"channels": [3, 4]}),
    "conv_decoder": ((2, 3), 2 * 2 * 5 * 6, {"image": [2, 5, 6], "channels": [4, 3]}),
}
NAMES = list(Network.registry)
IMAGES = [(1, 8, 8), (3, 5, 7), (1, 1, 1), (2, 28, 28)]
per_name = pytest.mark.parametrize("name", NAMES)
per_image = pytest.mark.parametrize("image", IMAGES)


def example(name):
    in_shape, out_features, options = EXAMPLES[name]
    return Network.registry[name](in_shape, out_features, **options)


def context(network, batch=(7,)):
    return torch.randn(*batch, *network.in_shape)


def takes_any_leading_shape(network, batch):
    x = context(network, batch)
    y = network(x)
    assert y.shape == (*batch, network.arguments["out_features"])
    for index in itertools.product(*map(range, batch)):
        torch.testing.assert_close(network(x[index]), y[index])


def test_every_network_has_an_example():
    assert set(EXAMPLES) == set(NAMES)


def test_public_names():
    homes = {module.__name__ for module in (networks, convolutions)}
    own = [cls.__name__ for cls in Network.registry.values() if cls.__module__ in homes]
    assert {*networks.__all__, *convolutions.__all__} == {"Network", "fold", *own}
    assert {"MLP", "ResidualMLP", "ConvEncoder", "ConvDecoder"} <= set(own)


@per_name
@pytest.mark.parametrize("batch", [(), (7,), (2, 7), (0,)])
def test_any_leading_shape(name, batch):
    takes_any_leading_shape(example(name), batch)


@per_name
def test_data_do_not_see_each_other(name):
    """Also in train mode: the evidence of one datum must not depend on the others."""
    network = example(name).train()
    x = context(network).requires_grad_()
    network(x)[3].square().sum().backward()
    assert [index for index, row in enumerate(x.grad) if (row != 0).any()] == [3]


@per_name
def test_every_parameter_gets_a_gradient(name):
    network = example(name)
    network(context(network)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


@per_name
def test_inputs_are_standardised(name):
    network = example(name)
    x = 10 * context(network, (50,)) + 100
    x[(slice(None), *[0] * len(network.in_shape))] = 3.0  # a constant: its standard deviation is 0
    mean, sd = x.mean(0), x.std(0, correction=0)
    before = network((x - mean) / torch.where(sd > 0, sd, 1.0))
    network.standardize(mean, sd)
    torch.testing.assert_close(network(x), before)
    assert network(x).isfinite().all()


@per_name
def test_state_dict_round_trip(name):
    network, other = example(name), example(name)
    network.standardize(*context(network, (2,)).abs())
    x = context(network)
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(x), other(x))


@per_name
def test_same_seed_same_weights(name):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([parameter.flatten() for parameter in example(name).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@per_name
def test_spec_round_trip(name):
    in_shape, out_features, options = EXAMPLES[name]
    spec = pv.describe(example(name))
    assert spec.pop("name") == name
    assert options.items() <= spec.items()
    again = Network.registry[name](in_shape, out_features, **spec)
    assert pv.describe(again) == {"name": name, **spec}
    assert str(again) == str(example(name))


@per_name
@pytest.mark.parametrize("activation", networks.activations)
def test_activation(name, activation):
    in_shape, out_features, options = EXAMPLES[name]
    network = Network.registry[name](in_shape, out_features, **options, activation=activation)
    assert any(isinstance(module, networks.activations[activation]) for module in network.modules())


@per_name
def test_single_precision(name):
    network = example(name).float()
    assert network(context(network).float()).dtype == torch.float32


def test_mlp_and_its_file_are_as_they_were():
    assert list(example("mlp").state_dict()) == [
        "mean",
        "sd",
        "layers.0.weight",
        "layers.0.bias",
        "layers.2.weight",
        "layers.2.bias",
    ]


def test_a_network_of_the_user_needs_none_of_it():
    class Sum(Network):
        """Not registered, not standardised."""

        def forward(self, x):
            return x.sum(-1, keepdim=True)

    network = Sum()
    network.standardize(torch.ones(3), torch.ones(3))
    assert network(torch.ones(7, 3)).shape == (7, 1)
    assert not network.state_dict()
    assert Sum.implied((3,)) == {}


def test_a_standardised_network_of_the_user():
    class Half(Standardized):
        """Not registered; it only makes its layers."""

        def __init__(self, in_shape, out_features):
            super().__init__(in_shape)
            self.layers = nn.Linear(self.in_shape.numel(), out_features)

    takes_any_leading_shape(Half((2, 3), 4), (2, 7))


def test_fold_of_no_data():
    assert fold(nn.Conv2d(1, 2, 3), torch.zeros(5, 0, 1, 8, 8), event_dim=3).shape == (
        5,
        0,
        2,
        6,
        6,
    )


def test_without_blocks_or_channels_an_affine_map_is_left():
    image = (2, 3, 4)
    made = (
        ResidualMLP(3, 5, width=4, blocks=0),
        ConvEncoder(image, 5, channels=()),
        ConvDecoder(3, 24, image=image, channels=()),
    )
    for network in made:
        x, y = context(network, ()), context(network, ())
        torch.testing.assert_close(
            network(x) + network(y), network(x + y) + network(torch.zeros_like(x))
        )


def test_residual_block_adds_to_what_came_before():
    network = ResidualMLP(3, 5, width=4, blocks=2, activation="tanh")
    first, *blocks, last = network.layers
    x = context(network)
    h = first(x)
    for norm, inner, _, outer in blocks:
        h = h + outer(torch.tanh(inner(norm(h))))
    torch.testing.assert_close(network(x), last(h))


@per_image
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("channels", [(3,), (4, 3, 2)])
def test_images_of_any_size(image, batch, channels):
    takes_any_leading_shape(ConvEncoder(image, 5, channels=channels), batch)
    num_params = pv.Normal(image).num_params
    takes_any_leading_shape(ConvDecoder(3, num_params, image=image, channels=channels), batch)


@per_image
def test_every_pixel_is_read_and_written(image):
    """Through tanh, which is nowhere flat."""
    encoder = ConvEncoder(image, 5, channels=[3, 4], activation="tanh")
    x = context(encoder).requires_grad_()
    encoder(x).square().sum().backward()
    assert (x.grad != 0).all()
    decoder = ConvDecoder(3, 2 * x[0].numel(), image=image, channels=[4, 3], activation="tanh")
    assert (decoder(context(decoder, (20,))).std(0) > 0).all()


@per_image
@pytest.mark.parametrize("scale", [None, "shared"])
def test_the_decoder_writes_what_the_head_reads(image, scale):
    """The loc of pixel (c, i, j) is channel c of the convolutions at (i, j); the scales follow in
    the same order.
    """
    head = pv.Normal(image) if scale is None else pv.Normal(image, scale=scale)
    decoder = ConvDecoder(3, head.num_params, image=image, channels=[4, 3])
    z = context(decoder)
    depth, height, width = image
    grids = decoder.layers(z)[:, :, :height, :width]
    built = head(decoder(z))
    torch.testing.assert_close(built.mean, grids[:, :depth])
    if scale is None:
        positive = link(pv.Normal.domain("scale"))
        torch.testing.assert_close(
            built.stddev, positive(grids[:, depth:] + positive.inv(torch.tensor(1.0)))
        )


def test_the_decoder_is_local():
    """One cell of the small grid, through two steps that double it, reaches pixels near it and no
    others.
    """
    decoder = ConvDecoder(16, 256, image=(1, 16, 16), channels=[1, 1], activation="softplus")
    affine, unflatten, *steps = decoder.layers
    grid = torch.randn(1, 1, 4, 4).requires_grad_()
    assert unflatten(affine(torch.zeros(1, 16))).shape == grid.shape
    nn.Sequential(*steps)(grid)[0, 0, 1, 14].backward()
    rows, columns = (grid.grad[0, 0] != 0).nonzero().T
    assert set(rows.tolist()) <= {0, 1}
    assert set(columns.tolist()) <= {2, 3}


def test_the_data_imply_the_image():
    assert ConvDecoder.implied(torch.Size([1, 8, 8])) == {"image": [1, 8, 8]}
    for cls in (MLP, ResidualMLP, ConvEncoder):
        assert cls.implied(torch.Size([1, 8, 8])) == {}


def test_a_convolutional_vae_trains_and_is_scored():
    image = (1, 8, 8)
    vae = pv.VAE(
        pv.Normal((2,), loc=0.0, scale=1.0),
        pv.Amortised(ConvDecoder(2, 128, image=image, channels=[4, 3]), pv.Normal(image)),
        pv.Amortised(ConvEncoder(image, 4, channels=[3, 4]), pv.Normal((2,))),
    )
    x = torch.randn(12, *image)
    before = {key: parameter.detach().clone() for key, parameter in vae.named_parameters()}
    history = pv.fit(vae, x, epochs=3, batch_size=12, progress=False)
    assert history.loss.notna().all()
    for key, parameter in vae.named_parameters():
        assert not torch.equal(parameter, before[key]), key
    result, again = (pv.log_evidence(vae, x, num_samples=20, max_bytes=size) for size in (2**28, 1))
    assert result.log_evidence.shape == (12,)
    assert result.log_evidence.notnull().all()
    torch.testing.assert_close(
        torch.as_tensor(again.log_evidence.values), torch.as_tensor(result.log_evidence.values)
    )
    assert vae.sample(5).shape == (5, *image)


IMAGE = (1, 8, 8)
ERRORS = {
    "flat": (
        lambda: ConvEncoder(64, 4),
        "ConvEncoder reads images of shape (C, H, W); got a context of shape (64,); reshape the "
        "data, grey images to",
    ),
    "grey": (
        lambda: ConvEncoder((8, 8), 4),
        "got a context of shape (8, 8); reshape the data, grey images to (N, 1",
    ),
    "image": (
        lambda: ConvDecoder(2, 64, image=[64]),
        "ConvDecoder writes images of shape (C, H, W); got image=(64,); reshape the data, grey "
        "images to (N, 1, H, W)",
    ),
    "size": (
        lambda: ConvDecoder(2, 64, image=(1, 8, 0)),
        "every size of a shape must be a whole number from 1; got 0",
    ),
    "head": (
        lambda: ConvDecoder(2, 100, image=IMAGE),
        "ConvDecoder with image=(1, 8, 8) needs a head that reads a multiple of 64 numbers per "
        "datum; got out_features=100; give the head the event shape of the image",
    ),
    "no outputs": (lambda: ConvDecoder(2, 0, image=IMAGE), "got out_features=0"),
    "encoder channels": (
        lambda: ConvEncoder(IMAGE, 4, channels=8),
        "channels must be a list of whole numbers; got 8",
    ),
    "decoder channels": (lambda: ConvDecoder(2, 64, image=IMAGE, channels=8), "got 8; one is [8]"),
    "channel": (
        lambda: ConvEncoder(IMAGE, 4, channels=[0]),
        "every number in channels must be a whole number from 1; got 0",
    ),
    "width": (lambda: ResidualMLP(2, 3, width=0), "width must be a whole number from 1; got 0"),
    "blocks": (
        lambda: ResidualMLP(2, 3, blocks=1.5),
        "blocks must be a whole number from 0; got 1.5",
    ),
} | {
    f"activation of {name}": (
        lambda name=name: Network.registry[name](
            *EXAMPLES[name][:2], **EXAMPLES[name][2], activation="rellu"
        ),
        "no activation is named 'rellu'; there are relu, tanh",
    )
    for name in NAMES
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)


@per_name
@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_context_of_another_shape_is_refused(name, batch):
    network = example(name)
    shape = ("*", *network.in_shape)
    expected = f"{type(network).__name__} reads a context of shape {shape}; got {(*batch, 5)}"
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        network(torch.zeros(*batch, 5))
    assert str(caught.value) == expected


def test_channels_that_are_last_are_refused():
    images = torch.zeros(5, 28, 20, 3)
    for part in ("guide", "likelihood"):
        network = {"guide": "conv_encoder", "likelihood": "conv_decoder"}[part]
        with pytest.raises(ValueError, match=r"got \(28, 20, 3\), whose channels are last; move"):
            pv.build(images, **{part: {"name": "normal", "network": network}})
    assert pv.ConvEncoder((3, 8, 3), 2)(torch.zeros(2, 3, 8, 3)).shape == (2, 2)


@pytest.mark.parametrize("name", ["mlp", "residual_mlp"])
def test_with_a_mask_a_network_sees_which_inputs_are_missing(name):
    """A missing input and one at its mean are two things; without a mask they are one."""
    x = torch.tensor([[0.5, torch.nan], [0.5, 2.0]])
    x_at_mean = torch.tensor([[0.5, 1.0], [0.5, 2.0]])
    for mask in (True, False):
        network = {"name": name, "mask": mask}
        spec = {"event": [2], "latent": [2], "guide": {"name": "normal", "network": network}}
        vae = pv.build(spec)
        network = vae.posterior.network
        network.standardize(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))
        missing, at_mean = (vae.encode(rows).mean for rows in (x, x_at_mean))
        assert torch.equal(missing[0], at_mean[0]) == (not mask)
        assert torch.equal(missing[1], at_mean[1])
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
        if mask:
            given = torch.tensor([[0.5, 0.0, 0.0, 1.0], [0.5, 1 / 3, 0.0, 0.0]])
            torch.testing.assert_close(network(x), network.layers(given))
            assert first.in_features == 4
        else:
            assert first.in_features == 2
    with pytest.raises(ValueError, match="mask must be true or false; got 1"):
        pv.MLP(2, 2, mask=1)
