"""SIGTERM and Ctrl-C end a run between two calls, after it was saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(SystemExit):
    """A signal ended the run after it was saved; the same command goes on."""


@contextmanager
def signals() -> Iterator[list[int]]:
    """Catches SIGTERM and Ctrl-C into a list; a second one ends the process as usual."""
    caught: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(caught: list[int], step: int) -> None:
    """Ends the process after a signal; the state has been saved."""
    if caught:
        print(f"interrupted and saved at step {step}; the same command goes on from there", flush=True)
        raise Interrupted(128 + caught[0])
