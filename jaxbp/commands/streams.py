"""Standard streams that every command can write to, whatever the shell has made of them."""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import suppress


def open_streams() -> None:
    """Gives a stream that is closed the null device, and spells out what a stream's encoding does not have.

    A closed stream's number would go to the next file that is opened, and the messages of libraries into that file.
    """
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = show_unraisable
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # orbax's, of a save that failed
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115, it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Python's own hook, but for what TensorStore's threads tell a loop that the first of their errors has closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def flush_output() -> OSError | None:
    """Why what was printed cannot be written; None where it was. After an error the output goes nowhere."""
    try:
        sys.stdout.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)  # takes what Python still wants to write at its end
        os.dup2(null, 1)
        os.close(null)
        return error
    return None


def tell(line: str) -> None:
    """Prints a line on stderr, if that can be written."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
