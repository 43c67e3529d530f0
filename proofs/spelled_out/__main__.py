"""What the check makes of the forty: python -m proofs.spelled_out [--half=held_out] [--level=full].

A line an exercise, and the totals of each half: how many right gradients fail, how many wrong ones fail in exactly the
leaves that are wrong, and how many of those have the mistake named.
"""

from collections import Counter

from absl import app, flags

from jaxbp.check import check_gradient
from proofs.spelled_out import DEVELOPMENT, HELD_OUT, Exercise

HALVES = {"development": DEVELOPMENT, "held_out": HELD_OUT}
flags.DEFINE_enum("half", None, list(HALVES), "one half only")
flags.DEFINE_enum("level", "default", ["default", "full"], "of the checks of the right gradients")


def outcome(exercise: Exercise) -> Counter[str]:
    """What the check makes of an exercise, right and wrong."""
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    _, wrong = exercise.functions(wrong=True)
    alarm = not check_gradient(right, loss, params, *batch, level=flags.FLAGS.level).passed
    report = check_gradient(wrong, loss, params, *batch)
    caught, named = exercise.caught(report), exercise.named(report)
    words = ("right one fails, " * alarm, "caught" if caught else "MISSED", ", named" if named else ", not named")
    print(f"{''.join(words)}: {exercise.name}", flush=True)
    for leaf in report.leaves:
        if not leaf.passed:
            print(f"    {leaf.path}: {leaf.causes[0] if leaf.causes else 'unknown'}", flush=True)
    return Counter({"right ones that fail": alarm, "caught": caught, "named": caught and named, "exercises": 1})


def main(_: list[str]) -> None:
    for half, exercises in HALVES.items():
        if flags.FLAGS.half in (None, half):
            total = sum(map(outcome, exercises), Counter())
            print(f"{half}: {dict(total)}\n", flush=True)


if __name__ == "__main__":
    app.run(main)
