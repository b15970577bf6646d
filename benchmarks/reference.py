"""Make the reference set again: small models, data drawn from them, and log p(x) of each datum.

The models are trained on data of scikit-learn or on simulated ones, in double precision; two are
changed or made by hand. Then 24 data are drawn from each. Their log p(x) is, in this order of
preference: a closed form, by scipy from the weights; a sum or a quadrature over the latents; the
middle of two bounds by bidirectional Monte Carlo, less than 0.05 nats apart for every datum.

The seeds are in this file. On another machine weights and data may differ by rounding.

Run it, some minutes: python benchmarks/reference.py [names of models] [--folder FOLDER]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn import datasets
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism.references import FOLDER

NUM_DATA = 24
SEED = 1  # of the data; that of the weights and of training is 0
MOST_APART = 0.05  # nats between the two bounds, for every datum
PROTOCOL = {"start": "guide", "num_distributions": 1000, "chains": 64, "num_steps": 10, "seed": 2}

NORMAL = {"name": "normal", "scale": "learned"}
AFFINE = {"likelihood": NORMAL, "guide": NORMAL, "hidden": []}

Truth = tuple[np.ndarray, np.ndarray, str]  # log p(x), its error, how


# Models


def trained(x: np.ndarray, epochs: int = 100, **parts: object) -> pv.VAE:
    """A VAE of these parts, fitted to data in double precision."""
    vae = pv.build(x, **parts).double()
    pv.fit(
        vae,
        x,
        epochs=epochs,
        batch_size=64,
        particles=4,
        learning_rate=lambda epoch: 5e-3 * 0.5 ** (4 * epoch / epochs),
        progress=False,
    )
    return vae


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1."""
    return (x - x.mean(0)) / x.std(0)


def binary_digits() -> np.ndarray:
    """Scikit-learn's digits in black and white."""
    return (datasets.load_digits().data > 7).astype(float)


def with_network(
    name: str, hidden: int, activation: str = "tanh", **rest: object
) -> dict[str, object]:
    """A part with a network of one hidden layer."""
    network = {"name": "mlp", "hidden": [hidden], "activation": activation}
    return {"name": name, "network": network, **rest}


def linear_gaussian() -> pv.VAE:
    """Factor analysis with ten latents; the posterior is correlated, the guide is not."""
    return trained(standardised(datasets.load_breast_cancer().data), latent=10, **AFFINE)


def narrow_guide() -> pv.VAE:
    """Factor analysis whose guide was made a fifth as wide after training."""
    x = standardised(datasets.load_wine().data)
    vae = trained(x, epochs=300, latent=3, **AFFINE)
    head = vae.posterior.head
    with torch.no_grad():
        head.scale.copy_(head.links["scale"].inv(head.links["scale"](head.scale) / 5))
    return vae


def folded() -> pv.VAE:
    """x = 1.5 |z| + noise, made by hand: two modes in each of two latents, one normal guide."""
    q, noise = 2, 0.25
    rng = np.random.default_rng(0)
    x = 1.5 * np.abs(rng.normal(size=(1000, q))) + noise * rng.normal(size=(1000, q))
    vae = pv.build(
        x,
        latent=q,
        likelihood=with_network("normal", 2 * q, "relu", scale=noise),
        guide=with_network("normal", 16),
    ).double()
    layers = vae.likelihood.network.layers
    signs = torch.cat([torch.eye(q), -torch.eye(q)]).double()
    with torch.no_grad():
        layers[0].weight.copy_(signs)
        layers[2].weight.copy_(1.5 * signs.T.abs())
        layers[0].bias.zero_()
        layers[2].bias.zero_()
    vae.likelihood.requires_grad_(False)
    pv.fit(vae, x, epochs=60, batch_size=64, learning_rate=3e-3, progress=False)
    return vae


def classes() -> pv.VAE:
    """A mixture of ten kinds of digits, in black and white."""
    return trained(
        binary_digits(),
        epochs=40,
        latent=10,
        prior="one_hot",
        likelihood=with_network("bernoulli", 32),
        hidden=[32],
    )


def gamma_counts() -> pv.VAE:
    """Poisson counts of one positive latent, whose prior is infinite at 0."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 2.0, (1000, 1)) * rng.gamma(2.0, 1.0, 8) + 0.2
    return trained(
        rng.poisson(rate).astype(float),
        latent=1,
        prior={"name": "gamma", "concentration": 0.5, "rate": 0.5},
        likelihood=with_network("poisson", 16, "softplus"),
        guide=with_network("normal", 32),
    )


def heavy_tails() -> pv.VAE:
    """A curved surface of two latents with noise that is Student-t of 2 degrees of freedom."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1000, 2))
    surface = np.tanh(z @ rng.normal(size=(2, 6))) @ rng.normal(size=(6, 6))
    return trained(
        surface + 0.3 * rng.standard_t(2.0, surface.shape),
        latent=2,
        likelihood=with_network("student_t", 16, df=2.0, scale="learned"),
        guide=with_network("normal", 32),
    )


def digits() -> pv.VAE:
    """Digits in black and white from six latents."""
    return trained(
        binary_digits(),
        epochs=60,
        latent=6,
        likelihood=with_network("bernoulli", 64),
        guide=with_network("normal", 64),
    )


def counts() -> pv.VAE:
    """Overdispersed counts of 25 kinds, with a dispersion for each, from five latents."""
    rng = np.random.default_rng(0)
    log_mean = 1 + rng.normal(size=(1000, 5)) @ rng.normal(size=(5, 25)) / 2
    shape = rng.gamma(5.0, 1.0, 25)
    return trained(
        rng.negative_binomial(shape, shape / (shape + np.exp(log_mean))).astype(float),
        latent=5,
        likelihood=with_network("negative_binomial", 32, total_count="learned"),
        guide=with_network("normal", 32),
    )


def vamp() -> pv.VAE:
    """Wines from four latents, whose prior is the average of the guide at 20 pseudo-inputs."""
    return trained(
        standardised(datasets.load_wine().data),
        epochs=300,
        latent=4,
        prior={"name": "vamp", "components": 20},
        likelihood=with_network("normal", 16, scale="learned"),
        guide=with_network("normal", 16),
    )


# log p(x)


def normal_marginal(vae: pv.VAE, x: np.ndarray, z: np.ndarray) -> Truth:
    """An affine decoder: the marginal is normal."""
    offset = vae.decode(torch.zeros(1, z.shape[1])).base_dist
    weight = vae.decode(torch.eye(z.shape[1])).base_dist.loc - offset.loc
    loc, scale, weight = (
        part.detach().numpy() for part in (offset.loc[0], offset.scale[0], weight)
    )
    marginal = stats.multivariate_normal(loc, weight.T @ weight + np.diag(scale**2))
    return marginal.logpdf(x), np.zeros(len(x)), "closed form: a multivariate normal"


def skew_normal(vae: pv.VAE, x: np.ndarray, z: np.ndarray) -> Truth:
    """w |z| + s e is skew normal, with scale (w^2 + s^2)^(1/2) and shape w / s."""
    one = vae.decode(torch.ones(1, z.shape[1])).base_dist
    weight, noise = one.loc[0].detach().numpy(), one.scale[0].detach().numpy()
    each = stats.skewnorm.logpdf(x, weight / noise, scale=np.hypot(weight, noise))
    return each.sum(1), np.zeros(len(x)), "closed form: a skew normal of each column"


def sum_over_classes(vae: pv.VAE, x: np.ndarray, z: np.ndarray) -> Truth:
    """The sum over all values of a one-hot latent."""
    values = torch.eye(z.shape[1]).double()
    decoder = vae.decode(values)
    with torch.no_grad():
        terms = vae.prior().log_prob(values) + decoder.log_prob(torch.as_tensor(x)[:, None])
    return (
        terms.logsumexp(1).numpy(),
        np.zeros(len(x)),
        f"closed form: a sum over {len(values)} classes",
    )


def on_log_grid(vae: pv.VAE, x: np.ndarray, z: np.ndarray) -> Truth:
    """Quadrature over the log of one positive latent."""
    log_z = torch.linspace(-80, 6, 86_001, dtype=torch.float64)[:, None]
    found = trapezoid(vae, x, log_z.exp(), log_z[:, 0], log_z[1] - log_z[0])
    return (
        found,
        np.zeros(len(x)),
        "quadrature: trapezoid rule over log z from -80 to 6, step 0.001",
    )


def on_plane_grid(vae: pv.VAE, x: np.ndarray, z: np.ndarray) -> Truth:
    """Quadrature over two real latents."""
    side = torch.linspace(-9, 9, 901, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    step = (side[1] - side[0]) ** 2
    found = trapezoid(vae, x, grid, torch.zeros(()), step)
    return found, np.zeros(len(x)), "quadrature: trapezoid rule from -9 to 9 squared, step 0.02"


def trapezoid(vae: pv.VAE, x: np.ndarray, z: Tensor, log_slope: Tensor, step: Tensor) -> np.ndarray:
    """log of the sum of the joint density on an even grid; it is 0 at the ends."""
    with torch.no_grad():
        decoder = vae.decode(z)
        prior = vae.prior().log_prob(z) + log_slope + step.log()
        found = [(prior + decoder.log_prob(datum)).logsumexp(0) for datum in torch.as_tensor(x)]
    return torch.stack(found).numpy()


def sandwiched(vae: pv.VAE, x: np.ndarray, z: np.ndarray) -> Truth:
    """Between the bounds of annealed importance sampling, forwards and backwards."""
    found = pv.annealed_log_evidence(vae, x, z=z, **PROTOCOL)
    lower, upper = found.log_evidence.values, found.upper.values
    widest = np.abs(upper - lower).max()
    print(f"  widest {widest:.4f} nats, mean {np.mean(upper - lower):+.4f}", flush=True)
    if not widest < MOST_APART:
        raise RuntimeError(
            f"the bounds must be less than {MOST_APART} nats apart; got {widest:.3f}"
        )
    protocol = ", ".join(f"{name}={value!r}" for name, value in PROTOCOL.items())
    how = f"bidirectional Monte Carlo, middle of both bounds: annealed_log_evidence({protocol})"
    return (lower + upper) / 2, np.abs(upper - lower) / 2 + found.se.values, how


TRUTHS: dict[Callable[[], pv.VAE], Callable[..., Truth]] = {
    linear_gaussian: normal_marginal,
    narrow_guide: normal_marginal,
    folded: skew_normal,
    classes: sum_over_classes,
    gamma_counts: on_log_grid,
    heavy_tails: on_plane_grid,
    digits: sandwiched,
    counts: sandwiched,
    vamp: sandwiched,
}
NAMES = {make.__name__: make for make in TRUTHS}


def simulated(vae: pv.VAE) -> tuple[np.ndarray, np.ndarray]:
    """Latents of the prior, and data made from them."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        z = vae.prior_of(None).expand(torch.Size([NUM_DATA])).sample()
        return z.numpy(), vae.likelihood_of(z, None).sample().numpy()


def write(name: str, folder: Path) -> None:
    """Make a model, its data and their log p(x), and write them."""
    make, began = NAMES[name], time.perf_counter()
    path = folder / f"{name}.safetensors"
    pv.save(make(), path)
    vae = pv.load(path)
    z, x = simulated(vae)
    found, se, how = TRUTHS[make](vae, x, z)
    np.savez_compressed(folder / f"{name}.npz", x=x, log_evidence=found, se=se, how=how)
    seconds = time.perf_counter() - began
    print(f"{name:16}{found.mean():10.4f} +- {se.mean():.4f}{seconds:6.0f} s  {how}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(NAMES), help="; ".join(NAMES))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they are written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        write(name, given.folder)
