"""A problem examined: it is measured once, every leaf is judged, and what is wrong is explained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.bisect import first_wrong_step
from jaxbp.check.diagnosis.explain import Evidence, explain
from jaxbp.check.diagnosis.simulation import Simulation
from jaxbp.check.differences import TOLERANCE, Slope, along, only_kinks
from jaxbp.check.guard import guarded
from jaxbp.check.laws import laws
from jaxbp.check.leaves import Arrays, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Finding, Leaf, Report
from jaxbp.check.truth import FLOAT64_TOLERANCE, largest_entry, leaf_error, worst

Level = Literal["default", "full"]
Slopes = list[tuple[np.ndarray, Slope]]  # unit directions in one leaf, and the central difference along each
ENTRIES = 400  # where JAX cannot differentiate, a leaf is differenced entry by entry up to this size
DIRECTIONS = 2  # random directions a leaf


@dataclass(frozen=True)
class Measurement:
    """All that the verdicts rest on, leaf by leaf."""

    problem: Problem
    hand: Measured  # the derivative under check; None for a missing leaf
    truth: Measured  # autodiff's; or central differences, nan at a kink and None for a leaf larger than ENTRIES
    slopes: dict[str, Slopes]
    accuracy: float  # the largest relative error that counts as right

    @cached_property
    def top(self) -> float:
        """The largest entry of the true derivative and of dy, for leaves that are zero by structure."""
        truth = [np.nan_to_num(a) for a in self.truth.values() if a is not None]
        return max(largest_entry(truth), largest_entry(self.problem.dy))


def examine(problem: Problem, level: Level = "default", accuracy: float = FLOAT64_TOLERANCE, seed: int = 0) -> Report:
    """Measures a problem, judges every leaf, asks the laws, and explains what fails.

    accuracy: the largest relative error that counts as right.
    """
    run = Program(problem)
    m = _measured(run, max(accuracy, problem.rounding), seed)
    leaves = judge(m)
    leaves = _decided(m, leaves)
    leaves = _with_kinks(m, leaves, run)
    findings = _findings(m, leaves, run, seed)
    leaves = _explained(m, leaves, run, findings)
    if level == "full":
        findings += laws(problem, m.accuracy)
    failed = any(not leaf.passed for leaf in leaves)
    step = guarded(lambda: first_wrong_step(problem, m.accuracy), "", findings) if failed else ""
    return Report(problem.name, tuple(leaves), tuple(findings), step)


# The measurement.


def _measured(run: Program, accuracy: float, seed: int) -> Measurement:
    problem = run.problem
    hand, truth = run.gradients(problem.leaves)
    slopes = {path: _slopes(run, path, seed) for path in problem.leaves}
    if problem.differentiable:
        return Measurement(problem, hand, truth, slopes, accuracy)
    return Measurement(problem, hand, _differenced(run), slopes, max(accuracy, TOLERANCE))


def _slopes(run: Program, path: str, seed: int) -> Slopes:
    """Random unit directions in one leaf, with the central difference along each."""
    leaf = run.problem.leaves[path]
    if not leaf.size or run.problem.surrogate:
        return []
    draws = [np.random.default_rng((seed, i)).normal(size=leaf.shape) for i in range(DIRECTIONS)]
    directions = [v / np.linalg.norm(v) for v in draws]
    return [(v, along(run, path, v)) for v in directions]


def _differenced(run: Program) -> Measured:
    """The derivative in every entry by central differences."""
    truth: dict[str, np.ndarray | None] = {}
    for path, leaf in run.problem.leaves.items():
        truth[path] = None
        if leaf.size <= ENTRIES:
            slopes = [along(run, path, v) for v in np.eye(leaf.size).reshape(leaf.size, *leaf.shape)]
            entries = [math.nan if slope.kink else slope.value for slope in slopes]
            truth[path] = np.asarray(entries, np.float64).reshape(leaf.shape)
    return truth


# The verdicts: each step takes the leaves of the one before.


def judge(m: Measurement) -> list[Leaf]:
    """The verdict on every leaf, against the true derivative and against the slopes along directions."""
    return [_judged(m, path) for path in m.problem.leaves]


def _judged(m: Measurement, path: str) -> Leaf:
    hand, truth = m.hand[path], m.truth[path]
    shape = m.problem.leaves[path].shape
    leaf = Leaf(path, shape, m.problem.dtypes.get(path, "float64"), "pass", math.nan, math.nan)
    if hand is None or hand.shape != shape:
        return replace(leaf, verdict="FAIL", error=math.inf)
    if not hand.size:
        return replace(leaf, error=0.0)
    gap = _gap(hand, m.slopes.get(path, []), m.top)
    leaf = replace(leaf, difference_error=gap.error)
    contradicted = not gap.kink and gap.error > max(TOLERANCE, m.accuracy) + gap.unsure
    if truth is None:  # too large to difference entry by entry
        return replace(leaf, verdict="FAIL" if contradicted else "kink" if gap.kink else "pass")
    kinks = np.zeros(shape, bool) if m.problem.differentiable else np.isnan(truth)
    error = leaf_error(np.where(kinks, 0, hand), np.where(kinks, 0, truth), m.top)
    verdict = "FAIL" if contradicted or error > m.accuracy else "kink" if kinks.any() else "pass"
    leaf = replace(leaf, verdict=verdict, error=error if m.problem.differentiable else math.nan)
    return _with_worst_entry(leaf, np.where(kinks, 0, hand), np.where(kinks, 0, truth))


def _with_worst_entry(leaf: Leaf, hand: np.ndarray, truth: np.ndarray) -> Leaf:
    difference = np.abs(hand - truth)
    difference = np.where(np.isfinite(difference), difference, np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(difference), leaf.shape))
    return replace(leaf, index=index, hand=float(hand[index]), truth=float(truth[index]))


class Gap(NamedTuple):
    """A derivative beside the central differences along directions in one leaf."""

    error: float  # the largest relative difference; nan where there are no directions
    unsure: float  # how far the central differences themselves may be off
    kink: bool


def _gap(derivative: np.ndarray, slopes: Slopes, top: float) -> Gap:
    if not slopes:
        return Gap(math.nan, 0.0, False)
    if not np.all(np.isfinite(derivative)):
        return Gap(math.inf, 0.0, False)
    error = unsure = 0.0
    for v, slope in slopes:
        directional = float(np.vdot(derivative, v))
        scale = max(abs(directional), abs(slope.value), 1e-3 * top)
        error = max(error, abs(directional - slope.value) / scale)
        unsure = max(unsure, 10 * slope.error / scale)
    return Gap(error, unsure, any(slope.kink for _, slope in slopes))


def _decided(m: Measurement, leaves: list[Leaf]) -> list[Leaf]:
    """A leaf that autodiff contradicts passes if central differences take its side, where they decide."""
    if not (m.problem.differences_decide and m.problem.differentiable):
        return leaves
    return [leaf if leaf.passed or not _confirmed(m, leaf) else replace(leaf, verdict="pass") for leaf in leaves]


def _confirmed(m: Measurement, leaf: Leaf) -> bool:
    """Whether central differences agree with the hand-written derivative of a leaf, and not with autodiff's."""
    hand, truth, slopes = m.hand[leaf.path], m.truth[leaf.path], m.slopes[leaf.path]
    if hand is None or truth is None or hand.shape != leaf.shape:
        return False
    top = largest_entry(m.hand)
    error, unsure, kink = _gap(hand, slopes, top)
    if kink or unsure >= 1e-3 or not error <= TOLERANCE + unsure:
        return False
    return not _gap(truth, slopes, top).error <= 10 * (TOLERANCE + unsure)


def _with_kinks(m: Measurement, leaves: list[Leaf], run: Program) -> list[Leaf]:
    """A leaf that is wrong at kinks only does not fail."""
    if m.problem.surrogate:
        return leaves
    at_kinks = lambda path: only_kinks(run, path, m.hand[path], m.truth[path])
    return [leaf if leaf.passed or not at_kinks(leaf.path) else replace(leaf, verdict="kink") for leaf in leaves]


def _explained(m: Measurement, leaves: list[Leaf], run: Program, findings: list[Finding]) -> list[Leaf]:
    """Every leaf that fails, with the causes that reproduce its numbers."""
    evidence = Evidence(Simulation(m.problem), m.hand, m.truth, m.accuracy, run.gradients)
    explained = lambda leaf: guarded(lambda: explain(leaf, evidence), leaf, findings)
    return [leaf if leaf.passed else explained(leaf) for leaf in leaves]


# What is asked of the function as a whole.


def _findings(m: Measurement, leaves: list[Leaf], run: Program, seed: int) -> list[Finding]:
    bent = any(leaf.verdict == "kink" for leaf in leaves)
    asked = (
        *m.problem.findings,
        run.repeats,
        _same_forward(m),
        None if bent else _adjoint(m, run, seed),
        _linear(m, run),
    )
    return [finding for finding in asked if finding is not None]


def _same_forward(m: Measurement) -> Finding | None:
    """Whether the function with the rule and its reference have the same values."""
    problem = m.problem
    if problem.decorated is None:
        return None
    ours, theirs = jax.device_get((problem.decorated(problem.leaves), problem.forward(problem.leaves)))
    error = worst(ours, theirs)
    close = error <= max(m.accuracy, 1e-9) or largest_entry(jax.tree.map(np.subtract, ours, theirs)) <= 1e-12
    return Finding("same forward", bool(close), f"its value and the reference's differ by {error:.1e}")


def _complete(hand: Measured, leaves: Leaves) -> Arrays | None:
    """The hand-written derivative, unless a leaf is missing or has another shape."""
    arrays = {path: g for path, g in hand.items() if g is not None and g.shape == leaves[path].shape}
    return arrays if len(arrays) == len(hand) else None


def _adjoint(m: Measurement, run: Program, seed: int) -> Finding | None:
    """<dy, J v> = <J' dy, v> along a random v through all leaves at once."""
    hand = _complete(m.hand, m.problem.leaves)
    if hand is None or not m.problem.differentiable:
        return None
    draw = np.random.default_rng((seed, 7))
    v: Leaves = {k: jnp.asarray(draw.normal(size=a.shape)) for k, a in m.problem.leaves.items()}
    left = run(tangent=v).slope
    if left is None:
        return None
    right = sum(float(np.vdot(hand[k], v[k])) for k in v)
    scale = sum(float(np.linalg.norm(hand[k]) * np.linalg.norm(v[k])) for k in v)
    gap = abs(left - right) / max(scale, largest_entry(m.problem.dy))
    return Finding("adjoint", bool(gap <= m.accuracy), f"<dy, J v> = {left:.9g} and <backward(dy), v> = {right:.9g}")


def _linear(m: Measurement, run: Program) -> Finding | None:
    """backward(2 dy - 3 dy') = 2 backward(dy) - 3 backward(dy')."""
    dy = m.problem.dy
    if m.problem.surrogate:
        return _at_another_dy(m, run)
    if all(not np.shape(d) for d in jax.tree.leaves(dy)) or any(g is None for g in m.hand.values()):
        return None
    other = jax.tree.map(lambda d: jnp.flip(d) + 0.5, dy)
    mix = lambda a, b: jax.tree.map(lambda a, b: 2 * a - 3 * b, a, b)
    whole = run(dy=mix(dy, other)).hand
    mixed = mix(m.hand, run(dy=other).hand)
    top = largest_entry(mixed)
    errors = {path: leaf_error(g, mixed[path], top) for path, g in whole.items() if g is not None}
    path = max(errors, key=errors.__getitem__)
    error = errors[path]
    text = f"largest error {error:.1e}" + ("" if error <= m.accuracy else f", at {path}: backward must be linear in dy")
    return Finding("linear in dy", bool(error <= max(m.accuracy, FLOAT64_TOLERANCE)), text)


def _at_another_dy(m: Measurement, run: Program) -> Finding:
    """A surrogate gradient may clip, so it need not be linear in dy: it is its reference's at a larger dy too."""
    result = run(dy=jax.tree.map(lambda d: 3 * jnp.flip(d) + 0.5, m.problem.dy))
    top = largest_entry(result.truth)
    errors = [np.inf if g is None else leaf_error(g, result.truth[path], top) for path, g in result.hand.items()]
    return Finding("another dy", bool(max(errors) <= m.accuracy), f"largest error {max(errors):.1e}")
