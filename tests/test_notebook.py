"""In a notebook: tqdm's bar, and what Ctrl-C in a cell leaves."""

import contextlib
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tqdm.auto
import tqdm.notebook

import pyro_vae as pv
from pyro_vae import progress

X = np.random.default_rng(0).normal(size=(40, 3))


@pytest.fixture
def notebook(monkeypatch):
    """To rich, which tells whether a kernel runs, this is a notebook."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "SHOWN_AFTER", -1.0)


def small():
    return pv.build(X, latent=2, hidden=[])


@pytest.mark.filterwarnings("ignore:IProgress not found")  # without ipywidgets, tqdm writes text
def test_a_notebook_has_the_bar_of_tqdm(notebook, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    bars = []
    monkeypatch.setattr(progress, "NotebookBar", recorded(progress.NotebookBar, bars))
    history = pv.fit(small(), X, validation=X, epochs=3)
    shown = capsys.readouterr().err
    for part in ("epoch: 100%", "3/3", "validation", "nats", "data/s"):
        assert part in shown
    assert f"loss {history.loss.iloc[-1]:.3f}" in shown
    assert (bars[0].bar.n, bars[0].bar.total, bars[0].bar.disable) == (3, 3, True)  # closed

    pv.gaps(small(), X, steps=5)
    assert "gaps, data" in capsys.readouterr().err
    assert not any(bar.bar.leave for bar in bars[1:])
    num = len(bars)
    pv.fit(small(), X, epochs=2, progress=False)
    assert len(bars) == num


def recorded(kind, made):
    """A class whose instances are kept."""

    def make(*args):
        made.append(kind(*args))
        return made[-1]

    return make


class Widget:
    """What the bar of tqdm needs of a widget."""

    def __init__(self, children=(), **given):
        self.children, self.value, self.bar_style, self.is_closed = children, 0, "", False
        self.layout, self.style = SimpleNamespace(), SimpleNamespace()

    def close(self):
        self.is_closed = True


@pytest.fixture
def widgets(notebook, monkeypatch):
    """The bars of tqdm as they are where there are ipywidgets."""
    for name in ("IProgress", "HTML", "TqdmHBox"):
        monkeypatch.setattr(tqdm.notebook, name, Widget, raising=False)
    monkeypatch.setattr(tqdm.notebook, "display", lambda shown: None, raising=False)
    monkeypatch.setattr(tqdm.auto, "tqdm", tqdm.notebook.tqdm)


@pytest.mark.parametrize(
    ("stays", "done", "error", "style", "is_closed"),
    [
        (True, 3, None, "success", False),
        (True, 2, None, "success", False),  # out of patience: nothing went wrong
        (True, 2, KeyboardInterrupt, "danger", False),
        (False, 3, None, "", True),
        (False, 0, None, "success", True),  # the last steps were not needed
        (False, 2, ValueError, "danger", False),
    ],
)
def test_a_bar_is_red_where_an_error_ended_it(widgets, stays, done, error, style, is_closed):
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        progress.Progress("epoch", 3, shown=True, stays=stays) as bar,
    ):
        bar.update(done, "loss 1.0")
        container = bar.bar.bar.container
        if error:
            raise error
    assert (container.children[1].bar_style, container.is_closed) == (style, is_closed)
    assert is_closed or f"{done}/3" in container.children[2].value


def test_a_short_call_shows_nothing(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    pv.gaps(small(), X[:3], steps=2)
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:IProgress not found")
def test_an_interrupted_cell_keeps_what_was_learnt(notebook, capsys):
    """By the signal that the stop button of a notebook sends."""

    def stop(state):
        if state.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    vae, other, before = small(), small(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt) as caught:
        pv.fit(vae, X, epochs=50, callback=stop)
    history = pv.fit(other, X, epochs=3, progress=False)
    assert list(caught.value.history.loss) == list(history.loss)
    assert "sys.last_value.history" in caught.value.__notes__[0]
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert torch.equal(torch.get_rng_state(), before)
    assert "3/50" in capsys.readouterr().err
    pv.fit(vae, X, epochs=1, progress=False)  # goes on
    assert vae.times_fitted == 2
