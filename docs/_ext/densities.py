"""A picture of each family: its density at the standard values of its parameters, and beside them.

Values that occur again and again among draws have mass: they are dots. The rest is a line. Families
of vectors are shown by draws of their first two coordinates."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vae import Conditional, Parametric
from pyro_vae.distributions.supports import innermost

mpl.rcParams["svg.hashsalt"] = "pyro_vae"  # the same picture whenever it is drawn
STYLE = {"axes.edgecolor": "0.5", "xtick.color": "0.5", "ytick.color": "0.5", "font.size": 9}
DRAWS, POINTS = 4000, 401
ATOM = 0.004  # the share of draws from which a value counts as one with mass
MOVED = ("standard values", "all that is read higher", "what is read rising")
LEVELS = {"total_count": 12.0, "levels": 16.0}  # wide enough to see a shape


def pictured(cls: type[Conditional]) -> bool:
    """Whether a picture of the family makes sense: it has parameters, and numbers for draws."""
    is_discrete_vector = cls.example().support.event_dim and cls.name in ("one_hot", "multinomial")
    return issubclass(cls, Parametric) and bool(cls.params) and not is_discrete_vector


def picture(cls: Any) -> Figure:
    """The density for three values of the parameters."""
    with mpl.rc_context(STYLE), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        is_vector = innermost(cls.example()(_context(cls.example(), 0))).event_dim > 0
        figure = Figure(figsize=(4.6, 2.3), layout="constrained")
        axes = figure.subplots()
        heads = [_head(cls, 3 if is_vector else 1)] * (3 if cls.example().num_params else 1)
        built = [head(_context(head, number)) for number, head in enumerate(heads)]
        if is_vector:
            _scatters(axes, built)
        else:
            _densities(axes, built, cls.params)
        axes.spines[["top", "right"]].set_visible(False)
        legend = axes.legend(frameon=False, fontsize=7, labelcolor="0.5", loc="best")
        legend.set_in_layout(False)
        axes.set_ylabel("second" if is_vector else "density, or mass (dots)", color="0.5")
    return figure


def _head(cls: Any, size: int) -> Any:
    """A small one, with totals wide enough to see a shape."""
    fixed = {name: LEVELS.get(name, value) for name, value in cls.required().items()}
    example = cls.example()
    others = {
        key: value
        for key, value in example.options.items()
        if key in ("categories", "rank") and value is not None
    }
    others = {key: 6 if key == "categories" else value for key, value in others.items()}
    return cls((size,), **{**fixed, **others})


def _context(head: Any, number: int) -> torch.Tensor:
    """Zeros, which mean the standard values; then the numbers read moved up, and to and fro."""
    context = torch.zeros(head.num_params)
    if number == 1:
        context += 1.2
    if number == 2:
        context += torch.linspace(-1.2, 0.6, head.num_params)
    return context


def _label(cell: Any, params: tuple[str, ...], number: int) -> str:
    """The parameters of a distribution of one number, or where its context was moved."""
    values = ((name, getattr(cell, name, None)) for name in params if name not in LEVELS)
    told = [
        f"{name} {float(value):.2g}"
        for name, value in values
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.isfinite()
    ]
    return ", ".join(told) or MOVED[number]


def _densities(axes: Any, built: list[Any], params: tuple[str, ...]) -> None:
    """Densities of single numbers on one grid, and masses."""
    draws = [each.sample((DRAWS,)).flatten() for each in built]
    atoms = [_atoms(each) for each in draws]
    rests = [each[~torch.isin(each, mass)] for each, mass in zip(draws, atoms, strict=True)]
    grid = _grid([rest for rest in rests if len(rest) > 0.05 * DRAWS], innermost(built[0]).support)
    heights = [_heights(each, grid) for each in built]
    masses = [_heights(each, values) for each, values in zip(built, atoms, strict=True)]
    for number, each in enumerate(built):
        colour, beside = f"C{number}", atoms[number] + 0.12 * (number - 1) * (len(grid) == 0)
        axes.plot([], [], color=colour, label=_label(innermost(each), params, number))
        axes.vlines(beside, 0, masses[number], color=colour, alpha=0.4, lw=1)
        axes.plot(beside, masses[number], "o", color=colour, ms=3)
        axes.plot(grid, heights[number], color=colour, lw=1.5)
    if len(grid):  # a pole is not seen to its end
        usual = 2 * torch.cat(heights).quantile(0.97)
        top = max(float(usual), *(1.1 * float(mass) for mass in torch.cat(masses)), 0.0)
        axes.set_ylim(0, min(axes.get_ylim()[1], top))


def _heights(built: Any, values: torch.Tensor) -> torch.Tensor:
    """Densities, or masses, of values; none of none."""
    return built.log_prob(values[:, None]).exp() if len(values) else values


def _atoms(draws: torch.Tensor) -> torch.Tensor:
    """The values that occur again and again."""
    values, counts = draws.unique(return_counts=True)
    return values[counts > ATOM * DRAWS]


def _grid(draws: list[torch.Tensor], support: Any) -> torch.Tensor:
    """Points between the quantiles of all draws, inside the support; none where there are none."""
    if not draws:
        return torch.empty(0)
    lows, highs = np.array([np.quantile(each, [0.03, 0.94]) for each in draws]).T
    low, high = lows.min(), highs.max()
    if 0 < 3 * np.median(highs) < high:
        high = 3 * np.median(highs)  # one wide density does not make the others a line
    if low < 3 * np.median(lows) < 0:
        low = 3 * np.median(lows)
    if bool(support.check(torch.tensor(1e-4))) and not bool(support.check(torch.tensor(-1e-4))):
        low = 1e-4  # from the end of the support
    grid = torch.linspace(float(low), float(high), POINTS)
    return grid[support.check(grid)]


def _scatters(axes: Any, built: list[Any]) -> None:
    """Draws of vectors."""
    for number, (each, label) in enumerate(zip(built, MOVED, strict=False)):
        draws = each.sample((400,)).numpy()
        axes.plot(draws[:, 0], draws[:, 1], ".", color=f"C{number}", ms=2, label=label)
    axes.set_xlabel("first coordinate", color="0.5")
