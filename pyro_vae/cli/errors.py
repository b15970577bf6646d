"""How the command line ends: what a user can mend is one line on stderr, every other error keeps
its traceback.
"""

from __future__ import annotations

import dis
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

PACKAGE = __name__.partition(".")[0]
PIPED_WIDTH = 200  # of tables that no terminal shows: one line for each entry


class Command(TyperGroup):
    """The command line as a whole."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit: 0, or 2 after one line on stderr, or 130 where it was
        interrupted.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", module=r"pyro\."
                )  # an error follows, or nothing that a user chose
                warnings.filterwarnings("always", category=UserWarning, module=PACKAGE)
                warnings.showwarning = _show_warning
                code = super().main(*args, **{**extra, "standalone_mode": False})
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            _say(reason)
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


def _say(text: str) -> None:
    typer.echo(f"pyro-vae: {' '.join(text.split())}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")


def _reason(error: Exception) -> str | None:
    """What to tell a user; nothing for an error in the code."""
    if hasattr(error, "format_message"):  # of typer, about arguments
        context, text = getattr(error, "ctx", None), error.format_message()
        end = "" if text.endswith((".", "?")) else "."
        return f"{text}{end} See {context.command_path if context else 'pyro-vae'} --help."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}; choose another file"
    expected = isinstance(error, (ValueError, TypeError, FloatingPointError, FileNotFoundError))
    return str(error) if expected and _is_message(error) else None


def _is_message(error: Exception) -> bool:
    """Whether this package wrote the error, by a ``raise``; any other has come about by a mistake."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or str(last.tb_frame.f_globals.get("__package__")).partition(".")[0] != PACKAGE:
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


app = typer.Typer(
    cls=Command, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
