"""VAEs among the estimators of scikit-learn.

These modules import scikit-learn, so the package imports them only when ``pyro_vae.VAEEstimator``
or ``pyro_vae.VAEImputer`` is first used."""

from .estimator import VAEEstimator as VAEEstimator
from .imputer import VAEImputer as VAEImputer
