"""No file runs code or takes the machine: each ends in the error of its door, or is read."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import malicious
import malicious_data
import pytest

import pyro_vae as pv

MEGABYTES, SECONDS = 200, 5
DOORS = {
    "model": (malicious.MODELS, {"CheckpointError"}),
    "checkpoint": (malicious.CHECKPOINTS, {"CheckpointError"}),
    "data": (malicious_data.DATA, {"DataError"}),
    "spec": (malicious_data.SPECS, {"ValueError", "FileNotFoundError"}),
}
READ = {  # which do no harm
    ("data", "names-of-paths.npz"),
    ("data", "columns.csv"),
}
CASES = [(door, name) for door, (files, _) in DOORS.items() for name in files]
KNOCK = textwrap.dedent(
    """
    import json
    import resource
    import sys
    import time
    import warnings
    from pathlib import Path
    import malicious
    import numpy as np
    import pyro_vae as pv

    warnings.simplefilter("ignore")
    doors = {
        "model": pv.load,
        "checkpoint": lambda folder: malicious.fit(folder, epochs=3, resume=True),
        "data": lambda path: densely(pv.data.load(path)),
        "spec": pv.build,
    }

    def densely(table):
        return table.toarray() if hasattr(table, "toarray") else np.asarray(table)

    def resident(name):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1e3

    def knock(door, path):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begun = time.process_time()
        try:
            doors[door](path)
            error = text = ""
        except Exception as raised:
            error, text = type(raised).__name__, str(raised)
        return {
            "error": error,
            "text": text[:1000],
            "seconds": time.process_time() - begun,
            "megabytes": resident("VmHWM") - at_rest,
        }

    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))  # the machine goes on
    malicious.fit(Path("good"))
    pv.build(Path("good.toml"))
    at_rest = resident("VmRSS")
    for line in sys.stdin:
        door, name, path = json.loads(line)
        print(json.dumps([door, name, knock(door, Path(path))]), flush=True)
    """
)


@pytest.fixture(scope="module")
def knocked(tmp_path_factory):
    """What became of each file, and the folder: one process reads all."""
    folder = tmp_path_factory.mktemp("malicious")
    (folder / f"{malicious.MODULE}.py").write_text(f"open({str(folder / malicious.MARKER)!r}, 'w')")
    (folder / "good.toml").write_text(malicious_data.HEAD)
    paths = []
    for door, (files, _) in DOORS.items():
        for name, content in files.items():
            path = folder / door / name
            if door == "checkpoint":
                path = path / "state-000001.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(folder))
            paths.append([door, name, str(path.parent if door == "checkpoint" else path)])

    homes = [
        str(Path(module.__file__).resolve().parents[n]) for module, n in ((pv, 1), (malicious, 0))
    ]
    done = subprocess.run(
        [sys.executable, "-c", KNOCK],
        input="\n".join(map(json.dumps, paths)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(homes), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = {
        (door, name): result for door, name, result in map(json.loads, done.stdout.split("\n")[:-1])
    }
    return found, folder, done.stderr


@pytest.mark.parametrize(("door", "name"), CASES)
def test_each_ends_in_the_error_of_its_door(door, name, knocked):
    found, _, stderr = knocked
    assert (door, name) in found, f"the process ended before: {stderr[-1000:]}"
    result = found[door, name]
    wanted = {""} if (door, name) in READ else DOORS[door][1]
    assert result["error"] in wanted, result
    assert result["megabytes"] <= MEGABYTES, result
    assert result["seconds"] < SECONDS, result


def test_no_code_ran(knocked):
    found, folder, _ = knocked
    assert len(found) == len(CASES)
    assert not (folder / malicious.MARKER).exists()
    pickle.loads(malicious.pickled(folder)).close()
    assert (folder / malicious.MARKER).exists(), "the test has no power"
