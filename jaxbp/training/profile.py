"""A trace of one step, for Perfetto or TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax

Result = TypeVar("Result")


@dataclass(frozen=True)
class Profiler:
    """Traces step number `step` of a run, the first being 1, into a folder: what host and device did. None: no step."""

    step: int | None
    folder: Path

    @property
    def ends(self) -> tuple[int, ...]:
        """Steps after which a call ends, so that the traced step is a call of its own."""
        return () if self.step is None else (self.step - 1, self.step)

    def run(self, first: int, call: Callable[[], Result]) -> Result:
        """call(), traced where it makes the steps after the first `first` ones and the next is the one to trace."""
        if self.step is None or first != self.step - 1:
            return call()
        with jax.profiler.trace(self.folder, create_perfetto_trace=True):
            return jax.block_until_ready(call())
