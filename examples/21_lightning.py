"""A Lightning module around a VAE: its trainer, its optimisers, its log.
======================================================================

Who trains everything by Lightning can train a VAE by it: the loss of a step is Pyro's ELBO of the
VAE's model and guide, per datum, and the parameters are those of any torch module. What comes out
is the same VAE, and its log p(x) is compared with that of the library's own fit.

Run it: python examples/21_lightning.py
"""

from pathlib import Path

import numpy as np
import pytorch_lightning
import torch
import typer
from matplotlib.figure import Figure
from pyro.infer import TraceMeanField_ELBO
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv


class LightningVAE(pytorch_lightning.LightningModule):
    """A VAE that Lightning trains.

    Arguments:
        vae: The VAE, trained in place.
        learning_rate: That of Adam.
    """

    def __init__(self, vae: pv.VAE, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.vae = vae
        self.learning_rate = learning_rate
        self.elbo = TraceMeanField_ELBO()
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The negative ELBO, in nats per datum."""
        (x,) = batch
        loss = self.elbo.differentiable_loss(self.vae.model, self.vae.guide, x) / len(x)
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Train by Lightning and by fit, compare log p(x)."""
    x = torch.as_tensor(load_digits().data).float()
    test, x = x[:200], x[200:]
    epochs = 5 if small else 30
    options = {"latent": 8, "likelihood": "binomial", "hidden": [100]}

    vae = pv.build(x, **options)
    module = LightningVAE(vae)
    trainer = pytorch_lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(0)
    trainer.fit(module, DataLoader(TensorDataset(x), batch_size=128, shuffle=True))

    own = pv.build(x, **options)
    history = pv.fit(own, x, loss="mean_field", epochs=epochs, learning_rate=3e-3, progress=False)
    scores = {
        name: pv.log_evidence(each, test, num_samples=200).log_evidence.values
        for name, each in (("Lightning", vae), ("fit", own))
    }
    for name, each in scores.items():
        print(f"log p(x) by {name}: {each.mean():.1f} nats per datum")
    out.mkdir(parents=True, exist_ok=True)
    picture(module.losses, history.loss.to_numpy()).savefig(out / "21_lightning.png")
    assert abs(scores["Lightning"].mean() - scores["fit"].mean()) < 3.0  # other batches, other z


def picture(steps: list[float], epochs: np.ndarray) -> Figure:
    """The losses of both."""
    figure = Figure(figsize=(6, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(np.linspace(0, len(epochs), len(steps)), steps, alpha=0.5, label="Lightning, a step")
    axes.plot(np.arange(len(epochs)) + 0.5, epochs, color="black", label="fit, an epoch")
    axes.set(xlabel="epoch", ylabel="loss in nats per datum")
    axes.legend()
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
