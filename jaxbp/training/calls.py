"""Which steps one call of the compiled program makes, and a trace of one of them for Perfetto or TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax

Result = TypeVar("Result")


def rounds(epochs: int, every: int) -> Iterator[tuple[int, int]]:
    """(first, last) epochs between evaluations."""
    for first in range(0, epochs, every):
        yield first, min(first + every, epochs)


def calls(
    first: int, steps: int, per_call: int, offset: int, stop_every: int | None, stops: Iterable[int] = ()
) -> Iterator[tuple[int, int]]:
    """(first step, steps) of each call.

    One ends where the run's step, first + offset, is a multiple of stop_every or one of the `stops`.
    """
    while first < steps:
        left = per_call if stop_every is None else stop_every - (offset + first) % stop_every
        ahead = [stop - offset - first for stop in stops if stop > offset + first]
        count = min(per_call, steps - first, left, *ahead)
        yield first, count
        first += count


@dataclass(frozen=True)
class Profiler:
    """Traces step number `step` of a run, the first being 1, into a folder: what host and device did. None: no step."""

    step: int | None
    folder: Path

    @property
    def stops(self) -> tuple[int, ...]:
        """Steps after which a call ends, so that the traced step is a call of its own."""
        return () if self.step is None else (self.step - 1, self.step)

    def run(self, first: int, call: Callable[[], Result]) -> Result:
        """call(), traced where it makes the steps after the first `first` ones and the next is the one to trace."""
        if self.step is None or first != self.step - 1:
            return call()
        with jax.profiler.trace(self.folder, create_perfetto_trace=True):
            return jax.block_until_ready(call())
