"""Two models of the same data: the log Bayes factor, with its error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .comparable import check_kinds, refuse_other_data, refuse_other_measures

if TYPE_CHECKING:
    import xarray


def log_bayes_factor(first: xarray.Dataset, second: xarray.Dataset) -> xarray.Dataset:
    r"""How much more the data speak for the first model: :math:`\log p(\text{data} \mid M_1) - \log
    p(\text{data} \mid M_2)` (Kass & Raftery, 1995, https://doi.org/10.1080/01621459.1995.10476572).

    Priors of the latents count, and with them all that they say is possible: a vague prior is paid
    for. More than two models are compared by :func:`.compare_models`.

    Arguments:
        first: log p(data) by :func:`.log_evidence`, :func:`.annealed_log_evidence` or
            :func:`.bridge_log_evidence`, one number for all data.
        second: That of the other model, for the same data.

    Returns:
        A dataset of single numbers: ``log_bayes_factor`` in nats; ``se``, its standard error, the
        two estimates being independent; ``probability``, that of the first model if both were
        equally probable before. ``flag`` is that of an estimate that cannot be trusted, empty where
        both can.

    Raises:
        DataError: The two are of different data.
        TypeError: One of them is no such result.
        ValueError: One of them has a number for each datum, or they are on different scales.
    """
    import xarray

    results = {"first": first, "second": second}
    for name, result in results.items():
        if not isinstance(result, xarray.Dataset):
            raise TypeError(
                f"log_bayes_factor needs results of log_evidence or bridge_log_evidence; the "
                f"{name} is a {type(result).__name__}: score it first"
            )
    check_kinds("log_bayes_factor", results, None)
    for name, result in results.items():
        if "datum" in result.dims:
            raise ValueError(
                f"log_bayes_factor needs one log p(data) for each model; the {name} has a number "
                "for each datum, under fixed parameters: give both to compare_models"
            )
    refuse_other_data("log_bayes_factor", results, dict.fromkeys(results), None, None)
    measures = {name: result.attrs["measure"] for name, result in results.items()}
    refuse_other_measures("log_bayes_factor", measures)

    factor = float(first.log_evidence - second.log_evidence)
    said = [str(result.flag.item()) for result in (first, second)]
    return xarray.Dataset(
        {
            "log_bayes_factor": factor,
            "se": math.hypot(float(first.se), float(second.se)),
            "probability": 1 / (1 + math.exp(min(-factor, 700.0))),
        },
        coords={"flag": said[0] or said[1]},
        attrs={"unit": "nats"},
    )
