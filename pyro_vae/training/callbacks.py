"""What a callback of ``fit`` is told after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING

import numpy as np

from ..guards import mode, random_states, set_random_states
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


def wants_to_stop(callback: Callback | None, make_state: Callable[[], State]) -> bool:
    """Whether a callback asks to stop: whether it returns True. What it draws from torch
    changes no training.

    Raises:
        TypeError: It returns something else than True, False or None.
    """
    if callback is None:
        return False
    state = make_state()
    before = random_states()
    with mode(state.vae, training=False):
        answer = callback(state)
    set_random_states(before)
    if not isinstance(answer, (bool, np.bool_, NoneType)):
        raise TypeError(f"callback must return True to stop, or None; got {answer!r:.60}")
    return bool(answer)
