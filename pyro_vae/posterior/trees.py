"""Arrays with names: what results are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.rows import DataError, Rows
from ..density.identity import fingerprint

if TYPE_CHECKING:
    import xarray

    from ..density.problem import Problem

DRAWS = ("chain", "draw", "datum")


def dataset(arrays: dict[str, np.ndarray], leading: tuple[str, ...], rest: str) -> xarray.Dataset:
    """Arrays as variables over the dimensions `leading`, and `rest` for what follows: z over
    latent, x over feature.

    One further dimension is called `rest`, several are ``rest_0``, ``rest_1``, ...; each has its
    index as coordinate.
    """
    import xarray

    variables: dict[str, tuple] = {}
    sizes: dict[str, int] = {}
    for name, values in arrays.items():
        further = values.ndim - len(leading)
        dims = (
            *leading,
            *([rest] if further == 1 else [f"{rest}_{number}" for number in range(further)]),
        )
        variables[name] = (dims, values)
        sizes |= dict(zip(dims, values.shape, strict=True))
    return xarray.Dataset(variables, coords={name: np.arange(size) for name, size in sizes.items()})


def latents(arrays: dict[str, np.ndarray]) -> xarray.Dataset:
    """Latents over chain, draw and datum: one site over latent, several each over dimensions of
    their own.

    A site that is named like one of these dimensions has an underscore after its name;
    :func:`draws_by_site` knows it by its own.
    """
    import xarray

    parts = []
    for site, values in arrays.items():
        alone = len(arrays) == 1 and site != "latent"
        rest = _untaken("latent" if alone else f"{site}_dim", {*arrays, *DRAWS})
        name = _untaken(site, {*arrays, *DRAWS} - ({site} - {*DRAWS}))
        part = dataset({name: values}, DRAWS, rest)
        part[name].attrs["site"] = site
        parts.append(part)
    return xarray.merge(parts)


def _untaken(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def draws_by_site(posterior: xarray.Dataset) -> dict[str, np.ndarray]:
    """The draws of each site, by the name that it has in the model."""
    return {
        str(values.attrs.get("site", name)): values.values
        for name, values in posterior.data_vars.items()
    }


def features(arrays: dict[str, np.ndarray], leading: tuple[str, ...], rows: Rows) -> xarray.Dataset:
    """Arrays of the shape of the data, with the names of their columns where these have names."""
    built = dataset(arrays, leading, "feature")
    named = rows.columns is not None and built.sizes.get("feature") == len(rows.columns)
    return (
        built.assign_coords(feature=[str(column) for column in rows.columns or ()])
        if named
        else built
    )


def observed_groups(rows: Rows, like: Tensor | None) -> dict[str, xarray.Dataset]:
    """The data in the dtype of `like`: ``observed_data`` and, where there is a c,
    ``constant_data``.
    """
    groups = {
        "observed_data": features(
            {"x": rows.take(slice(None), like).numpy(force=True)}, ("datum",), rows
        )
    }
    if rows.c is not None:
        groups["constant_data"] = dataset(
            {"c": rows.c.take(slice(None), like).numpy(force=True)}, ("datum",), "condition"
        )
    return groups


def needs_draws_of(who: str, posterior: Any, problem: Problem) -> xarray.DataTree:
    """The tree of MCMC draws that was given, if it is one of this very model and these very data.

    Raises:
        TypeError: It is no such tree.
        DataError: It was drawn for other data, or another c.
        ValueError: It was drawn from another model.
    """
    import xarray

    if not isinstance(posterior, xarray.DataTree) or "posterior" not in posterior.children:
        raise TypeError(
            f"{who} needs posterior as sample_posterior gives it, a tree; got "
            f"{type(posterior).__name__}"
        )
    if "guide" in posterior.children and "sample_stats" not in posterior.children:
        raise TypeError(
            f"{who} needs draws of MCMC; this tree has draws of the guide in their place: "
            "sample_posterior"
        )
    rows = problem.rows
    for group, name, own in (("observed_data", "x", rows), ("constant_data", "c", rows.c)):
        if group in posterior.children and own is not None:
            theirs = posterior[group].to_dataset()[name].values
            ours = own.take(slice(None), like=torch.as_tensor(theirs[:0])).numpy()
            if not np.array_equal(theirs, ours, equal_nan=True):
                raise DataError(
                    f"{who} needs the data that the posterior was drawn for: its {group} are "
                    "others; draw for these by sample_posterior"
                )
    model = model_of_draws(problem)
    if _model_of(posterior, model) != model:
        raise ValueError(
            f"{who} needs draws from the posterior of this very model; it is of another, or of "
            "this one before its parameters changed; draw again by sample_posterior"
        )
    return posterior


def model_of_draws(problem: Problem) -> str:
    """The digest of the model whose posterior is drawn from; its guide may be another."""
    return fingerprint(problem.model, without="posterior")


def _model_of(posterior: xarray.DataTree, model: str) -> str:
    """The model that draws are of, in trees of any version; `model` if they do not say."""
    return posterior.attrs.get("model_digest", posterior.attrs.get("model", model))
