"""One right gradient with many mistakes: each makes an exercise of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from proofs.spelled_out.exercise import Exercise


@dataclass(frozen=True)
class Family:
    """A topic in one spelling. mistakes: (name, line, what becomes of it, what an explanation says)."""

    topic: str
    source: str
    params: dict[str, tuple[int, ...]]
    data: Callable[[np.random.Generator], tuple]
    mistakes: tuple[tuple[str, str, str, str], ...]

    def exercises(self) -> Iterator[Exercise]:
        """One for each mistake."""
        return (self.exercise(name) for name, *_ in self.mistakes)

    def exercise(self, mistake: str) -> Exercise:
        """With that mistake; the leaves that it spoils are those whose numbers it changes."""
        name, line, wrong, cause = next(row for row in self.mistakes if row[0] == mistake)
        exercise = Exercise(f"{self.topic}: {name}", self.source, self.params, self.data, line, wrong, set(), cause)
        return replace(exercise, leaves=_spoiled(exercise))


def _spoiled(exercise: Exercise) -> set[str]:
    params, *batch = exercise.inputs()
    right, wrong = (exercise.functions(wrong)[1](params, *batch) for wrong in (False, True))
    differs = lambda a, b: np.max(np.abs(a - b)) > 1e-7 * np.max(np.abs(a))
    return {name for name in params if differs(np.asarray(right[name]), np.asarray(wrong[name]))}
