"""Encoder and decoder without Python: torch.export and ONNX, for batches of any size.
===================================================================================

A trained encoder may have to run where there is no Pyro: in a service, a browser, a phone. Its mean
and standard deviation, and the mean of the decoder, are functions of tensors, and torch writes
them as graphs. The encoder takes rows with missing cells, NaN, as the VAE does. What another
runtime, onnxruntime, computes from the files is then compared with the VAE itself.

Run it: python examples/23_export.py
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pyro
import torch
import typer
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pyro_vae as pv

CLOSE = 1e-5


class Encoder(nn.Module):
    """The mean and the standard deviation of q(z | x)."""

    def __init__(self, vae: pv.VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both of shape (N, latents), for x of shape (N, features)."""
        guide = self.vae.guide_of(x, None)  # encode(x) looks at the values of x, a graph cannot
        return guide.mean, guide.stddev


class Decoder(nn.Module):
    """The mean of p(x | z)."""

    def __init__(self, vae: pv.VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        """Of shape (N, features), for z of shape (N, latents)."""
        return self.vae.decode(z).mean


def exported(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The graph of a module, for any number of rows."""
    rows = torch.export.Dim("rows", min=1)
    with torch.no_grad(), pyro.validation_enabled(False):  # no graph stops at a value
        return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: rows},))


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Train, export, run the files elsewhere, compare."""
    x = torch.as_tensor(load_digits().data).float()
    vae = pv.build(x, latent=8, likelihood="binomial", hidden=[100])
    pv.fit(vae, x, epochs=3 if small else 30, learning_rate=3e-3)

    out.mkdir(parents=True, exist_ok=True)
    holes = x.clone()
    holes[torch.rand(x.shape) < 0.1] = torch.nan
    worst: dict[str, float] = {}
    for name, module, given in (
        ("encoder", Encoder(vae), holes),
        ("decoder", Decoder(vae), torch.randn(len(x), 8)),
    ):
        program = exported(module, given[:3])
        torch.export.save(program, out / f"23_{name}.pt2")
        torch.onnx.export(program, dynamo=True, verbose=False).save(out / f"23_{name}.onnx")
        again = torch.export.load(out / f"23_{name}.pt2").module()
        for rows in (1, 7, len(given)):
            with torch.no_grad():
                ours, theirs = module(given[:rows]), again(given[:rows])
            elsewhere = run(out / f"23_{name}.onnx", given[:rows].numpy())
            for one, other, third in zip(as_tuple(ours), as_tuple(theirs), elsewhere, strict=True):
                assert (one - other).abs().max() <= CLOSE * one.abs().max()
                error = float((one - torch.as_tensor(third)).abs().max() / one.abs().max())
                worst[name] = max(worst.get(name, 0.0), error)
        print(
            f"{name}: onnxruntime differs from the VAE by {worst[name]:.1e} of the largest number"
        )
        assert worst[name] <= CLOSE

    images = run(out / "23_decoder.onnx", run(out / "23_encoder.onnx", x[:8].numpy())[0])[0]
    picture(x[:8].numpy(), images).savefig(out / "23_export.png")
    assert np.abs(images - x[:8].numpy()).mean() < 5.0  # grey levels of 16


def as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One tensor or several, as several."""
    return value if isinstance(value, tuple) else (value,)


def run(path: Path, rows: np.ndarray) -> list[np.ndarray]:
    """What a file makes of some rows, by onnxruntime."""
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: rows})


def picture(x: np.ndarray, again: np.ndarray) -> Figure:
    """Images, and what encoder and decoder make of them without torch."""
    figure = Figure(figsize=(8, 2.2), dpi=120, layout="constrained")
    for column, pair in enumerate(zip(x, again, strict=True)):
        for row, image in enumerate(pair):
            axes = figure.add_subplot(2, 8, 8 * row + column + 1)
            axes.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=16)
            axes.set_axis_off()
    figure.suptitle("digits, and the same through two ONNX files")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
