"""Encoding, decoding and drawing a few rows at a time; frames for frames; means of any guide."""

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

import pyro_vae as pv
from pyro_vae.assembly import streams
from tests.setting import setting

X = np.random.default_rng(0).poisson(3.0, (50, 3))
RNG_FAR = np.random.default_rng(3)
FRAME = pd.DataFrame(X.astype(float), columns=["a", "b", "c"], index=range(100, 150))


def counts(x=X, **parts):
    return pv.build(x, **{"latent": 2, "hidden": [6], "likelihood": "poisson", **parts})


@pytest.fixture
def few_at_once(monkeypatch):
    """Seven rows at a time, of one draw each."""
    monkeypatch.setattr(streams, "NUMBERS", 7 * streams.LAYER)


@pytest.mark.parametrize("parts", [{}, {"prior": "gamma"}, {"guide": "spline_flow"}], ids=str)
def test_encoding_piece_by_piece_is_encoding(parts, few_at_once):
    vae = counts(**parts)
    z = vae.encode(X).sample()
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(X).log_prob(z), vae.encode(X.copy()).log_prob(z))
        pieces = vae.encode(X).log_prob(z)
    torch.testing.assert_close(pieces, vae.encode(X).log_prob(z))


def test_with_a_condition_each_row_keeps_its_own(few_at_once):
    c = np.arange(50.0)[:, None]
    vae = counts(c=c, condition={"size": 1, "seen_by": ["prior", "likelihood", "guide"]})
    with torch.no_grad():
        pieces = vae.encode(X, c).mean
    torch.testing.assert_close(pieces, vae.encode(X, c).mean)
    with torch.no_grad():
        vae.likelihood.network.layers[-1].weight.zero_()
        vae.likelihood.network.layers[-1].bias.fill_(0.0)
    assert vae.sample(50, c).shape == vae.reconstruct(X, c).shape == (50, 3)


def test_reconstruction_is_the_mean_over_draws(few_at_once):
    vae = counts()
    found = vae.reconstruct(X, num_samples=400)
    with torch.no_grad():
        draws = vae.decode(vae.encode(X).sample((4000,))).mean
    error = draws.std(0) * np.sqrt(1 / 400 + 1 / 4000)
    assert bool(((found - draws.mean(0)).abs() < 5 * error).all())
    assert torch.equal(vae.sample(20), vae.sample(20))


FEW_MEGABYTES = textwrap.dedent(
    """
    import sys
    import numpy as np
    import torch
    import pyro_vae as pv

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1e3

    x = np.load(sys.argv[1], mmap_mode="r")
    vae = pv.build(x[:1000], latent=4, hidden=[400], likelihood="normal")
    call = {
        "encode": lambda x: vae.encode(x).mean,
        "reconstruct": lambda x: vae.reconstruct(x),
        "sample": lambda x: vae.sample(len(x)),
        "impute": lambda x: vae.impute(x, num_samples=20),
    }[sys.argv[2]]
    call(x[:20000])
    before, most = anonymous(), 0.0
    import threading
    stop = threading.Event()
    def watch():
        global most
        while not stop.wait(0.02):
            most = max(most, anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    with torch.no_grad():
        result = call(x)
    stop.set()
    thread.join()
    print(max(most, anonymous()) - before)
    """
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("what", ["encode", "reconstruct", "sample", "impute"])
def test_memory_does_not_grow_with_the_rows(what, tmp_path):
    """200,000 rows of 20 numbers: 16 MB of results. All at once they took gigabytes."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(200_000, 20)).astype(np.float32))
    (tmp_path / "script.py").write_text(FEW_MEGABYTES)
    command = [sys.executable, tmp_path / "script.py", path, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300


# Frames


def test_a_frame_comes_back_for_a_frame():
    vae = counts(FRAME)
    other = FRAME[["c", "a", "b"]]
    found = vae.reconstruct(other)
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == ["c", "a", "b"]
    assert found.index.equals(FRAME.index)
    straight = vae.reconstruct(X)
    assert isinstance(straight, torch.Tensor)
    np.testing.assert_array_equal(found[["a", "b", "c"]].to_numpy(), straight)

    holes = other.copy()
    holes.iloc[3, 0] = np.nan
    filled = vae.impute(holes, num_samples=10)
    assert list(filled.columns) == ["c", "a", "b"]
    assert not filled.isna().any().any()
    np.testing.assert_array_equal(filled.drop(index=103), other.drop(index=103))
    several = vae.impute(holes, num_samples=10, draws=3)
    assert len(several) == 3
    assert all(each.index.equals(FRAME.index) for each in several)

    drawn = vae.sample(5)
    assert list(drawn.columns) == ["a", "b", "c"]
    assert counts().sample(5).shape == (5, 3)


def test_a_frame_for_a_model_without_names():
    found = counts().reconstruct(FRAME[["c", "a", "b"]])  # taken in the order that it has
    assert list(found.columns) == ["c", "a", "b"]


def test_names_that_occur_twice():
    twice = pd.concat([FRAME, FRAME[["a"]]], axis=1)
    found = counts(twice).reconstruct(twice)
    assert list(found.columns) == ["a", "b", "c", "a"]


# Means


def test_the_variance_of_numbers_far_from_zero():
    x = RNG_FAR.normal(1e4, 1.0, (50, 2))
    with setting(torch.float32):
        vae = pv.build(x, latent=1, hidden=[4], likelihood="spline_flow")
        variance = vae.decode(torch.zeros(1, 1)).variance
    assert bool(((variance > 0.1) & (variance < 10)).all())


@pytest.mark.parametrize("prior", ["gamma", "log_normal", "beta"])
def test_the_mean_of_a_guide_over_constrained_latents(prior):
    """Against the integral over the normal guide."""
    vae = counts(prior=prior)
    with torch.no_grad():
        guide = vae.encode(X[:5])
        base, (_, map_) = guide.base_dist.base_dist, guide.transforms
        loc, scale = base.loc.numpy(), base.scale.numpy()

        def expected(m, s):
            def integrand(u):
                return float(map_(torch.tensor([u]))[0]) * stats.norm.pdf(u, m, s)

            return integrate.quad(integrand, m - 10 * s, m + 10 * s)[0]

        exact = np.vectorize(expected)(loc, scale)
        error = guide.stddev.numpy() / 1000**0.5
        assert (np.abs(guide.mean.numpy() - exact) < 5 * error).all()
        assert torch.equal(guide.mean, guide.mean)


@pytest.mark.parametrize("parts", [{"prior": "dirichlet"}, {"guide": "spline_flow"}], ids=str)
def test_every_guide_has_a_mean_and_leaves_the_random_state(parts):
    guide = counts(**parts).encode(X)
    before = torch.get_rng_state()
    mean = guide.mean
    assert torch.equal(torch.get_rng_state(), before)
    draws = guide.sample((2000,))
    error = draws.std(0) * np.sqrt(1 / 1000 + 1 / 2000)
    assert bool(((mean - draws.mean(0)).abs() < 5 * error).all())
    torch.testing.assert_close(guide.variance, draws.var(0), rtol=0.5, atol=1e-3)
