"""How fast is a step of training, against a loop by hand and against peers?

Three Bernoulli VAEs with one hidden layer in encoder and decoder, on random black and white images:
time does not depend on what is learned. Side by side in one run:

- matrix products: those of a step and nothing else, the floor;
- by hand: a plain loop of torch with an analytic KL and a fused Adam, as it is, and with its loss
  compiled; on a GPU, in place of the latter, with the whole step captured as a CUDA graph. Each
  epoch begins afresh, since the moments of dead units would soon slow it down;
- pyro_vae: ``fit``, with all that it checks and tells, plain and compiled, or captured;
- Pyro: its SVI with its Adam on the same VAE, by traces;
- NumPyro: its SVI, an epoch at a time compiled.

Times are in milliseconds a step, without compiling, and ratios over the loop by hand: medians of
the rounds, in which all take turns.

Run it: python benchmarks/training.py --threads 1, or with --device cuda
NumPyro, if wanted: pip install 'pyro_vae[bench]', or numpyro into the environment that runs this.
"""

import argparse
import importlib.util
import itertools
import time
import warnings
from typing import Any

import numpy as np
import pyro
import torch
from hand import Epoch, Hand, Size, shuffled
from torch import Tensor

import pyro_vae as pv

SIZES = {
    "large": Size(784, 400, 20, 128),
    "middle": Size(64, 200, 8, 128),
    "small": Size(50, 64, 8, 32),
    "large, batch 1024": Size(784, 400, 20, 1024, data=51_200),
}
USUAL = ("large", "middle", "small")
EPOCHS = 4


def products(size: Size, x: Tensor) -> Epoch:
    """The seven matrix products of a step: forwards, for the weights, and for the activations."""
    b, h, p, z, q = size.batch, size.hidden, size.pixels, size.latent, 2 * size.latent
    shapes = [(b, p, h), (b, h, q), (b, z, h), (b, h, p)]  # forwards
    shapes += [(m, b, n) for b, m, n in shapes]  # for the weights
    shapes += [(b, q, h), (b, h, z), (b, p, h)]  # for the activations
    factors = [
        (torch.randn(m, k, device=x.device), torch.randn(k, n, device=x.device))
        for m, k, n in shapes
    ]

    def epoch() -> None:
        for _ in range(len(x) // size.batch):
            for left, right in factors:
                left @ right

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
    if torch.cuda.is_available():
        torch.cuda.synchronize()
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


def compare(size: Size, rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds a step of all, in each round."""
    x = size.images(device)
    steps = len(x) // size.batch
    epochs = {
        "matrix products": products(size, x),
        "by hand": Hand(size, x).epoch,
        "Pyro's SVI": by_pyro(size, x),
    }
    if x.is_cuda:
        epochs["by hand, captured"] = Hand(size, x).captured()
    else:
        epochs["by hand, loss compiled"] = Hand(size, x, compiled=True).epoch
    if importlib.util.find_spec("numpyro") and not x.is_cuda:
        epochs["NumPyro, epoch compiled"] = by_numpyro(size, x)
    for epoch in epochs.values():
        epoch()  # what compiles, compiles now

    times: dict[str, list[float]] = {name: [] for name in epochs}
    whole = "pyro_vae, captured" if x.is_cuda else "pyro_vae, compiled"
    times |= {"pyro_vae": [], whole: []}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            times[name].append(milliseconds(epoch, steps))
        times["pyro_vae"].append(of_fit(size, x, compiled=False))
        times[whole].append(of_fit(size, x, compiled=True))
    return times


def main(sizes: list[str], rounds: int, device: str) -> None:
    """Compare all, and print medians and ratios."""
    print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}; ms a step, {device}")
    if not importlib.util.find_spec("numpyro"):
        print("NumPyro: not here, so its row is missing; for it, pip install numpyro")
    for name in sizes:
        size = SIZES[name]
        shape = f"{size.pixels}-{size.hidden}-{size.latent}, batch {size.batch}"
        print(f"\n{f'{name}: {shape}':40}{'median':>8}{'over by hand':>14}   rounds")
        times = compare(size, rounds, device)
        for row, found in sorted(times.items(), key=lambda item: np.median(item[1])):
            ratio = np.median(np.divide(found, times["by hand"]))
            each = ", ".join(f"{time:.2f}" for time in found)
            print(f"{row:40}{np.median(found):8.2f}{ratio:14.2f}   {each}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=list(USUAL), help=", ".join(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    given = parser.parse_args()
    if unknown := set(given.sizes) - set(SIZES):
        parser.error(f"no size is named {', '.join(unknown)}; there are {', '.join(SIZES)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    main(given.sizes, given.rounds, given.device)
