r"""The part of a VAE that knows classes: :math:`q(c \mid x)` and :math:`p(c)`.

With it c may be unknown for some rows. It is then a latent class, summed over exactly (M2 of Kingma
et al., 2014, https://arxiv.org/abs/1406.5298, eqs. 6 to 9):

.. math::

    \log p(x) &\ge \sum_c q(c \mid x) \big[ \mathcal{L}(x, c) + \log p(c) - \log q(c \mid x) \big]

    \log p(x, c) &\ge \mathcal{L}(x, c) + \log p(c)

with :math:`\mathcal{L}` the bound of log p(x|c) that the conditional VAE has. The second says
nothing of q(c|x), so that :math:`\alpha \log q(c \mid x)` is added where c is known.
"""

from __future__ import annotations

import numbers

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ..conditionals.base import Amortised, Conditional
from ..conditionals.classes import OneHot
from ..conditionals.networks import filled

WEIGHT = 200.0  # of digits with 100 labels; see docs/decisions/0051
IMPOSSIBLE = -1e4  # a log probability whose exponential is 0 in any precision


class Classifier(nn.Module):
    r""":math:`q(c \mid x)`, and :math:`p(c)`, whose logits are learned and begin at 0.

    Arguments:
        conditional: :math:`q(c \mid x)`: a :class:`.OneHot` over the classes, behind a network of
            x.
        weight: :math:`\alpha`, by which :math:`\log q(c \mid x)` counts in the loss of a row whose
            class is known.

    Raises:
        TypeError: The conditional is no :class:`.OneHot`.
        ValueError: The weight is no number from 0, or the conditional is over no single vector.

    References:
        | Semi-supervised learning with deep generative models (Kingma et al., 2014)
        | https://arxiv.org/abs/1406.5298

    Example:
        >>> classifier = Classifier(Amortised(MLP(5, 3), OneHot((3,))))
        >>> classifier(torch.zeros(7, 5)).batch_shape
        torch.Size([7])
    """

    def __init__(self, conditional: Conditional, *, weight: float = WEIGHT) -> None:
        super().__init__()
        if not isinstance(conditional, Amortised) or not isinstance(conditional.head, OneHot):
            raise TypeError(
                f"Classifier needs q(c | x) as a OneHot behind a network; got {conditional!r:.60}"
            )
        if len(conditional.event_shape) != 1:
            raise ValueError(
                "Classifier needs classes along one dimension; got shape "
                f"{tuple(conditional.event_shape)}"
            )
        is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a number from 0; got {weight!r}")
        self.conditional = conditional
        self.weight = float(weight)
        self.prior = OneHot(conditional.event_shape, logits="learned")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return self.conditional.event_shape[0]

    def forward(self, x: Tensor) -> TorchDistribution:
        """q(c | x), of batch shape ``(N,)``; missing cells are at what is typical."""
        network = getattr(self.conditional, "network", None)
        return self.conditional(filled(x, network))

    def pinned(self, logits: Tensor, c: Tensor) -> Tensor:
        """log q(c | x) where the class is unknown; where it is known all mass is on it.

        Arguments:
            logits: log q(c | x), of shape ``(N, C)``.
            c: Classes one-hot, ``(N, C)``, NaN where unknown.
        """
        known = torch.where(c == 1, 0.0, IMPOSSIBLE).to(logits)
        return torch.where(c.isnan(), logits, known)

    def score(self, logits: Tensor, c: Tensor) -> Tensor:
        """The weight times log q(c | x) where the class is known, else 0: ``(N,)``.

        Arguments:
            logits: log q(c | x), of shape ``(N, C)``.
            c: Classes one-hot, ``(N, C)``, NaN where unknown.
        """
        return self.weight * (logits * c.nan_to_num(0.0)).sum(-1)
