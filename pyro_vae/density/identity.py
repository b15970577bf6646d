"""What a number is of: digests of data and model, and what the likelihood is with respect to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import constraints

from ..data.rows import Rows
from ..distributions.intervals import WithAtoms
from ..distributions.selected import Selected
from ..distributions.sphere import Sphere
from ..distributions.supports import base_of, innermost
from ..guards import owner_of

OF_COLUMN = " of column "
WITH_HOLES = " with the probability of the cells that are missing"


def describe(model: Callable, guide: Callable, rows: Rows) -> dict[str, Any]:
    """What an estimate of log p(x) is of: the data, how many of their cells are seen, the model."""
    return {
        "cells": rows.summary.seen,
        "data_digest": data_digest(rows),
        "model_digest": fingerprint(model, guide),
        "num_data": len(rows),
    }


def data_digest(rows: Rows) -> str:
    """A digest of data and of what they are conditional on."""
    return rows.summary.digest + ("" if rows.c is None else rows.c.summary.digest)


def is_probability(measure: str) -> bool:
    """Whether a measure is that of probabilities alone, of one site or of several."""
    known = ("probability", "probability given the total")
    return all(part.removesuffix(WITH_HOLES) in known for part in measure.split("; "))


def measure_of(likelihood: Any) -> str:
    """What a likelihood is with respect to: densities of different kinds have no common scale, nor
    has a density with one beside which single points have a probability.

    A multinomial scores data given their total, which it does not predict.
    """
    if isinstance(likelihood, Selected):
        return measure_of(likelihood.complete) + WITH_HOLES
    cell = innermost(likelihood)
    if isinstance(cell, (dist.Multinomial, dist.DirichletMultinomial)):
        return "probability given the total"
    support = cell.support
    if hasattr(support, "blocks"):
        parts = [
            (columns, _measures_on(part, torch.Size([len(columns)])))
            for columns, part in support.blocks
        ]
        each = sorted(pair for columns, kinds in parts for pair in zip(columns, kinds, strict=True))
    else:
        each = list(enumerate(_measures_on(base_of(support), likelihood.event_shape)))
    kinds = {kind for _, kind in each}
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(f"{kind}{OF_COLUMN}{column}" for column, kind in each)


def _measures_on(support: Any, event_shape: torch.Size) -> list[str]:
    """One for each element of an event."""
    if isinstance(support, WithAtoms):
        return [_beside(atoms) for atoms in support.atoms(event_shape)]
    special = {type(constraints.simplex): "density on a simplex", Sphere: "density on a sphere"}
    kind = "probability" if support.is_discrete else special.get(type(support), "density")
    return [kind] * math.prod(event_shape)


def _beside(atoms: tuple[float, ...]) -> str:
    """The measure of a density beside atoms, which only a density beside the same ones shares."""
    places = " and ".join(f"{atom:g}" for atom in atoms)
    return f"density beside probabilities at {places}" if atoms else "density"


def fingerprint(*functions: Callable, without: str = "nothing") -> str:
    """A digest of what some functions compute: parameters and parts of modules; code, and what it
    closes over.

    Of modules, the part named `without` is left out. Globals that a function reads are not seen.
    """
    return digest_of(*map(owner_of, functions), without=without)


def digest_of(*things: Any, without: str = "nothing") -> str:
    """A digest of arrays, numbers, modules and functions, and of tuples, lists and dictionaries of
    them.
    """
    digest, seen = hashlib.sha256(), set()

    def add(thing: Any) -> None:
        if isinstance(thing, nn.Module):
            inner = [(n, part) for n, part in thing.named_modules() if not n.startswith(without)]
            digest.update(" ".join(f"{n} {type(part).__qualname__}" for n, part in inner).encode())
            state = thing.state_dict().items()
            add([item for item in state if not item[0].startswith(without)])
        elif isinstance(thing, (torch.Tensor, np.ndarray)):
            flat = torch.as_tensor(thing).detach().cpu().contiguous().view(-1)
            digest.update(flat.numpy().tobytes())
        elif isinstance(thing, (bool, int, float, str)):
            digest.update(f"{thing!r};".encode())
        elif isinstance(thing, (tuple, list)):
            for part in thing:
                add(part)
        elif isinstance(thing, dict):
            add(list(thing.items()))
        elif isinstance(thing, CodeType):
            digest.update(thing.co_code)
            add([thing.co_names, thing.co_consts])
        elif isinstance(thing, FunctionType) and id(thing) not in seen:
            seen.add(id(thing))
            closed_over = [cell.cell_contents for cell in thing.__closure__ or ()]
            add([thing.__code__, closed_over, thing.__defaults__])

    for thing in things:
        add(thing)
    return digest.hexdigest()[:16]
