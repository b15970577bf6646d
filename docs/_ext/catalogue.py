"""The catalogue: every registered conditional, network and missingness, and the losses.

The docstring of a class has its formula. What else an entry has is asked of the class: its support,
the links of its parameters, the roles in which it can stand, a spec, and a picture."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import densities
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import Conditional, Missingness, Network, Parametric
from pyro_vae.cli.catalogue import groups, roles, summary
from pyro_vae.cli.explain import explain
from pyro_vae.distributions.links import fitting, link
from pyro_vae.distributions.supports import base_of

PAGES = {
    "numbers": ("Numbers", "continuous limits"),
    "with_atoms": ("Amounts and shares with zeros", "atoms"),
    "counts": ("Counts", "counts"),
    "classes": ("Classes", "classes"),
    "vectors": ("Whole vectors", "vectors"),
    "flows": ("Flows", "flows"),
    "made_of_others": ("Made of others", "mixtures hierarchy columns experts"),
    "networks": ("Networks", "networks convolutions"),
    "missingness": ("Missing for a reason", "missingness self_masking"),
}
HEAD = """# Catalogue

What has a name in a spec. Each entry has its formula, its support, its parameters with their links,
the roles in which it can stand, and a spec to copy; `pyro-vae list` and `pyro-vae describe gamma`
show the same on a terminal.
"""
LOSSES = r"""What `loss=` of [`fit`](../api/training.md) takes by name, beside any ELBO of Pyro's.
What each maximises is written for one datum: $w = p(x, z) / q(z \mid x)$, K particles are draws of
the guide q, and E is the mean over them or over what stands below it."""
MAXIMISED = {
    "elbo": r"$\mathrm{E} \log w$",
    "mean_field": r"$\mathrm{E} \log p(x \mid z) - \mathrm{KL}(q \parallel p)$",
    "enum": r"$\sum_z q(z \mid x) \log w$ over all values of z",
    "iwae": r"$\mathrm{E} \log \frac{1}{K} \sum_k w_k$",
    "renyi": r"$\frac{1}{1 - \alpha}\, \mathrm{E} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}$",
    "wake_sleep": r"the model: that of `iwae`; the guide: $\mathrm{E}_{p(x, z)} \log q(z \mid x)$",
    "stl": "that of `iwae`; the gradient leaves out the score",
    "dreg": "that of `iwae`; the gradient is doubly reparameterised",
    "mcem": r"$\mathrm{E}_{p(z \mid x)} \log p(x, z)$, and of the guide $\log q(z \mid x)$",
    "miwae": r"$\frac{1}{M} \sum_m \mathrm{E} \log \frac{1}{K} \sum_k w_{mk}$ in M groups",
    "piwae": r"the model: $\mathrm{E} \log \frac{1}{M K} \sum_{m,k} w_{mk}$; the guide: `miwae`",
}
LINKS = {"Positive": "softplus", "Triangular": "softplus on the diagonal", "Ordered": "ordered"}


def pages() -> dict[str, str]:
    """The pages of the catalogue by name, in Markdown; the first lists all entries."""
    entries = [*Conditional.registry.values(), *Network.registry.values()]
    missingness = Missingness.registry.values()
    found = {}
    for page, (title, _) in PAGES.items():
        classes = [cls for cls in [*entries, *missingness] if _page(cls) == page]
        parts = [f"# {title}", *_notation(classes), *(_entry(cls) for cls in classes)]
        found[page] = "\n\n".join(parts)
    return {"catalogue": _index(), **found}


def _notation(classes: Iterable[type]) -> list[str]:
    """What the modules of classes say of all their formulas, once where they say the same."""
    texts = [inspect.getdoc(inspect.getmodule(cls)) or "" for cls in classes]
    paragraphs = dict.fromkeys(part for text in texts for part in text.split("\n\n"))
    said = [part for part in paragraphs if part.startswith("In the formulas")]
    return [f"```{{eval-rst}}\n{text}\n```" for text in said]


def _page(cls: type) -> str:
    """The page on which a class stands, by its module."""
    module = cls.__module__.rpartition(".")[2]
    return next(page for page, (_, modules) in PAGES.items() if module in modules.split())


def _index() -> str:
    """All entries with their roles, the losses, and the pages."""
    toctree = "\n".join(["```{toctree}", ":maxdepth: 2", "", *PAGES, "```"])
    conditionals = (
        [f"[`{name}`]({_page(cls)}.md#{name})", ", ".join(roles(cls)), summary(cls)]
        for name, cls in Conditional.registry.items()
    )
    rows = next(rows for title, _, rows in groups() if title == "Losses")
    named = ([f"`{name}`", MAXIMISED[name], text] for name, text in rows)
    parts = [
        HEAD,
        toctree,
        "## Conditionals",
        _table(["", "can stand as", "for"], conditionals),
        "## Losses",
        LOSSES,
        _table(["", "what it maximises", "what it is"], named),
    ]
    return "\n\n".join(parts) + "\n"


def _entry(cls: Any) -> str:
    """One entry: what the class says of itself, and what is asked of it."""
    directive = "\n".join(
        ["```{eval-rst}", ".. py:currentmodule:: pyro_vae", "", f".. autoclass:: {cls.__name__}"]
    )
    parts = [f"## {cls.name}", f"{directive}\n```"]
    if issubclass(cls, Conditional):
        support = words(cls.example().support)
        parts.insert(1, f"Support: {support}. Can stand as {', '.join(roles(cls))}.")
        if densities.pictured(cls):
            parts.insert(1, f"![{cls.name}](densities/{cls.name}.svg)")
    if issubclass(cls, Parametric) and cls.params:
        rows = [_parameter(cls, name) for name in cls.params]
        parts.append(_table(["parameter", "domain", "link", "other links", "standard"], rows))
    specs = re.findall(r"^((?:As|In) [^\n]*spec):\n\n((?: {4}.*\n|\n)+)", explain(cls.name), re.M)
    toml = (f"# {title.lower()}\n{textwrap.dedent(spec).strip()}" for title, spec in specs)
    parts.append("```toml\n" + "\n\n".join(toml) + "\n```")
    return "\n\n".join(parts)


def _parameter(cls: type[Parametric], name: str) -> list[str]:
    """The row of a parameter: domain, link, other links, standard value."""
    domain = cls.domain(name)
    usual = "fixed only"
    if cls.readable(name):
        transform = type(link(domain)).__name__.removesuffix("Transform")
        usual = LINKS.get(transform, "identity" if words(domain) == "real" else "sigmoid, scaled")
    others = ""
    if cls.readable(name):
        others = ", ".join(each for each in fitting(domain) if each != usual)
    return [f"`{name}`", words(domain), usual, others, f"{cls.standard[name]:g}"]


def words(constraint: Any) -> str:
    """A support or domain in words."""
    base = base_of(constraint)
    kind = type(base).__name__.lstrip("_")
    low, high = (getattr(base, f"{end}_bound", None) for end in ("lower", "upper"))
    if constraints.is_dependent(base):
        return "as the others allow"
    if kind == "IntegerInterval":
        return f"whole numbers from {low} to a bound that its arguments set"
    if kind.startswith("Integer"):
        return f"whole numbers from {low}"
    if kind in ("GreaterThan", "GreaterThanEq"):
        return "positive" if float(low) == 0 else f"from {low:g}"
    if kind == "Between" or any(isinstance(end, Tensor) for end in (low, high)):
        return "numbers between bounds that its arguments set"
    if kind == "Interval":
        return f"numbers from {low:g} to {high:g}"
    if kind == "WithAtoms":
        return f"{_ends(base)}, the ends with mass"
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()
    return {"circle": "angles", "supports": "that of each block"}.get(spaced, spaced)


def _ends(support: Any) -> str:
    """Where numbers with atoms lie."""
    found = re.fullmatch(r"WithAtoms\(([\d.]+), ([\d.]+|inf)\)", repr(support))
    if found is None:
        return "numbers between bounds that its arguments set"
    return f"numbers from {float(found[1]):g} to {float(found[2]):g}".replace(" to inf", "")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(folder: Path) -> None:
    """Draw the densities that are not there yet, or whose class or drawing is newer."""
    for name, cls in Conditional.registry.items():
        path = folder / f"{name}.svg"
        sources = inspect.getfile(cls), inspect.getfile(densities)
        newest = max(Path(source).stat().st_mtime for source in sources)
        if densities.pictured(cls) and not (path.is_file() and path.stat().st_mtime > newest):
            path.parent.mkdir(parents=True, exist_ok=True)
            densities.picture(cls).savefig(path, transparent=True)
