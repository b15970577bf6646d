r"""Do two groups of data differ in a function of their latents?

Each datum counts with its posterior mean :math:`m_i = \mathrm{E}[f(z, x_i) \mid x_i]`. The mean of
these over a group estimates that of the population which the group is drawn from, so the effect is
a difference of means of independent data, and its error is that of Welch (1947,
https://doi.org/10.1093/biomet/34.1-2.28).

That is the error of these means, not of the model. A model with few latents smooths: what differs
in some features moves the posterior means of others a little, and with enough data a little is
sure. So the rate of false discoveries holds for effects beyond `delta`, chosen above what smoothing
does; with ``delta=0`` it holds only where the groups do not differ at all.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.rows import DataError
from ..guards import seed_of, whole_number
from ..vae import VAE
from .expectations import expect

if TYPE_CHECKING:
    import pandas
    import xarray

Groups = tuple[Any, Any]

TINY = 1e-300  # the error of what is constant


def contrast(
    vae: VAE,
    a: Any,
    b: Any,
    f: Callable[..., Any],
    *,
    c: Groups | None = None,
    over: Any = None,
    delta: float = 0.0,
    fdr: float = 0.05,
    num_samples: int = 1000,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pandas.DataFrame:
    r"""Which outputs of a function differ between two groups of data, with the false discovery rate
    that this choice has.

    Arguments:
        vae: A VAE.
        a: The data of one group, of shape ``(N, *X)``.
        b: Those of the other.
        f: A function of latents and data, as in :func:`.expect`:
            ``lambda z, x: vae.decode(z).mean`` for the mean of each feature, its logarithm for
            ratios.
        c: What the model is conditional on: that of the one group and of the other, a row for each
            datum. f is then ``f(z, x, c)``.
        over: Rows of c, such as one for each batch, which f is averaged over for each datum: then
            the groups may come from different batches. Left out, each datum has its own c.
        delta: The effect, in units of f, that counts as none: the smallest that matters to you. At
            0 large groups make sure of effects that are only the model's smoothing.
        fdr: The false discovery rate that is allowed among the selected.
        num_samples: The draws of each datum, as in :func:`.expect`.
        tolerance: As in :func:`.expect`.
        names: The names of the outputs of f, if they have some.
        seed: The seed of the draws.
        progress: Whether a terminal shows a progress bar, after two seconds.

    Returns:
        A frame with a row for each output of f, the surest first: ``mean_a`` and ``mean_b``;
        ``effect``, the first less the second; ``se``, its standard error; ``probability``, that the
        effect of the populations lies beyond `delta` on the side of this one, under a flat prior;
        ``p_value``, of an effect within `delta`; ``fdr``, the false discovery rate among this
        output and those before it (Benjamini & Hochberg, 1995); and ``selected``, whether that is
        allowed. Its attributes say the sizes of the groups, `delta` and `fdr`.

    Raises:
        DataError: The data, or c, do not fit.
        TypeError: `vae` is no VAE, or f no function.
        ValueError: A group has fewer than two data, a mean is not finite, f gives other outputs
            for b than for a, or an option makes no sense.

    Warns:
        UserWarning: Some means over the posterior cannot be trusted.
    """
    import pandas
    from scipy import stats

    if not isinstance(vae, VAE):
        raise TypeError(f"contrast needs a VAE, and a and b beside it; got {type(vae).__name__}")
    _check(delta, fdr, c)
    whole_number("seed", seed, at_least=0)
    options: dict[str, Any] = {
        "num_samples": num_samples,
        "tolerance": tolerance,
        "names": names,
        "progress": progress,
    }
    averaged = f if over is None else _over(vae, f, over)
    found = _expected(vae, (a, b), c or (None, None), averaged, seed, options)
    _warn_of_flags(found, tolerance)
    of_a, of_b = _means_of_both(found, vae.columns)

    table = pandas.DataFrame(_welch(of_a, of_b, delta), index=_outputs(found[0]))
    table["fdr"] = stats.false_discovery_control(table.p_value)
    table["selected"] = table.fdr <= fdr
    table.attrs |= {"num_a": len(of_a), "num_b": len(of_b), "delta": delta, "fdr": fdr}
    surest = np.lexsort((-np.abs(table.effect / table.se.clip(lower=TINY)), table.p_value))
    return table.iloc[surest]


def _check(delta: Any, fdr: Any, c: Any) -> None:
    if not _is_number(delta) or not 0 <= delta < math.inf:
        raise ValueError(f"delta must be an effect from 0, in units of f; got {delta!r}")
    if not _is_number(fdr) or not 0 < fdr < 1:
        raise ValueError(f"fdr must be a rate between 0 and 1, such as 0.05; got {fdr!r}")
    if c is not None and not (isinstance(c, tuple) and len(c) == 2):
        raise ValueError(
            f"contrast needs c as a pair, that of a and that of b; got {type(c).__name__}"
        )


def _expected(
    vae: VAE, groups: Groups, c: Groups, f: Callable[..., Any], seed: int, options: dict[str, Any]
) -> list[xarray.Dataset]:
    """The means over the posterior of each group, by draws of its own, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "means of ", UserWarning)  # there is one for both groups
        return [
            _of_group(name, vae, x, f, of_x, seed=own, **options)
            for name, x, of_x, own in zip("ab", groups, c, (seed, seed_of(seed, 1)), strict=True)
        ]


def _of_group(name: str, *arguments: Any, **options: Any) -> xarray.Dataset:
    try:
        return expect(*arguments, **options)
    except (TypeError, ValueError) as error:
        error.add_note(f"contrast was about to average over the group {name}")
        raise


def _warn_of_flags(found: list[xarray.Dataset], tolerance: float | None) -> None:
    """Warn the caller of means that cannot be trusted."""
    counts = [
        (group, r.attrs["flagged"], r.flag.size) for group, r in zip("ab", found, strict=True)
    ]
    said = " and ".join(f"{num} of {size} of {group}" for group, num, size in counts if num)
    if said:
        remedy = "give a tolerance, which escalates" if tolerance is None else "expect says which"
        warnings.warn(f"means over the posterior cannot be trusted: {said}; {remedy}", stacklevel=3)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _over(vae: VAE, f: Callable[..., Any], over: Any) -> Callable[..., Tensor]:
    """A function averaged over rows of c, in place of the c of the data."""
    if vae.condition is None:
        raise ValueError("over needs a conditional VAE, as its rows are rows of c; leave it out")
    try:
        rows = vae.condition.check(over, len(over)).take(slice(None), like=vae.reference)
    except (TypeError, DataError) as error:
        raise DataError(f"over needs rows of c: {error}") from None

    def averaged(z: Any, x: Tensor, c: Tensor) -> Tensor:
        total: Any = 0.0
        for row in rows:
            total = total + torch.as_tensor(f(z, x, row.expand(len(x), *row.shape)))
        return total / len(rows)

    return averaged


def _means_of_both(found: list[xarray.Dataset], columns: Sequence[str] | None) -> list[np.ndarray]:
    """The posterior means of each group, ``(N, outputs)``, if they are of the same outputs."""
    of_a, of_b = (_means(name, result, columns) for name, result in zip("ab", found, strict=True))
    if of_a.shape[1] != of_b.shape[1]:
        raise ValueError(
            f"contrast needs the same outputs of f for both groups; got {of_a.shape[1]} for a and "
            f"{of_b.shape[1]} for b"
        )
    return [of_a, of_b]


def _means(group: str, found: xarray.Dataset, columns: Sequence[str] | None) -> np.ndarray:
    """The posterior means of a group, ``(N, outputs)``, if they are known."""
    means = found["mean"].values
    if len(means) < 2:
        raise ValueError(
            f"contrast needs at least two data in each group; {group} has {len(means)}"
        )
    means = means.reshape(len(means), -1)
    unknown = np.argwhere(~np.isfinite(means))
    if len(unknown):
        row, output = unknown[0]
        part = "row" if np.isfinite(means[:, output]).any() else "output (a class has no mean)"
        raise ValueError(
            f"contrast needs finite means of f; that of {_name(found, output, columns)} is "
            f"{means[row, output]} for row {row} of {group}; leave the {part} out, or have f give "
            "numbers there"
        )
    return means


def _name(found: xarray.Dataset, output: int, columns: Sequence[str] | None) -> str:
    """An output of f in words, and the column that it is where f gives one for each."""
    outputs = _outputs(found)
    name = outputs[output]
    if isinstance(name, str):
        return f"output {str(name)!r}"
    if columns is None or len(columns) != len(outputs):
        return f"output {name}"
    return f"output {name} (column {columns[output]!r}, if f gives the columns)"


def _outputs(found: xarray.Dataset) -> list[Any]:
    """What the outputs of f are called: by name, by number, or by a number for each dimension."""
    dims = found["mean"].dims[1:]
    if len(dims) == 1:
        return list(found[dims[0]].values)
    return list(np.ndindex(*(found.sizes[dim] for dim in dims))) if dims else [0]


def _welch(a: np.ndarray, b: np.ndarray, delta: float) -> dict[str, np.ndarray]:
    """Differences of means of columns, and how sure it is that they are beyond `delta`.

    The p-value is that of an effect of `delta`, on either side: of all effects that count as none,
    the one that data are the most likely to exceed.
    """
    from scipy import stats

    effect = a.mean(0) - b.mean(0)
    variance = [group.var(0, ddof=1) / len(group) for group in (a, b)]
    se = np.sqrt(variance[0] + variance[1])
    parts = [v**2 / (len(group) - 1) for v, group in zip(variance, (a, b), strict=True)]
    freedom = np.maximum(se**4, TINY) / np.maximum(parts[0] + parts[1], TINY)
    size = np.maximum(se, TINY)
    beyond, behind = (np.abs(effect) - delta) / size, (np.abs(effect) + delta) / size
    return {
        "mean_a": a.mean(0),
        "mean_b": b.mean(0),
        "effect": effect,
        "se": se,
        "probability": stats.t.cdf(beyond, freedom),
        "p_value": np.minimum(1.0, stats.t.sf(beyond, freedom) + stats.t.sf(behind, freedom)),
    }
