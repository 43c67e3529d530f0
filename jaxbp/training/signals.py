"""SIGTERM and Ctrl-C end a run between two calls, after it was saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(SystemExit):
    """A signal ended the run after it was saved. The same command resumes it."""


@contextmanager
def signals() -> Iterator[list[int]]:
    """Catches SIGTERM and Ctrl-C into a list; a second one ends the process as usual."""
    caught: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, handlers[number])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave(caught: list[int], step: int) -> None:
    """Raises Interrupted after a signal; the caller has saved the state."""
    if caught:
        print(f"interrupted and saved at step {step}; the same command resumes the run", flush=True)
        raise Interrupted(128 + caught[0])
