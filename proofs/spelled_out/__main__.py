"""What the check makes of them: python -m proofs.spelled_out [--part=fresh|variations] [--level=full].

A line an exercise, and the totals of each part: how many right gradients fail, how many wrong ones fail in exactly the
leaves that are wrong, and how many of those have the mistake named.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxbp.check import check_gradient
from jaxbp.check.judge import Level
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.typed import Typed
from proofs.spelled_out import DEVELOPMENT, FAMILIES, FRESH, HELD_OUT, Exercise

PARTS = {
    "development": lambda: DEVELOPMENT,
    "held_out": lambda: HELD_OUT,
    "fresh": lambda: FRESH,
    "variations": lambda: itertools.chain.from_iterable(family.exercises() for family in FAMILIES),
}


def outcome(exercise: Exercise, level: Level) -> Counter[str]:
    """What the check makes of an exercise, right and wrong."""
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    _, wrong = exercise.functions(wrong=True)
    alarm = not check_gradient(right, loss, params, *batch, level=level).passed
    report = check_gradient(wrong, loss, params, *batch)
    caught, named = exercise.caught(report), exercise.named(report)
    words = ("right one fails, " * alarm, "caught" if caught else "MISSED", ", named" if named else ", not named")
    print(f"{''.join(words)}: {exercise.name}", flush=True)
    for leaf in report.leaves:
        if not leaf.passed:
            print(f"    {leaf.path}: {leaf.causes[0] if leaf.causes else 'unknown'}", flush=True)
    return Counter({"right ones that fail": alarm, "caught": caught, "named": caught and named, "exercises": 1})


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        part: one part only
        level: of the checks of the right gradients
    """

    part: Literal["development", "held_out", "fresh", "variations"] | None = None
    level: Level = "default"


def main(words: Sequence[str]) -> int:
    """Checks the parts that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    for part, exercises in PARTS.items():
        if options.part in (None, part):
            total = sum((outcome(exercise, options.level) for exercise in exercises()), Counter())
            print(f"{part}: {dict(total)}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
