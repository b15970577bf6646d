"""Evidence as a dataset: the figures of each datum, what can be added to them, and a warning where
not to trust it.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
import xarray
from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import constraints

from ..data.rows import DataError, Rows
from ..distributions.sphere import Sphere
from ..distributions.supports import base_of
from ..guards import owner_of
from .pareto import KHAT_LIMIT
from .weights import Weights


def describe_evidence(model: Callable, guide: Callable, rows: Rows) -> dict[str, Any]:
    """What an estimate of log p(x) is of: the data, and how many cells of them are seen, and the
    model.
    """
    return {
        "cells": sum(int((~rows.take(chunk).isnan()).sum()) for chunk in rows.chunks()),
        "data": rows.fingerprint() + ("" if rows.c is None else rows.c.fingerprint()),
        "model": fingerprint(model, guide),
        "num_data": len(rows),
    }


@contextmanager
def observing(about: dict[str, Any]) -> Iterator[None]:
    """Note the ``measure`` of what is observed inside: whether the likelihood gives densities or
    probabilities.
    """
    with _Observing() as observed:
        yield
    about["measure"] = "; ".join(observed.measures[name] for name in sorted(observed.measures))


class _Observing(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.measures: dict[str, str] = {}

    def _pyro_post_sample(self, message: Any) -> None:
        name = message["name"]
        if not message["is_observed"]:  # a latent, which only a guide was conditioned on
            self.measures.pop(name, None)
        elif message["infer"].get("_deterministic") or isinstance(message["fn"], Unit):
            return  # no distribution of data
        elif not site_is_subsample(message) and name not in self.measures:
            self.measures[name] = _measure(message["fn"].support)


def _measure(support: Any) -> str:
    """What the likelihood is with respect to: densities of different kinds have no common scale."""
    if hasattr(support, "blocks"):
        kinds = sorted(
            (column, _measure(part)) for columns, part in support.blocks for column in columns
        )
        same = {kind for _, kind in kinds}
        return (
            same.pop()
            if len(same) == 1
            else ", ".join(f"{kind} of column {column}" for column, kind in kinds)
        )
    if support.is_discrete:
        return "probability"
    base = base_of(support)
    special = {type(constraints.simplex): "density on a simplex", Sphere: "density on a sphere"}
    return special.get(type(base), "density")


def fingerprint(*functions: Callable, without: str = "nothing") -> str:
    """A digest of what some functions compute: parameters and parts of modules; code, and what it
    closes over.

    Of modules, the part named `without` is left out. Globals that a function reads are not seen.
    """
    digest, seen = hashlib.sha256(), set()

    def add(thing: Any) -> None:
        if isinstance(thing, nn.Module):
            inner = [
                (name, part) for name, part in thing.named_modules() if not name.startswith(without)
            ]
            digest.update(
                " ".join(f"{name} {type(part).__qualname__}" for name, part in inner).encode()
            )
            add([item for item in thing.state_dict().items() if not item[0].startswith(without)])
        elif isinstance(thing, (torch.Tensor, np.ndarray)):
            digest.update(
                torch.as_tensor(thing).detach().cpu().contiguous().view(-1).numpy().tobytes()
            )
        elif isinstance(thing, (bool, int, float, str)):
            digest.update(f"{thing!r};".encode())
        elif isinstance(thing, (tuple, list)):
            for part in thing:
                add(part)
        elif isinstance(thing, CodeType):
            digest.update(thing.co_code)
            add([thing.co_names, thing.co_consts])
        elif isinstance(thing, FunctionType) and id(thing) not in seen:
            seen.add(id(thing))
            add(
                [
                    thing.__code__,
                    [cell.cell_contents for cell in thing.__closure__ or ()],
                    thing.__defaults__,
                ]
            )

    for owner in map(owner_of, functions):
        add(owner)
    return digest.hexdigest()[:16]


def whole(result: xarray.Dataset) -> bool:
    """Whether a result is of all its data, in their own order: what it says of itself holds for no
    part of it.
    """
    return np.array_equal(result.datum, np.arange(result.attrs["num_data"]))


def as_dataset(weights: Weights, about: dict[str, Any], **extra: np.ndarray) -> xarray.Dataset:
    """The figures of each datum over ``datum``, their mean, and what :func:`from_dataset` makes
    weights of again.
    """
    figures = {name: values.numpy(force=True) for name, values in weights.figures().items()}
    figures |= {"num_samples": figures["num_samples"].astype(int), **extra}
    flagged = flags(figures)
    arrays: dict[str, tuple] = {name: ("datum", values) for name, values in figures.items()}
    for name, dim in (("curve", "particles"), ("blocks", "particles"), ("tail", "rank")):
        arrays[name] = ((dim, "datum"), getattr(weights, name).numpy(force=True))
    coords = {
        "datum": np.arange(len(figures["se"])),
        "particles": 2 ** np.arange(len(weights.curve)),
        "rank": np.arange(len(weights.tail)),
    }
    attrs = {
        **means(figures),
        "num_samples": int(figures["num_samples"].max()),
        "flagged": int(flagged.sum()),
        "unit": "nats per datum",
        "precision": weights.precision,
    }
    return xarray.Dataset(arrays, coords, attrs | about)


def exact_figures(weights: Weights) -> dict[str, np.ndarray]:
    """What is said of an exact sum over so many values."""
    num = weights.num.numpy(force=True)
    return {
        "se": 0 * num,
        "bias": 0 * num,
        "khat": 0 * num - np.inf,
        "ess": num,
        "max_weight": 1 / num,
    }


def means(figures: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of log p(x) over data, its error over data and z, and that of z alone."""
    values, num = figures["log_evidence"], len(figures["log_evidence"])
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # a datum that the model cannot have made: -inf, its error NaN
        own = math.sqrt(np.square(figures["se"]).sum()) / num
        error = values.std(ddof=1) / math.sqrt(num) if num > 1 else own
        return {"mean": float(values.mean()), "mean_se": float(error), "mean_mc_se": float(own)}


def flags(figures: Any) -> np.ndarray:
    """Which data are not to be trusted, by their figures."""
    return np.asarray((figures["khat"] > KHAT_LIMIT) | ~np.isfinite(figures["log_evidence"]))


def warn_of_flags(result: xarray.Dataset, remedy: str) -> None:
    """Warn the caller's caller of data not to trust, if there are any."""
    flagged, num = result.attrs["flagged"], result.sizes["datum"]
    if not flagged:
        return
    heavy, undefined = (
        int((result.khat > KHAT_LIMIT).sum()),
        int((~np.isfinite(result.log_evidence)).sum()),
    )
    warnings.warn(
        f"log p(x) of {flagged} of {num} data cannot be trusted: k-hat is above {KHAT_LIMIT} for "
        f"{heavy} of them, the estimate not finite for {undefined}; {remedy}",
        stacklevel=3,
    )


def from_dataset(result: Any, about: dict[str, Any]) -> Weights:
    """The weights behind an earlier result of importance sampling.

    Raises:
        TypeError: It is no such result.
        DataError: It is of other data.
        ValueError: It is of another model, or its draws are not all from the guide.
    """
    if not isinstance(result, xarray.Dataset) or not {
        "tail",
        "curve",
        "blocks",
        "num_samples",
    } <= set(result):
        raise TypeError(
            "more needs what log_evidence gave earlier, with its tail and num_samples; got "
            f"{type(result).__name__}"
        )
    if result.attrs["data"] != about["data"] or not whole(result):
        raise DataError(
            "more needs the result for these very data, in this order: it is of others; leave it "
            "out"
        )
    if result.attrs["model"] != about["model"]:
        raise ValueError(
            "more needs the result of this very model: its parameters are others; leave it out"
        )
    if "rung" in result:
        raise ValueError(
            "more adds draws of the guide: the earlier result was made with a tolerance; leave "
            "that out"
        )
    arrays = {name: torch.as_tensor(result[name].values) for name in result}
    num = arrays["num_samples"].double()
    log_sum = arrays["log_evidence"] + num.log()
    return Weights(
        num,
        log_sum,
        torch.where(log_sum == -math.inf, log_sum, 2 * log_sum - arrays["ess"].log()),
        arrays["elbo"] * num,
        arrays["tail"],
        arrays["curve"],
        arrays["blocks"],
        result.attrs["precision"],
    )
