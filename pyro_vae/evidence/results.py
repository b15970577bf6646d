"""Evidence as a dataset: the figures of each datum, and what can be added to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.rows import DataError
from .controls import CONTROLS, SUMS
from .flags import counted, flags
from .weights import Weights

if TYPE_CHECKING:
    import xarray


def whole(result: xarray.Dataset) -> bool:
    """Whether a result is of all its data, in their own order: what it says of itself holds for no
    part of it.
    """
    return np.array_equal(result.datum, np.arange(result.attrs["num_data"]))


def as_dataset(
    weights: Weights, about: dict[str, Any], flagged: dict[str, np.ndarray], **extra: np.ndarray
) -> xarray.Dataset:
    """The figures of each datum over ``datum``, their mean, and what :func:`from_dataset` makes
    weights of again.

    Arguments:
        weights: What is known of the weights.
        about: What they are of, as attributes.
        flagged: By reason, which data are not to be trusted, beside what their figures say.
        extra: More figures, or others in place of those of the weights.
    """
    import xarray

    figures = {name: values.numpy(force=True) for name, values in weights.figures().items()}
    words = {name: extra.pop(name) for name in ("rung",) if name in extra}
    figures |= {"num_samples": figures["num_samples"].astype(int), **extra}
    words["flag"] = flags(figures, **flagged)
    arrays: dict[str, tuple] = {name: ("datum", values) for name, values in figures.items()}
    for name, dim in (("curve", "particles"), ("blocks", "particles"), ("tail", "rank")):
        arrays[name] = ((dim, "datum"), getattr(weights, name).numpy(force=True))

    coords = {  # words are no figures: results are subtracted, and averaged
        **{name: ("datum", values) for name, values in words.items()},
        "datum": np.arange(len(figures["se"])),
        "particles": 2 ** np.arange(len(weights.curve)),
        "rank": np.arange(len(weights.tail)),
    }
    attrs = {
        **means(figures),
        "num_samples": int(figures["num_samples"].max()),
        **counted(words["flag"]),
        "unit": "nats per datum",
        "precision": weights.precision,
    }
    return xarray.Dataset(arrays, coords, attrs | about)


def one_number(result: xarray.Dataset) -> xarray.Dataset:
    """A result of all data as one datum, without the dimension of that."""
    return result.isel(datum=0).drop_vars("datum").assign_attrs(unit="nats")


def by_datum(result: xarray.Dataset) -> xarray.Dataset:
    """A result over ``datum``, also where it is one number for all data."""
    if "datum" in result.dims:
        return result
    words = {
        str(name): ("datum", [word.item()]) for name, word in result.coords.items() if not word.dims
    }
    result = result.drop_vars(list(words)).expand_dims(datum=[0])
    return result.transpose(..., "datum").assign_coords(words)


def exact_figures(weights: Weights) -> dict[str, np.ndarray]:
    """What is said of an exact sum over so many values."""
    num = np.where(weights.num > 0, weights.num, np.nan)  # NaN where there was no time
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
    # A datum that the model cannot have made: -inf, its error NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        own = math.sqrt(np.square(figures["se"]).sum()) / num
        error = values.std(ddof=1) / math.sqrt(num) if num > 1 else own
        return {"mean": float(values.mean()), "mean_se": float(error), "mean_mc_se": float(own)}


def from_dataset(result: Any, about: dict[str, Any]) -> Weights:
    """The weights behind an earlier result of importance sampling.

    Raises:
        TypeError: It is no such result.
        DataError: It is of other data.
        ValueError: It is of another model, or its draws are not all from the guide.
    """
    import xarray

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
    if "data_digest" not in result.attrs:
        raise TypeError("more needs a result of this version: this one does not say of which data")
    if result.attrs["data_digest"] != about["data_digest"] or not whole(result):
        raise DataError(
            "more needs the result for these very data, in this order: it is of others; leave it "
            "out"
        )
    if result.attrs["model_digest"] != about["model_digest"]:
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
    reached = num > 0
    log_sum = torch.where(reached, arrays["log_evidence"] + num.log(), -math.inf)
    return Weights(
        num,
        log_sum,
        torch.where(log_sum == -math.inf, log_sum, 2 * log_sum - arrays["ess"].log()),
        torch.where(reached, arrays["elbo"] * num, 0.0),
        arrays["tail"],
        arrays["curve"],
        arrays["blocks"],
        num.new_zeros(SUMS, len(num)),
        num.new_zeros(CONTROLS, len(num)),
        result.attrs["precision"],
    )
