"""A VAE from names and plain values; :func:`.describe` is the exact inverse.

A spec has no classes of its own: the constructor is the schema. Each part is a table with the
``name`` of a registered conditional, the constructor's own arguments, and where the part reads a
context, a ``network``. Sizes that follow from ``event`` and ``latent`` are never written::

    event = [64]
    latent = [8]
    prior = {name = "normal", loc = 0.0, scale = 1.0}
    likelihood = {name = "binomial", total_count = 16.0, network = {name = "mlp", hidden = [200]}}
    guide = {name = "normal", network = {name = "mlp", hidden = [200]}}

``columns = ["age", "income"]`` names the columns of a table, which frames are put right by, and
``classes = {city = ["Bonn", "Kiel"]}`` the classes of those that hold labels. A
conditional VAE has a table ``condition`` (:class:`.Condition`), and one whose cells are missing for
a reason a table ``missingness`` (:class:`.Missingness`). ``modules = ["mine"]`` imports
modules that register conditionals or networks of one's own; they lie beside the spec file or on the
Python path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..assembly.covariates import suggested
from ..conditionals.base import Shape, as_shape
from ..conditionals.declared import at, nearest
from ..data.arrays import as_rows, with_c
from ..data.columns import in_order, names_of
from ..data.rows import Rows
from ..guards import device_of, seeded
from ..vae import VAE
from .classes import check_classes, classes_of, with_classes
from .classifiers import classifier_of
from .describe import plain
from .files import import_modules, read_toml
from .initial import initialize, per_exposure
from .parts import (
    Part,
    as_table,
    condition_of,
    missingness_of,
    named_part,
    numbered,
    unconstrained,
    with_blocks,
)

REQUIRED = ("event", "latent")
PARTS = ("prior", "likelihood", "guide", "condition", "classifier", "missingness")
KEYS = (*REQUIRED, "columns", "classes", *PARTS, "modules")


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
    missingness: Part | None = None,
    classifier: Part | None = None,
    hidden: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> VAE:
    """A VAE from names, or from a spec.

    ``build(x, latent=8, prior="gamma", likelihood="binomial")`` works out from the data what they
    imply: the shape of one datum, the total of a binomial, the number of categories, the mean and
    spread of the guide's inputs. A part is a name or a table ``{"name": ..., ...}``.

    Arguments:
        source: Data of shape ``(N, *X)``; or a spec: a dict, or the path of a ``.toml`` file.
        x: The data, for a spec without ``event``.
        c: For a conditional VAE: what the data are conditional on, a row for each datum.
        latent: The shape of the latents, ``Z`` (default: 8).
        prior: The prior (default: normal); parameters that are not given take the family's standard
            values.
        likelihood: The likelihood (default: normal; for a frame with labels, a categorical for each
            column of strings or categories, whose names the VAE keeps, and a normal for the rest).
        guide: The guide, in unconstrained space (default: normal; over discrete latents the prior's
            own family).
        condition: For a conditional VAE: the arguments of :class:`.Condition` (default: what c
            suggests).
        missingness: p(s | x), where cells are missing for a reason: "self_masking", ... (default:
            none; what is missing tells nothing).
        classifier: For a c of classes, of which some are unknown (NaN, None): q(c|x), "one_hot" or
            a table, which may have a ``weight`` (:class:`.Classifier`).
        hidden: The widths of the hidden layers, for parts without a ``network`` of their own
            (default: those of MLP).
        device: Where the VAE is to be: "cpu", "cuda", ..., or "auto" for a GPU where there is one
            (default: torch's default device).
        seed: The seed of the initial weights.

    Returns:
        The VAE, in torch's default dtype.

    Raises:
        ValueError: A name, an argument or a value is unknown; the message says where in the spec.
            Or torch has no such device.
        DataError: The data do not fit the likelihood.
        FileNotFoundError: There is no such spec file.
    """
    place = None if device is None else device_of(device)
    folder = None
    if isinstance(source, (str, Path)):
        folder = Path(source).parent
        source = read_toml(Path(source))
    parts = {
        "latent": latent,
        "prior": prior,
        "likelihood": likelihood,
        "guide": guide,
        "condition": condition,
        "missingness": missingness,
        "classifier": classifier,
    }
    given = {key: value for key, value in parts.items() if value is not None}
    if x is None:
        source, c = with_c(source, c) if c is not None or condition is not None else (source, c)
    elif c is not None or (isinstance(source, dict) and "condition" in source):
        x, c = with_c(x, c)
    spec, rows = _spec_and_rows(source, x, given)

    if c is not None:
        table = as_table("condition", spec.get("condition", {}))
        spec["condition"] = _suggested(c, table, unknown="classifier" in spec)
    if rows is not None:
        spec, rows = _told_by_rows(spec, rows)
    mlp = {} if hidden is None else {"hidden": plain(hidden)}
    with torch.inference_mode(False), seeded(seed):
        _check_keys(spec)
        import_modules("modules", spec.get("modules", []), folder)
        seen = rows
        if c is not None:
            seen = per_exposure(condition_of(spec), spec.get("likelihood"), rows, c)
        vae = _from_spec(spec, seen, mlp)

    if rows is not None:
        rows = vae.check(rows, c, unknown=True)
        with seeded(seed):
            initialize(vae, rows)
    return vae if place is None else vae.to(place)


def _spec_and_rows(
    source: Any, x: Any, given: dict[str, Any]
) -> tuple[dict[str, Any], Rows | None]:
    """The spec, and the data if there are any, from what :func:`build` takes."""
    if not isinstance(source, dict) or hasattr(source, "tocsr"):  # a sparse one is both
        if x is not None:
            raise ValueError(
                "build takes x with a spec; got data and x; give latent=, prior=, c=, ... by "
                "keyword"
            )
        return {"latent": [8], **given}, as_rows(source, labels=True)
    for key in given:
        raise ValueError(
            f"build takes {key}= with data; a spec says it itself; write {key} in the spec"
        )
    return dict(source), None if x is None else as_rows(x, labels=True)


def _told_by_rows(spec: dict[str, Any], rows: Rows) -> tuple[dict[str, Any], Rows]:
    """A spec with the shape, names and classes of the rows, and the rows in its order."""
    names = names_of(rows)
    columns = {} if names is None else {"columns": names}
    spec = {"event": list(rows.event_shape), **columns, **spec}
    rows = as_rows(in_order(rows, spec["columns"] if names else None), as_shape(spec["event"]))
    return with_classes(spec, rows)


def _suggested(c: Any, table: dict[str, Any], *, unknown: bool) -> dict[str, Any]:
    """The table of the condition, completed by what c suggests: numbers or classes, how many."""
    if "size" in table or "categories" in table:
        return table
    declared = "classes" in table or "exposure" in table
    found = suggested(c, declared=declared, unknown=unknown)
    classes = {**found.pop("classes", {}), **table.get("classes", {})}
    return {**found, **table, **({"classes": classes} if classes else {})}


def _from_spec(spec: dict[str, Any], rows: Rows | None, mlp: dict[str, Any]) -> VAE:
    """The VAE that a spec declares; `mlp` are arguments for networks that the spec does not
    name.
    """
    with at("event"):
        event = as_shape(spec["event"])
    with at("latent"):
        latent = as_shape(spec["latent"])
    condition = condition_of(spec)

    prior_context = None
    if condition is not None and "prior" in condition.seen_by:
        prior_context = torch.Size([condition.width])
    prior = named_part(
        "prior", spec.get("prior", "normal"), (latent, event), None, prior_context, mlp
    )

    likelihood_context = prior.visible_shape
    guide_context = event
    if condition is not None:
        likelihood_context = condition.joined_shape("likelihood", likelihood_context)
        guide_context = condition.joined_shape("guide", guide_context)
    likelihood = named_part(
        "likelihood",
        numbered("likelihood", spec.get("likelihood", "normal"), spec.get("columns")),
        (event,),
        rows,
        likelihood_context,
        mlp,
    )
    table: Part = spec.get("guide") or prior.usual_guide()
    table = with_blocks(numbered("guide", table, spec.get("columns")), likelihood)
    counts = rows is not None and getattr(likelihood, "head", likelihood).are_counts
    guide = named_part("guide", table, (unconstrained(prior),), None, guide_context, mlp, counts)
    optional: dict[str, Any] = {
        "condition": condition,
        "classifier": classifier_of(spec, condition, event, mlp, log1p=counts),
        "missingness": missingness_of(spec, event),
    }
    vae = VAE(prior, likelihood, guide, **optional)
    vae.columns = _columns(spec, event)
    vae.classes = classes_of(spec)
    check_classes(vae)
    return vae


def _check_keys(spec: dict[str, Any]) -> None:
    for key in spec.keys() - set(KEYS):
        raise ValueError(f"{key}: a spec has no such entry{nearest(key, KEYS)}")
    for key in REQUIRED:
        if key not in spec:
            raise ValueError(
                f"{key}: the spec does not say it; write {key} = [8], or give the data"
            )


def _columns(spec: dict[str, Any], event: torch.Size) -> list[str] | None:
    names = spec.get("columns")
    if names is None:
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or [len(names)] != list(event) or len(set(names)) < len(names):
        raise ValueError(
            f"columns: must be a list of {' x '.join(map(str, event))} different names, of data "
            f"with one dimension; got {names!r:.60}"
        )
    return names
