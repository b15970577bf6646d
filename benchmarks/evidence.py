"""How fast is log p(x) for each datum, against a peer and against a loop by hand?

A Bernoulli VAE of 784 pixels and 20 latents with one hidden layer of 400, on the CPU, in single
precision: random weights and random images, since time depends on neither. Three ways to log p(x)
by importance sampling, with the same weights: ours, with standard error and k-hat of each datum and
a second opinion of a quarter more draws, which are not counted; the same matrix products in a plain
loop of torch; and get_nll of pythae, which works datum by datum and so is given fewer data. Loop
and peer are measured at the block size that suits them best. A sample is one z for one datum, and
time is in seconds per million samples. With one thread it is processor time, which other programs
do not lengthen. The estimates must agree: each is shown as its mean over the data of the peer.

Run it: python benchmarks/evidence.py
The peer, if wanted: pip install pythae, into the environment that runs this.
Memory, in some ten minutes: python benchmarks/evidence.py --memory
"""

import argparse
import functools
import importlib.util
import math
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import pyro_vae as pv

LATENT = 20
PIXELS = 784
HIDDEN = [400]
DATA = 128
PEER_DATA = 16
SAMPLES = 2000
BLOCKS = (128, 256, 512, 1024, 2048, 4096)  # decoder rows at once, for the loop by hand
BATCHES = (100, 250, 500, 1000, 2000)  # for pythae; each divides SAMPLES, or it would draw fewer
STATUS = Path("/proc/self/status")

Estimate = Callable[[Tensor, int], Any]  # of data, with a number of samples for each


def bernoulli_vae() -> pv.VAE:
    """A VAE with random weights."""
    torch.manual_seed(0)
    return pv.VAE(
        prior=pv.Normal((LATENT,), loc=0.0, scale=1.0),
        likelihood=pv.Amortised(pv.MLP(LATENT, PIXELS, hidden=HIDDEN), pv.Bernoulli((PIXELS,))),
        guide=pv.Amortised(pv.MLP(PIXELS, 2 * LATENT, hidden=HIDDEN), pv.Normal((LATENT,))),
    ).requires_grad_(False)


def images(num: int) -> Tensor:
    """Random black and white images."""
    return torch.bernoulli(torch.full((num, PIXELS), 0.5))


def encoder_of(vae: pv.VAE) -> nn.Module:
    """The layers of the guide."""
    return vae.get_submodule("posterior.network.layers")


def decoder_of(vae: pv.VAE) -> nn.Module:
    """The layers of the likelihood."""
    return vae.get_submodule("likelihood.network.layers")


def loc_and_scale(layers: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the guide, from its layers."""
    loc, scale = layers(x).chunk(2, dim=-1)
    return loc, softplus(scale + math.log(math.e - 1))  # of zeros it is 1


def ours(vae: pv.VAE, x: Tensor, num_samples: int) -> Tensor:
    """log p(x) of each datum by this library, with all that comes with it."""
    return torch.as_tensor(
        pv.log_evidence(vae, x, num_samples=num_samples)["log_evidence"].to_numpy()
    )


def by_hand(vae: pv.VAE, x: Tensor, num_samples: int, block: int) -> Tensor:
    """log p(x) of each datum, and nothing else, with `block` decoder rows at once."""
    encoder = encoder_of(vae)
    decoder = decoder_of(vae)
    estimates = []

    for data in x.split(64):
        loc, scale = loc_and_scale(encoder, data)
        weights = []
        step = max(1, block // len(data))
        for done in range(0, num_samples, step):
            noise = torch.randn(min(step, num_samples - done), *loc.shape, device=x.device)
            z = loc + scale * noise
            logits = decoder(z)
            log_likelihood = (data * logits - softplus(logits)).sum(-1)
            log_prior = -(z**2).sum(-1) / 2
            log_guide = -(noise**2).sum(-1) / 2 - scale.log().sum(-1)  # log(2 pi) is in both
            weights.append(log_likelihood + log_prior - log_guide)
        estimates.append(torch.cat(weights).logsumexp(0) - math.log(num_samples))
    return torch.cat(estimates).cpu()


def pythae_vae(vae: pv.VAE) -> Any:
    """The same networks, with the same weights, as a model of pythae."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encoder_of(vae)

        def forward(self, x: Tensor) -> ModelOutput:
            loc, scale = loc_and_scale(self.layers, x)
            return ModelOutput(embedding=loc, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decoder_of(vae)

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(), decoder=Decoder()).eval()


def by_pythae(model: Any, x: Tensor, num_samples: int, batch_size: int) -> Tensor:
    """The mean of log p(x) by pythae; its get_nll does not turn the sign."""
    return torch.as_tensor(model.get_nll(x, n_samples=num_samples, batch_size=batch_size))


def clock() -> float:
    """The time, in seconds: that of this process where it has one thread."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(estimate: Estimate, x: Tensor) -> float:
    """Seconds per million samples."""
    began = clock()
    estimate(x, SAMPLES)
    return (clock() - began) / (len(x) * SAMPLES) * 1e6


def fastest(
    name: str, estimates: dict[int, Estimate], x: Tensor, repeats: int
) -> tuple[str, Estimate]:
    """The estimate at the block size with the lowest median, after trying all of them in turn."""
    found = [
        {size: seconds(estimate, x) for size, estimate in estimates.items()} for _ in range(repeats)
    ]
    medians = {size: float(np.median([each[size] for each in found])) for size in estimates}
    print(
        f"{name}: " + ", ".join(f"{size} rows {median:.1f} s" for size, median in medians.items())
    )
    best = min(medians, key=medians.__getitem__)
    return f"{name}, {best} rows", estimates[best]


def speed(repeats: int) -> None:
    """Run all estimates in turn, and print medians and ratios."""
    vae = bernoulli_vae()
    x = images(DATA)
    runs: dict[str, tuple[Estimate, Tensor]] = {"pyro_vae": (functools.partial(ours, vae), x)}
    threads = torch.get_num_threads()
    unit = "seconds of processor time" if threads == 1 else "seconds"
    print(f"torch {torch.__version__}, threads: {threads}; {unit} per million samples")
    for estimate, data in runs.values():
        seconds(estimate, data)  # the first call is slower

    blocks: dict[int, Estimate] = {
        size: functools.partial(by_hand, vae, block=size) for size in BLOCKS
    }
    name, estimate = fastest("by hand", blocks, x, repeats)
    runs[name] = estimate, x

    if importlib.util.find_spec("pythae"):
        model = pythae_vae(vae)
        batches: dict[int, Estimate] = {
            size: functools.partial(by_pythae, model, batch_size=size) for size in BATCHES
        }
        name, estimate = fastest("pythae", batches, x[:PEER_DATA], repeats)
        runs[name] = estimate, x[:PEER_DATA]
    else:
        print(
            "pythae: not here, so its row is missing; for it, pip install pythae into this "
            "environment"
        )

    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (estimate, data) in runs.items():
            times[name].append(seconds(estimate, data))

    print(f"\n{'':24}{'median':>8}{'over ours':>12}{'mean log p(x)':>16}   repeats")
    for name, (estimate, _) in runs.items():
        ratio = np.median(np.divide(times[name], times["pyro_vae"]))
        log_evidence = float(estimate(x[:PEER_DATA], SAMPLES).mean())
        each = ", ".join(f"{time:.1f}" for time in times[name])
        print(f"{name:24}{np.median(times[name]):8.2f}{ratio:12.2f}{log_evidence:16.2f}   {each}")
    hand = next(name for name in runs if name.startswith("by hand"))
    print(
        f"\nours over the loop by hand: {np.median(np.divide(times['pyro_vae'], times[hand])):.2f}"
    )


def resident() -> float:
    """The memory of this process that no file backs, in MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e6


def memory(num: int, num_samples: int) -> None:
    """Print how much more memory the process takes, at most, while it estimates log p(x)."""
    if not STATUS.exists():
        print(f"memory: unknown, since this system has no {STATUS}")
        return
    vae = bernoulli_vae()
    x = images(num)
    ours(vae, x[:DATA], 100)  # what the first call loads is no growth
    before = peak = resident()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    ours(vae, x, num_samples)
    took = time.perf_counter() - began
    over.set()
    watcher.join()
    growth = f"{before:.0f} MB before, {peak - before:.0f} MB more at most"
    print(f"log_evidence, {num:,} data x {num_samples:,} samples: {growth}, {took:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory", action="store_true", help="instead, how much memory 10,000 x 5,000 samples take"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with torch.no_grad():
        memory(10_000, 5_000) if given.memory else speed(given.repeats)
