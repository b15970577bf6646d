"""Several models as one: a mixture of VAEs that scores data and draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evidence.flags import SAID, counted
from ..evidence.results import means
from ..guards import seed_of, whole_number
from ..vae import VAE
from .comparable import ATTRIBUTES, checked_problems
from .scoring import scored, warn_of_untrusted

if TYPE_CHECKING:
    import pandas
    import xarray

ESTIMATES = ("log_evidence", "elbo", "second_opinion")  # log densities all, or bounds of them
SUM = 1e-6  # how far from 1 weights may sum


def mixture(results: Mapping[Any, xarray.Dataset], weights: Mapping[Any, float]) -> xarray.Dataset:
    """log p(x) of a mixture, from that of its models: its error by the delta method from
    independent draws, and for each datum the gravest flag of any.

    Arguments:
        results: By name, results over ``datum`` for the same data; those without weight are not
            looked at.
        weights: By name, of sum 1.
    """
    import xarray
    from scipy.special import logsumexp

    parts = [results[name] for name in results if weights[name] > 0]
    log_weight = np.log([weights[name] for name in results if weights[name] > 0])[:, None]
    figures: dict[str, Any] = {
        name: logsumexp(log_weight + np.stack([part[name].values for part in parts]), axis=0)
        for name in ESTIMATES
        if all(name in part for part in parts)
    }
    log_density = np.stack([part.log_evidence.values for part in parts])
    with np.errstate(invalid="ignore"):  # of a datum without probability
        share = np.exp(log_weight + log_density - figures["log_evidence"])
    error = np.stack([part.se.values for part in parts])
    errors = np.where(share == 0, 0.0, share * error)  # also of a model at -inf, without an error
    figures["se"] = np.sqrt((errors**2).sum(0))

    num = len(figures["se"])
    said = [part.flag.values if "flag" in part.coords else np.full(num, "") for part in parts]
    of_reasons = [(np.stack(said) == reason).any(0) for reason in SAID]
    flag = np.select(of_reasons, list(SAID), default="")
    attrs = {name: parts[0].attrs[name] for name in sorted(ATTRIBUTES)}
    return xarray.Dataset(
        {name: ("datum", values) for name, values in figures.items()},
        {"flag": ("datum", flag), "datum": np.arange(num)},
        attrs | means(figures) | counted(flag) | {"unit": "nats per datum"},
    )


@dataclass(frozen=True)
class ModelAverage:
    """A mixture of VAEs: each datum is made by one of them, with the probability of its weight.

    Made by :func:`average`.

    Arguments:
        models: By name, VAEs over data of the same shape and columns.
        weights: By name, of sum 1.
    """

    models: Mapping[Any, VAE]
    weights: Mapping[Any, float]

    def log_evidence(
        self,
        x: Any,
        c: Any = None,
        *,
        num_samples: int = 1000,
        tolerance: float | None = None,
        seed: int = 0,
    ) -> xarray.Dataset:
        r""":math:`\log \sum_k w_k\, p_k(x)` for each datum; of data with missing cells, of those
        that are seen. Models without weight are not asked.

        Arguments:
            x: Data of shape ``(N, *X)``, NaN where missing.
            c: What all models are conditional on, a row for each datum.
            num_samples: The number of samples K for each datum and model.
            tolerance: The standard error wanted for each datum and model, in nats, as in
                :func:`.log_evidence`; that of the mixture is at most as large.
            seed: The seed of the draws; each model has its own.

        Returns:
            A dataset like that of :func:`.log_evidence`, which :func:`.compare_models` takes:
            ``log_evidence``, ``se`` and, where all models have them, ``elbo`` and
            ``second_opinion``; as coordinate ``flag``, the gravest of any model.

        Raises:
            DataError: The data do not fit a model.
            ValueError: Some models give densities, others probabilities; an option makes no sense.

        Warns:
            UserWarning: Data of some model are flagged, and mostly too low.
        """
        whole_number("seed", seed, at_least=0)
        some = {name: vae for name, vae in self.models.items() if self.weights[name] > 0}
        problems = checked_problems("log_evidence of an average", some, x, c)
        seeds = {name: seed_of(seed, number) for number, name in enumerate(some)}
        options: dict[str, Any] = {"num_samples": num_samples, "tolerance": tolerance}
        results, _ = scored(some, problems, seeds, **options)
        warn_of_untrusted(results, tolerance, "so is that of the average")
        return mixture(results, self.weights)

    def sample(self, size: int, c: Any = None, *, seed: int = 0) -> Any:
        """Data drawn from the mixture: the same for the same seed.

        Arguments:
            size: How many data.
            c: What all models are conditional on, a row for each datum.
            seed: The seed of the draws.

        Returns:
            A tensor of shape ``(size, *X)``; a frame, if the VAEs know the names of their columns.
        """
        import pandas

        whole_number("size", size, at_least=1)
        whole_number("seed", seed, at_least=0)
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(self.models), size, p=list(self.weights.values()))
        pieces = []
        for number, vae in enumerate(self.models.values()):
            if (place := np.flatnonzero(drawn == number)).size:
                # all are drawn, and few kept: each row has its own c
                pieces.append((place, vae.sample(size, c, seed=seed_of(seed, number))))
        if isinstance(pieces[0][1], pandas.DataFrame):
            return pandas.concat([rows.iloc[place] for place, rows in pieces]).sort_index()
        order = np.argsort(np.concatenate([place for place, _ in pieces]))
        return torch.cat([rows[place] for place, rows in pieces])[order]


def average(
    models: Mapping[Any, VAE], weights: Mapping[Any, float] | pandas.Series
) -> ModelAverage:
    """A mixture of VAEs, which scores data and draws them.

    Arguments:
        models: By name, VAEs over data of the same shape and columns.
        weights: A weight for each, of sum 1, such as those of :func:`.stack`.

    Returns:
        An object with the methods :meth:`~ModelAverage.log_evidence` and
        :meth:`~ModelAverage.sample`.

    Raises:
        TypeError: `models` is no mapping to VAEs, or `weights` are not by name.
        ValueError: The names differ; weights are no shares of 1; the VAEs make data of other
            shapes, columns or classes.
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"average needs a mapping from names to VAEs; got {models!r:.60}")
    for name, model in models.items():
        if not isinstance(model, VAE):
            got = type(model).__name__
            raise TypeError(f"average needs VAEs, which it can draw from; got as {name!r} a {got}")
    shares = _checked_shares(list(models), weights)
    _refuse_other_columns(models)
    return ModelAverage(dict(models), shares)


def _checked_shares(
    names: list[Any], weights: Mapping[Any, float] | pandas.Series
) -> dict[Any, float]:
    """The weights in the order of the names, of sum 1 but for rounding."""
    if not hasattr(weights, "items"):
        raise TypeError(
            f"average needs weights by name, such as those of stack; got {weights!r:.60}"
        )
    given = {name: float(weight) for name, weight in weights.items()}
    if set(given) != set(names):
        raise ValueError(
            f"average needs a weight for each model and no others; got models {names!r:.80} and "
            f"weights of {list(given)!r:.80}"
        )
    values = np.array([given[name] for name in names])
    if not (values >= 0).all() or not abs(values.sum() - 1) < SUM:
        raise ValueError(
            f"average needs weights from 0 to 1, of sum 1; got {values.tolist()!r:.80}; divide "
            "them by their sum, or take those of stack"
        )
    return dict(zip(names, (values / values.sum()).tolist(), strict=True))


def _refuse_other_columns(models: Mapping[Any, VAE]) -> None:
    """Raise unless all VAEs make the same kind of rows."""
    kinds = {
        name: {
            "shape": tuple(vae.likelihood.event_shape),
            "columns": vae.columns,
            "classes": vae.classes or {},
        }
        for name, vae in models.items()
    }
    first, *others = kinds
    for name in others:
        for what, found in kinds[name].items():
            if found != kinds[first][what]:
                raise ValueError(
                    f"average needs VAEs over data of the same {what}: {first!r} has "
                    f"{kinds[first][what]!r:.60} and {name!r} {found!r:.60}; fit both to the same "
                    "table"
                )
