"""How many effective posterior samples a second does batched HMC give, against Pyro's NUTS?

A VAE of 8 x 8 digits with 8 latents, the posterior of 250 test digits. Three samplers of the same
target: ours, all data at once; Pyro's NUTS on all data as one target; Pyro's NUTS datum by datum (a
few of them). The effective samples of a datum are the smallest bulk ESS over its latents (ArviZ),
and are summed over data; a second includes warm-up.

Run it: python benchmarks/mcmc.py
"""

import argparse
import time
import warnings

import numpy as np
import torch
from arviz_stats.base import array_stats
from pyro.infer import MCMC, NUTS

import pyro_vae as pv


def digits_vae() -> tuple[pv.VAE, np.ndarray]:
    """A fitted VAE, and data that it has not seen."""
    x = pv.data.load("digits")
    x = x[np.random.default_rng(0).permutation(len(x))]
    likelihood = {"name": "binomial", "total_count": 16}
    vae = pv.build(x[:1200], latent=8, likelihood=likelihood, hidden=[200, 200])
    pv.fit(vae, x[:1200], epochs=100, batch_size=64, progress=False)
    return vae.requires_grad_(False), x[1437 : 1437 + 250]


def smallest_ess(z: np.ndarray) -> np.ndarray:
    """The smallest ESS over latents, by datum, of draws of shape (chain, draw, datum, latent)."""
    return array_stats.ess(z.astype(float), chain_axis=0, draw_axis=1).min(-1)


def batched(vae: pv.VAE, x: np.ndarray, seed: int) -> float:
    """Effective samples a second of batched HMC, diagnostics included."""
    began = time.perf_counter()
    tree = pv.sample_posterior(vae, x, num_samples=1000, warmup=300, seed=seed)
    took = time.perf_counter() - began
    return float(tree["diagnostics"].ess_bulk.sum()) / took


def nuts(vae: pv.VAE, x: np.ndarray, seed: int) -> float:
    """Effective samples a second for one call of Pyro's NUTS on x."""
    torch.manual_seed(seed)
    sampler = MCMC(NUTS(vae.model), num_samples=300, warmup_steps=100, disable_progbar=True)
    began = time.perf_counter()
    sampler.run(torch.as_tensor(x, dtype=torch.float32))
    took = time.perf_counter() - began
    return float(smallest_ess(sampler.get_samples(group_by_chain=True)["z"].numpy()).sum()) / took


def main(repeats: int) -> None:
    """Run all samplers in turn, and print the medians."""
    warnings.simplefilter("ignore")
    vae, x = digits_vae()
    rates: dict[str, list[float]] = {
        "batched HMC": [],
        "NUTS, joint": [],
        "NUTS, datum by datum": [],
    }

    for seed in range(repeats):
        rates["batched HMC"].append(batched(vae, x, seed))
        rates["NUTS, joint"].append(nuts(vae, x, seed))
        rates["NUTS, datum by datum"].append(
            float(np.median([nuts(vae, x[i : i + 1], seed) for i in range(3)]))
        )

    ours = np.median(rates["batched HMC"])
    print(f"{'sampler':24}{'effective samples a second':>28}{'ours over it':>14}   repeats")
    for name, found in rates.items():
        each = ", ".join(f"{rate:.0f}" for rate in found)
        print(f"{name:24}{np.median(found):28.0f}{ours / np.median(found):14.1f}   {each}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args().repeats)
