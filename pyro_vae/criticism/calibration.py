r"""Is the guide right on average? Three methods, by the ranks of true latents.

Draw :math:`z \sim p(z)` and :math:`x \sim p(x \mid z)`: then z is one draw of :math:`p(z \mid x)`.
Among L draws of an exact guide the rank of a function of it is uniform. A guide that is shifted
makes ranks lean to one side, one that is narrow heaps them at both ends.

- ``sbc`` ranks each latent and :math:`\log p(x, z)` (Talts et al., 2018,
  https://arxiv.org/abs/1804.06788).
- ``vsbc`` ranks each latent, and asks only that ranks are symmetric about 1/2 (Yao et al., 2018,
  https://arxiv.org/abs/1802.02538). Most guides are too narrow, and it forgives that: it sees
  bias alone.
- ``tarp`` ranks the distance to a random point (Lemos et al., 2023,
  https://arxiv.org/abs/2302.03026), so that it judges all latents jointly. Distances are in
  coordinates where the draws of a datum are white, and the point is a normal one there: with
  points from the prior and plain distances, a correlation of the wrong sign passes.

==================================  =======================  ======  =============
a guide that is                     sbc                      vsbc    tarp
==================================  =======================  ======  =============
right                               passes                   passes  passes
shifted                             seen                     seen    seen if large
too narrow                          seen                     passes  seen
right in each latent, not in their  seen, by log p(x, z)     passes  seen
correlation
==================================  =======================  ======  =============

For ``sbc`` and ``tarp`` a test of location (ranks) and one of spread (their distance from the
middle) is made for each quantity, by Kolmogorov and Smirnov; for ``vsbc`` Wilcoxon's signed-rank
test of symmetry. The verdict is by the smallest of all p-values, times their number (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..density.memory import tile_rows
from ..density.problem import Problem
from ..density.traced import Pair
from ..guards import evaluating, whole_number
from ..posterior.mcmc import sample_posterior
from ..posterior.trees import dataset, draws_by_site
from ..vae import VAE
from .draws import Draws, flat, guide_draws, simulated

if TYPE_CHECKING:
    import xarray

REJECTED = 1e-3  # the p-value below which the verdict is no
TINY = np.finfo(float).tiny
DEPENDENT = 1e-9  # the share of the largest singular value below which a direction has no spread


def calibrate(
    vae: VAE | Pair | Problem,
    c: Any = None,
    *,
    x: Any = None,
    method: str = "sbc",
    num_simulations: int = 500,
    num_samples: int = 99,
    kernel: str | None = None,
    seed: int = 0,
) -> xarray.Dataset:
    """Whether the guide, or MCMC, is right on average over data that the model makes.

    Arguments:
        vae: A VAE over continuous latents; any pair ``(model, guide)`` of Pyro functions of x whose
            sites all lie in one data plate, and whose model observes x at one site; or a problem.
        c: What the model is conditional on: rows to simulate for; they are repeated as often as it
            takes.
        x: For a pair: data of shape ``(N, *X)``, a row for each c. They give the shape; what is
            judged are data that the model draws in their place. A VAE knows its own.
        method: ``"sbc"`` sees what is wrong with single latents and with the joint density,
            ``"vsbc"`` their bias alone, ``"tarp"`` all latents jointly; the table of
            :mod:`.calibration` says which fault each of them sees.
        num_simulations: How many data are simulated from the model.
        num_samples: The draws L that each true z is ranked among.
        kernel: Left out, the guide is judged; ``"hmc"`` or ``"nuts"`` judges MCMC, thinned to L
            draws: the control.
        seed: The seed of the simulations and draws.

    Returns:
        A dataset over simulation and quantity (the numbers of each site, such as ``z_0``, ``z_1``,
        and ``log_joint``; the latents alone for ``"vsbc"``; ``joint`` for ``"tarp"``): ``rank``,
        between 0 and 1; over quantity: ``p_location`` and ``p_spread``, or ``p_symmetry`` for
        ``"vsbc"``. Attributes: ``p_value``, the verdict's, ``calibrated``, whether it is at least
        0.001, and ``method``.

    Raises:
        DataError: The data do not fit, or a pair is given without x.
        TypeError: The latents are discrete.
        ValueError: An option makes no sense; the model observes something else than x; ``"tarp"``
            has fewer draws than twice the latents.
    """
    whole_number("num_simulations", num_simulations, at_least=20)
    whole_number("num_samples", num_samples, at_least=25)
    whole_number("seed", seed, at_least=0, at_most=2**62)
    if method not in TESTS:
        raise ValueError(f"method must be {', '.join(map(repr, TESTS))}; got {method!r}")
    problem, z = simulated("calibrate", vae, x, c, num_simulations, seed)
    with evaluating(problem.model, problem.guide):
        if problem.is_discrete:
            raise TypeError(
                "calibrate needs continuous latents; over discrete ones compare the guide's "
                "probabilities"
            )

    drawn = _drawn(problem, kernel, num_samples, seed + 1)
    both = {name: np.concatenate([z[name][None], drawn[name]]) for name in drawn}
    rng = np.random.default_rng(seed + 2)
    quantities = _quantities(problem, both, method, rng)
    rank = _ranks(np.stack(list(quantities.values()), -1), rng)
    return _verdict(rank, list(quantities), method)


def _drawn(problem: Problem, kernel: str | None, num_samples: int, seed: int) -> Draws:
    """L draws of the guide, or of MCMC, by site, each of shape ``(L, N, *Z)``."""
    if kernel is None:
        return guide_draws(problem, num_samples=num_samples, seed=seed)[0]
    tree = sample_posterior(problem, kernel=kernel, num_samples=10 * num_samples, seed=seed)
    found = {}
    for name, values in draws_by_site(tree["posterior"].to_dataset()).items():
        chains = values.reshape(-1, *values.shape[2:])
        found[name] = chains[np.linspace(0, len(chains) - 1, num_samples).astype(int)]
    return found


def _quantities(
    problem: Problem, both: Draws, method: str, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What is ranked, by name: of the truth and of L draws, each of shape ``(1 + L, N)``."""
    latents = flat(both, 2)
    if method == "tarp":
        _needs_draws(*latents.shape[::2])
        return {"joint": _white_distance(latents, rng)}
    by_name = dict(zip(_names(both), np.moveaxis(latents, -1, 0), strict=True))
    return by_name | ({"log_joint": _log_joint(problem, both)} if method == "sbc" else {})


def _names(draws: Draws) -> list[str]:
    """Of all numbers of a datum: that of a site of single numbers, ``z_0``, ``z_1``, ... of z."""
    sizes = {name: math.prod(values.shape[2:]) for name, values in draws.items()}
    return [
        f"{name}_{number}" if draws[name].ndim > 2 else name
        for name, size in sorted(sizes.items())
        for number in range(size)
    ]


def _log_joint(problem: Problem, latents: Draws) -> np.ndarray:
    """log p(x, z) of latents ``(L, N, *Z)``, shape ``(L, N)``."""
    found = []
    with torch.no_grad(), evaluating(problem.model, problem.guide):
        batch = problem.batch(slice(None))
        densities = problem.densities(batch)
        num, rows = len(next(iter(latents.values()))), tile_rows(problem.device)
        for block in np.array_split(np.arange(num), max(1, math.ceil(num * len(problem) / rows))):
            values = {n: torch.as_tensor(z[block]).to(problem.device) for n, z in latents.items()}
            log_likelihood, log_prior = densities.log_model(values)
            found.append((log_likelihood + log_prior).numpy(force=True))
    return np.concatenate(found)


def _needs_draws(points: int, latents: int) -> None:
    if points <= 2 * latents:
        raise ValueError(
            f"tarp needs num_samples of at least twice the {latents} latents; got {points - 1}"
        )


def _white_distance(both: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The distance of ``(1 + L, N, D)`` to a random point of each datum, shape ``(1 + L, N)``.

    The truth is one of the points that are made white: if it is one like the others, the distances
    are exchangeable, so no small L spoils the test.
    """
    points = np.moveaxis(both, 1, 0)
    points = (points - points.mean(1, keepdims=True)) / (points.std(1, keepdims=True) + TINY)
    white, size, _ = np.linalg.svd(points, full_matrices=False)
    white = white * (size > DEPENDENT * size.max(1, keepdims=True))[:, None]
    to = rng.normal(size=(len(white), 1, white.shape[-1]))
    return np.linalg.norm(white * points.shape[1] ** 0.5 - to, axis=-1).T


def _ranks(quantities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of the first of ``(1 + L, N, Q)`` among the others: uniform on (0, 1), ties broken
    at random.
    """
    below = (quantities[1:] < quantities[0]).sum(0)
    ties = (quantities[1:] == quantities[0]).sum(0)
    return (below + rng.random(below.shape) * (ties + 1)) / len(quantities)


def _location(rank: np.ndarray) -> float:
    from scipy import stats

    return float(stats.kstest(rank, "uniform").pvalue)


def _spread(rank: np.ndarray) -> float:
    return _location(np.abs(2 * rank - 1))


def _symmetry(rank: np.ndarray) -> float:
    """The test of Yao et al., Kolmogorov's of p against 1 - p, takes these two for independent: at
    a level of 0.001 it rejects 9 exact guides in 1000.
    """
    from scipy import stats

    return float(stats.wilcoxon(rank - 0.5).pvalue)


Test = Callable[[np.ndarray], float]
UNIFORM: dict[str, Test] = {"p_location": _location, "p_spread": _spread}
TESTS: dict[str, dict[str, Test]] = {
    "sbc": UNIFORM,
    "vsbc": {"p_symmetry": _symmetry},
    "tarp": UNIFORM,
}


def _verdict(rank: np.ndarray, names: list[str], method: str) -> xarray.Dataset:
    found = dataset({"rank": rank}, ("simulation", "quantity"), "").assign_coords(quantity=names)
    p = {name: [test(each) for each in rank.T] for name, test in TESTS[method].items()}
    found = found.assign({name: ("quantity", values) for name, values in p.items()})
    p_value = min(1.0, len(p) * len(names) * min(map(min, p.values())))
    return found.assign_attrs(p_value=p_value, calibrated=int(p_value >= REJECTED), method=method)
