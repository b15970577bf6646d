"""Bidirectional Monte Carlo: log p(x) held between a lower and an upper bound, on data that the
model itself makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..evidence.annealing import annealed_log_evidence
from ..guards import whole_number
from ..vae import VAE
from .draws import simulated, vae_of

if TYPE_CHECKING:
    import xarray


def bidirectional_log_evidence(
    vae: VAE,
    c: Any = None,
    *,
    num_simulations: int = 100,
    num_distributions: int = 500,
    chains: int = 32,
    start: str = "guide",
    schedule: str = "sigmoidal",
    num_steps: int = 10,
    seed: int = 0,
    max_seconds: float | None = None,
    progress: bool = True,
) -> xarray.Dataset:
    """A lower and an upper bound of log p(x), in the mean, for data drawn from the model (Grosse et
    al., 2015).

    The gap between the two says how far annealed importance sampling, with the same options, can be
    off on data like the model's own: of a simulated datum the z that made it is an exact draw of
    the posterior, from which a chain can run backwards.

    Arguments:
        vae: A VAE over continuous latents.
        c: For a conditional VAE: rows to simulate for; they are repeated as often as it takes.
        num_simulations: How many data are simulated.
        num_distributions: The number T of steps from the base to the joint density.
        chains: The chains of each datum.
        start: ``"guide"`` or ``"prior"``: where the chains begin. Where the guide misses a mode of
            the posterior, the gap is huge: begin at the prior.
        schedule: ``"sigmoidal"`` (finer at both ends) or ``"linear"``.
        num_steps: The leapfrog steps of each transition.
        seed: The seed of the simulations and of all draws.
        max_seconds: About how long it may take: data that were not reached by then are flagged.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        What :func:`.annealed_log_evidence` gives for data with known z: ``log_evidence`` is the
        lower bound, ``upper`` the upper one, ``gap`` their difference, in nats per datum; as
        attributes the mean ``gap`` and ``gap_se``.

    Raises:
        ValueError: An option makes no sense.
        TypeError: It is no VAE, or its latents are discrete.
    """
    whole_number("num_simulations", num_simulations, at_least=1)
    whole_number("seed", seed, at_least=0, at_most=2**62)
    vae = vae_of("bidirectional_log_evidence", vae)
    if vae.is_discrete:
        raise TypeError(
            "bidirectional_log_evidence needs continuous latents; log_evidence sums over discrete "
            "ones"
        )

    problem, z = simulated("bidirectional_log_evidence", vae, None, c, num_simulations, seed)
    options: dict[str, Any] = {
        "num_distributions": num_distributions,
        "chains": chains,
        "num_steps": num_steps,
        "max_seconds": max_seconds,
        "progress": progress,
    }
    return annealed_log_evidence(
        problem, z=z["z"], start=start, schedule=schedule, seed=seed + 1, **options
    )
