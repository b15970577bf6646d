"""The declarative form: a VAE from names and plain values, and its exact inverse.

A spec has no classes of its own: the constructor is the schema. Each part is a table with the
``name`` of a registered conditional, the constructor's own arguments, and where the part reads a
context, a ``network``. Sizes that follow from ``event`` and ``latent`` are never written::

    event = [64]
    latent = [8]
    prior = {name = "normal", loc = 0.0, scale = 1.0}
    likelihood = {name = "binomial", total_count = 16.0, network = {name = "mlp", hidden = [200]}}
    guide = {name = "normal", network = {name = "mlp", hidden = [200]}}

A conditional VAE has a table ``condition`` (:class:`.Condition`). ``modules = ["mine"]`` imports
modules that register conditionals or networks of one's own, from beside the file or from the Python
path."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..assembly.condition import Condition
from ..conditionals.base import Amortised, Conditional, Shape, as_shape
from ..conditionals.declared import Declared, at, nearest
from ..conditionals.networks import Network
from ..data.arrays import as_rows
from ..data.rows import Rows
from ..guards import seeded
from ..vae import VAE
from .parts import Part, as_table, condition_of, named_part, unconstrained

KEYS = ("event", "latent", "prior", "likelihood", "guide", "condition", "modules")


def build(
    source: Any,
    x: Any = None,
    c: Any = None,
    *,
    latent: Shape | None = None,
    prior: Part | None = None,
    likelihood: Part | None = None,
    guide: Part | None = None,
    condition: dict[str, Any] | None = None,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
) -> VAE:
    """A VAE from names, or from a spec.

    ``build(x, latent=8, prior="gamma", likelihood="binomial")`` works out from the data what they
       imply: the shape of
    one datum, the total of a binomial, the number of categories, the mean and spread of the guide's
    inputs. A part is a name or a table ``{"name": ..., ...}``.

    Arguments:
        source: Data of shape ``(N, *X)``; or a spec: a dict, or the path of a ``.toml`` file.
        x: The data, for a spec without ``event``.
        c: For a conditional VAE: what the data are conditional on, a row for each datum.
        latent: The shape of the latents, ``Z`` (default: 8).
        prior: The prior (default: normal); parameters that are not given take the family's standard
            values.
        likelihood: The likelihood (default: normal).
        guide: The guide, in unconstrained space (default: normal; over discrete latents the prior's
            own family).
        condition: For a conditional VAE: the arguments of :class:`.Condition` (default: what c
            suggests).
        hidden: The widths of the hidden layers, for parts without a ``network`` of their own
            (default: those of MLP).
        seed: The seed of the initial weights.

    Returns:
        The VAE, in torch's default dtype.

    Raises:
        ValueError: A name, an argument or a value is unknown; the message says where in the spec.
        DataError: The data do not fit the likelihood.
        FileNotFoundError: There is no such spec file.
    """
    folder = None
    if isinstance(source, (str, Path)):
        folder, source = Path(source).parent, _read_toml(Path(source))
    given = {
        "latent": latent,
        "prior": prior,
        "likelihood": likelihood,
        "guide": guide,
        "condition": condition,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if isinstance(source, dict):
        for key in given:
            raise ValueError(
                f"build takes {key}= with data; a spec says it itself: change the spec"
            )
        spec, rows = dict(source), None if x is None else as_rows(x)
    else:
        if x is not None:
            raise ValueError(
                "build takes x with a spec; got data and x: give latent=, prior=, c=, ... by "
                "keyword"
            )
        spec, rows = {"latent": [8], **given}, as_rows(source)
    if c is not None:
        spec["condition"] = _suggested(c, as_table("condition", spec.get("condition", {})))
    if rows is not None:
        spec = {"event": list(rows.event_shape), **spec}
        rows = as_rows(rows, as_shape(spec["event"]))
    with torch.inference_mode(False), seeded(seed), importable(folder):
        vae = _from_spec(spec, rows, {} if hidden is None else {"hidden": _plain(hidden)})
    if rows is not None:
        rows = vae.check(rows, c)
        with seeded(seed):
            _initialize(vae, rows)
    return vae


def _suggested(c: Any, table: dict[str, Any]) -> dict[str, Any]:
    """The condition that data c suggest, unless the table says whether they are numbers or classes."""
    return table if {"size", "categories"} & set(table) else {**Condition.of(c).describe(), **table}


def _initialize(vae: VAE, rows: Rows) -> None:
    """A Vamp prior starts at data; networks learn the mean and spread of what they read of x and of
    a numeric c.
    """
    vae.prior.initialize(rows)
    mean, sd = rows.moments()
    if vae.condition is None or rows.c is None:
        _standardize(vae.posterior, mean, sd)
        return
    c_mean, c_sd = (moment.flatten() for moment in rows.c.moments())
    if vae.condition.categories:
        c_mean, c_sd = mean.new_zeros(vae.condition.width), mean.new_ones(vae.condition.width)
    latent = mean.new_zeros(vae.prior.visible_shape)
    for role, part, first, second in (
        ("guide", vae.posterior, mean, sd),
        ("likelihood", vae.likelihood, latent, latent + 1),
    ):
        joined = (
            vae.condition.join(role, moment, c, moment.dim())
            for moment, c in ((first, c_mean), (second, c_sd))
        )
        _standardize(part, *joined)
    if "prior" in vae.condition.seen_by:
        _standardize(vae.prior, c_mean, c_sd)


def _standardize(part: Conditional, mean: Tensor, sd: Tensor) -> None:
    if isinstance(part, Amortised) and isinstance(part.network, Network):
        part.network.standardize(mean, sd)


def _read_toml(path: Path) -> dict[str, Any]:
    if path.suffix != ".toml" or not path.is_file():
        raise FileNotFoundError(
            f"there is no spec file {str(path)!r}, ending in .toml; data come from pv.data.load"
        )
    try:
        return tomllib.loads(path.read_text())
    except ValueError as error:  # no TOML, or no text
        raise ValueError(f"{path.name} is no TOML: {error}") from None


@contextlib.contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """The modules that a spec file names may lie beside it."""
    before = list(sys.path)
    sys.path[:0] = [] if folder is None else [str(folder.resolve())]
    try:
        yield
    finally:
        sys.path[:] = before


def _from_spec(spec: dict[str, Any], rows: Rows | None, mlp: dict[str, Any]) -> VAE:
    for key in spec.keys() - set(KEYS):
        raise ValueError(f"{key}: a spec has no such entry{nearest(key, KEYS)}")
    for key in KEYS[:2]:
        if key not in spec:
            raise ValueError(
                f"{key}: the spec does not say it; write {key} = [8], or give the data"
            )
    modules = spec.get("modules", [])
    if not isinstance(modules, list) or not all(
        isinstance(module, str) and module for module in modules
    ):
        raise ValueError(f"modules: must be a list of module names; got {modules!r}")
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError) as error:
            raise ValueError(
                f"modules: {error}; put it beside the spec file or on PYTHONPATH"
            ) from None
    with at("event"):
        event = as_shape(spec["event"])
    with at("latent"):
        latent = as_shape(spec["latent"])
    condition = condition_of(spec)
    seen = {} if condition is None else dict.fromkeys(condition.seen_by, condition)
    given_c = torch.Size([condition.width]) if condition and "prior" in seen else None
    prior = named_part("prior", spec.get("prior", "normal"), (latent, event), None, given_c, mlp)
    shown = (
        prior.visible_shape
        if condition is None
        else condition.joined_shape("likelihood", prior.visible_shape)
    )
    likelihood = named_part(
        "likelihood", spec.get("likelihood", "normal"), (event,), rows, shown, mlp
    )
    observed = event if condition is None else condition.joined_shape("guide", event)
    guide: Part = spec.get("guide") or prior.usual_guide()
    return VAE(
        prior,
        likelihood,
        named_part("guide", guide, (unconstrained(prior),), None, observed, mlp),
        condition=condition,
    )


def describe(vae: nn.Module) -> dict[str, Any]:
    """The spec of a VAE, or of one part: names and plain values, from which :func:`build` makes its
    equal.

    Arguments:
        vae: A VAE, a conditional or a network.

    Returns:
        A dict of strings, numbers, lists and dicts: it can be written as JSON or TOML.

    Raises:
        TypeError: A part is not registered, so no spec can name it.
    """
    if isinstance(vae, VAE):
        parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
        sizes = {"event": list(vae.likelihood.event_shape), "latent": list(vae.prior.event_shape)}
        spec = sizes | {role: describe(part) for role, part in parts.items()}
        spec |= {} if vae.condition is None else {"condition": vae.condition.describe()}
        return spec | ({"modules": modules} if (modules := _modules(vae)) else {})
    if isinstance(vae, Amortised) and not isinstance(vae.head, Amortised):
        return describe(vae.head) | {"network": describe(vae.network)}
    if not isinstance(vae, Declared) or vae.name is None:
        kind = type(vae).__name__
        raise TypeError(
            f"no spec can name {kind}; register it: class {kind}(Conditional or Network, "
            "name='...')"
        )
    return {"name": vae.name} | {key: _plain(value) for key, value in vae.options.items()}


def _modules(vae: VAE) -> list[str]:
    """Where the user's own conditionals and networks are defined."""
    package = __name__.partition(".")[0]
    defined = {
        type(part).__module__ for part in vae.modules() if isinstance(part, Declared) and part.name
    }
    return sorted(
        module for module in defined if module.partition(".")[0] not in (package, "__main__")
    )


def _plain(value: Any) -> Any:
    """Tensors, arrays and tuples as numbers and lists."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (tuple, list, range)) else value
