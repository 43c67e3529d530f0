"""What is wrong with a gradient: every known mistake is simulated, and those that give its very numbers are named.

Three sources, all exact in float64, so that a match is no guess:

- patterns: the wrong array is a simple image of the true one (scaled, transposed, flipped, permuted, summed, swapped);
- simulation: the derivative with rows or time steps left out, at a wrong point, or with one operation's rule broken;
- behaviour: the hand-written gradient does not move when its inputs do (a stale cache).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from jaxbp.check.diagnosis.conjugates import conjugates
from jaxbp.check.diagnosis.patterns import patterns, same
from jaxbp.check.diagnosis.simulation import Simulation
from jaxbp.check.leaves import Arrays, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.report import Cause, Explanation, Leaf


@dataclass(frozen=True)
class Evidence:
    """All that is known of a wrong gradient. evaluate(leaves) -> (hand-written, true) gradient elsewhere."""

    simulation: Simulation
    hand: Measured
    truth: Measured
    accuracy: float
    evaluate: Callable[[Leaves], tuple[Measured, Arrays]]

    @property
    def close(self) -> float:
        """The largest relative error of a match."""
        return max(1e-9, 30 * self.accuracy)

    @cached_property
    def conjugates(self) -> list[tuple[str, Measured]]:
        """What a conjugate too many or too few would give."""
        return conjugates(self.simulation.problem, self.truth)

    @cached_property
    def still(self) -> dict[str, str]:
        """Path -> what was moved without any effect on the hand-written gradient, though the true one moves."""
        still = {}
        for name, leaves in moves(self.simulation.problem):
            hand, truth = self.evaluate(leaves)
            for path, before in self.hand.items():
                after, true = hand[path], self.truth[path]
                if before is None or after is None or true is None or path not in truth:
                    continue
                if np.any(before) and same(after, before, 1e-13) and not same(truth[path], true, 1e-6):
                    still[path] = name
        return still


def moves(problem: Problem) -> list[tuple[str, Leaves]]:
    """Other points: the parameters moved, the inputs moved; or all arguments moved, where they are not told apart."""
    noise = np.random.default_rng(11)

    def moved(prefix: str) -> Leaves:
        steps = {k: 0.1 * noise.normal(size=a.shape) for k, a in problem.leaves.items() if k.startswith(prefix)}
        return problem.leaves | {k: problem.leaves[k] + step for k, step in steps.items()}

    if "dx" not in problem.leaves:
        return [("its arguments", moved(""))]
    parts = [("the parameters", "grads"), ("the inputs", "dx")]
    return [(name, moved(prefix)) for name, prefix in parts if any(k.startswith(prefix) for k in problem.leaves)]


def _by_conjugates(path: str, evidence: Evidence) -> list[Explanation]:
    """The first of the conjugates that gives a leaf, with all its parts."""
    base, _, part = path.rpartition(".")
    parts = (f"{base}.real", f"{base}.imag") if part in ("real", "imag") else (path,)
    for text, wrong in evidence.conjugates if np.any(evidence.hand[path]) else ():
        pairs = [(evidence.hand.get(part), wrong.get(part)) for part in parts]
        if all(g is not None and w is not None and same(g, w, evidence.close) for g, w in pairs):
            return [Explanation(Cause.CONJUGATE, text)]
    return []


def explain(leaf: Leaf, evidence: Evidence) -> Leaf:
    """The leaf with every cause that gives its numbers, the likeliest first."""
    hand, truth = evidence.hand[leaf.path], evidence.truth[leaf.path]
    if hand is None:
        return replace(leaf, causes=(Explanation(Cause.MISSING, "no gradient is returned for it"),))
    if truth is None:
        return leaf
    simulation = evidence.simulation
    leaves = simulation.problem.leaves
    causes = list(patterns(leaf.path, hand, truth, evidence.truth, leaves, simulation.counts, evidence.close))
    causes += _by_conjugates(leaf.path, evidence)
    vague = [e for e in causes if e.cause in (Cause.FACTOR, Cause.PRECISION, Cause.UNKNOWN)]
    if hand.shape == truth.shape and hand.size > 1:
        causes += [e for e, arrays in simulation.predictions if same(hand, arrays[leaf.path], evidence.close)]
    if leaf.path in evidence.still:
        text = f"it stays the same when {evidence.still[leaf.path]} change, and the true one does not"
        causes.append(Explanation(Cause.STALE, text))
    sure = sorted((e for e in causes if e not in vague), key=lambda e: e.cause != Cause.CONJUGATE)
    return replace(leaf, causes=tuple(dict.fromkeys(sure + vague)))
