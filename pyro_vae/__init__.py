"""Variational autoencoders as declarative Pyro models: declare, fit, score."""

from typing import TYPE_CHECKING, Any

from . import data as data
from .checkpoint import CheckpointError as CheckpointError
from .checkpoint import load as load
from .checkpoint import save as save
from .condition import Condition as Condition
from .conditionals.base import Amortised as Amortised
from .conditionals.base import Conditional as Conditional
from .conditionals.columns import *
from .conditionals.discrete import *
from .conditionals.families import *
from .conditionals.flows import *
from .conditionals.hierarchy import *
from .conditionals.mixtures import *
from .conditionals.networks import *
from .conditionals.parametric import Parametric as Parametric
from .conditionals.vectors import *
from .criticism.bounds import bidirectional_log_evidence as bidirectional_log_evidence
from .criticism.calibration import calibrate as calibrate
from .criticism.calibration import check_predictions as check_predictions
from .criticism.export import to_datatree as to_datatree
from .criticism.gaps import gaps as gaps
from .criticism.models import compare_models as compare_models
from .criticism.posteriors import compare_posteriors as compare_posteriors
from .criticism.report import report as report
from .data import binarize as binarize
from .data import binarize_afresh as binarize_afresh
from .inference.annealing import annealed_log_evidence as annealed_log_evidence
from .inference.bridge import bridge_log_evidence as bridge_log_evidence
from .inference.em import MonteCarloEM as MonteCarloEM
from .inference.evidence import log_evidence as log_evidence
from .inference.mcmc import sample_posterior as sample_posterior
from .inference.objectives import FreeBits as FreeBits
from .inference.objectives import ImportanceWeighted as ImportanceWeighted
from .inference.pareto import khat as khat
from .inference.schedules import cyclical_warmup as cyclical_warmup
from .inference.schedules import linear_warmup as linear_warmup
from .inference.svi import fit as fit
from .inference.terms import Terms as Terms
from .inference.terms import elbo as elbo
from .inference.terms import ess as ess
from .inference.terms import iwae as iwae
from .inference.terms import terms as terms
from .rows import DataError as DataError
from .spec import build as build
from .spec import describe as describe
from .vae import VAE as VAE

if TYPE_CHECKING:
    from .estimator import VAEEstimator as VAEEstimator

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``VAEEstimator`` imports scikit-learn, so it is imported when it is first asked for."""
    if name == "VAEEstimator":
        from .estimator import VAEEstimator

        return VAEEstimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
