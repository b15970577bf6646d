"""What Pyro's SVI lacks for a VAE: a weight on the KL term, one optimiser for all parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_


class Tempered(Messenger):
    """Weighs the latent sites of model and guide alike; unlike ``poutine.scale`` it admits 0."""

    beta = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


class OneOptimiser(PyroOptim):
    """One torch optimiser over all parameters, on gradients per datum; Pyro's own has one for each
    tensor.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, clip_norm: float) -> None:
        super().__init__(type(optimiser), {})
        self.optimiser = optimiser
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.reached = self.parameters  # by a gradient, in the last step
        self.clip_norm = clip_norm
        self.batch = 1

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.reached = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in self.reached]
        if not gradients:
            return
        for gradient in gradients if self.batch != 1 else ():
            gradient.div_(self.batch)

        norm = float(norm_of(gradients))
        if not math.isfinite(norm):
            raise FloatingPointError("gradient")
        if norm > self.clip_norm:
            clip_grads_with_norm_(
                self.reached, self.clip_norm, torch.tensor(norm, dtype=torch.float64)
            )
        self.optimiser.step()
        for parameter in self.reached:
            parameter.grad = None

    def flush_subnormal(self) -> None:
        """Set to 0 what is too small for full precision in the state of the optimiser.

        The mean gradient of a dead unit decays until it is subnormal, and stays there; arithmetic
        on such numbers is many times slower on most processors, though not on a GPU.
        """
        for state in self.optimiser.state.values():
            for value in state.values():
                if isinstance(value, Tensor) and value.is_floating_point() and value.is_cpu:
                    value.masked_fill_(value.abs() < torch.finfo(value.dtype).tiny, 0.0)

    def get_state(self) -> dict:
        return self.optimiser.state_dict()

    def set_state(self, state_dict: dict) -> None:
        self.optimiser.load_state_dict(state_dict)


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together."""
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


def made_by(
    optimizer: Any, parameters: list[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """The optimiser, if what the caller gave makes one that steps without a closure."""
    made = None
    if callable(optimizer) and not _is_of_pyro(optimizer):
        made = optimizer(parameters, lr=learning_rate)
    if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise TypeError(
            "fit needs optimizer as a function of parameters and lr, such as torch.optim.AdamW or "
            f"a functools.partial of it; got {optimizer!r}"
        )
    return made


def _is_of_pyro(optimizer: Any) -> bool:
    """Whether it is one of ``pyro.optim``, which take their options as a dictionary."""
    return getattr(optimizer, "__module__", "").startswith("pyro.optim")
