r"""Where the ELBO loses: by the family of the guide, and by its amortisation.

.. math::

    \log p(x) - \mathcal{L}[q] = \underbrace{\log p(x) - \mathcal{L}[q^*]}_{\text{approximation
    gap}} + \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q]}_{\text{amortisation gap}}

with :math:`q^*` the best guide of the family for each datum (Cremer et al., 2018,
https://arxiv.org/abs/1801.03558), found by :meth:`.VAE.refine`, or for a pair by
:mod:`.best_guides`; log p(x) is importance-sampled from it, and where its weights are too wild for
that, by :func:`.log_evidence` with a tolerance.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..assembly.refinement import refine
from ..density.memory import Memory, tile_data
from ..density.problem import Problem, Stream, Tile
from ..density.traced import Pair, Traced
from ..evidence.evidence import log_evidence
from ..evidence.flags import counted, warn_of_flags
from ..guards import evaluating, mode, seed_of, seeded, whole_number
from ..posterior.trees import dataset
from ..progress import Progress
from ..vae import VAE
from .best_guides import best_guide
from .divergence import FINITE_VARIANCE, of_weights
from .draws import vae_in

if TYPE_CHECKING:
    import xarray

TOLERANCE = 0.1  # nats, of log p(x) where the best guide's weights are too wild
REMEDY = "their log p(x) and approximation gap are lower bounds: raise num_samples"
LEARNING_RATE = 0.05  # of the search for the best guide
PARTICLES = 8


def gaps(
    vae: VAE | Pair | Problem,
    x: Any = None,
    c: Any = None,
    *,
    steps: int = 300,
    num_samples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> xarray.Dataset:
    """The gap between log p(x) and the ELBO of each datum, and its two parts.

    Arguments:
        vae: A VAE whose guide is amortised, over continuous latents; or any pair ``(model, guide)``
            of Pyro functions of x whose sites all lie in one data plate, if each parameter of the
            guide's distributions can be moved (:mod:`.best_guides`).
        x: Data of shape ``(N, *X)``, NaN where missing.
        c: What the model is conditional on, a row for each datum.
        steps: How many steps find the best guide of each datum.
        num_samples: The draws of each guide for each datum.
        seed: The seed of the draws.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A dataset over datum, in nats: ``log_evidence``, ``elbo_refined``, ``elbo``,
        ``approximation_gap`` and ``amortisation_gap``, the gaps with standard errors (``_se``), and
        ``khat`` of the weights of the best guide. ``flag`` as of :func:`.log_evidence`: where it is
        not empty, log p(x) and the approximation gap are lower bounds. Attributes: the mean of
        each, and ``_mean_se`` over data; ``flagged``, how many data are.

    Raises:
        DataError: The data do not fit the likelihood.
        TypeError: The guide of a VAE is not amortised; one is discrete, or cannot be moved.

    Warns:
        UserWarning: Some data are flagged.
    """
    whole_number("num_samples", num_samples, at_least=25)
    problem = Problem.of(vae, x, c)
    with Progress("gaps, data", len(problem), shown=progress) as bar:
        parts = []
        for tile in problem.tiles(tile_data(problem.device), (seed, Stream.GAPS)):
            bar.update(tile.rows.start)
            parts.append(_parts(*log_weights(tile, steps, num_samples)))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    flag = _made_sure(problem, found, num_samples, seed, progress)
    result = _with_means(found).assign_coords(flag=("datum", flag))
    result.attrs |= counted(flag)
    warn_of_flags(result, REMEDY)
    return result


def log_weights(tile: Tile, steps: int, num_samples: int) -> tuple[Tensor, Tensor]:
    """Log weights of draws of the best guide of each datum, and of the amortised one: each of shape
    ``(num_samples, N)``.
    """
    best = Traced(tile.problem.model, _best(tile, steps), tile.batch)
    with torch.no_grad(), evaluating(tile.problem.model, tile.problem.guide):
        found = []
        for number, densities in enumerate((best, tile.densities), start=2):
            with seeded(seed_of(tile.seed, number)):
                terms = densities.terms(num_samples, Memory(tile.problem.device))
                found.append(terms.log_weight)
    return found[0], found[1]


def _made_sure(
    problem: Problem, found: dict[str, np.ndarray], num_samples: int, seed: int, progress: bool
) -> np.ndarray:
    """Put a better log p(x) in place of one that weights are too wild for; its flags."""
    flag = np.full(len(problem), "", dtype="U16")
    wild = np.flatnonzero(~(found["khat"] <= FINITE_VARIANCE))
    if len(wild) == 0:
        return flag
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of these data alone: said of all, later
        better = log_evidence(
            problem.only(wild).in_memory(),
            num_samples=num_samples,
            tolerance=TOLERANCE,
            max_samples=10 * num_samples,
            seed=seed,
            progress=progress,
        )
    known = np.isfinite(better.log_evidence.values)
    flag[wild] = better.flag.values
    wild, better = wild[known], better.isel(datum=known)
    error = np.hypot(better.se.values, found["elbo_refined_se"][wild])
    found["log_evidence"][wild] = better.log_evidence.values
    found["approximation_gap"][wild] = better.log_evidence.values - found["elbo_refined"][wild]
    found["approximation_gap_se"][wild] = error
    return flag


def _best(tile: Tile, steps: int) -> Callable[..., None]:
    """The best guide for the data of a tile, as a Pyro function of them."""
    vae = vae_in(tile.problem)
    if vae is not None:
        return _refined(vae, tile, steps)
    with seeded(seed_of(tile.seed, 1)), evaluating(tile.problem.model, tile.problem.guide):
        return best_guide(tile, steps, LEARNING_RATE, PARTICLES)


def _refined(vae: VAE, tile: Tile, steps: int) -> Callable[..., None]:
    """The guide of a VAE with what its head reads optimised for each datum."""
    own_draws, no_validation = seeded(seed_of(tile.seed, 1)), pyro.validation_enabled(False)
    with own_draws, mode(vae, training=False), torch.inference_mode(False), no_validation:
        best = refine(vae, tile.batch, steps, LEARNING_RATE, PARTICLES)

    def guide(x: Tensor, c: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", best)

    return guide


def _parts(best: Tensor, amortised: Tensor) -> dict[str, np.ndarray]:
    """From log weights of the best and of the amortised guide."""
    approximation = of_weights(best)
    best = best.double()
    amortised = amortised.double()
    lower, upper = amortised.mean(0), best.mean(0)
    error = (amortised.var(0) / len(amortised) + best.var(0) / len(best)).sqrt()
    return {
        "log_evidence": upper.numpy(force=True) + approximation["kl"],
        "elbo_refined": upper.numpy(force=True),
        "elbo_refined_se": (best.std(0) / len(best) ** 0.5).numpy(force=True),
        "elbo": lower.numpy(force=True),
        "approximation_gap": approximation["kl"],
        "approximation_gap_se": approximation["kl_se"],
        "amortisation_gap": (upper - lower).numpy(force=True),
        "amortisation_gap_se": error.numpy(force=True),
        "khat": approximation["khat"],
    }


def _with_means(found: dict[str, np.ndarray]) -> xarray.Dataset:
    result = dataset(found, ("datum",), "")
    for name in ("log_evidence", "elbo_refined", "elbo", "approximation_gap", "amortisation_gap"):
        values = found[name]
        result.attrs[name] = float(values.mean())
        result.attrs[f"{name}_mean_se"] = (
            float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.nan
        )
    return result
