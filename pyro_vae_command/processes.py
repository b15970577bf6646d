"""Processes that a launcher such as ``torchrun`` has started: they train together."""

from __future__ import annotations

import os


def are_several() -> bool:
    """Whether a launcher has started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process writes and speaks for all that were launched."""
    return not are_several() or os.environ.get("RANK", "0") == "0"
