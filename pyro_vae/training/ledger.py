"""What steps came to, kept beside the parameters until somebody asks.

To ask a GPU for a number is to wait until it has done all that it was given. So each step notes its
loss where it was computed, and after the first that is not finite no step counts, or moves
anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NotFinite(FloatingPointError):
    """Which of the steps since the last reading was the first with a loss or gradient that is not
    finite: `steps` were made before it.
    """

    def __init__(self, what: str, steps: int) -> None:
        super().__init__(what)
        self.steps = steps


class Ledger:
    """Losses of steps, summed as they are made.

    Arguments:
        device: Where the steps are made.
    """

    def __init__(self, device: torch.device) -> None:
        # the sum of losses, the number of steps, loss and norm of the last, whether all were finite
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which that has not
        self.page = torch.zeros(5, dtype=dtype, device=device)
        self._start()

    def _start(self) -> None:
        self.page.zero_()
        self.page[4].fill_(1.0)

    def note(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Take in a step, by its loss and the norm of its gradient: whether it counts."""
        total, count, last_loss, last_norm, were_finite = self.page.unbind()
        holds = were_finite > 0
        counts = holds & loss.isfinite() & norm.isfinite()
        rows = [
            total + torch.where(counts, loss, 0.0),
            count + counts,
            torch.where(holds, loss, last_loss),
            torch.where(holds, norm, last_norm),
            counts,
        ]
        self.page.copy_(torch.stack([row.to(self.page) for row in rows]))
        return counts

    def read(self) -> float:
        """The sum of the losses since the last reading; this waits for the device.

        Raises:
            NotFinite: A step did not count.
        """
        total, count, loss, _, were_finite = self.page.tolist()
        self._start()
        if not were_finite:
            what = "gradient" if math.isfinite(loss) else f"loss ({loss})"
            raise NotFinite(what, int(count))
        return total
