"""The loop by hand that training is measured against, on networks of three sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import pyro_vae as pv

Epoch = Callable[[], Any]  # trains for an epoch


@dataclass(frozen=True)
class Size:
    """How large networks, batch and data are."""

    pixels: int
    hidden: int
    latent: int
    batch: int
    data: int = 6400

    def images(self, device: str = "cpu") -> Tensor:
        """Random black and white images."""
        return torch.bernoulli(torch.full((self.data, self.pixels), 0.3)).to(device)

    def networks(self, device: torch.device) -> tuple[nn.Module, nn.Module]:
        """An encoder and a decoder of torch."""

        def layers(*widths: int) -> nn.Module:
            first, hidden, last = widths
            parts = nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last)
            return nn.Sequential(*parts).to(device)

        encoder = layers(self.pixels, self.hidden, 2 * self.latent)
        return encoder, layers(self.latent, self.hidden, self.pixels)

    def vae(self, x: Tensor) -> pv.VAE:
        """The same as a VAE of this library."""
        parts: dict[str, Any] = {"likelihood": "bernoulli", "hidden": [self.hidden]}
        return pv.build(x, latent=self.latent, device=x.device, **parts)


def shuffled(x: Tensor, batch: int) -> Iterator[Tensor]:
    """The batches of an epoch."""
    order = torch.randperm(len(x)).to(x.device)
    for start in range(0, len(x), batch):
        yield x[order[start : start + batch]]


class Hand:
    """A plain loop of torch."""

    def __init__(self, size: Size, x: Tensor, compiled: bool = False) -> None:
        self.size = size
        self.x = x
        encoder, decoder = size.networks(x.device)
        self.parameters = [*encoder.parameters(), *decoder.parameters()]
        self.initial = [parameter.detach().clone() for parameter in self.parameters]
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=1e-3, fused=True, capturable=x.is_cuda
        )

        def loss(batch: Tensor) -> Tensor:
            loc, scale = encoder(batch).chunk(2, -1)
            scale = softplus(scale) + 1e-6
            z = loc + scale * torch.randn_like(loc)
            missed = binary_cross_entropy_with_logits(decoder(z), batch, reduction="sum")
            kl = (0.5 * (loc * loc + scale * scale - 1) - scale.log()).sum()
            return (missed + kl) / len(batch)

        self.loss = torch.compile(loss) if compiled else loss

    def step(self, batch: Tensor) -> Tensor:
        """One step, and its loss."""
        self.optimiser.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        self.optimiser.step()
        return loss

    def afresh(self) -> None:
        """Back to where it began."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.initial, strict=True):
                parameter.copy_(value)
        for state in self.optimiser.state.values():
            for value in state.values():
                value.zero_()

    def epoch(self) -> None:
        """Step by step; the loss is looked at in each."""
        self.afresh()
        for batch in shuffled(self.x, self.size.batch):
            self.step(batch).item()

    def captured(self) -> Epoch:
        """The same, each step a replay of one CUDA graph; the loss is looked at in the end."""
        kept = self.x[: self.size.batch].clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step(kept)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad()
        with torch.cuda.graph(graph):
            loss = self.step(kept)

        def epoch() -> None:
            self.afresh()
            for batch in shuffled(self.x, self.size.batch):
                kept.copy_(batch)
                graph.replay()
            loss.item()

        return epoch
