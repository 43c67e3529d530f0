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
from typing import NamedTuple

import numpy as np

from jaxbp.check.diagnosis.conjugates import conjugates
from jaxbp.check.diagnosis.mutants import STATISTIC
from jaxbp.check.diagnosis.patterns import patterns, ratio, same
from jaxbp.check.diagnosis.repairs import Repair
from jaxbp.check.diagnosis.simulation import Prediction, Simulation
from jaxbp.check.leaves import Arrays, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.report import Cause, Explanation, Leaf

VAGUE = (Cause.FACTOR, Cause.PRECISION, Cause.UNKNOWN)  # what patterns say so is no cause yet
ONE_RUN = ", in run "  # people seldom err in one run of a loop
RARE = (Cause.SLOPE, Cause.OPERAND)  # not named beside another cause of the same numbers


class Match(NamedTuple):
    """A mistake that gives some wrong leaf: what it gives, and the leaves that are so, right ones included."""

    explanation: Explanation
    arrays: Arrays
    paths: frozenset[str]


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
    def matches(self) -> list[Match]:
        """The mistakes that give some of the wrong leaves, those that give the most first."""
        matches = list(self.common)
        if self._unexplained(matches):
            matches += self._matching(self.simulation.rare(self.truth))
        statistic = lambda match: match.explanation.text.startswith(STATISTIC)
        return sorted(matches, key=lambda match: (-len(match.paths), not statistic(match)))

    @cached_property
    def common(self) -> list[Match]:
        """Of these the mistakes in which nothing stands for a factor."""
        return self._matching(self.simulation.predictions)

    @cached_property
    def repairs(self) -> list[Repair]:
        """The lines of the hand-written gradient that may be mended, where none of the common mistakes names it."""
        if not self._unexplained(self.common):
            return []
        return self.simulation.repairs(self.hand, self.truth, self.close)

    def _unexplained(self, matches: list[Match]) -> list[str]:
        explained = {path for match in matches if ONE_RUN not in match.explanation.text for path in match.paths}
        return [path for path in self.unnamed if path not in explained]

    @cached_property
    def unnamed(self) -> list[str]:
        """The wrong leaves that no pattern names."""
        wrong = [path for path, g in self.hand.items() if g is not None and not self._right(path)]
        return [path for path in wrong if all(e.cause in VAGUE for e in self.patterns(path))]

    def patterns(self, path: str) -> list[Explanation]:
        """The simple images of the true array that the wrong one is."""
        hand, truth = self.hand[path], self.truth[path]
        if hand is None or truth is None:
            return []
        leaves, counts = self.simulation.problem.leaves, self.simulation.counts
        return list(patterns(path, hand, truth, self.truth, leaves, counts, self.close))

    def _right(self, path: str) -> bool:
        hand, truth = self.hand[path], self.truth[path]
        return hand is not None and truth is not None and same(hand, truth, self.close)

    def _matching(self, predictions: list[Prediction]) -> list[Match]:
        matches = []
        for explanation, arrays in predictions:
            paths = [path for path, a in arrays.items() if self._equal(explanation, path, a)]
            if any(not self._right(path) for path in paths):
                matches.append(Match(explanation, arrays, frozenset(paths)))
        return matches

    def _equal(self, explanation: Explanation, path: str, predicted: np.ndarray) -> bool:
        """Whether a mistake gives the leaf; that of a stepped weight does so up to the length of the step."""
        hand, truth = self.hand[path], self.truth[path]
        if hand is None or truth is None or hand.shape != predicted.shape:
            return False
        if explanation.cause is Cause.STEPPED and hand.size > 1:
            return ratio(hand - truth, predicted - truth, 1e-6) is not None
        return same(hand, predicted, self.close)

    def simulated(self, path: str) -> list[Explanation]:
        """The mistakes that give this leaf's numbers; of those that are alike in all leaves, one for each cause."""
        kept: list[Prediction] = []
        for explanation, arrays, paths in self.matches:
            alike = [e for e, other in kept if all(same(a, other[k], self.close) for k, a in arrays.items())]
            causes = {e.cause for e in alike}
            if (
                path in paths
                and explanation.cause not in causes
                and not (explanation.cause in RARE and causes - {Cause.PATH})
            ):
                kept.append((explanation, arrays))
        simulated = [explanation for explanation, _ in kept]
        if any(explanation.cause not in RARE and ONE_RUN not in explanation.text for explanation in simulated):
            return simulated
        repairs = [repair for repair in self.repairs if path in repair.paths]
        most = [repair.explanation for repair in repairs if len(repair.paths) == len(repairs[0].paths)]
        mended = list({explanation.cause: explanation for explanation in reversed(most)}.values())[::-1]
        sure = [explanation for explanation in mended if explanation.cause not in (*RARE, Cause.PATH)]
        return list(dict.fromkeys([*sure, *simulated, *mended]))

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
    causes = evidence.patterns(leaf.path)
    vague = [e for e in causes if e.cause in VAGUE]
    sure = [e for e in causes if e not in vague]
    sure = [*_by_conjugates(leaf.path, evidence), *sure]
    if hand.shape == truth.shape and hand.size > 1:
        sure += evidence.simulated(leaf.path)
    if leaf.path in evidence.still:
        text = f"it stays the same when {evidence.still[leaf.path]} change, and the true one does not"
        sure.append(Explanation(Cause.STALE, text))
    causes = sure + vague
    if hand.size > 1 and any(
        e.cause == Cause.FACTOR for e in vague
    ):  # a factor is simpler than a slope or step that equals it
        causes.sort(key=lambda e: e.cause in (Cause.SLOPE, Cause.STEPPED))
    return replace(leaf, causes=tuple(dict.fromkeys(causes)))
