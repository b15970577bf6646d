"""How the command line ends: a mistake of the user gives one line on stderr; any other error is
ours, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import dis
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from ..training.group import GroupError
from .launched import is_first

PACKAGE = __name__.partition(".")[0]


class Command(TyperGroup):
    """The command line as a whole."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit.

        The exit code is 0; 2 after one line on stderr; 130 where the command was interrupted.
        """
        try:
            with warnings.catch_warnings():
                # Pyro's warnings are about choices that the user did not make
                warnings.filterwarnings("ignore", module=r"pyro\.")
                warnings.filterwarnings("always", category=UserWarning, module=PACKAGE)
                warnings.showwarning = _show_warning
                with _shown_log():
                    code = super().main(*args, **{**extra, "standalone_mode": False})
        except Exception as error:
            message = _message_for_user(error)
            if message is None:
                raise
            _print_error(message)
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


def _print_error(text: str) -> None:
    typer.echo(f"pyro-vae: {' '.join(text.split())}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if is_first():
        _print_error(f"warning: {message}")


@contextlib.contextmanager
def _shown_log() -> Iterator[None]:
    """What the package logs, such as what was read from a file, goes to stderr."""
    log, handler = logging.getLogger(PACKAGE), _Shown()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Shown(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if is_first():
            _print_error(record.getMessage())


def _message_for_user(error: Exception) -> str | None:
    """What to tell the user; None for an error in the code."""
    if hasattr(error, "format_message"):  # typer's own, about arguments
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "pyro-vae"
        text = error.format_message()
        stop = "" if text.endswith((".", "?")) else "."
        return f"{text}{stop} See {command} --help."

    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}; choose another file"

    ours = (ValueError, TypeError, FloatingPointError, FileNotFoundError, GroupError)
    if isinstance(error, ours):
        return str(error) if _was_raised_here(error) else None
    return None


def _was_raised_here(error: Exception) -> bool:
    """Whether a ``raise`` of this package made the error; any other is a mistake in the code."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False

    package = str(last.tb_frame.f_globals.get("__package__")).partition(".")[0]
    if package != PACKAGE:
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
