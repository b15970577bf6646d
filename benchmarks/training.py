"""How fast is a step of training, against a loop by hand and against peers?

Three Bernoulli VAEs with one hidden layer in encoder and decoder, on random black and white images:
time does not depend on what is learned. Side by side in one run:

- matrix products: those of a step and nothing else, the floor;
- by hand: a plain loop of torch with an analytic KL and a fused Adam, as it is, and with its loss
  compiled; each epoch begins afresh, since the moments of dead units would soon slow it down;
- pyro_vae: ``fit``, with all that it checks and tells, plain and compiled;
- Pyro: its SVI with its Adam on the same VAE, by traces;
- NumPyro: its SVI, an epoch at a time compiled.

Times are in milliseconds a step, without compiling, and ratios over the loop by hand: medians of
the rounds, in which all take turns.

Run it: python benchmarks/training.py --threads 1
NumPyro, if wanted: pip install 'pyro_vae[bench]', or numpyro into the environment that runs this.
"""

import argparse
import importlib.util
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import pyro_vae as pv


@dataclass(frozen=True)
class Size:
    """How large networks, batch and data are."""

    pixels: int
    hidden: int
    latent: int
    batch: int
    data: int = 6400

    def images(self) -> Tensor:
        """Random black and white images."""
        return torch.bernoulli(torch.full((self.data, self.pixels), 0.3))

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """An encoder and a decoder of torch."""

        def layers(*widths: int) -> nn.Module:
            first, hidden, last = widths
            return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))

        encoder = layers(self.pixels, self.hidden, 2 * self.latent)
        return encoder, layers(self.latent, self.hidden, self.pixels)

    def vae(self, x: Tensor) -> pv.VAE:
        """The same as a VAE of this library."""
        return pv.build(x, latent=self.latent, likelihood="bernoulli", hidden=[self.hidden])


SIZES = {
    "large": Size(784, 400, 20, 128),
    "middle": Size(64, 200, 8, 128),
    "small": Size(50, 64, 8, 32),
}
EPOCHS = 4

Epoch = Callable[[], Any]  # trains for an epoch


def shuffled(x: Tensor, batch: int) -> Iterator[Tensor]:
    """The batches of an epoch."""
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch):
        yield x[order[start : start + batch]]


def products(size: Size, x: Tensor) -> Epoch:
    """The seven matrix products of a step: forwards, for the weights, and for the activations."""
    b, h, p, z, q = size.batch, size.hidden, size.pixels, size.latent, 2 * size.latent
    shapes = [(b, p, h), (b, h, q), (b, z, h), (b, h, p)]  # forwards
    shapes += [(m, b, n) for b, m, n in shapes]  # for the weights
    shapes += [(b, q, h), (b, h, z), (b, p, h)]  # for the activations
    factors = [(torch.randn(m, k), torch.randn(k, n)) for m, k, n in shapes]

    def epoch() -> None:
        for _ in range(len(x) // size.batch):
            for left, right in factors:
                left @ right

    return epoch


def by_hand(size: Size, x: Tensor, compiled: bool) -> Epoch:
    """A plain loop of torch."""
    encoder, decoder = size.networks()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def plain(batch: Tensor) -> Tensor:
        loc, scale = encoder(batch).chunk(2, -1)
        scale = softplus(scale) + 1e-6
        z = loc + scale * torch.randn_like(loc)
        missed = binary_cross_entropy_with_logits(decoder(z), batch, reduction="sum")
        kl = (0.5 * (loc * loc + scale * scale - 1) - scale.log()).sum()
        return (missed + kl) / len(batch)

    loss = torch.compile(plain) if compiled else plain
    initial = [parameter.detach().clone() for parameter in parameters]

    def epoch() -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, initial, strict=True):
                parameter.copy_(value)
        for state in optimiser.state.values():
            for value in state.values():
                value.zero_()
        for batch in shuffled(x, size.batch):
            optimiser.zero_grad()
            value = loss(batch)
            value.backward()
            optimiser.step()
            value.item()

    return epoch


def by_pyro(size: Size, x: Tensor) -> Epoch:
    """Pyro's SVI with its Adam, on model and guide of the same VAE."""
    vae = size.vae(x)
    pyro.clear_param_store()
    svi = pyro.infer.SVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()
    )

    def epoch() -> None:
        for batch in shuffled(x, size.batch):
            svi.step(batch)

    return epoch


def by_numpyro(size: Size, x: Tensor) -> Epoch:
    """NumPyro's SVI; all steps of an epoch are one compiled call."""
    import jax
    import numpyro
    import numpyro.distributions as dist
    from jax import numpy as jnp
    from jax.example_libraries import stax
    from numpyro.infer import SVI, Trace_ELBO

    encode = stax.serial(stax.Dense(size.hidden), stax.Relu, stax.Dense(2 * size.latent))
    decode = stax.serial(stax.Dense(size.hidden), stax.Relu, stax.Dense(size.pixels))

    def model(batch: Any) -> None:
        network = numpyro.module("decoder", decode, (size.batch, size.latent))
        with numpyro.plate("data", size.batch):
            prior = dist.Normal(jnp.zeros(size.latent), 1.0).to_event(1)
            z = numpyro.sample("z", prior)
            numpyro.sample("x", dist.Bernoulli(logits=network(z)).to_event(1), obs=batch)

    def guide(batch: Any) -> None:
        network = numpyro.module("encoder", encode, (size.batch, size.pixels))
        loc, scale = jnp.split(network(batch), 2, -1)
        with numpyro.plate("data", size.batch):
            normal = dist.Normal(loc, jax.nn.softplus(scale) + 1e-6).to_event(1)
            numpyro.sample("z", normal)

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    data = jnp.asarray(x.numpy())
    key = jax.random.PRNGKey(0)
    state = svi.init(key, data[: size.batch])

    @jax.jit
    def train(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(data)).reshape(-1, size.batch)
        return jax.lax.scan(lambda state, index: svi.update(state, data[index]), state, order)

    keys = map(jax.random.PRNGKey, itertools.count())

    def epoch() -> None:
        nonlocal state
        state, losses = train(state, next(keys))
        losses.block_until_ready()

    return epoch


def milliseconds(epoch: Epoch, steps: int) -> float:
    """A step of some epochs."""
    began = time.perf_counter()
    for _ in range(EPOCHS):
        epoch()
    return (time.perf_counter() - began) / (EPOCHS * steps) * 1e3


def of_fit(size: Size, x: Tensor, compiled: bool) -> float:
    """A step of ``fit`` after the first epoch, which compiles, in milliseconds."""
    history = pv.fit(
        size.vae(x),
        x,
        epochs=EPOCHS + 1,
        batch_size=size.batch,
        progress=False,
        compile=compiled,
    )
    took = float(history.seconds.iloc[-1] - history.seconds.iloc[0])
    if compiled and history.attrs["compiled"].startswith("no"):
        raise RuntimeError(history.attrs["compiled"])
    return took / (EPOCHS * len(x) / size.batch) * 1e3


def compare(size: Size, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of all, in each round."""
    x = size.images()
    steps = len(x) // size.batch
    epochs = {
        "matrix products": products(size, x),
        "by hand": by_hand(size, x, compiled=False),
        "by hand, loss compiled": by_hand(size, x, compiled=True),
        "Pyro's SVI": by_pyro(size, x),
    }
    if importlib.util.find_spec("numpyro"):
        epochs["NumPyro, epoch compiled"] = by_numpyro(size, x)
    for epoch in epochs.values():
        epoch()  # what compiles, compiles now

    times: dict[str, list[float]] = {name: [] for name in epochs}
    times |= {"pyro_vae": [], "pyro_vae, compiled": []}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            times[name].append(milliseconds(epoch, steps))
        times["pyro_vae"].append(of_fit(size, x, compiled=False))
        times["pyro_vae, compiled"].append(of_fit(size, x, compiled=True))
    return times


def main(sizes: list[str], rounds: int) -> None:
    """Compare all, and print medians and ratios."""
    print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}; ms a step, CPU")
    if not importlib.util.find_spec("numpyro"):
        print("NumPyro: not here, so its row is missing; for it, pip install numpyro")
    for name in sizes:
        size = SIZES[name]
        shape = f"{size.pixels}-{size.hidden}-{size.latent}, batch {size.batch}"
        print(f"\n{f'{name}: {shape}':34}{'median':>8}{'over by hand':>14}   rounds")
        times = compare(size, rounds)
        for row, found in sorted(times.items(), key=lambda item: np.median(item[1])):
            ratio = np.median(np.divide(found, times["by hand"]))
            each = ", ".join(f"{time:.2f}" for time in found)
            print(f"{row:34}{np.median(found):8.2f}{ratio:14.2f}   {each}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help="large, middle, small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    if unknown := set(given.sizes) - set(SIZES):
        parser.error(f"no size is named {', '.join(unknown)}; there are {', '.join(SIZES)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    main(given.sizes, given.rounds)
