"""A few labels and 1200 digits without
====================================

A few labels and 1200 digits without: Kingma's M2 by `build` and `fit`, and by hand, from this
package's conditionals in plain Pyro functions.

    p(x, y, z) = p(y) p(z) p(x | y, z),    q(y, z | x) = q(y | x) q(z | x, y)

(Kingma et al., 2014, https://arxiv.org/abs/1406.5298). The labels y that are not known are summed
over, so the classifier q(y | x) learns from every digit. Alone it would learn from a hundred.

Run it: python examples/08_semi_supervised.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import typer
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pyro_vae as pv

CLASSES, LATENTS, PIXELS = 10, 8, 64
WEIGHT = 50.0  # of log q(y | x) where y is known: there the ELBO gives the classifier no gradient
LIKELIHOOD = {"name": "beta_binomial", "total_count": 16.0}


def in_three_lines(x: Tensor, y: Tensor, test: Tensor, **options: Any) -> Tensor:
    """The labels of other digits; y is NaN where a label is not known."""
    vae = pv.build(x, c=y, latent=8, likelihood=LIKELIHOOD, classifier="one_hot", hidden=[200])
    pv.fit(vae, x, y, batch_size=100, **options)
    return vae.classify(test).probs.argmax(-1)


def parts(x: Tensor) -> nn.ModuleDict:
    """The five distributions; three read their parameters from a network. Two of the networks read
    pixels, and standardise them.
    """
    digit = pv.MLP(PIXELS, CLASSES, hidden=[200])
    both = pv.MLP(PIXELS + CLASSES, 2 * LATENTS, hidden=[200])
    digit.standardize(x.mean(0), x.std(0))
    both.standardize(
        torch.cat([x.mean(0), torch.zeros(CLASSES)]), torch.cat([x.std(0), torch.ones(CLASSES)])
    )
    decoder = pv.MLP(LATENTS + CLASSES, 2 * PIXELS, hidden=[200])
    return nn.ModuleDict(
        {
            "q(y|x)": pv.Amortised(digit, pv.OneHot((CLASSES,))),
            "q(z|x,y)": pv.Amortised(both, pv.Normal((LATENTS,))),
            "p(x|y,z)": pv.Amortised(decoder, pv.BetaBinomial((PIXELS,), total_count=16.0)),
            "p(y)": pv.OneHot((CLASSES,), logits=0.0),
            "p(z)": pv.Normal((LATENTS,), loc=0.0, scale=1.0),
        }
    )


def joined(a: Tensor, b: Tensor) -> Tensor:
    """Side by side, for any batch shapes: the sum over labels puts a dimension in front."""
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*batch, -1), b.expand(*batch, -1)], -1)


def model(m2: nn.ModuleDict, x: Tensor, y: Tensor | None = None) -> None:
    """p(x, y, z), and the classifier where the label is known."""
    with pyro.plate("data", len(x), dim=-1):
        label = pyro.sample("y", m2["p(y)"](), obs=y)
        z = pyro.sample("z", m2["p(z)"]())
        pyro.sample("x", m2["p(x|y,z)"](joined(z, label)), obs=x)
        if y is not None:
            with poutine.scale(scale=WEIGHT):
                pyro.sample("known", m2["q(y|x)"](x), obs=y)


def guide(m2: nn.ModuleDict, x: Tensor, y: Tensor | None = None) -> None:
    """q(y, z | x), or q(z | x, y) where the label is known."""
    with pyro.plate("data", len(x), dim=-1):
        if y is None:
            y = pyro.sample("y", m2["q(y|x)"](x), infer={"enumerate": "parallel"})
        pyro.sample("z", m2["q(z|x,y)"](joined(x, y)))


def main(small: bool = False, out: Path = Path("runs/examples"), seed: int = 0) -> None:
    """Train in both ways and on the labels alone, compare, draw a picture."""
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.as_tensor(images[order], dtype=torch.float32)
    classes = torch.as_tensor(classes[order])
    y = nn.functional.one_hot(classes, CLASSES).float()
    train, test, truth = x[:1300], x[1300:], classes[1300:]
    num, epochs, rate, size = (100, 5, 3e-3, 50) if small else (100, 150, 1e-3, 100)
    known, labels, unknown = train[:num], y[:num], train[100:]

    some = torch.where(torch.arange(1300) < num, classes[:1300], torch.nan)
    options = {"epochs": epochs, "learning_rate": rate, "seed": seed}
    right = {"by build and fit": in_three_lines(train, some, test, **options) == truth}

    torch.manual_seed(seed)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    m2 = parts(train)
    alone = parts(train)["q(y|x)"]
    optimiser = torch.optim.Adam([*m2.parameters(), *alone.parameters()], lr=rate)
    for _ in range(epochs):
        for batch in unknown[torch.randperm(len(unknown))].split(size):
            free = elbo.differentiable_loss(model, guide, m2, batch)
            tied = elbo.differentiable_loss(model, guide, m2, known, labels)
            apart = -alone(known).log_prob(labels).sum()
            optimiser.zero_grad()
            ((free + tied + apart) / size).backward()
            optimiser.step()
    right["by hand"] = m2["q(y|x)"](test).logits.argmax(-1) == truth
    right["labels alone"] = alone(test).logits.argmax(-1) == truth

    print(f"right of {len(test)} held-out digits ± SE, {num} labels and 1200 digits without")
    for way, each in right.items():
        print(f"  {way:<18}{'{:.1%} ± {:.1%}'.format(*mean(each))}")
    gap, error = mean(right["by build and fit"].int() - right["by hand"].int())
    gain, error_of_gain = mean(right["by hand"].int() - right["labels alone"].int())
    print(f"  the two ways differ by {gap:.1%} ± {error:.1%}, digit by digit")
    out.mkdir(parents=True, exist_ok=True)
    picture(right).savefig(out / "08_semi_supervised.png")
    limit = -2 if small else 2
    assert gain > limit * error_of_gain, "digits without labels must help, and soon not hurt"
    assert small or abs(gap) < 3 * error, "both ways must be equally good"


def mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def picture(right: dict[str, Tensor]) -> Figure:
    """Accuracy on held-out digits, with two standard errors."""
    figure = Figure(figsize=(5.5, 2.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    means, errors = zip(*(mean(each) for each in right.values()), strict=True)
    axes.errorbar(means, list(right), xerr=[2 * error for error in errors], fmt="o")
    axes.set(xlabel="share of held-out digits classified right", ylim=(2.5, -0.5))
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
