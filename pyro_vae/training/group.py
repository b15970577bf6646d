"""Training in several processes: what each does alone, and what they decide together.

Every process of a group of ``torch.distributed`` holds the same VAE and can read the same data. A
step takes the same rows in any group: each process a share of them, whose gradients are summed in
one buffer and divided by the rows of the step. What one process alone would notice, such as a row
that cannot be read, all are told, so that none waits for another. (Ctrl-C is not such a thing: a
terminal sends it to all of them, and each leaves where it is.)
"""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..guards import seed_all, seed_of

ORDER, NOISE = 1, 2  # what a seed is for


class GroupError(RuntimeError):
    """Another process of the group failed, or has ended."""


class Group:
    """The processes that train together, as one of them sees them.

    Arguments:
        rank: The number of this process, from 0.
        size: How many there are; a group of one does what a process does without a group.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.error: Exception | None = None  # of this process, of which the others do not know

    @classmethod
    def here(cls) -> Group:
        """The group that this process is in, by ``torch.distributed.init_process_group``."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes, shows and warns for all."""
        return self.rank == 0

    @property
    def is_one(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, rows: slice) -> slice:
        """The rows of a step that are this process's: as many as others have, or one more.

        No process has a single row of several, whose variance batch normalisation could not know.
        """
        num = rows.stop - rows.start
        taking = min(self.size, max(1, num // 2))
        first, last = (min(n, taking) * num // taking for n in (self.rank, self.rank + 1))
        return slice(rows.start + first, rows.start + last)

    def seed_order(self, seed: int, fitted: int, epoch: int) -> None:
        """Have the order of an epoch the same in all processes."""
        if not self.is_one:
            seed_all(seed_of(seed, fitted, ORDER, epoch))

    def seed_noise(self, seed: int, fitted: int, step: int) -> None:
        """Have the noise of a step another in each process."""
        if not self.is_one:
            seed_all(seed_of(seed, fitted, NOISE, self.rank, step))

    def attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function gives; None where it fails, or something has before.

        All are told of it when they agree next. A group of one raises at once.
        """
        if self.is_one:
            return function(*args)
        if self.error is None:
            try:
                return function(*args)
            except Exception as error:
                self.error = error
        return None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What fails inside in one process fails in all.

        Raises:
            GroupError: In the others.
        """
        if self.is_one:
            yield
            return
        try:
            yield
        except Exception as error:
            self.error = error
        self.agree()

    def agree(self) -> None:
        """Go on only if no process has failed.

        Raises:
            GroupError: Another has; a process that has failed raises its own error.
        """
        own, self.error = self.error, None
        told = None if own is None else f"{type(own).__name__}: {own}"
        messages = self.gathered(told)
        if own is not None:
            raise own
        for rank, message in enumerate(messages):
            if message is not None:
                raise GroupError(f"process {rank} of {self.size} failed: {message}")

    def agree_on(self, what: dict[str, Any]) -> None:
        """Raise unless each process has the same plain values, by name.

        Raises:
            ValueError: One has another; in all processes.
        """
        if self.is_one:
            return
        first, *others = self.gathered(what)
        for rank, other in enumerate(others, start=1):
            for name, value in first.items():
                if other[name] != value:
                    raise ValueError(
                        "fit in a process group needs the same model, data and options in each "
                        f"process, and takes a share of the data in each; process {rank} has "
                        f"{name} {other[name]!r:.100}, process 0 {value!r:.100}; give all of x in "
                        "each, or leave the group to train apart"
                    )

    def gathered(self, value: Any) -> list[Any]:
        """A value of each process, in their order."""
        if self.is_one:
            return [value]
        values: list[Any] = [None] * self.size
        with self._others_alive():
            distributed.all_gather_object(values, value)
        return values

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors what they are in the first process."""
        if self.is_one:
            return
        for tensor in tensors:
            whole = tensor.detach().clone(memory_format=torch.contiguous_format)
            with self._others_alive():
                distributed.broadcast(whole, src=0)
            with torch.no_grad():
                tensor.copy_(whole)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return math.fsum(self.gathered(value))

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Sum the gradients of all processes, in one buffer.

        A parameter has a gradient afterwards where it had one in any process.

        Returns:
            The sum of the losses.

        Raises:
            GroupError: A process has failed before; it raises its own error.
        """
        found = [parameter.grad is not None for parameter in parameters]
        numbers = [float(self.error is not None), loss, *map(float, found)]
        pieces = [
            p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters
        ]
        buffer = torch.cat([pieces[0].new_tensor(numbers), *pieces])
        with self._others_alive():
            distributed.all_reduce(buffer)
        failed, total, *has = buffer[: len(numbers)].tolist()
        if failed:
            self.agree()

        summed = buffer[len(numbers) :].split([p.numel() for p in parameters])
        for parameter, is_there, gradient in zip(parameters, has, summed, strict=True):
            # fused optimisers take for granted that both lie in memory in the same order
            shaped = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))
            parameter.grad = shaped if is_there else None
        return total

    @contextlib.contextmanager
    def _others_alive(self) -> Iterator[None]:
        """Say what has happened where another process does not answer."""
        try:
            yield
        except RuntimeError as error:
            raise GroupError(
                f"another process of the group has ended or does not answer (this is process "
                f"{self.rank} of {self.size}): see its own message, and start all of them again, "
                "from the newest checkpoint if there is one by resume=True (--resume). "
                f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
            ) from error
