"""Topics of documents
===================

Topics of documents: a prior over compositions, a multinomial over words, and an affine decoder
between them.

A document is a composition z of topics (Dirichlet, or logistic normal); its words are drawn from
softmax(W z + b). So the words of topic k are read off the decoder at the k-th corner of the simplex
(Srivastava & Sutton, 2017, https://arxiv.org/abs/1703.01488). The baseline is one bag for all: the
multinomial of the training words, exact.

Run it: python examples/05_topics.py [--data FILE.npz]   (arrays "docs_packed", packed bits of words
by document, and "words")"""

from pathlib import Path

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

import pyro_vae as pv

TOPICS = 5
WORDS = 40
PRIORS = {
    "Dirichlet": {"name": "dirichlet", "concentration": 0.2},
    "logistic normal": {"name": "logistic_normal", "loc": 0.0, "scale": 2.0},
}


def main(small: bool = False, data: Path | None = None, out: Path = Path("runs/examples")) -> None:
    """Fit both priors, score held-out documents, compare the topics with the true ones, draw a
    picture.
    """
    x, words, true = simulated(500 if small else 2000) if data is None else loaded(data)
    cut = int(0.8 * len(x))
    train = x[:cut]
    test = x[cut:][:500]

    total = train.sum(0) + 1
    one_bag = pv.Multinomial((x.shape[1],), total_count=1.0, logits=np.log(total / total.sum()))
    baseline = one_bag().log_prob(torch.as_tensor(test)).numpy()
    print(f"{len(train)} documents to train, {len(test)} to score; nats per document ± SE")
    print("one bag for all  log p(x) {:8.2f} ± {:.2f}".format(*mean(baseline)))

    tables = {}
    for label, prior in PRIORS.items():
        likelihood = {"name": "multinomial", "network": {"name": "mlp", "hidden": []}}
        vae = pv.build(train, latent=TOPICS, prior=prior, likelihood=likelihood, hidden=[100])
        pv.fit(
            vae,
            train,
            epochs=40 if small else 100,
            batch_size=32 if small else 128,
            learning_rate=1e-2,
        )
        score = pv.log_evidence(vae, test, num_samples=100 if small else 1000)
        gain, error = mean(score.log_evidence.values - baseline)
        print(
            f"{label:16s} log p(x) {score.attrs['mean']:8.2f} ± {score.attrs['mean_se']:.2f}, "
            f"gain {gain:.2f} ± {error:.2f}, k-hat > 0.7: {score.attrs['flagged'] / len(test):.0%}"
        )
        tables[label] = topics(vae)
        assert gain > 5 * error, "topics must tell something of the words"
        if true is None:
            for row in tables[label]:
                print("   ", " ".join(words[i] for i in row.argsort()[::-1][:8]))
        else:
            tables[label], distance = matched(tables[label], true)
            print(f"{'':16s} total variation to the true topics {distance.diagonal().round(2)}")
            assert (distance.argmin(1) == np.arange(TOPICS)).all(), (
                "each topic must be nearest to its own true one"
            )
            assert distance.diagonal().max() < 0.5 * distance[~np.eye(TOPICS, dtype=bool)].min(), (
                "and near"
            )

    out.mkdir(parents=True, exist_ok=True)
    picture(tables if true is None else {"true": true, **tables}, words).savefig(
        out / "05_topics.png"
    )


def simulated(documents: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Latent Dirichlet allocation: a topic for each of the 60 words of a document, a word from each
    topic.
    """
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.full(WORDS, 0.1), TOPICS)
    composition = rng.dirichlet(np.full(TOPICS, 0.2), documents)
    x = np.stack([rng.multinomial(60, row) for row in composition @ true])
    return x.astype(np.float32), [f"word {i}" for i in range(WORDS)], true


def loaded(path: Path) -> tuple[np.ndarray, list[str], None]:
    """Documents as ones and zeros for the words they have; those with none are left out."""
    file = np.load(path)
    x = np.unpackbits(file["docs_packed"], axis=1)[:, : len(file["words"])]
    x = np.random.default_rng(0).permutation(x[x.sum(1) > 0])
    return x.astype(np.float32), [str(word) for word in file["words"]], None


def topics(vae: pv.VAE) -> np.ndarray:
    """The probability of each word at each corner of the simplex."""
    with torch.no_grad():
        return vae.decode(torch.eye(TOPICS)).probs.double().numpy()


def matched(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The topics in the order of the true ones, and their total variation distances."""
    distance = np.abs(found[None] - true[:, None]).sum(-1) / 2
    order = linear_sum_assignment(distance)[1]
    return found[order], distance[:, order]


def mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def picture(tables: dict[str, np.ndarray], words: list[str]) -> Figure:
    """The words that are frequent in some topic, for each topic."""
    first = next(iter(tables.values()))
    shown = np.unique(first.argsort(1)[:, -8:])

    figure = Figure(figsize=(10.0, 0.5 + 1.5 * len(tables)), dpi=120, layout="constrained")
    panels = figure.subplots(len(tables), 1, sharex=True)
    for axes, (label, table) in zip(panels, tables.items(), strict=True):
        image = axes.imshow(table[:, shown], cmap="Blues", vmin=0, vmax=first.max(), aspect="auto")
        axes.set(ylabel=f"{label}\ntopic", yticks=range(TOPICS), yticklabels=range(1, TOPICS + 1))
    axes.set_xticks(range(len(shown)), [words[i] for i in shown], rotation=90, fontsize=8)
    figure.colorbar(image, ax=panels, label="probability of the word", shrink=0.8)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    typer.run(main)
