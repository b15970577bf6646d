"""A step of training as a function that can be compiled or recorded: loss, gradients, update."""

from __future__ import annotations

import itertools
import math
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from ..density.direct import Direct
from ..vae import VAE
from .adam import Adam, as_vector
from .adapters import norm_of
from .ledger import Ledger
from .objectives import Objective


class Loss(nn.Module):
    """The loss per datum of a batch, in nats, as a module of the parameters of a VAE."""

    def __init__(self, elbo: Objective, vae: VAE, missing: bool) -> None:
        super().__init__()
        self.vae = vae
        self.missing = missing
        self.evaluate = elbo.evaluate

    def forward(self, beta: Any, *batch: Tensor) -> Tensor:
        densities = Direct(self.vae, batch, missing=self.missing)
        return self.evaluate(densities, beta) / len(batch[0])


def step_of(
    loss: Loss, trained: list[nn.Parameter], adam: Adam | None, clip: float, ledger: Ledger
) -> Callable[..., list[Tensor]]:
    """A step as a function, which gives those gradients that it does not use."""
    vectors = [as_vector(parameter) for parameter in trained]
    names: list[list[str]] = [[] for _ in trained]  # several where modules share a parameter
    places = {id(parameter): place for place, parameter in enumerate(trained)}
    for name, parameter in loss.named_parameters(remove_duplicate=False):
        if id(parameter) in places:
            names[places[id(parameter)]].append(name)

    def step(numbers: Tensor, *batch: Tensor) -> list[Tensor]:
        parameters = [v.view(p.shape) for v, p in zip(vectors, trained, strict=True)]

        def value(parameters: list[Tensor]) -> Tensor:
            named = {name: p for p, own in zip(parameters, names, strict=True) for name in own}
            return functional_call(loss, named, (numbers[0], *batch), tie_weights=False)

        gradients, mean = grad_and_value(value)(parameters)
        norm = norm_of(gradients)
        if clip < math.inf:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = [factor * gradient for gradient in gradients]
        with torch.no_grad():
            counts = ledger.note(mean * len(batch[0]), norm)
            if adam is None:
                return gradients
            adam.update(vectors, gradients, numbers[1:], counts)
        return []

    # the compiler keeps few entries for one code object: each run has its own
    return types.FunctionType(step.__code__.replace(), globals(), closure=step.__closure__)


def steps_of(num: int, batch_size: int) -> list[slice]:
    """The rows of each step; a last one alone, without a variance, is joined to those before."""
    starts = list(range(0, num, batch_size))
    if batch_size > 1 and num > batch_size and num - starts[-1] == 1:
        starts.pop()
    return [slice(*ends) for ends in itertools.pairwise([*starts, num])]
