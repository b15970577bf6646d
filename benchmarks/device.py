"""What does a GPU give? Training, log p(x) and MCMC, and whether they agree with the processor.

Four tables, in some ten minutes on one GPU; each is printed as soon as it is there.

- Correctness, by what is compared: steps that are replayed against steps that are not, log p(x) of
  GPU and processor in standard errors, HMC against the exact posterior of a linear model.
- Training: that of ``training.py --device cuda``, with the loop by hand captured as a CUDA graph.
- log p(x): seconds per million samples, against the loop by hand of ``evidence.py`` at its best
  block size.
- MCMC: effective samples a second of batched HMC, as in ``mcmc.py``, for 250 and 4,000 data.

Run it: python benchmarks/device.py
"""

import functools
import sys
import warnings
from collections.abc import Callable

import evidence
import mcmc
import numpy as np
import torch
import training

import pyro_vae as pv

SIZES = ["large", "large, batch 1024", "small"]
BLOCKS = (2**14, 2**16, 2**18)
DATA = 2048  # whose log p(x) is estimated


def replayed_steps() -> tuple[float, float]:
    """The largest difference of a parameter after 60 steps, in double precision."""
    x = torch.bernoulli(torch.full((400, 30), 0.4))
    found = []
    for compile in (False, True):
        vae = pv.build(x, latent=3, likelihood="bernoulli", hidden=[16], device="cuda").double()
        history = pv.fit(vae, x, epochs=5, batch_size=32, progress=False, compile=compile)
        found.append(torch.cat([parameter.flatten() for parameter in vae.parameters()]))
    if not history.attrs["compiled"].startswith("as a CUDA graph"):
        raise RuntimeError(history.attrs["compiled"])
    return float((found[0] - found[1]).abs().max()), 1e-9


def evidence_of_both() -> tuple[float, float]:
    """The largest difference of log p(x) between GPU and processor, in standard errors."""
    x = pv.data.load("digits")[:200]
    likelihood = {"name": "binomial", "total_count": 16}
    vae = pv.build(x, latent=2, likelihood=likelihood, hidden=[32])
    pv.fit(vae, x, epochs=20, progress=False)
    here = pv.log_evidence(vae, x, num_samples=2000, tolerance=0.02)
    there = pv.log_evidence(vae.cuda(), x, num_samples=2000, tolerance=0.02)
    error = np.hypot(here.se, there.se)
    return float((np.abs(here.log_evidence - there.log_evidence) / error).max()), 4.75


def exact_posterior() -> tuple[float, float]:
    """The largest error of a posterior mean by HMC on a linear model, in standard errors."""
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.normal(size=(6, 2)), dtype=torch.float32)
    decoder, encoder = torch.nn.Linear(2, 6, bias=False), torch.nn.Linear(6, 2)
    decoder.weight.data = weight
    likelihood = pv.Amortised(decoder, pv.Normal((6,), scale=1.0))
    guide = pv.Amortised(encoder, pv.Normal((2,), scale=1.0))
    vae = pv.VAE(pv.Normal((2,), loc=0.0, scale=1.0), likelihood, guide)
    x = rng.normal(size=(500, 6))

    tree = pv.sample_posterior(vae.cuda(), x, num_samples=500, warmup=200)
    precision = np.eye(2) + weight.numpy().T @ weight.numpy()
    mean = np.linalg.solve(precision, weight.numpy().T @ x.T).T
    sd = np.linalg.inv(precision).diagonal() ** 0.5
    error = sd / tree["diagnostics"].ess_bulk.to_numpy()[..., None] ** 0.5
    z = tree["posterior"].z.to_numpy()
    return float((np.abs(z.mean((0, 1)) - mean) / error).max()), 5.5


CHECKS: dict[str, Callable[[], tuple[float, float]]] = {
    "replayed steps": replayed_steps,
    "log p(x), GPU and processor": evidence_of_both,
    "HMC, exact posterior": exact_posterior,
}


def correctness() -> bool:
    """Print what is found beside what is allowed: whether all is well."""
    print(f"{'correctness':32}{'found':>12}{'allowed':>12}")
    good = True
    for name, check in CHECKS.items():
        found, allowed = check()
        good &= found <= allowed
        print(f"{name:32}{found:12.2g}{allowed:12.2g}{'' if found <= allowed else '   WRONG'}")
    return good


def log_evidence(repeats: int = 3) -> None:
    """Print seconds per million samples."""
    vae = evidence.bernoulli_vae().cuda()
    x = evidence.images(DATA).cuda()
    ours = functools.partial(evidence.ours, vae)
    estimates: dict[int, evidence.Estimate] = {
        size: functools.partial(evidence.by_hand, vae, block=size) for size in BLOCKS
    }
    evidence.seconds(ours, x)
    print("\nlog p(x), 784-400-20: seconds per million samples")
    name, by_hand = evidence.fastest("by hand", estimates, x, repeats)
    pairs = [(evidence.seconds(by_hand, x), evidence.seconds(ours, x)) for _ in range(repeats)]
    hand, own = np.median(pairs, 0)
    print(f"{name} {hand:.4f}, pyro_vae {own:.4f}: {own / hand:.2f} times", flush=True)


def chains() -> None:
    """Print effective samples a second."""
    vae, x = mcmc.digits_vae()
    vae.cuda()
    print("\nMCMC, digits, 8 latents: effective samples a second")
    for num in (250, 4000):
        data = x[np.random.default_rng(0).integers(len(x), size=num)]
        mcmc.batched(vae, data, seed=0)
        rate = np.median([mcmc.batched(vae, data, seed) for seed in (1, 2)])
        print(f"{num} data: {rate:,.0f}", flush=True)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/device.py needs a GPU; torch sees none")
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    is_right = correctness()
    training.main(SIZES, rounds=3, device="cuda")
    with torch.no_grad():
        log_evidence()
    chains()
    sys.exit(0 if is_right else "something is wrong: see the first table")
