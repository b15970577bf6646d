"""Evidence that was computed in parts of the data, as one result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .flags import counted
from .results import means

if TYPE_CHECKING:
    import xarray

SHARED = {  # what all parts must have in common
    "model_digest": "the same model",
    "unit": "data one by one",
    "measure": "likelihoods with respect to the same measure",
    "precision": "the same precision",
}
OF_WEIGHTS = ("curve", "blocks", "tail")  # of one length where all drew alike
SUMMED = ("cells", "num_data", "seconds", "draws")  # attributes, by how they begin


def concat(parts: Sequence[xarray.Dataset]) -> xarray.Dataset:
    """Results of ``log_evidence`` of parts of the data, as one of all of them.

    So evidence can be computed on any scheduler, ``log_evidence(vae, x[a:b], seed=a)`` in each job.
    Give each part a seed of its own: then errors of z are independent, as ``mean_mc_se`` takes them
    to be.

    Arguments:
        parts: The results, in the order of the data; for a file, ``xarray.load_dataset``.

    Returns:
        A result as of ``log_evidence``, over ``datum`` from 0 on: means, errors and flags are those
        of all data, seconds and draws are summed. ``curve``, ``blocks`` and ``tail`` are left out
        where the numbers of draws differ. ``data_digest`` is that of the parts,
        so the result is compared with others of the same parts, not with one of the whole.

    Raises:
        TypeError: A part is no such result.
        ValueError: There is none, they are of different models or kinds, or two of the same data.

    Example:
        >>> vae = build({"event": [2], "latent": [3], "prior": "one_hot"}, hidden=[3])
        >>> x = torch.randn(60, 2)
        >>> halves = [log_evidence(vae, x[a : a + 30], seed=a) for a in (0, 30)]
        >>> concat(halves).sizes["datum"]
        60
    """
    import xarray

    if isinstance(parts, xarray.Dataset) or not isinstance(parts, Sequence):
        raise TypeError(f"concat needs a list of results; got {type(parts).__name__}")
    parts = list(parts)
    _check(parts)
    lengths = [{name: part.sizes.get(name) for name in ("particles", "rank")} for part in parts]
    if any(length != lengths[0] for length in lengths):
        left_out = [*OF_WEIGHTS, "particles", "rank"]
        parts = [part.drop_vars(left_out, errors="ignore") for part in parts]
    whole = xarray.concat(
        [part.drop_vars("datum") for part in parts],
        dim="datum",
        data_vars="all",
        coords="minimal",
        compat="equals",
        join="exact",
        combine_attrs="drop",
    )
    whole = whole.assign_coords(datum=np.arange(whole.sizes["datum"]))
    return whole.assign_attrs(_about(whole, [part.attrs for part in parts]))


def _check(parts: list[Any]) -> None:
    import xarray

    if not parts:
        raise ValueError("concat needs at least one result of log_evidence; got none")
    for number, part in enumerate(parts):
        is_result = isinstance(part, xarray.Dataset) and "data_digest" in part.attrs
        if not is_result or not {"log_evidence", "se", "khat"} <= set(part):
            raise TypeError(
                f"concat needs results of log_evidence; got {type(part).__name__} as part {number}"
            )
        if ("rung" in part.coords) != ("rung" in parts[0].coords):
            raise ValueError(
                "concat needs parts that were all computed with a tolerance, or all without; parts "
                f"0 and {number} differ"
            )
        for name, needs in SHARED.items():
            first, other = parts[0].attrs.get(name), part.attrs.get(name)
            if first != other or (name == "unit" and "datum" not in part.dims):
                raise ValueError(
                    f"concat needs {needs} in all parts; {name} is {first!r} in part 0, {other!r} "
                    f"in part {number}"
                )

    digests = [part.attrs["data_digest"] for part in parts]
    for number, digest in enumerate(digests):
        if digest in digests[:number]:
            raise ValueError(
                f"concat needs parts of different data; parts {digests.index(digest)} and {number} "
                "are of the same"
            )


def _about(whole: xarray.Dataset, attrs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of all data."""
    names = list(dict.fromkeys(name for each in attrs for name in each))
    summed: dict[str, Any] = {
        name: sum(each.get(name, 0) for each in attrs) for name in names if name.startswith(SUMMED)
    }
    digests = " ".join(each["data_digest"] for each in attrs)
    figures = {name: whole[name].values for name in ("log_evidence", "se")}
    return {
        **means(figures),
        "num_samples": int(whole.num_samples.max()),
        **counted(whole.flag.values),
        **{name: attrs[0][name] for name in ("unit", "precision", "model_digest", "measure")},
        "data_digest": hashlib.sha256(digests.encode()).hexdigest()[:16],
        **summed,
    }
