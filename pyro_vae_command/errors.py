"""How the command line ends: a mistake of the user gives one line on stderr; any other error is
ours, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import dis
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from .processes import is_first

PACKAGES = ("pyro_vae", __name__.partition(".")[0])
AS_OPTIONS = {  # arguments that warnings advise, as the command line has them
    "give a tolerance": "give pyro-vae evaluate --tolerance 0.1",
    "give tolerance=0.05": "give --tolerance 0.05",
    "try beta=": "try, in Python, beta=",
}
UNFINISHED = (ArithmeticError, RuntimeError, OSError)  # what was asked for makes sense, but failed


class Command(TyperGroup):
    """The command line as a whole."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit.

        The exit code is 0; after one line on stderr 1 where it failed on the way, or 2 where what
        was asked for makes no sense; 130 where the command was interrupted.
        """
        try:
            with warnings.catch_warnings():
                # Pyro's warnings are about choices that the user did not make
                warnings.filterwarnings("ignore", module=r"pyro\.")
                for package in PACKAGES:
                    warnings.filterwarnings("always", category=UserWarning, module=package)
                warnings.showwarning = _show_warning
                with _shown_log():
                    code = super().main(*args, **{**extra, "standalone_mode": False})
        except Exception as error:
            message = _message_for_user(error)
            if message is None:
                raise
            _print_error(message)
            failed = isinstance(error, UNFINISHED) and not isinstance(error, FileNotFoundError)
            sys.exit(1 if failed else 2)
        sys.exit(code if isinstance(code, int) else 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _without_styles()
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with reader_may_go():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with reader_may_go():
            return super().invoke(ctx)

    def get_params(self, ctx: Any) -> Any:
        """The options; what installs the completion is named below them."""
        params = super().get_params(ctx)
        for param in params:
            if param.name in ("install_completion", "show_completion"):
                param.hidden = True  # type: ignore[attr-defined]
        return params


@contextlib.contextmanager
def reader_may_go() -> Iterator[None]:
    """Where the reader of the output has gone, such as ``head``, what writes ends well, and what
    ends otherwise does so.
    """
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit from None
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        raise typer.Exit from None  # which rich has made an error
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # what is left goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_styles() -> None:
    """Where NO_COLOR is set, help is plain text: neither colours nor bold."""
    if os.environ.get("NO_COLOR"):
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None


def _print_error(text: str) -> None:
    typer.echo(f"pyro-vae: {' '.join(text.split())}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if is_first():
        text = str(message)
        for argument, option in AS_OPTIONS.items():
            text = text.replace(argument, option)
        _print_error(f"warning: {text}")


@contextlib.contextmanager
def _shown_log() -> Iterator[None]:
    """What the package logs, such as what was read from a file, goes to stderr."""
    log, handler = logging.getLogger(PACKAGES[0]), _Shown()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Shown(logging.Handler):
    """Shows each message once, however many models read the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if is_first() and message not in self.shown:
            self.shown.add(message)
            _print_error(message)


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

    ours = (ValueError, TypeError, FloatingPointError, FileNotFoundError, RuntimeError)
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
    if package not in PACKAGES:
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
