"""A loss and its gradient by hand, as the text of a course's notebook, and the line where it goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check import Report


@dataclass(frozen=True)
class Exercise:
    """`source` defines loss(p, *batch) and the right gradient(p, *batch); `line` becomes `wrong` in the wrong one."""

    name: str  # topic: mistake
    source: str
    params: dict | list  # of shapes, nested as the text wants them
    data: Callable[[np.random.Generator], tuple]
    line: str
    wrong: str
    leaves: set[str]  # that the wrong line spoils
    cause: str  # a regular expression: what an explanation that names the mistake says, in lower case

    @property
    def topic(self) -> str:
        """What the exercise is about."""
        return self.name.split(":")[0]

    def functions(self, wrong: bool = False, numpy: object = np) -> tuple[Callable, Callable]:
        """(loss, gradient), the right one or the wrong one. numpy: what the text means by `np`."""
        text = self.source
        if wrong:
            assert text.count(self.line) == 1, f"{self.name}: '{self.line}' occurs {text.count(self.line)} times"
            text = text.replace(self.line, self.wrong)
        space: dict = {"jax": jax, "jnp": jnp, "np": numpy}
        exec(compile(text, self.name.split(":")[0].replace(" ", "_") + ".py", "exec"), space)
        return space["loss"], space["gradient"]

    def inputs(self, seed: int = 0) -> tuple:
        """(params, *batch), in NumPy arrays."""
        draw = np.random.default_rng(seed)
        return normal(self.params, draw), *self.data(draw)

    def caught(self, report: Report) -> bool:
        """Whether the spoiled leaves fail, and no others."""
        failed = {leaf.path.removeprefix("params/") for leaf in report.leaves if not leaf.passed}
        return not report.passed and failed == self.leaves

    def named(self, report: Report) -> bool:
        """Whether an explanation of a failing leaf names the mistake."""
        explanations = [str(e).lower() for leaf in report.leaves if not leaf.passed for e in leaf.causes]
        return any(re.search(self.cause, explanation) for explanation in explanations)


def normal(shapes: dict | list | tuple, draw: np.random.Generator) -> dict | list | np.ndarray:
    """Random arrays of these shapes in their dicts and lists. A dict keeps its order."""
    if isinstance(shapes, dict):
        return {name: normal(shape, draw) for name, shape in shapes.items()}
    if isinstance(shapes, list):
        return [normal(shape, draw) for shape in shapes]
    return np.asarray(0.7 * draw.normal(size=shapes))
