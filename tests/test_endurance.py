"""Large data, many steps, many threads: memory stays flat, and results stay equal."""

import gc
import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import pyro_vae as pv

X = np.random.default_rng(0).poisson(3.0, (64, 4))

ANONYMOUS = textwrap.dedent(
    """
    import json
    import sys
    import threading
    import time
    import numpy as np
    import torch
    import pyro_vae as pv

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1e3

    class Peak:
        # megabytes of anonymous memory, watched by a thread
        def __enter__(self):
            self.before = self.most = anonymous()
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self.watch)
            self.thread.start()
            return self

        def watch(self):
            while not self.stop.wait(0.01):
                self.most = max(self.most, anonymous())

        def __exit__(self, *_):
            self.stop.set()
            self.thread.join()
            self.grown = max(self.most, anonymous()) - self.before
    """
)
MEMORY_MAP = ANONYMOUS + textwrap.dedent(
    """
    x = np.load(sys.argv[1], mmap_mode="r")
    options = dict(latent=4, hidden=[32], likelihood="normal", prior="one_hot")
    vae = pv.build(x[:2000], **options)
    pv.fit(vae, x[:2000], epochs=1, batch_size=1024, progress=False)
    pv.log_evidence(vae, x[:2000])
    with Peak() as fit:
        pv.fit(vae, x, epochs=1, batch_size=1024, progress=False)
    with Peak() as evidence:
        pv.log_evidence(vae, x[:100_000])
    print(json.dumps({"fit": fit.grown, "evidence": evidence.grown}))
    """
)
STEPS = ANONYMOUS + textwrap.dedent(
    """
    import gc
    x = np.random.default_rng(0).poisson(3.0, (64, 4))
    vae = pv.build(x, latent=2, hidden=[8], likelihood="poisson")
    options = dict(batch_size=8, compile=False, progress=False)
    pv.fit(vae, x, epochs=100, **options)
    gc.collect()
    before, objects = anonymous(), len(gc.get_objects())
    history = pv.fit(vae, x, epochs=625, **options)
    gc.collect()
    steps = 625 * 8
    print(json.dumps({
        "kilobytes a step": 1e3 * (anonymous() - before) / steps,
        "objects": len(gc.get_objects()) - objects - history.size,
    }))
    """
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def ran(script, folder, *arguments):
    (folder / "script.py").write_text(script)
    command = [sys.executable, folder / "script.py", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_a_memory_map_of_a_million_rows_is_never_in_memory(tmp_path):
    """400 MB on disk; 300 MB of anonymous memory are allowed."""
    path = tmp_path / "x.npy"
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (10**6, 100))
    for start in range(0, 10**6, 10**5):
        x[start : start + 10**5] = rng.normal(size=(10**5, 100))
    del x
    grown = ran(MEMORY_MAP, tmp_path, path)
    assert grown["fit"] < 300, grown
    assert grown["evidence"] < 300, grown


@pytest.mark.slow
def test_five_thousand_steps_leave_nothing_behind(tmp_path):
    found = ran(STEPS, tmp_path)
    assert found["kilobytes a step"] < 1, found
    assert found["objects"] < 1000, found


def test_models_that_were_made_and_trained_are_forgotten():
    def cycle():
        vae = pv.build(X, latent=1, hidden=[2], likelihood="poisson")
        pv.fit(vae, X, epochs=1, progress=False)

    for _ in range(3):
        cycle()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        cycle()
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_threads_encode_alike_and_fit_one_after_the_other():
    vae = pv.build(X, latent=2, hidden=[8], likelihood="poisson")
    expected = vae.encode(X).mean
    with ThreadPoolExecutor(8) as pool:
        means = list(pool.map(lambda _: vae.encode(X).mean, range(32)))
    assert all(torch.equal(mean, expected) for mean in means)

    def trained(seed):
        model = pv.build(X, latent=2, hidden=[4], likelihood="poisson", seed=seed)
        return pv.fit(model, X, epochs=2, seed=seed, progress=False).loss.tolist()

    alone = [trained(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(trained, range(8)))
    assert together == alone
