"""Proves the gradient check on planted faults: every layer, every leaf, every way to get it wrong.

    python -m proofs.prove_check [--only=WORD]

Prints for each cause how many faults were planted, how many of them change nothing, how many of the others were caught
(their leaf named and no other blamed), how many have the planted cause among those named, and how many have it first.
A tenth of the faults, kept out of the making of the diagnosis, has a table of its own.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.explain import Evidence, explain
from jaxbp.check.diagnosis.simulation import Simulation
from jaxbp.check.judge import Measurement, judge
from jaxbp.check.leaves import Arrays, Measured
from jaxbp.check.problem import Problem, gradient_problem, layer_problem
from jaxbp.check.program import Program
from jaxbp.check.report import Cause
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import Case, Context, layer_types
from jaxbp.typed import Typed
from proofs.faults import Fault, faults
from proofs.planted import ALL, Planted


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
    return _judged(name, problem, [(fault, fault.held_out(name)) for fault in faults(problem)])


def rewritten(planted: Planted) -> list[Outcome]:
    """Every rewrite of a gradient function."""
    loss, gradient = planted.functions()
    problem = gradient_problem(gradient, loss, *planted.inputs())
    rewrites = []
    for rewrite in planted.rewrites:
        _, becomes, cause, path = rewrite
        _, wrong = planted.functions(rewrite)
        pullback = gradient_problem(wrong, loss, *planted.inputs()).pullback
        rewrites.append((Fault(cause, becomes, path, pullback), planted.held_out(rewrite)))
    return _judged(planted.name, problem, rewrites, single=False)


def _judged(name: str, problem: Problem, planted: list[tuple[Fault, bool]], single: bool = True) -> list[Outcome]:
    """What the check says of each (fault, held out); what it must know of the right backward is computed once."""
    run = Program(problem)
    simulation = Simulation(problem)
    told = [_outcome(name, fault, held_out, run, simulation, single) for fault, held_out in planted]
    assert not simulation.findings, f"the diagnosis of {name} failed: {simulation.findings[0].text}"
    return told


def _outcome(name: str, fault: Fault, held_out: bool, run: Program, simulation: Simulation, single: bool) -> Outcome:
    """One fault judged. single: it spoils one leaf (or swaps two), so no other may be blamed."""
    problem = run.problem
    evaluate = lambda leaves: (jax.device_get(fault.pullback(leaves, problem.dy)), run(leaves).truth)
    hand, truth = evaluate(problem.leaves)
    leaves = judge(Measurement(problem, hand, truth, {}, FLOAT64_TOLERANCE))
    evidence = Evidence(simulation, hand, truth, FLOAT64_TOLERANCE, evaluate)
    causes = [e.cause.value for leaf in leaves if leaf.path == fault.path for e in explain(leaf, evidence).causes]
    blamed = {leaf.path for leaf in leaves if not leaf.passed}
    caught = fault.path in blamed and (not single or blamed <= fault.spoiled)
    same = equivalent(hand, truth)
    return Outcome(name, fault.path, fault.name, fault.cause.value, same, caught, tuple(causes), held_out)


def equivalent(hand: Measured, truth: Arrays) -> bool:
    """Whether a wrong backward gives the right numbers here."""
    near = lambda g, right: g.shape == right.shape and float(np.max(np.abs(g - right), initial=0)) <= 1e-12
    return all(g is not None and near(g, truth[path]) for path, g in hand.items())


def summary(outcomes: list[Outcome]) -> list[str]:
    """One row a cause."""
    groups = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.planted].append(outcome)
    columns = ("planted", "equivalent", "caught", "named", "first")
    rows = [f"{'cause':48s}" + "".join(f"{name:>12s}" for name in columns)]
    for cause, group in [*sorted(groups.items()), ("all", outcomes)]:
        real = [o for o in group if not o.equivalent]
        first = sum(o.causes[:1] == (o.planted,) for o in real)
        counts = (len(group), len(group) - len(real), sum(o.caught for o in real), sum(o.named for o in real), first)
        rows.append(f"{cause:48s}" + "".join(f"{n:12d}" for n in counts))
    return rows


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        only: of the subjects those whose name contains this word
    """

    only: str = ""


def main(words: Sequence[str]) -> int:
    """Plants the faults of the subjects that the words name, and returns the exit status."""
    only = cli.read_all(Options, words).only
    everything: list[Outcome] = []
    with jax.enable_x64(True):
        for name, case in subjects(only):
            everything += _told(name, outcomes(name, problem_of(case)))
        for planted in ALL:
            if only in planted.name:
                everything += _told(f"gradient function {planted.name}", rewritten(planted))
    seen = [o for o in everything if not o.held_out]
    held_out = [o for o in everything if o.held_out]
    print("\n".join(["", "the faults that the diagnosis was made with", *summary(seen)]))
    print("\n".join(["", "the tenth that was kept out of its making", *summary(held_out)]))
    same = [o for o in everything if o.equivalent]
    names = "; ".join(f"{o.subject} {o.path} {o.fault}" for o in same)
    print(f"\n{len(same)} of {len(everything)} change nothing: {names}")
    return 0


def _told(name: str, outcomes: list[Outcome]) -> list[Outcome]:
    """Prints the subject's line, and what went wrong with it."""
    lost = [o for o in outcomes if not o.equivalent and not (o.caught and o.named)]
    print(f"{name}: {len(outcomes)} faults, {len(lost)} not caught or not named", flush=True)
    for o in lost:
        names = ", ".join(dict.fromkeys(o.causes)) or "nothing"
        hidden = "held out" if o.held_out else f"planted '{o.planted}', caught {o.caught}, named {names}"
        print(f"    {o.path} {o.fault if not o.held_out else ''}: {hidden}")
    return outcomes


if __name__ == "__main__":
    sys.exit(guarded(main))
