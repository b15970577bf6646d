"""A flow of another library, zuko, as a prior: any density is a conditional in a few lines.
=========================================================================================

Two interleaved half circles have latents that no single normal describes. A conditional is a module
that gives a Pyro distribution; what a flow of zuko gives is one of torch's, so a class of twenty
lines makes zuko's spline flows a prior of VAEs by name, beside the library's own. Data, evidence
and all else are as before: log p(x) says by how many nats the flow is better than a normal prior.

Run it: python examples/24_zuko_flow.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
import zuko
from matplotlib.figure import Figure
from pyro.distributions import TorchDistribution, constraints
from sklearn.datasets import make_moons
from torch import Tensor

import pyro_vae as pv


class ZukoDistribution(TorchDistribution):
    """A distribution of zuko's as one of Pyro's."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: torch.distributions.Distribution) -> None:
        self.flow = flow
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape sample_shape + batch_shape + event_shape."""
        return self.flow.rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats per draw."""
        return self.flow.log_prob(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ZukoDistribution":
        """The same, of a larger batch shape."""
        return ZukoDistribution(self.flow.expand(torch.Size(batch_shape)))


class ZukoSplines(pv.Conditional, name="zuko_splines"):
    """Zuko's neural spline flow, standing alone: a prior that is learned."""

    def __init__(self, event_shape: Any, *, transforms: int = 2, hidden: int = 32) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.num_params = 0
        (size,) = self.event_shape
        self.flow = zuko.flows.NSF(size, transforms=transforms, hidden_features=[hidden])

    def distribution(self, read: Tensor | None) -> TorchDistribution:
        """The flow; it reads nothing."""
        return ZukoDistribution(self.flow())

    @classmethod
    def example(cls) -> pv.Conditional:
        """A small one."""
        return cls((2,), transforms=1, hidden=4)


def main(small: bool = False, out: Path = Path("runs/examples")) -> None:
    """Train with both priors, compare log p(x) of data that none has seen."""
    x, _ = make_moons(1200, noise=0.05, random_state=0)
    train, test = x[:800].astype(np.float32), x[800:].astype(np.float32)
    scores, vaes = {}, {}
    noise = {"name": "normal", "scale": 0.1}
    for prior in ("normal", "zuko_splines"):
        vae = pv.build(train, latent=2, prior=prior, likelihood=noise, hidden=[])
        pv.fit(vae, train, epochs=40 if small else 150, learning_rate=1e-2, progress=False)
        vaes[prior] = vae
        scores[prior] = pv.log_evidence(vae, test, num_samples=500).log_evidence.values
        print(f"{prior}: log p(x) {scores[prior].mean():.3f} nats per datum")

    out.mkdir(parents=True, exist_ok=True)
    drawn = {name: vae.sample(800).numpy() for name, vae in vaes.items()}
    picture({"data": test, **drawn}).savefig(out / "24_zuko_flow.png")
    gain = scores["zuko_splines"] - scores["normal"]
    se = gain.std(ddof=1) / len(gain) ** 0.5
    print(f"the flow gains {gain.mean():.3f} ± {se:.3f} nats per datum")
    assert gain.mean() > 3 * se
    assert pv.describe(vaes["zuko_splines"])["prior"]["name"] == "zuko_splines"


def picture(clouds: dict[str, np.ndarray]) -> Figure:
    """The data, and draws of each model."""
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    for axes, (name, points) in zip(
        figure.subplots(1, 3, sharex=True, sharey=True), clouds.items(), strict=True
    ):
        axes.scatter(*points.T, s=4)
        axes.set_title(name)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
