"""Proves the gradient check on planted faults: every layer, every leaf, every way to get it wrong.

    python scripts/prove_check.py [--only=WORD]

Prints, for each cause, how many faults were planted, how many change nothing, how many of the others were caught with
their leaf named and no other blamed, and how often the cause named is the one planted; a tenth, kept out of the making
of the diagnosis, apart.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxbp.check.compare import FLOAT64_TOLERANCE
from jaxbp.check.diagnosis import Evidence, explain, moves
from jaxbp.check.examine import judge
from jaxbp.check.faults import Fault, faults
from jaxbp.check.passes import Program
from jaxbp.check.problem import Problem, layer_problem
from jaxbp.core import Case, Context, layer_types

flags.DEFINE_string("only", "", "layers whose name contains this word")


@dataclass(frozen=True)
class Outcome:
    """What the check made of one fault."""

    subject: str
    path: str
    fault: str
    planted: str
    equivalent: bool
    caught: bool  # its leaf failed, and no other
    causes: tuple[str, ...]
    held_out: bool

    @property
    def named(self) -> bool:
        """The planted cause is the first, or one of those that give the very same numbers."""
        return self.planted in self.causes


def subjects(only: str = "") -> Iterator[tuple[str, Problem]]:
    """Every case of every layer in float64."""
    for name, cls in layer_types().items():
        for case in cls.cases() if name.startswith("jaxbp.") else ():
            if only.lower() in f"{name} {case}".lower() and has_floats(case):
                yield f"{cls.__name__} {case}", problem_of(case)


def has_floats(case: Case) -> bool:
    """Whether there is anything to differentiate: a layer from integers to one-hot rows has nothing."""
    params = jax.eval_shape(lambda: case.layer.init(jax.random.key(0), case.spec))
    return any(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves((params, case.spec)))


def problem_of(case: Case, rows: int = 5) -> Problem:
    """The case at random parameters and inputs."""
    key = jax.random.key(3)
    spec = jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, *s.shape[1:]), s.dtype), case.spec)
    params = case.layer.init(key, spec)
    params = jax.tree.map(lambda p: p + 0.1 * np.random.default_rng(p.size).normal(size=p.shape), params)
    ctx = Context(jax.random.fold_in(key, 2), case.layer.init_state(spec))
    return layer_problem(case.layer, params, case.draw(jax.random.fold_in(key, 1), spec), ctx)


def outcomes(name: str, problem: Problem) -> list[Outcome]:
    """Every fault of one subject; the right backward that they tamper with is compiled once."""
    problem = replace(problem, pullback=jax.jit(problem.pullback))
    planted = list(faults(problem))
    each = lambda leaves: [fault.pullback(leaves, problem.dy) for fault in planted]
    run = Program(problem)
    here, elsewhere = run(), moves(problem)
    hands = jax.device_get(each(problem.leaves))
    moved = [jax.device_get(each(leaves)) for _, leaves in elsewhere]
    truths = [run(leaves).truth for _, leaves in elsewhere]
    found, predictions = [], None
    for i, fault in enumerate(planted):
        order = iter(range(len(elsewhere)))

        def evaluate(_: dict, i: int = i, order: Iterator[int] = order) -> tuple[dict, dict]:
            at = next(order)
            return moved[at][i], truths[at]

        evidence = Evidence(problem, hands[i], here.truth, FLOAT64_TOLERANCE, evaluate)
        if predictions is None:
            predictions = evidence.predictions
        evidence.__dict__["predictions"] = predictions
        found.append(outcome(name, problem, fault, hands[i], here, evidence))
    return found


def outcome(name: str, problem: Problem, fault: Fault, hand: dict, here, evidence: Evidence) -> Outcome:
    leaves = judge(problem, here._replace(hand=hand), here.truth, None, FLOAT64_TOLERANCE)
    wrong = [leaf for leaf in leaves if not leaf.passed]
    partner = fault.name.removeprefix("swapped with ") if fault.cause == "leaves swapped" else fault.path
    blamed = {leaf.path for leaf in wrong}
    same = lambda path: (
        hand[path] is not None
        and hand[path].shape == here.truth[path].shape
        and np.allclose(
            hand[path], here.truth[path], rtol=1e-12, atol=1e-12 * np.max(np.abs(here.truth[path]), initial=1e-300)
        )
    )
    causes = tuple(e.cause.value for leaf in wrong if leaf.path == fault.path for e in explain(leaf, evidence).causes)
    return Outcome(
        name,
        fault.path,
        fault.name,
        fault.cause.value,
        same(fault.path) and same(partner),
        fault.path in blamed and blamed <= {fault.path, partner},
        causes,
        fault.held_out(name),
    )


def summary(found: list[Outcome]) -> list[str]:
    """One row a cause."""
    groups = defaultdict(list)
    for one in found:
        groups[one.planted].append(one)
    rows = [f"{'cause':42s} {'planted':>8s} {'equivalent':>11s} {'caught':>7s} {'named first':>12s} {'named':>6s}"]
    for cause, ones in [*sorted(groups.items()), ("all", found)]:
        real = [one for one in ones if not one.equivalent]
        first = sum(one.causes[:1] == (one.planted,) for one in real)
        rows.append(
            f"{cause:42s} {len(ones):8d} {len(ones) - len(real):11d} {sum(o.caught for o in real):7d} "
            f"{first:12d} {sum(o.named for o in real):6d}"
        )
    return rows


def main(_: list[str]) -> None:
    with jax.enable_x64(True):
        found = []
        for name, problem in subjects(flags.FLAGS.only):
            ones = outcomes(name, problem)
            found += ones
            lost = [o for o in ones if not o.equivalent and not (o.caught and o.named)]
            print(f"{name}: {len(ones)} faults, {len(lost)} not caught or not named", flush=True)
            for o in lost[:40]:
                if not o.held_out:
                    names = ", ".join(dict.fromkeys(o.causes)) or "nothing"
                    print(f"    {o.path} {o.fault}: planted '{o.planted}', caught {o.caught}, named {names}")
    print()
    kept, out = [o for o in found if not o.held_out], [o for o in found if o.held_out]
    print("\n".join(["the faults that the diagnosis was made with", *summary(kept)]))
    print("\n".join(["", "the tenth that was kept out of its making", *summary(out)]))


if __name__ == "__main__":
    app.run(main)
