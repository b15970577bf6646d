"""The declarative form: a VAE from names and plain values, and its exact inverse.

A spec has no classes of its own: the constructor is the schema. Each part is a table with the ``name`` of a registered
conditional, the constructor's own arguments, and where the part reads a context, a ``network``. Sizes that follow from
``event`` and ``latent`` are never written::

    event = [64]
    latent = [8]
    prior = {name = "normal", loc = 0.0, scale = 1.0}
    likelihood = {name = "binomial", total_count = 16.0, network = {name = "mlp", hidden = [200]}}
    guide = {name = "normal", network = {name = "mlp", hidden = [200]}}
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import biject_to

from .conditionals.base import Amortised, Conditional, Parametric, Shape, as_shape
from .conditionals.declared import Declared
from .conditionals.networks import Network
from .data import as_rows
from .guards import seeded
from .rows import Rows
from .vae import VAE

Part = str | dict[str, Any]
KEYS = ("event", "latent", "prior", "likelihood", "guide")


def build(
    source: Any,
    x: Any = None,
    *,
    latent: Shape | None = None,
    prior: Part | None = None,
    likelihood: Part | None = None,
    guide: Part | None = None,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
) -> VAE:
    """A VAE from names, or from a spec.

    ``build(x, latent=8, prior="gamma", likelihood="binomial")`` works out from the data what they imply: the shape of
    one datum, the total of a binomial, the number of categories, the mean and spread of the guide's inputs. A part is a
    name or a table ``{"name": ..., ...}``.

    Arguments:
        source: Data of shape ``(N, *X)``; or a spec: a dict, or the path of a ``.toml`` file.
        x: The data, for a spec without ``event``.
        latent: The shape of the latents, ``Z`` (default: 8).
        prior: The prior (default: normal); parameters that are not given take the family's standard values.
        likelihood: The likelihood (default: normal).
        guide: The guide, in unconstrained space (default: normal).
        hidden: The widths of the hidden layers, for parts without a ``network`` of their own (default: those of MLP).
        seed: The seed of the initial weights.

    Returns:
        The VAE, in torch's default dtype.

    Raises:
        ValueError: A name, an argument or a value is unknown; the message says where in the spec.
        DataError: The data do not fit the likelihood.
        FileNotFoundError: There is no such spec file.
    """
    if isinstance(source, (str, Path)):
        source = _read_toml(Path(source))
    given = {"latent": latent, "prior": prior, "likelihood": likelihood, "guide": guide}
    given = {key: value for key, value in given.items() if value is not None}
    if isinstance(source, dict):
        for key in given:
            raise ValueError(f"build takes {key}= with data; a spec says it itself: change the spec")
        spec, rows = dict(source), None if x is None else as_rows(x)
    else:
        if x is not None:
            raise ValueError("build takes x with a spec; got data and x: give latent=, prior=, ... by keyword")
        spec, rows = {"latent": [8], **given}, as_rows(source)
    if rows is not None:
        spec = {"event": list(rows.event_shape), **spec}
        rows = as_rows(rows, as_shape(spec["event"]))
    with torch.inference_mode(False), seeded(seed):
        vae = _from_spec(spec, rows, {} if hidden is None else {"hidden": _plain(hidden)})
    if rows is not None:
        _meet(vae, vae.check(rows))
    return vae


def _meet(vae: VAE, rows: Rows) -> None:
    """The guide's network learns the mean and spread of the data."""
    if isinstance(vae.posterior, Amortised) and isinstance(vae.posterior.network, Network):
        vae.posterior.network.standardize(*rows.moments())


def _read_toml(path: Path) -> dict[str, Any]:
    if path.suffix != ".toml" or not path.is_file():
        raise FileNotFoundError(f"there is no spec file {str(path)!r}, ending in .toml; data come from pv.data.load")
    return tomllib.loads(path.read_text())


def _from_spec(spec: dict[str, Any], rows: Rows | None, mlp: dict[str, Any]) -> VAE:
    for key in spec.keys() - set(KEYS):
        raise ValueError(f"{key}: a spec has no such entry; it has {', '.join(KEYS)}{_nearest(key, KEYS)}")
    for key in KEYS[:2]:
        if key not in spec:
            raise ValueError(f"{key}: the spec does not say it; write {key} = [8], or give the data")
    event, latent = as_shape(spec["event"]), as_shape(spec["latent"])
    prior = _part("prior", spec.get("prior", "normal"), latent, rows=None, context=None, mlp=mlp)
    try:
        unconstrained = torch.Size(biject_to(prior().support).inverse_shape(latent))
    except NotImplementedError:
        unconstrained = latent  # a discrete prior: the VAE says so
    likelihood = _part("likelihood", spec.get("likelihood", "normal"), event, rows, latent, mlp)
    guide = _part("guide", spec.get("guide", "normal"), unconstrained, None, event, mlp)
    return VAE(prior, likelihood, guide)


def _part(
    role: str, part: Part, shape: torch.Size, rows: Rows | None, context: torch.Size | None, mlp: dict[str, Any]
) -> Conditional:
    """One part; a context of shape `context` is read through a network, no context means standard values."""
    given = {"name": part} if isinstance(part, str) else dict(_table(role, part))
    network = dict(_table(f"{role}.network", given.pop("network", {})))
    with _at(role):
        cls = _named(Conditional, given.pop("name", None))
        standard = cls.standard if context is None and issubclass(cls, Parametric) else {}
        implied = {} if rows is None else cls.implied(lambda: _largest(rows))
        head = _construct(cls, shape, **{**standard, **implied, **given})
    if context is None or not _num_params(role, head):
        return head
    with _at(f"{role}.network"):
        name = network.pop("name", "mlp")
        options = {**mlp, **network} if name == "mlp" else network
        return Amortised(_construct(_named(Network, name), context, head.num_params, **options), head)


def _num_params(role: str, head: Conditional) -> int:
    if not hasattr(head, "num_params"):
        raise ValueError(f"{role}: {head.name} needs num_params, the number of values it reads from a network")
    return head.num_params  # type: ignore[return-value]


def _table(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be a table such as {{'name': ...}}; got {value!r}")
    return value


def _largest(rows: Rows) -> float:
    """The largest of the data that is a number; what is none, the check at the door names."""
    return max(float(rows.take(chunk).nan_to_num(0.0, 0.0, 0.0).max()) for chunk in rows.chunks())


def _named(root: Any, name: Any) -> Any:
    if name not in root.registry:
        raise ValueError(f"no {root.kind} is named {name!r}{_nearest(name, root.registry) or _listing(root.registry)}")
    return root.registry[name]


def _nearest(name: Any, names: Any) -> str:
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _listing(names: Any) -> str:
    return f"; there are {', '.join(names)}"


def _construct(cls: Any, *sizes: Any, **options: Any) -> Any:
    try:
        return cls(*sizes, **options)
    except TypeError as error:
        takes = ", ".join(list(inspect.signature(cls).parameters)[cls.num_sizes :])
        reason = str(error).removeprefix(f"{cls.__name__}.__init__() ")
        raise ValueError(f"{cls.name}: {reason}; it takes ({takes})") from None


@contextlib.contextmanager
def _at(path: str) -> Iterator[None]:
    """Errors inside say where in the spec they arose."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def describe(vae: nn.Module) -> dict[str, Any]:
    """The spec of a VAE, or of one part: names and plain values, from which :func:`build` makes its equal.

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
        return sizes | {role: describe(part) for role, part in parts.items()}
    if isinstance(vae, Amortised) and not isinstance(vae.head, Amortised):
        return describe(vae.head) | {"network": describe(vae.network)}
    if not isinstance(vae, Declared) or vae.name is None:
        kind = type(vae).__name__
        raise TypeError(f"no spec can name {kind}; register it: class {kind}(Conditional or Network, name='...')")
    return {"name": vae.name} | {key: _plain(value) for key, value in vae.options.items()}


def _plain(value: Any) -> Any:
    """Tensors, arrays and tuples as numbers and lists."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, (tuple, list)) else value
