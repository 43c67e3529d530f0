"""Proves the gradient check on planted faults: every layer, every leaf, every way to get it wrong.

    python -m proofs.prove_check [--only=WORD]

Prints, for each cause, how many faults were planted, how many change nothing, how many of the others were caught with
their leaf named and no other blamed, and how often the cause named is the one planted; a tenth, kept out of the making
of the diagnosis, apart.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxbp.check.diagnosis.explain import Evidence, explain, moves
from jaxbp.check.judge import judge
from jaxbp.check.problem import Problem, gradient_problem, layer_problem
from jaxbp.check.program import Pass, Program
from jaxbp.check.report import Cause
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.core import Case, Context, layer_types
from proofs.faults import Fault, faults
from proofs.planted import ALL, Planted

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
        """The planted cause is among those that give the very same numbers; or none is known, and none named."""
        return self.planted in self.causes or (self.planted == Cause.UNKNOWN and not self.causes)


def subjects(only: str = "") -> Iterator[tuple[str, Case]]:
    """Every case of every layer."""
    for name, cls in layer_types().items():
        for case in cls.cases() if name.startswith("jaxbp.") else ():
            if only.lower() in f"{name} {case}".lower() and has_floats(case):
                yield f"{cls.__name__} {case}", case


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
    return judged(name, problem, [(fault, fault.pullback, fault.held_out(name)) for fault in faults(problem)])


def rewritten(planted: Planted) -> list[Outcome]:
    """Every rewrite of a gradient function."""
    loss, gradient = planted.functions()
    problem, ones = gradient_problem(gradient, loss, *planted.inputs()), []
    for rewrite in planted.rewrites:
        _, wrong = planted.functions(rewrite)
        pullback = gradient_problem(wrong, loss, *planted.inputs()).pullback
        ones.append((Fault(rewrite[2], rewrite[1], rewrite[3], pullback), pullback, planted.held_out(rewrite)))
    return judged(planted.name, problem, ones, alone=False)


def judged(
    name: str, problem: Problem, planted: list[tuple[Fault, Callable, bool]], alone: bool = True
) -> list[Outcome]:
    """What the check says of each wrong backward; what it must know of the right one is computed once."""
    run = Program(problem)
    here, elsewhere = run(), moves(problem)
    truths = [run(leaves).truth for _, leaves in elsewhere]
    found, predictions = [], None
    for fault, pullback, held_out in planted:
        hand = jax.device_get(pullback(problem.leaves, problem.dy))
        moved = [jax.device_get(pullback(leaves, problem.dy)) for _, leaves in elsewhere]
        order = iter(zip(moved, truths, strict=True))
        evidence = Evidence(problem, hand, here.truth, FLOAT64_TOLERANCE, lambda _, order=order: next(order))
        if predictions is None:
            predictions = evidence.predictions
        evidence.__dict__["predictions"] = predictions
        found.append(outcome(name, problem, fault, hand, here, evidence, held_out, alone))
    return found


def outcome(
    name: str, problem: Problem, fault: Fault, hand: dict, here: Pass, evidence: Evidence, held_out: bool, alone: bool
) -> Outcome:
    """One fault judged. alone: it spoils one leaf (or swaps two), so no other may be blamed."""
    leaves = judge(problem, here._replace(hand=hand), here.truth, None, FLOAT64_TOLERANCE)
    blamed = {leaf.path for leaf in leaves if not leaf.passed}
    partner = fault.name.removeprefix("swapped with ") if fault.cause is Cause.SWAPPED and alone else fault.path
    equal = lambda a, b: a is not None and a.shape == b.shape and float(np.max(np.abs(a - b), initial=0)) <= 1e-12
    equivalent = all(equal(hand[path], here.truth[path]) for path in here.truth)
    causes = [e.cause.value for leaf in leaves if leaf.path == fault.path for e in explain(leaf, evidence).causes]
    caught = fault.path in blamed and (not alone or blamed <= {fault.path, partner})
    return Outcome(name, fault.path, fault.name, fault.cause.value, equivalent, caught, tuple(causes), held_out)


def summary(found: list[Outcome]) -> list[str]:
    """One row a cause."""
    groups = defaultdict(list)
    for one in found:
        groups[one.planted].append(one)
    columns = ("planted", "equivalent", "caught", "named", "first")
    rows = [f"{'cause':48s}" + "".join(f"{name:>12s}" for name in columns)]
    for cause, ones in [*sorted(groups.items()), ("all", found)]:
        real = [one for one in ones if not one.equivalent]
        first = sum(one.causes[:1] == (one.planted,) for one in real)
        counts = (len(ones), len(ones) - len(real), sum(o.caught for o in real), sum(o.named for o in real), first)
        rows.append(f"{cause:48s}" + "".join(f"{n:12d}" for n in counts))
    return rows


def main(_: list[str]) -> None:
    with jax.enable_x64(True):
        found = []
        for name, case in subjects(flags.FLAGS.only):
            found += told(name, outcomes(name, problem_of(case)))
        for planted in ALL:
            if flags.FLAGS.only in planted.name:
                found += told(f"gradient function {planted.name}", rewritten(planted))
    kept, out = [o for o in found if not o.held_out], [o for o in found if o.held_out]
    print("\n".join(["", "the faults that the diagnosis was made with", *summary(kept)]))
    print("\n".join(["", "the tenth that was kept out of its making", *summary(out)]))
    same = [o for o in found if o.equivalent]
    names = "; ".join(f"{o.subject} {o.path} {o.fault}" for o in same)
    print(f"\n{len(same)} of {len(found)} change nothing: {names}")


def told(name: str, ones: list[Outcome]) -> list[Outcome]:
    """The subject's line, and what went wrong with it."""
    lost = [o for o in ones if not o.equivalent and not (o.caught and o.named)]
    print(f"{name}: {len(ones)} faults, {len(lost)} not caught or not named", flush=True)
    for o in lost:
        names = ", ".join(dict.fromkeys(o.causes)) or "nothing"
        hidden = "held out" if o.held_out else f"planted '{o.planted}', caught {o.caught}, named {names}"
        print(f"    {o.path} {o.fault if not o.held_out else ''}: {hidden}")
    return ones


if __name__ == "__main__":
    app.run(main)
