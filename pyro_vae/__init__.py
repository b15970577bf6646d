"""Variational autoencoders as declarative Pyro models: declare, fit, score."""

from . import data
from .conditionals.base import Amortised, Conditional, Parametric
from .conditionals.families import *  # noqa: F403  (every family is public by its class name)
from .conditionals.networks import MLP, Network, fold
from .data import DataError, binarize, binarize_afresh
from .inference.evidence import khat, log_evidence
from .inference.svi import cyclical_warmup, fit, linear_warmup
from .inference.terms import Terms, elbo, ess, iwae, terms
from .spec import CheckpointError, build, describe, load, save
from .vae import VAE

__version__ = "0.1.0"
