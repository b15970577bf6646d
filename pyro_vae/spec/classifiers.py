"""The table ``classifier`` of a spec: q(c|x), for a c of which some rows are unknown."""

from __future__ import annotations

from typing import Any

import torch

from ..assembly.classifier import Classifier
from ..assembly.condition import Condition
from ..conditionals.declared import at
from .parts import as_table, named_part


def classifier_of(
    spec: dict[str, Any],
    condition: Condition | None,
    event: torch.Size,
    mlp: dict[str, Any],
    *,
    log1p: bool,
) -> Classifier | None:
    """What a spec says of q(c|x), if it says anything.

    Arguments:
        spec: The spec.
        condition: What it says of c.
        event: The shape of one datum.
        mlp: Arguments for an MLP that the table does not give.
        log1p: Whether a network that can see logarithms of counts does, unless the table says.

    Raises:
        ValueError: c is not one column of classes, or a value makes no sense.
    """
    if "classifier" not in spec:
        return None
    if condition is None or not condition.is_one_of_classes:
        got = "no c" if condition is None else condition.describe()
        raise ValueError(
            "classifier: needs c as one column of classes alone, NaN where unknown; "
            f"got {got}; give such a c, or condition={{'categories': ...}}"
        )
    part = spec["classifier"]
    table = {"name": part} if isinstance(part, str) else dict(as_table("classifier", part))
    weight: dict[str, Any] = {"weight": table.pop("weight")} if "weight" in table else {}
    sizes = (torch.Size([condition.width]),)
    conditional = named_part("classifier", table, sizes, None, event, mlp, log1p)
    with at("classifier"):
        try:
            return Classifier(conditional, **weight)
        except TypeError as error:
            raise ValueError(str(error)) from None
