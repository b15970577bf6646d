r"""Mixtures :math:`p(z) = \sum_k \pi_k\, p_k(z)`: of one family, or of the guide at some inputs."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from .. import distributions as dists
from ..data.rows import Rows
from ..distributions.supports import innermost
from ..guards import whole_number
from .base import Conditional, Shape, as_shape, declared
from .declared import at
from .units import InUnits, in_shape


class Mixture(Conditional, name="mixture"):
    r"""A mixture of K components of one family.

    .. math:: p(x \mid h) = \sum_{k=1}^K \mathrm{softmax}(h_0)_k\, p(x \mid h_k)

    As a prior it clusters the latents. As a likelihood of each element it has several peaks. As a
    guide it follows posteriors with several modes; its components must then be normal, so that
    draws have a gradient.

    Arguments:
        event_shape: The shape of one draw.
        components: How many components.
        component: The family of the components: a name, or a table with its fixed and learned
            parameters.
        each: ``"event"`` for one mixture over the whole event, ``"element"`` for one over each
            element.
        learned: Whether the parameters are learned, instead of read from the context.

    Raises:
        ValueError: An argument makes no sense, or the component takes its parameters from nowhere.

    Example:
        >>> prior = Mixture((2,), components=10, learned=True)
        >>> prior().sample((7,)).shape
        torch.Size([7, 2])
        >>> Mixture((64,), components=5, component="laplace", each="element").num_params
        960
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        components: int = 10,
        component: str | dict[str, Any] = "normal",
        each: str = "event",
        learned: bool = False,
    ) -> None:
        super().__init__()
        whole_number("components", components, at_least=1)
        if each not in ("event", "element"):
            raise ValueError(f"each must be 'event' or 'element'; got {each!r}")

        self.event_shape = as_shape(event_shape)
        self.components = components
        self.each = each
        with at("component"):
            self.component = (
                declared(component, self.event_shape)
                if each == "event"
                else _of_one_element(component, self.event_shape)
            )

        mixed = torch.Size([]) if each == "event" else self.event_shape
        self.read_shape = torch.Size((*mixed, components, 1 + self.component.num_params))
        self.num_params = 0 if learned else self.read_shape.numel()
        self.scores_any_value = self.component.scores_any_value
        if learned:
            self.parameters_read = nn.Parameter(0.5 * torch.randn(self.read_shape))

    @property
    def support(self) -> constraints.Constraint:
        support = self.component.support
        if self.each == "event":
            return support
        return constraints.independent(support, len(self.event_shape))

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        numbers: Tensor
        if read is None:
            numbers = self.parameters_read
        else:
            numbers = read.reshape(read.shape[:-1] + self.read_shape)

        weights = dist.Categorical(logits=numbers[..., 0])
        built = dists.Mixture(weights, self.component(numbers[..., 1:]))
        return built.to_event(len(self.event_shape) - built.event_dim)

    @classmethod
    def with_data(cls, given: dict[str, Any], x: Rows) -> dict[str, Any]:
        part = given.get("component", "normal")
        if not isinstance(part, (str, dict)):
            return given  # refused by its constructor
        table = {"name": part} if isinstance(part, str) else part
        family = Conditional.lookup(table.get("name")) or Conditional
        full = family.with_data(table, x)
        return {**given, "component": full} if len(full) > 1 else given

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), components=2)


def _of_one_element(component: str | dict[str, Any], event_shape: torch.Size) -> Conditional:
    """A family of single numbers; what it knows of the units of each stands beside the K."""
    table: Any = {"name": component} if isinstance(component, str) else component
    family: Any = Conditional.lookup(table.get("name") if isinstance(table, dict) else None)
    units: Any = getattr(family, "units", None)
    given = {key: table[key] for key in (units.arguments if units else ()) if key in table}
    if given:
        table = {key: value for key, value in table.items() if key not in given}

    whole = declared(table, (2,))
    if innermost(whole(torch.zeros(whole.num_params))).event_shape != ():
        raise ValueError(f"{whole.name} is a family of whole vectors; use each='event'")
    single: Any = declared(table, ())
    if given:
        beside = {key: in_shape(key, value, event_shape) for key, value in given.items()}
        each = {key: tensor.unsqueeze(-1) for key, tensor in beside.items()}
        single.in_units = InUnits(units, torch.Size((*event_shape, 1)), **each)
    return single


class Vamp(Conditional, name="vamp"):
    r"""The average of the guide over learned pseudo-inputs.

    .. math:: p(z) = \frac{1}{K} \sum_{k=1}^K q_\phi(z \mid u_k)

    The optimal prior is the average of the guide over all data. This one averages over K
    pseudo-inputs, which start at data and are trained with the rest. Its latents are real numbers,
    as those of the guide are.

    Arguments:
        event_shape: The shape of one latent.
        data_shape: The shape of one datum.
        components: How many pseudo-inputs.

    References:
        | VAE with a VampPrior (Tomczak & Welling, 2018)
        | https://arxiv.org/abs/1705.07120

    Example:
        >>> prior = Vamp((2,), (5,), components=20)
        >>> prior(Normal((2,), loc=0.0, scale=1.0)).event_shape
        torch.Size([2])
    """

    num_sizes = 2
    reads_guide = True

    def __init__(self, event_shape: Shape, data_shape: Shape, *, components: int = 500) -> None:
        super().__init__()
        whole_number("components", components, at_least=1)
        self.event_shape = as_shape(event_shape)
        self.components = components
        self.pseudo_inputs = nn.Parameter(torch.randn(components, *as_shape(data_shape)))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @classmethod
    def standalone(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    def initialize(self, x: Rows) -> None:
        """Start the pseudo-inputs at data, and missing cells at the mean.

        The data are drawn without replacement, anew when all have been drawn.
        """
        order = torch.cat(
            [torch.randperm(len(x), device="cpu") for _ in range(1 + self.components // len(x))]
        )
        drawn = x.take(order[: self.components].numpy(), like=self.pseudo_inputs)
        if bool(drawn.isnan().any()):
            drawn = torch.where(drawn.isnan(), x.moments()[0].to(drawn), drawn)
        self.pseudo_inputs.data.copy_(drawn)

    def forward(self, context: Any = None) -> TorchDistribution:
        """The mixture; its context is the guide, a conditional."""
        if not isinstance(context, Conditional):
            raise ValueError("Vamp reads the guide as its context; the VAE gives it")
        guide = context(self.pseudo_inputs)
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(self.components))
        return dists.Mixture(weights, guide)

    @classmethod
    def example(cls) -> Conditional:
        return cls((3,), (4,), components=5)


__all__ = ["Mixture", "Vamp"]
