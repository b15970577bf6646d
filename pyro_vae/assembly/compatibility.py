"""Do prior, likelihood and guide fit together? Found out before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ..conditionals.base import Amortised, Conditional
from ..conditionals.blocks import Blocks
from ..conditionals.networks import Standardized
from ..distributions.joint import Joint, enumerable
from ..distributions.supports import bijection_to, is_real
from ..guards import mode, seeded
from .base import Assembly
from .missing import factorises

MOST_STATES = 4096  # of discrete latents


def check_parts(vae: Assembly) -> None:
    """Draw from the prior, decode, encode: parts that do not fit are refused, with their shapes.

    Raises:
        ValueError: The parts do not fit.
        TypeError: The density of the prior or of the likelihood is known only at its own draws.
    """
    dtypes = {tensor.dtype for tensor in vae.state_dict().values() if tensor.is_floating_point()}
    if len(dtypes) > 1:
        raise ValueError(
            f"VAE: the parts must share one dtype; got {sorted(map(str, dtypes))}; convert with "
            "part.to(dtype)"
        )

    _check_densities(vae)
    _check_what_sees_c(vae)
    _check_exposure(vae)
    _check_blocks(vae)
    with torch.no_grad(), seeded(0), mode(vae, training=False):
        latents = _check_prior(vae)
        z = latents.sample(torch.Size([2, 3]))
        zeros = vae.encoded_zeros()
        c = None if zeros is None else zeros.expand(3, -1)
        seen = _context(vae, "likelihood", vae.prior.visible(z), c)
        likelihood = _run("likelihood", vae.likelihood, seen)
        x = likelihood.sample()
        _check_missingness(vae, likelihood)
        if not vae.prior.reads_guide:
            guide = _run("guide", vae.posterior, _context(vae, "guide", x.to(vae.reference), c))
            _check_guide(vae, guide)


def _check_densities(vae: Assembly) -> None:
    """Raise where a part knows the density of its own draws only, and others are scored."""
    for role, part in (("prior", vae.prior), ("likelihood", vae.likelihood)):
        if not part.scores_any_value:
            raise TypeError(
                f"VAE: {part.title} cannot stand as {role}: its transforms have no inverse, so it "
                "knows the density of its own draws only; use it as a guide, and an "
                "autoregressive, spline or coupling flow here"
            )
    if vae.prior.reads_guide and not vae.posterior.scores_any_value:
        raise TypeError(
            f"VAE: {vae.prior.title} needs the density of the guide at any z, and "
            f"{vae.posterior.title} knows that of its own draws only; use another guide or prior"
        )


def _check_what_sees_c(vae: Assembly) -> None:
    """Raise where a prior cannot see c, and is to."""
    seen_by = set() if vae.condition is None else set(vae.condition.seen_by)
    if vae.prior.reads_guide and {"prior", "guide"} & seen_by:
        raise ValueError(
            f"VAE: {vae.prior.title} is an average of the guide, so neither can see c; use "
            f"Condition(..., seen_by=['likelihood']), or another prior"
        )

    head = getattr(vae.prior, "head", vae.prior)
    if head is not vae.prior and head.visible_shape != head.event_shape:
        raise ValueError(
            f"VAE: {head.title} as a prior is drawn from its top layer and reads nothing, so it "
            f"cannot see c; use {head.title} with learned=True, and leave 'prior' out of the "
            "condition's seen_by"
        )


def _check_exposure(vae: Assembly) -> None:
    if vae.condition is None or vae.condition.exposure is None:
        return
    likelihood = getattr(vae.likelihood, "head", vae.likelihood)
    units = getattr(likelihood, "units", None)
    if units is None or not units.have_rates:
        raise ValueError(
            f"VAE: an exposure multiplies a rate, and {likelihood.title} has none; use a family of "
            "counts or amounts, such as poisson, negative_binomial or gamma, or leave exposure out "
            "of the condition"
        )


def _check_blocks(vae: Assembly) -> None:
    for role, part in (("prior", vae.prior), ("likelihood", vae.likelihood)):
        if isinstance(getattr(part, "network", None), Blocks):
            raise ValueError(
                f"VAE: {part.title} reads blocks of the data, so it cannot stand as {role}; use it "
                "as a guide"
            )
        networks = (n for n in part.modules() if isinstance(n, Standardized))
        if any(network.reads_missing for network in networks):
            raise ValueError(
                f"VAE: mask=True shows a network which data are missing, and the {role} reads no "
                "data; leave mask out there"
            )
    network, shape = getattr(vae.posterior, "network", None), vae.likelihood.event_shape
    if isinstance(network, Blocks) and [network.num_columns] != list(shape):
        raise ValueError(
            f"VAE: every column must be in exactly one of the blocks of {vae.posterior.title}, for "
            f"data of shape {tuple(shape)}; got {network.columns}"
        )


def _check_missingness(vae: Assembly, likelihood: TorchDistribution) -> None:
    part = vae.missingness
    if part is None:
        return
    if part.event_shape != likelihood.event_shape:
        raise ValueError(
            f"VAE: missingness and likelihood describe different data: {tuple(part.event_shape)} "
            f"and {tuple(likelihood.event_shape)}"
        )
    if not (factorises(likelihood) and part.fits(likelihood)):
        raise ValueError(
            f"VAE: {part.name} integrates over missing cells, which needs cells that are "
            f"independent given z, and normal, of few values, or drawn with a gradient; got "
            f"{vae.likelihood.title}; use {part.apt}"
        )
    if vae.is_discrete and part.draws(likelihood):
        raise ValueError(
            f"VAE: latents of {vae.prior.title} are summed over exactly, and {part.name} draws "
            "missing cells; use a prior over real numbers"
        )


def _check_prior(vae: Assembly) -> Any:
    """A prior over one datum, whose latents are the guide's."""
    unconstrained = _unconstrained(vae)
    if vae.posterior.event_shape != unconstrained:
        raise ValueError(_different_latents(vae, unconstrained))
    if vae.prior.reads_guide:
        some = vae.reference.new_zeros(2, 3, *vae.likelihood.event_shape)
        _check_guide(vae, _run("guide", vae.posterior, some))
        return vae.prior(vae.posterior)
    prior = _run("prior", vae.prior, vae.prior_context())
    if prior.batch_shape:
        needs = "make its parameters fixed or learned"
        raise ValueError(
            f"VAE: the prior must have batch shape (); got {tuple(prior.batch_shape)}; {needs}"
        )
    return prior


def _unconstrained(vae: Assembly) -> torch.Size:
    """The shape of latents in unconstrained space."""
    if not (vae.prior.reads_guide or isinstance(vae.prior, Amortised)):
        _run("prior", vae.prior, None)
    support = vae.prior.support
    if support.is_discrete:
        _check_enumerable(vae)
        return vae.prior.event_shape
    try:
        return torch.Size(bijection_to(support).inverse_shape(vae.prior.event_shape))
    except NotImplementedError:
        raise ValueError(
            f"VAE: the prior {vae.prior.title} has support {support}, which has no map to it; use "
            "a prior over real numbers"
        ) from None


def _check_enumerable(vae: Assembly) -> None:
    try:
        prior = enumerable(vae.prior(vae.prior_context()))
        states = (
            prior.num_states
            if isinstance(prior, Joint)
            else len(prior.enumerate_support(expand=False))
        )
    except NotImplementedError:
        states = 0
    if not 0 < states <= MOST_STATES:
        many = f"{states}" if states else "no finite number of"
        raise ValueError(
            f"VAE: the prior {vae.prior.title} is discrete and has {many} states, too many to sum "
            f"over; use one_hot, categorical or bernoulli with at most {MOST_STATES}, or a prior "
            "over real numbers"
        )


def _check_guide(vae: Assembly, guide: TorchDistribution) -> None:
    if vae.is_discrete:
        if not guide.support.is_discrete:
            raise ValueError(
                f"VAE: the prior {vae.prior.title} is discrete, so the guide must be too; got "
                f"{vae.posterior.title}; use a guide {vae.prior.name!r}"
            )
    elif not is_real(guide.support):
        support = " ".join(str(guide.support).split())
        raise ValueError(
            f"VAE: the guide lives in unconstrained space; {vae.posterior.title} has support "
            f"{support}; use a guide over real numbers such as Normal({tuple(guide.event_shape)}): "
            "it follows the prior's support"
        )
    elif not guide.has_rsample:
        raise ValueError(
            f"VAE: draws of the guide {vae.posterior.title} have no gradient; use a guide with "
            "rsample, such as a mixture of normals"
        )


def _context(vae: Assembly, part: str, context: Tensor, c: Tensor | None) -> Tensor:
    event_dim = len(vae.prior.visible_shape if part == "likelihood" else vae.likelihood.event_shape)
    return vae.join(part, context, c, event_dim)


def _run(role: str, part: Conditional, context: Tensor | None) -> TorchDistribution:
    given = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
    try:
        built = part() if context is None else part(context)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        hint = (
            ""
            if isinstance(error, ValueError)
            else "; a network must take any leading shape: see pyro_vae.fold"
        )
        raise ValueError(
            f"VAE: the {role} {part.title} cannot take {given}: {error}{hint}"
        ) from error
    if not isinstance(built, TorchDistributionMixin):
        raise ValueError(
            f"VAE: the {role} must give a Pyro distribution; its forward gave "
            f"{type(built).__name__}"
        )
    batch = torch.Size([]) if context is None or context.dim() == 1 else context.shape[:2]
    if built.event_shape != part.event_shape or (
        context is not None and built.batch_shape != batch
    ):
        got = f"batch shape {tuple(built.batch_shape)} and event shape {tuple(built.event_shape)}"
        expected = f"batch shape {tuple(batch)} and event shape {tuple(part.event_shape)}"
        raise ValueError(
            f"VAE: the {role} must give {expected} for {given}; got {got}; see pyro_vae.fold"
        )
    return built


def _different_latents(vae: Assembly, unconstrained: torch.Size) -> str:
    latent, guide = tuple(vae.prior.event_shape), tuple(vae.posterior.event_shape)
    if tuple(unconstrained) == latent:
        return f"prior and guide describe different latents: {latent} and {guide}"
    return (
        f"prior and guide describe different latents: {vae.prior.title} has shape "
        f"{tuple(unconstrained)} in unconstrained space, where the guide lives, and the guide has "
        f"shape {guide}"
    )
