"""Adam's update (Kingma & Ba, 2015, algorithm 1), as operations that a compiler can fuse."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
OTHER_RULES = ("amsgrad", "maximize", "weight_decay", "differentiable", "decoupled_weight_decay")


class Adam:
    """What ``torch.optim.Adam`` does to its parameters.

    It works on the state of the optimiser, which may make steps of its own in between.

    Arguments:
        optimiser: The optimiser, after its first step.
        trained: The parameters that it moves.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
        (self.group,) = optimiser.param_groups
        states = [optimiser.state[parameter] for parameter in trained]
        self.steps = [state["step"] for state in states]
        self.means = [as_vector(state["exp_avg"]) for state in states]
        self.squares = [as_vector(state["exp_avg_sq"]) for state in states]

    @staticmethod
    def fits(optimiser: torch.optim.Optimizer) -> bool:
        """Whether an optimiser is Adam without variations."""
        group, *others = optimiser.param_groups
        varied = others or any(group.get(rule) for rule in OTHER_RULES)
        hooked = any(getattr(optimiser, hooks, None) for hooks in STEP_HOOKS)
        own_step = "step" in vars(optimiser)
        return type(optimiser) is torch.optim.Adam and not (varied or hooked or own_step)

    def counted(self) -> int:
        """How many steps were counted, by whomever."""
        return int(self.steps[0])

    def factors(self, count: int) -> tuple[float, float]:
        """How far the step of that number, from 1, goes, and by what it divides the root of the
        second moment.
        """
        first, second = self.group["betas"]
        return self.group["lr"] / (1 - first**count), math.sqrt(1 - second**count)

    def count(self, steps: int) -> None:
        """Note that so many steps were made."""
        for step in self.steps:
            step += steps

    def update(
        self, parameters: list[Tensor], gradients: list[Tensor], factors: Tensor, is_finite: Tensor
    ) -> None:
        """Move parameters and moments, if loss and gradient are finite."""
        first, second = self.group["betas"]
        size, correction = factors[0], factors[1]
        for parameter, gradient, mean, square in zip(
            parameters, gradients, self.means, self.squares, strict=True
        ):
            gradient = gradient.view_as(parameter)
            new_mean = mean.lerp(gradient, 1 - first)
            new_square = second * square + (1 - second) * gradient.square()
            root = new_square.sqrt() / correction + self.group["eps"]
            moved = parameter - size * new_mean / root

            parameter.copy_(torch.where(is_finite, moved, parameter))
            mean.copy_(torch.where(is_finite, new_mean, mean))
            square.copy_(torch.where(is_finite, new_square, square))


def as_vector(tensor: Tensor) -> Tensor:
    """The same memory, of at least one dimension.

    A number in double precision, captured as such, is a constant to the compiler: it would never
    move.
    """
    return torch.atleast_1d(tensor.detach())
