"""What a callback of ``fit`` is told after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..guards import mode
from ..vae import VAE

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class State:
    """Where a training run is after an epoch.

    Arguments:
        vae: What is trained, in eval mode. It may be read, saved or copied; to change it is to
            change the training.
        epoch: The number of the epoch, from 0.
        row: The last row of the history: loss, validation, ... by name.
        history: The history so far.
    """

    vae: VAE
    epoch: int
    row: dict[str, float]
    history: pandas.DataFrame


Callback = Callable[[State], bool | None]


def wants_to_stop(callback: Callback | None, state: Callable[[], State]) -> bool:
    """Whether a callback asks to stop: whether it returns True.

    Raises:
        TypeError: It returns something else than True, False or None.
    """
    if callback is None:
        return False
    told = state()
    with mode(told.vae, training=False):
        answer = callback(told)
    if answer is not None and not isinstance(answer, bool):
        raise TypeError(
            f"callback must return True to stop, or None; got {answer!r:.60}; end it without return"
        )
    return bool(answer)
