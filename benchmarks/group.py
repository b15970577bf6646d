"""Rows a second of ``fit`` in one process and in several, each with a thread of its own.

Weak: every process has as many rows of a step as one process alone. Strong: they share its rows.
An efficiency of 1 is as many times the rows a second as there are processes. Each figure is the
median of the epochs after the first.

Run it: python benchmarks/group.py --processes 2
"""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import torch

import pyro_vae as pv

ROWS, BATCH, EPOCHS = 20_000, 256, 5
SIZES = {"100 columns, hidden [64]": (100, [64]), "784 columns, hidden [400]": (784, [400])}


def rows_a_second(columns: int, hidden: list[int], num: int, batch: int) -> float:
    """The median over epochs, in this process or in its group."""
    x = np.random.default_rng(0).normal(size=(num, columns)).astype("float32")
    vae = pv.build(x, latent=8, hidden=hidden, seed=0)
    options = {"batch_size": batch, "compile": False, "progress": False}
    history = pv.fit(vae, x, epochs=EPOCHS, **options)
    return num / float(history.seconds.diff().median())


def work(factor: int) -> None:
    """What each process does: with `factor` times the rows."""
    torch.set_num_threads(1)
    size = int(os.environ["WORLD_SIZE"])
    if size > 1:
        torch.distributed.init_process_group("gloo")
    found = {
        name: rows_a_second(*sizes, ROWS * factor, BATCH * factor) for name, sizes in SIZES.items()
    }
    if os.environ["RANK"] == "0":
        print(json.dumps(found), flush=True)
    if size > 1:
        torch.distributed.destroy_process_group()


def launched(processes: int, factor: int) -> dict[str, float]:
    """The figures of so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), __file__, "--factor", str(factor)]
    printed = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    return json.loads(printed.splitlines()[-1])


def main(processes: int) -> None:
    """Print a table."""
    alone, weak, strong = launched(1, 1), launched(processes, processes), launched(processes, 1)
    print(f"{'':28}{'processes':>12}{'rows/step':>12}{'rows/s':>12}{'efficiency':>12}")
    for name in SIZES:
        print(f"{name:28}{1:12}{BATCH:12}{alone[name]:12,.0f}{1:12.2f}")
        for num, found in ((BATCH * processes, weak), (BATCH, strong)):
            efficiency = found[name] / alone[name] / processes
            print(f"{'':28}{processes:12}{num:12}{found[name]:12,.0f}{efficiency:12.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--factor", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.factor is None:
        main(given.processes)
    else:
        work(given.factor)
