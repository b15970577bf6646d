"""A loop under Hugging Face's Accelerate: the same code on a laptop, a GPU or several.
====================================================================================

Accelerate wraps model, optimiser and batches, and moves them to where it runs. In several processes
it sums gradients only of what passes through the forward of the module that it has wrapped. So a
small module has the loss as its forward. The batches here are small and their gradients are
accumulated over two of them, as one does where memory is short.

Run it: python examples/22_accelerate.py, or accelerate launch examples/22_accelerate.py
"""

from pathlib import Path

import numpy as np
import torch
import typer
from accelerate import Accelerator
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv


class Loss(nn.Module):
    """The negative ELBO of a VAE as a module, in nats per datum."""

    def __init__(self, vae: pv.VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        """One number, for data of shape (N, features)."""
        return Trace_ELBO().differentiable_loss(self.vae.model, self.vae.guide, x) / len(x)


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Train by Accelerate, score."""
    x = torch.as_tensor(load_digits().data).float()
    test, x = x[:200], x[200:]
    vae = pv.build(x, latent=8, likelihood="binomial", hidden=[100])
    before = pv.log_evidence(vae, test, num_samples=50).log_evidence.values.mean()

    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    module = Loss(vae)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    batches = DataLoader(TensorDataset(x), batch_size=64, shuffle=True)
    module, optimizer, batches = accelerator.prepare(module, optimizer, batches)
    losses = []
    for _ in range(5 if small else 30):
        epoch = []
        for (batch,) in batches:
            with accelerator.accumulate(module):
                loss = module(batch)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            epoch.append(float(loss))
        losses.append(float(np.mean(epoch)))
    if not accelerator.is_main_process:
        return

    trained = accelerator.unwrap_model(module).vae
    after = pv.log_evidence(trained, test, num_samples=200).log_evidence.values.mean()
    print(f"log p(x): {before:.1f} nats before, {after:.1f} after; loss {losses[-1]:.1f}")
    out.mkdir(parents=True, exist_ok=True)
    picture(losses).savefig(out / "22_accelerate.png")
    assert trained is vae
    assert losses[-1] < losses[0]
    assert after > before + 20.0
    assert after > -losses[-1] - 5.0  # the ELBO is a bound of it


def picture(losses: list[float]) -> Figure:
    """The loss of each epoch."""
    figure = Figure(figsize=(6, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, marker="o")
    axes.set(xlabel="epoch", ylabel="loss in nats per datum")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
