"""What ends a run from outside: signals, and output that cannot be written. It ends between two calls, saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
Cause = int | OSError  # the number of a signal, or why the standard output cannot be written


class Interrupted(SystemExit):
    """A signal ended the run after it was saved. The same command resumes it."""


@contextmanager
def signals() -> Iterator[list[Cause]]:
    """Catches SIGTERM, Ctrl-C and SIGHUP into a list; a second one ends the process as usual.

    One that is ignored stays ignored, as nohup asks for.
    """
    caught: list[Cause] = []
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING if in_main_thread}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, handlers[number])

    for number in handlers:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def say(text: str, caught: list[Cause]) -> None:
    """Prints a line. An output that is full, or that nobody reads, is caught like a signal."""
    try:
        print(text, flush=True)
    except OSError as error:
        caught.append(error)


def numbers(caught: list[Cause]) -> list[int]:
    """What was caught as signals that another process can be told of; an output that fails is SIGTERM there."""
    return [cause if isinstance(cause, int) else int(signal.SIGTERM) for cause in caught]


def leave(caught: list[Cause], step: int) -> None:
    """Ends the run where something was caught; the caller has saved the state.

    Raises Interrupted after a signal, and OSError where the output cannot be written.
    """
    if not caught:
        return
    text = f"saved at step {step}; the same command resumes the run"
    signalled = [cause for cause in caught if isinstance(cause, int)]
    errors = [cause for cause in caught if isinstance(cause, OSError)]
    if not signalled:
        raise OSError(errors[0].errno, f"{errors[0].strerror}; {text}", "standard output")
    with suppress(OSError):  # the signal's status counts
        print(f"interrupted and {text}", flush=True)
    raise Interrupted(128 + signalled[0])
