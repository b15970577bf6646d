"""Pictures. Each function returns a matplotlib figure, which ``figure.savefig(path)`` writes; the
state of pyplot is left alone."""

from .model import interpolation as interpolation
from .model import latent_space as latent_space
from .model import reconstructions as reconstructions
from .model import samples as samples
from .model import training as training
from .model import traversal as traversal
from .results import bidirectional as bidirectional
from .results import bounds as bounds
from .results import calibration as calibration
from .results import evidence as evidence
from .results import posteriors as posteriors
