"""Processes of a group of torch.distributed, started for a test."""

import multiprocessing
import pickle
import tempfile
import traceback
import warnings
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
# what training imports when it first needs it, imported once for all
CONTEXT.set_forkserver_preload(["pyro_vae", "pandas", "rich.progress", "torch._dynamo"])
WAIT = 100  # seconds


def in_group(function, *args, size=2):
    """What a function of the module of a test gives in each process, in their order.

    An error is given back as its type and message; of a process that was killed, None.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
        processes = [
            CONTEXT.Process(target=_work, args=(rank, size, folder, pipe[1], function, args))
            for rank, pipe in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        try:
            return [_received(receiver) for receiver, _ in pipes]
        finally:
            for process in processes:
                process.join(10)
                process.kill()


def _received(receiver):
    if not receiver.poll(WAIT):
        raise TimeoutError(f"a process gave nothing in {WAIT} s")
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return None


def _work(rank, size, folder, sender, function, args):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("error")
    store = f"file://{Path(folder) / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    try:
        given = function(*args)
    except Exception as error:
        traceback.print_exc()  # which pytest shows if the test fails
        given = type(error).__name__, str(error)
    sender.send_bytes(pickle.dumps(given))  # plainly: torch would leave tensors where they are
    sender.close()
