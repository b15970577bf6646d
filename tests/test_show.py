"""What a notebook shows: all that it should say, safe on any page, changing nothing."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv

EVIL = "<script>alert('x')</script>"
RNG = np.random.default_rng(0)
VOID = {"img", "path", "rect", "circle"}


class Reader(HTMLParser):
    """The tags, the text, and where a page would load from."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.sources, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def read(shown):
    found = Reader(shown._repr_html_())
    assert not {"script", "link", "iframe", "style"} & set(found.tags)
    embedded = ("data:image/png;base64,", "data:image/svg+xml;base64,")
    assert all(source.startswith(embedded) for source in found.sources)
    assert not any("scroll" in word for word in found.words)  # which only a page of its own can
    return found


def test_a_vae_shows_its_parts_shapes_and_parameters():
    x, c = RNG.poisson(2.0, (30, 4)), np.arange(30) % 2
    vae = pv.build(x, c=c, latent=3, prior="mixture", likelihood="poisson", hidden=[7])
    found = read(vae)
    words = " ".join(found.words)
    assert f"x (4,), z (3,), {sum(p.numel() for p in vae.parameters()):,} parameters" in words
    for said in ("mixture", "poisson", "guide: normal", "MLP", "c is seen by: "):
        assert said in words
    counts = [sum(p.numel() for p in part.parameters()) for part in (vae.prior, vae.posterior)]
    assert all(f"{count:,}" in found.words for count in counts)
    assert found.tags.count("svg") == 1
    assert found.tags.count("circle") == 3  # z, x, c
    assert read(pv.show(vae)).words == found.words


def test_colours_are_those_of_the_page():
    """No black or white of our own, which one of the two kinds of pages would hide."""
    text = pv.build(RNG.normal(size=(20, 3)), latent=2, hidden=[])._repr_html_()
    assert set(re.findall(r'(?:stroke|fill)="([^"]*)"', text)) <= {
        "none",
        "currentColor",
        "#808080",
    }


def test_names_of_a_user_are_text():
    frame = pd.DataFrame(RNG.normal(size=(30, 3)), columns=["a", EVIL, "b & c"])
    vae = pv.build(frame, latent=2, hidden=[])
    vae.prior.__class__ = type(EVIL, (type(vae.prior),), {})
    found = read(vae)
    assert f"columns: a, {EVIL}, b & c" in found.words
    assert EVIL not in vae._repr_html_()


def test_only_some_of_many_names_are_shown():
    frame = pd.DataFrame(RNG.normal(size=(30, 40)), columns=[f"gene{n}" for n in range(40)])
    words = " ".join(read(pv.build(frame, latent=2, hidden=[])).words)
    assert "gene11, ..." in words
    assert "gene12" not in words


@pytest.mark.filterwarnings("ignore:log p")
def test_a_result_shows_its_mean_its_flags_and_its_histogram():
    x = RNG.normal(size=(40, 3))
    vae = pv.build(x, latent=2, hidden=[4])
    result = pv.log_evidence(vae, x, num_samples=100)
    marked = result.copy()
    marked.attrs = {key: value for key, value in result.attrs.items() if "flagged" not in key}
    marked.attrs |= {"flagged": 5, "flagged_k_hat": 3, f"flagged_{EVIL}": 2}
    found = read(pv.show(marked))
    mean = f"{result.attrs['mean']:.3f} ± {result.attrs['mean_se']:.3f} nats per datum, 40 data"
    assert f"log p(x): {mean}" in found.words
    assert f"5 flagged: k hat 3, {EVIL} 2" in found.words
    assert found.tags.count("img") == 1
    assert repr(pv.show(result)).startswith("log p(x): ")


def test_a_history_shows_its_curves():
    x = RNG.normal(size=(40, 3))
    history = pv.fit(
        pv.build(x, latent=2, hidden=[]), x, validation=x[:9], epochs=3, progress=False
    )
    found = read(pv.show(history))
    assert f"3 epochs: loss {history.loss.iloc[-1]:.3f}, validation" in " ".join(found.words)
    assert len(found.sources) == 1


@pytest.mark.parametrize("thing", [3, pd.DataFrame({"a": [1]}), None], ids=str)
def test_what_it_cannot_show_is_named(thing):
    with pytest.raises(TypeError, match=r"show needs a VAE, a result of .* or a history; got"):
        pv.show(thing)


def test_showing_changes_nothing():
    x = RNG.normal(size=(20, 3))
    vae, state = pv.build(x, latent=2, hidden=[]), torch.get_rng_state()
    before = repr(vae)
    vae._repr_html_()
    assert torch.equal(torch.get_rng_state(), state)
    assert repr(vae) == before
    assert vae.training
