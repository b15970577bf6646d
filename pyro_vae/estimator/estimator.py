"""A VAE as a scikit-learn estimator: for pipelines, cross-validation and searches over its
arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.random import RandomState
from pyro.infer import ELBO
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_array, check_is_fitted

from ..conditionals.base import Shape
from ..data.columns import as_array, refuse_other_order
from ..data.rows import Rows
from ..distributions.summaries import mean_or_average, mean_or_mode
from ..evidence.evidence import log_evidence
from ..guards import mode, seeded, whole_number
from ..spec.build import build
from ..spec.parts import Part
from ..training.fit import fit
from ..training.schedules import Schedule
from ..training.weighing import numbers_of
from ..vae import VAE
from .tables import continued, rows_of, seed_from

if TYPE_CHECKING:
    import pandas

ROWS = 4096  # of latents, decoded at once
BUILD_OPTIONS = ("latent", "prior", "likelihood", "guide", "missingness", "hidden")
OBJECTIVE = ("loss", "particles", "beta", "free_bits")
STEPS = ("epochs", "batch_size", "learning_rate", "clip_norm", "patience", "compile", "device")
FIT_OPTIONS = OBJECTIVE + STEPS


class VAEEstimator(ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin, BaseEstimator):
    """A VAE as a scikit-learn estimator: a density of the rows of X, and a map of X to latents.

    The arguments are mostly those of :func:`build` and :func:`fit`; ``fit`` checks them. X is a
    table of shape ``(N, features)``, NaN where missing: an array, a frame (whose strings and
    categories are classes), a sparse one of scipy's or torch's, an AnnData, or :class:`.Rows`. For
    data of another shape and for data given c, use :func:`build` and :func:`fit`; for the error of
    log p(x), use :func:`log_evidence`, which also takes ``vae_``, the trained :class:`VAE`. A
    search over `missingness`, or over densities and likelihoods of counts or classes together,
    compares scores on different scales.

    After ``fit`` there are ``vae_``; ``history_``, a data frame with a row for each epoch;
    ``seed_``, with which ``log_evidence(vae_, X, seed=seed_)`` makes the draws of
    ``score_samples``; ``n_features_in_`` and, where X was a data frame, ``feature_names_in_``.

    Arguments:
        latent: The shape of the latents, ``Z``.
        prior: The prior, a name or a table.
        likelihood: The likelihood, likewise (default: that of :func:`build`).
        guide: The guide, a name or a table (default: what suits the prior).
        missingness: Why cells are missing (default: no reason). Scores are then of log p(x, s).
        hidden: The widths of the hidden layers (default: those of MLP); ``[]`` for a linear VAE.
        loss: The name of a loss, or a Pyro ELBO.
        particles: The samples of z for each datum in training (default: the loss's own).
        beta: The weight of the KL term: a number, or a function of the epoch.
        free_bits: The nats of KL in each latent dimension that cost nothing.
        epochs: The most passes over the data.
        batch_size: The number of data in a step.
        learning_rate: A number, or a function of the epoch.
        clip_norm: The largest norm of the gradient of the loss per datum.
        validation_fraction: The share, or number, of rows held out for early stopping.
        patience: After how many epochs without a lower validation loss it stops; None for never.
        compile: Whether a step is one compiled call; "auto" where that is repaid.
        device: Where the VAE is; "auto" for a GPU where there is one; None for torch's default.
        num_samples: The samples of z for each datum after training.
        random_state: The seed of all draws. A RandomState, or None for numpy's global one, gives a
            new seed at each ``fit``, and moves on.
        progress: Whether a terminal shows a progress bar.

    Example:
        >>> X = torch.randn(100, 3).numpy()
        >>> estimator = VAEEstimator(latent=1, hidden=[2], epochs=5).fit(X)
        >>> estimator.score_samples(X).shape, estimator.transform(X).shape
        ((100,), (100, 1))
    """

    def __init__(
        self,
        *,
        latent: Shape = 8,
        prior: Part = "normal",
        likelihood: Part | None = None,
        guide: Part | None = None,
        missingness: Part | None = None,
        hidden: Sequence[int] | None = None,
        loss: str | ELBO = "elbo",
        particles: int | None = None,
        beta: Schedule = 1.0,
        free_bits: float | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        learning_rate: Schedule = 1e-3,
        clip_norm: float = math.inf,
        validation_fraction: float | None = None,
        patience: int | None = 20,
        compile: bool | str = "auto",
        device: str | torch.device | None = None,
        num_samples: int = 1000,
        random_state: int | RandomState | None = 0,
        progress: bool = False,
    ) -> None:
        self.latent = latent
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.missingness = missingness
        self.hidden = hidden
        self.loss = loss
        self.particles = particles
        self.beta = beta
        self.free_bits = free_bits
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.compile = compile
        self.device = device
        self.num_samples = num_samples
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Build a VAE for the data and train it; each call starts anew. y is ignored, and
        `sample_weight` the `weights` of :func:`fit`, one for each row.

        Raises:
            DataError: The data do not fit the likelihood.
            ValueError: An argument makes no sense, or X is no table of numbers.
            FloatingPointError: Training has diverged.
            KeyboardInterrupt: Training was interrupted; what was learnt by then is kept.

        Warns:
            UserWarning: After at least 10 epochs no latent dimension is used.
        """
        rows = rows_of(self, X, reset=True)
        refuse_other_order(X, sample_weight, "sample_weight")
        whole_number("num_samples", self.num_samples, at_least=1)
        seed = seed_from(self.random_state)
        vae = build(rows, **{name: getattr(self, name) for name in BUILD_OPTIONS}, seed=seed)
        return self._train(vae, rows, sample_weight, seed, None)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train ``vae_`` on, for `epochs` epochs more; where there is none, as ``fit``.

        X may be other rows of the same columns: the parts of the VAE stay as they were built, with
        their classes and trials. ``history_`` goes on, but schedules and the optimiser start anew.

        Raises:
            DataError, ValueError, FloatingPointError, KeyboardInterrupt: As ``fit``.
        """
        if not hasattr(self, "vae_"):
            return self.fit(X, sample_weight=sample_weight)
        rows = rows_of(self, X)
        refuse_other_order(X, sample_weight, "sample_weight")
        return self._train(self.vae_, rows, sample_weight, self.seed_, self.history_)

    def _train(
        self, vae: VAE, rows: Rows, sample_weight: Any, seed: int, before: pandas.DataFrame | None
    ) -> Self:
        """Train a VAE, whose history `before` is given, and keep it: interrupted as well."""
        weights = None if sample_weight is None else numbers_of(sample_weight, len(rows))
        train, held_out = rows, None
        if self.validation_fraction is not None:
            parts = train_test_split(
                np.arange(len(rows)), test_size=self.validation_fraction, random_state=seed
            )
            train, held_out = map(rows.only, parts)
            weights = None if weights is None else weights[parts[0]]
        options = {name: getattr(self, name) for name in FIT_OPTIONS}
        options |= {"validation": held_out, "weights": weights, "seed": seed}
        history = None
        try:
            history = fit(vae, train, **options, progress=self.progress)
        except KeyboardInterrupt as error:
            history = getattr(error, "history", None)
            raise
        finally:
            if history is not None and len(history):
                self.vae_ = vae
                self.history_ = history if before is None else continued(before, history)
                self.seed_ = seed
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row, in nats; of a row with missing cells, that of the others.

        It is exact over discrete latents, else by importance sampling. The draws of z depend on a
        row's position, so reordering X changes the estimates slightly.

        Returns:
            An array of shape ``(N,)``.

        Raises:
            DataError: The data do not fit the likelihood.
            ValueError: X is no table of numbers, or its columns are not those of ``fit``.
            NotFittedError: ``fit`` was not called.

        Warns:
            UserWarning: For some rows the number cannot be trusted: they are flagged.
        """
        check_is_fitted(self)
        found = log_evidence(
            self.vae_, rows_of(self, X), num_samples=self.num_samples, seed=self.seed_
        )
        return found["log_evidence"].values

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples``, in nats per datum; y is ignored."""
        return float(self.score_samples(X).mean())

    def transform(self, X: Any) -> np.ndarray:
        r"""The mean of :math:`q(z \mid x)`; where that is not finite, of `num_samples` draws.

        Returns:
            An array of shape ``(N, latents)`` in the precision of the VAE; latents of another shape
            are flattened.

        Raises:
            DataError, ValueError, NotFittedError: As ``score_samples``.
        """
        check_is_fitted(self)
        rows = rows_of(self, X)
        with torch.no_grad(), seeded(self.seed_), mode(self.vae_, training=False):
            means = mean_or_average(self.vae_.encode(rows), self.num_samples)
            return means.flatten(1).numpy(force=True)

    def inverse_transform(self, X: Any) -> np.ndarray:
        r"""The mean of :math:`p(x \mid z)`, or its mode where it has no mean (classes).

        Arguments:
            X: Latents, of the shape that ``transform`` returns.

        Returns:
            An array of shape ``(N, features)`` in the precision of the VAE, or of objects
            where there are labels.

        Raises:
            DataError: The latents have another shape.
            ValueError: X is no table of finite numbers.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        z = check_array(X, copy=True)
        shape = self.vae_.prior.event_shape
        if z.shape[1] == shape.numel():
            z = z.reshape(len(z), *shape)

        starts = range(0, len(z), ROWS)
        with torch.no_grad(), seeded(self.seed_), mode(self.vae_, training=False):
            pieces = [mean_or_mode(self.vae_.decode(z[start : start + ROWS])) for start in starts]
        return as_array(self.vae_.named(torch.cat(pieces)))

    def sample(self, n_samples: int = 1, random_state: int | RandomState | None = 0) -> np.ndarray:
        """Data drawn from the model. As with ``KernelDensity``, the result is an array.

        Arguments:
            n_samples: How many data.
            random_state: A whole number is the seed, and gives the same data again. None and a
                RandomState give new data at each call.

        Returns:
            An array of shape ``(n_samples, features)``, as from ``inverse_transform``.

        Raises:
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        whole_number("n_samples", n_samples, at_least=1)
        return as_array(self.vae_.sample(n_samples, seed=seed_from(random_state)))

    @property
    def _n_features_out(self) -> int:
        """The number of names that ``get_feature_names_out`` gives."""
        return self.vae_.prior.event_shape.numel()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = []
        return tags
