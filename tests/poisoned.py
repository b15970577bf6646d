"""A network that goes wrong on purpose."""

import torch


class Poisoned(torch.nn.Module):
    """In train mode, a row of ones makes the loss NaN, or its gradient alone."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, x):
        y = self.layer(x)
        if not self.training:
            return y
        bad = (x.sum(-1, keepdim=True) == 6).to(x)
        if self.what == "loss":
            return y + torch.where(bad > 0, torch.nan, 0.0)
        return (
            y + (1 - bad + bad * 0 * y).sqrt()
        )  # the root of 0 has a gradient of 0 times infinity
