"""The losses that ``fit`` knows: by name, and Pyro's own ELBOs by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pyro import infer
from pyro.infer import ELBO

from ..guards import whole_number
from ..vae import VAE
from .em import MonteCarloEM
from .free_bits import FreeBits
from .importance_weighted import ImportanceWeighted
from .labelled import Labelled, labelled
from .objectives import Elbo, MeanField, OwnELBO, Renyi
from .schedules import Schedule


@dataclass(frozen=True)
class Loss:
    """What ``fit`` must know of a loss.

    Arguments:
        elbo: The class.
        particles: The samples of z for each datum that are usual.
        options: Its other arguments.
        has_kl: Whether it has a KL term that beta can weigh.
        discrete: The name of the loss that takes its place where latents are discrete; none where
            it cannot train them.
        least_particles: The fewest samples with which it makes sense.
        cannot: Why it cannot train through ``fit``, if it cannot, and what to do.
    """

    elbo: type[ELBO]
    particles: int = 1
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    has_kl: bool = True
    discrete: str | None = None
    least_particles: int = 1
    cannot: str = ""


losses = {
    "elbo": Loss(Elbo, discrete="enum"),
    "mean_field": Loss(MeanField),
    "enum": Loss(infer.TraceEnum_ELBO, discrete="enum"),
    "iwae": Loss(Renyi, 16, {"alpha": 0.0}, has_kl=False),
    "renyi": Loss(Renyi, 16, {"alpha": 0.5}, has_kl=False),
    "wake_sleep": Loss(
        infer.ReweightedWakeSleep,
        2,
        {"insomnia": 0.0, "num_sleep_particles": 1},
        has_kl=False,
        least_particles=2,
    ),
    "stl": Loss(ImportanceWeighted, 16, {"gradient": "stl"}, has_kl=False),
    "dreg": Loss(ImportanceWeighted, 16, {"gradient": "dreg"}, has_kl=False),
    "mcem": Loss(MonteCarloEM, 4, has_kl=False),
    "miwae": Loss(ImportanceWeighted, 8, {"groups": 8}, has_kl=False),
    "piwae": Loss(ImportanceWeighted, 8, {"groups": 8, "gradient": "piwae"}, has_kl=False),
}

FROZEN = "it records one step for good; give the class of the same name without Jit"
of_classes = [  # those that a caller may give as instances
    *losses.values(),
    Loss(FreeBits),
    Loss(infer.Trace_ELBO),
    Loss(infer.TraceMeanField_ELBO),
    Loss(infer.TraceGraph_ELBO),
    Loss(infer.TraceTMC_ELBO),
    Loss(infer.RenyiELBO, has_kl=False),
    Loss(infer.Trace_MMD, has_kl=False),
    Loss(infer.JitTrace_ELBO, cannot=FROZEN),
    Loss(infer.JitTraceEnum_ELBO, cannot=FROZEN),
    Loss(infer.JitTraceGraph_ELBO, cannot=FROZEN),
    Loss(
        infer.TraceTailAdaptive_ELBO,
        cannot="its loss is inf by design; loss='iwae' or 'renyi' are near it",
    ),
]


def objective(
    vae: VAE, loss: str | ELBO, particles: int | None, beta: Schedule, free_bits: float | None
) -> ELBO:
    """The ELBO that trains a VAE.

    Raises:
        ValueError: The name is unknown, the latents are of a kind that it cannot train, or an
            option has no place in it.
        TypeError: `loss` is no ELBO, or one that cannot train through ``fit``.
    """
    name = _for_discrete(loss, free_bits) if vae.is_discrete else loss
    elbo = _made(name, particles, free_bits)
    elbo = elbo if vae.classifier is None else labelled(elbo, beta)
    record = record_of(elbo)
    if record.cannot:
        raise TypeError(f"fit cannot train by {type(elbo).__name__}: {record.cannot}")

    if not record.has_kl and beta != 1.0:
        given = f"loss={loss!r}" if isinstance(loss, str) else type(loss).__name__
        raise ValueError(
            f"fit: beta weighs the KL term of an ELBO, and {given} has none; use "
            "loss='elbo' or 'mean_field', or leave beta at 1"
        )
    if isinstance(elbo, infer.TraceEnum_ELBO) and vae.mixes_precisions:
        raise ValueError(
            "fit: enum needs all densities in one precision; use loss='elbo', or train vae.double()"
        )
    return elbo


def record_of(elbo: ELBO) -> Loss:
    """What is known of an ELBO: of its class, or of the nearest class that it is made from.

    One that is not known has no KL term that beta is sure to weigh.
    """
    elbo = elbo.base if isinstance(elbo, Labelled) else elbo
    for cls in type(elbo).__mro__:
        for record in of_classes:
            if record.elbo is cls:
                return record
    return Loss(type(elbo), has_kl=False)


def _for_discrete(loss: str | ELBO, free_bits: float | None) -> str | ELBO:
    if not isinstance(loss, str) or loss not in losses:
        return loss
    instead = losses[loss].discrete
    if instead is None or free_bits is not None:
        raise ValueError(
            "fit: the latents are discrete, and sums over them exact; use loss='elbo' and no "
            "free_bits"
        )
    return instead


def _made(loss: str | ELBO, particles: int | None, free_bits: float | None) -> ELBO:
    if free_bits is not None:
        if loss != "elbo":
            raise ValueError(
                f"fit: free_bits changes the KL term of loss='elbo'; got loss={loss!r}"
            )
        return FreeBits(free_bits, 1 if particles is None else particles)
    if isinstance(loss, str):
        return _named(loss, particles)
    if not isinstance(loss, ELBO):
        raise TypeError(
            f"fit needs loss as a name or as an instance of a pyro.infer.ELBO; got {loss!r}"
            + (f"; call it: {loss.__name__}()" if isinstance(loss, type) else "")
        )
    if particles is not None:
        raise ValueError(
            f"fit takes particles= with the name of a loss; {type(loss).__name__} has its own"
        )
    return loss


def _named(name: str, particles: int | None) -> ELBO:
    if name not in losses:
        raise ValueError(
            f"no loss is named {name!r}; there are {', '.join(losses)}, and any pyro.infer.ELBO"
        )

    record = losses[name]
    particles = record.particles if particles is None else particles
    whole_number("particles", particles, at_least=record.least_particles)
    if issubclass(record.elbo, OwnELBO):
        return record.elbo(particles, **record.options)
    plates = {"max_plate_nesting": 1, "vectorize_particles": particles > 1}
    return record.elbo(num_particles=particles, **plates, **record.options)
