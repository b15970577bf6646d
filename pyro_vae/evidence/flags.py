"""The warning light: of which data log p(x) cannot be trusted, and why."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .pareto import khat_limit

LEAST_ESS = 15  # effective draws: with fewer, one error in twenty is beyond four standard errors

if TYPE_CHECKING:
    import xarray

SAID = {  # by reason, the gravest first
    "out of time": "max_seconds were over before it was known",
    "not finite": "it is not finite",
    "heavy tail": "the weights have too heavy a tail (k-hat)",
    "refuted": "other draws refute it",
    "edge": "mass lies nearer to the edge of a support than numbers can tell, in double the least",
    "not mixed": "the chains have not mixed",
    "hardly moved": "the chains hardly moved",
    "dominated": "a few draws are most of its error",
    "low ESS": f"it rests on fewer than {LEAST_ESS} effective draws",
    "few draws": "below 25 draws k-hat is unknown",
}


def flags(figures: Any, **more: np.ndarray) -> np.ndarray:
    """The gravest reason not to trust log p(x), a word for each datum; empty where there is none.

    Arguments:
        figures: ``log_evidence``, ``khat``, ``ess`` and ``num_samples`` of each datum.
        more: By reason, an underscore for each blank, which data are flagged besides.
    """
    khat, ess, estimate = (np.asarray(figures[name]) for name in ("khat", "ess", "log_evidence"))
    limit = khat_limit(torch.as_tensor(np.asarray(figures["num_samples"]))).numpy()
    found = {
        "not finite": ~np.isfinite(estimate),
        "heavy tail": khat > limit,
        "low ESS": (ess < LEAST_ESS) & np.isfinite(khat),
        "few draws": np.isnan(khat),
    }
    for name, mask in more.items():
        reason = name.replace("_", " ")
        found[reason] = found.get(reason, False) | mask
    some = {reason: found[reason] for reason in SAID if reason in found}
    return np.select(list(some.values()), list(some), default="")


def counted(flag: np.ndarray) -> dict[str, int]:
    """How many data are flagged, and how many for each reason that there is."""
    counts = {reason: int((flag == reason).sum()) for reason in SAID}
    some = {f"flagged_{r.replace(' ', '_')}": num for r, num in counts.items() if num}
    return {"flagged": int((flag != "").sum()), **some}


def warn_of_flags(result: xarray.Dataset, remedy: str, what: str = "log p(x)") -> None:
    """Warn the caller's caller of data not to trust, if there are any.

    `what` is not to be trusted: log p(x), or means over the posterior, of which a datum may have
    several. So few draws that k-hat is unknown were asked for, and are no news.
    """
    flag = result.flag.values
    if not flag.ndim:
        _warn_of_one(str(flag), remedy)
        return
    counts = {reason: int((flag == reason).sum()) for reason in SAID if reason != "few draws"}
    total = sum(counts.values())
    if not total:
        return
    if counts["not finite"] == total:
        remedy = "look at these data: no draw of z gives a finite density of them"
    units = "data" if flag.ndim == 1 else "numbers"
    why = ", ".join(f"of {num} {SAID[reason]}" for reason, num in counts.items() if num)
    warnings.warn(
        f"{what} of {total} of {flag.size} {units} cannot be trusted: {why}; {remedy}",
        stacklevel=3,
    )


def warn_of_tolerance(result: xarray.Dataset, tolerance: float) -> None:
    """Warn the caller's caller of data without a flag whose error is larger."""
    missed = int(((result.se > tolerance) & (result.flag == "")).sum())
    if missed:
        warnings.warn(
            f"the standard error of {missed} of {result.se.size} data is above the "
            f"tolerance of {tolerance}, the largest {float(result.se.max()):.2g}: raise "
            "max_samples, or the tolerance",
            stacklevel=3,
        )


def _warn_of_one(flag: str, remedy: str) -> None:
    if flag not in ("", "few draws"):
        warnings.warn(f"log p(data) cannot be trusted: {SAID[flag]}; {remedy}", stacklevel=4)
