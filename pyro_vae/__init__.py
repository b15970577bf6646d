"""Variational autoencoders as declarative Pyro models: declare, fit, score."""

from typing import TYPE_CHECKING, Any

from . import data as data
from .assembly.classifier import Classifier as Classifier
from .assembly.condition import Condition as Condition
from .conditionals.atoms import *
from .conditionals.base import Amortised as Amortised
from .conditionals.base import Conditional as Conditional
from .conditionals.blocks import *
from .conditionals.classes import *
from .conditionals.columns import *
from .conditionals.continuous import *
from .conditionals.convolutions import *
from .conditionals.counts import *
from .conditionals.experts import *
from .conditionals.flows import *
from .conditionals.hierarchy import Hierarchy as Hierarchy
from .conditionals.limits import *
from .conditionals.missingness import *
from .conditionals.mixtures import *
from .conditionals.networks import *
from .conditionals.parametric import Parametric as Parametric
from .conditionals.self_masking import *
from .conditionals.vectors import *
from .criticism.averaging import average as average
from .criticism.bayes_factor import log_bayes_factor as log_bayes_factor
from .criticism.bidirectional import bidirectional_log_evidence as bidirectional_log_evidence
from .criticism.calibration import calibrate as calibrate
from .criticism.contrasts import contrast as contrast
from .criticism.expectations import expect as expect
from .criticism.export import to_datatree as to_datatree
from .criticism.gaps import gaps as gaps
from .criticism.latents import embed as embed
from .criticism.latents import interpolate as interpolate
from .criticism.latents import traverse as traverse
from .criticism.models import compare_models as compare_models
from .criticism.outliers import outliers as outliers
from .criticism.posteriors import compare_posteriors as compare_posteriors
from .criticism.predictions import check_predictions as check_predictions
from .criticism.references import reference as reference
from .criticism.report import report as report
from .criticism.show import show as show
from .criticism.stacking import stack as stack
from .data.arrays import binarize as binarize
from .data.arrays import binarize_afresh as binarize_afresh
from .data.rows import DataError as DataError
from .data.sealed import CheckpointError as CheckpointError
from .density.problem import Problem as Problem
from .density.problem import terms as terms
from .density.terms import Terms as Terms
from .density.terms import elbo as elbo
from .density.terms import ess as ess
from .density.terms import iwae as iwae
from .evidence.annealing import annealed_log_evidence as annealed_log_evidence
from .evidence.bridge import bridge_log_evidence as bridge_log_evidence
from .evidence.evidence import log_evidence as log_evidence
from .evidence.pareto import khat as khat
from .evidence.shards import concat as concat
from .posterior.mcmc import sample_posterior as sample_posterior
from .spec.build import build as build
from .spec.checkpoint import load as load
from .spec.checkpoint import save as save
from .spec.describe import describe as describe
from .spec.schema import json_schema as json_schema
from .training.em import MonteCarloEM as MonteCarloEM
from .training.fit import fit as fit
from .training.free_bits import FreeBits as FreeBits
from .training.group import GroupError as GroupError
from .training.importance_weighted import ImportanceWeighted as ImportanceWeighted
from .training.loss import Loss as Loss
from .training.schedules import cyclical_warmup as cyclical_warmup
from .training.schedules import linear_warmup as linear_warmup
from .vae import VAE as VAE

if TYPE_CHECKING:
    from .estimator import VAEEstimator as VAEEstimator
    from .estimator import VAEImputer as VAEImputer

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for, and names from before.

    ``VAEEstimator`` and ``VAEImputer`` import scikit-learn. ``Ladder`` is now :class:`Hierarchy`.
    """
    if name in ("VAEEstimator", "VAEImputer"):
        from . import estimator

        return getattr(estimator, name)
    if name == "Ladder":
        import warnings

        warnings.warn("pyro_vae.Ladder is now Hierarchy", DeprecationWarning, stacklevel=2)
        return Hierarchy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
