"""The examination of a problem: every method on it, every leaf judged, and what is wrong explained."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.bisect import first_wrong_step
from jaxbp.check.compare import FLOAT64_TOLERANCE, largest_entry, leaf_error
from jaxbp.check.diagnosis import Evidence, explain
from jaxbp.check.differences import TOLERANCE, Slope, slope
from jaxbp.check.laws import laws
from jaxbp.check.passes import Pass, Program
from jaxbp.check.problem import Leaves, Problem
from jaxbp.check.report import Finding, Leaf, Report

Level = Literal["default", "full"]
ENTRIES = 400  # a leaf of at most so many entries is differenced entry by entry where JAX cannot differentiate
DIRECTIONS = 2  # random directions a leaf


def examine(problem: Problem, level: Level = "default", accuracy: float = FLOAT64_TOLERANCE, seed: int = 0) -> Report:
    """Judges every leaf. `accuracy`: the largest relative error that is right, for a derivative that approximates."""
    run = Program(problem)
    found = run()
    numeric = found.truth is None
    truth = _differenced(run) if numeric else found.truth
    accuracy = max(accuracy, TOLERANCE) if numeric else accuracy
    slopes = {path: _slopes(run, path, seed) for path in problem.leaves}
    verdicts = judge(problem, found, truth, slopes, accuracy)
    findings = [f for f in (_adjoint(run, found, accuracy, seed), _linear(run, found, accuracy)) if f is not None]
    if any(not leaf.passed for leaf in verdicts):
        evidence = Evidence(problem, found.hand, truth, accuracy, run.gradients)
        verdicts = [leaf if leaf.passed else explain(leaf, evidence) for leaf in verdicts]
    if level == "full":
        findings += laws(problem, accuracy)
    step = (
        first_wrong_step(problem, accuracy)
        if problem.layer is not None and any(not leaf.passed for leaf in verdicts)
        else ""
    )
    return Report(problem.name, tuple(verdicts), tuple(findings), step)


def judge(problem: Problem, found: Pass, truth: dict, slopes: dict[str, list] | None, accuracy: float) -> list[Leaf]:
    """The verdict on every leaf, against the true gradient and, if they were taken, the slopes along directions."""
    top = max(largest_entry({k: v for k, v in truth.items() if v is not None}), 1e-300)
    return [_judged(problem, k, found, truth, (slopes or {}).get(k, []), accuracy, top) for k in problem.leaves]


def _judged(
    problem: Problem,
    path: str,
    found: Pass,
    truth: dict,
    slopes: list[tuple[float, Slope]],
    accuracy: float,
    top: float,
) -> Leaf:
    hand, want = found.hand[path], truth[path]
    shape, dtype = problem.leaves[path].shape, problem.dtypes.get(path, "float64")
    if hand is None:
        return Leaf(path, shape, dtype, "FAIL", math.inf, math.nan)
    difference, unsure, bent = _against_slopes(hand, shape, slopes, top)
    kink = bent and found.truth is None
    if want is None:  # too large to difference entry by entry
        wrong = difference > TOLERANCE + unsure
        return Leaf(path, shape, dtype, "kink" if kink else "FAIL" if wrong else "pass", math.nan, difference)
    error = leaf_error(hand, want, top)
    right = error <= accuracy and (bent or difference <= max(TOLERANCE, accuracy) + unsure)
    verdict = "pass" if right else "kink" if kink else "FAIL"
    if hand.shape != want.shape or not want.size:
        return Leaf(path, shape, dtype, verdict, error, difference)
    gap = np.where(np.isfinite(hand - want), np.abs(hand - want), np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(gap), want.shape))
    shown = math.nan if found.truth is None else error
    return Leaf(path, shape, dtype, verdict, shown, difference, index, float(hand[index]), float(want[index]))


def _against_slopes(hand: np.ndarray, shape: tuple, slopes: list, top: float) -> tuple[float, float, bool]:
    """(largest relative gap to the central differences, how far those may be off, whether there is a kink)."""
    if hand.shape != shape or not hand.size:
        return math.nan, math.inf, False
    gap = unsure = 0.0
    for v, found in slopes:
        along = float(np.vdot(hand, v))
        scale = max(abs(along), abs(found.value), 1e-3 * top)
        gap, unsure = max(gap, abs(along - found.value) / scale), max(unsure, 10 * found.error / scale)
    return (gap if math.isfinite(gap) else math.inf), unsure, any(s.kink for _, s in slopes)


def _moved(run: Program, path: str, v: np.ndarray) -> Slope:
    leaf = run.problem.leaves[path]
    f = lambda h: run.value(run.problem.leaves | {path: leaf + h * v})
    return slope(f, max(1.0, float(jnp.max(jnp.abs(leaf), initial=0))) / max(float(np.abs(v).max(initial=0)), 1e-300))


def _slopes(run: Program, path: str, seed: int) -> list[tuple[np.ndarray, Slope]]:
    """Unit random directions in one leaf, with the central difference along each."""
    shape = run.problem.leaves[path].shape
    directions = [
        np.random.default_rng((seed, i)).normal(size=shape) for i in range(DIRECTIONS if np.prod(shape) else 0)
    ]
    directions = [v / np.linalg.norm(v) for v in directions]
    return [(v, _moved(run, path, v)) for v in directions]


def _differenced(run: Program) -> dict[str, np.ndarray | None]:
    """The derivative of every entry by central differences; None for leaves that are too large for that."""
    truth = {}
    for path, leaf in run.problem.leaves.items():
        unit = np.eye(leaf.size).reshape(leaf.size, *leaf.shape) if leaf.size <= ENTRIES else None
        each = None if unit is None else [_moved(run, path, v).value for v in unit]
        truth[path] = None if each is None else np.asarray(each, np.float64).reshape(leaf.shape)
    return truth


def _adjoint(run: Program, found: Pass, accuracy: float, seed: int) -> Finding | None:
    """<dy, J v> = <J' dy, v> along a random v through all leaves at once."""
    if found.slope is None or any(g is None or g.shape != run.problem.leaves[k].shape for k, g in found.hand.items()):
        return None
    draw = np.random.default_rng((seed, 7))
    v: Leaves = {k: jnp.asarray(draw.normal(size=a.shape)) for k, a in run.problem.leaves.items()}
    left, parts = run(tangent=v).slope, [float(np.vdot(found.hand[k], v[k])) for k in v]
    scale = max(sum(np.linalg.norm(found.hand[k]) * np.linalg.norm(v[k]) for k in v), 1e-300)
    gap = abs(left - sum(parts)) / scale
    return Finding("adjoint", bool(gap <= accuracy), f"<dy, J v> = {left:.9g} and <backward(dy), v> = {sum(parts):.9g}")


def _linear(run: Program, found: Pass, accuracy: float) -> Finding | None:
    """backward(2 dy - 3 dy') = 2 backward(dy) - 3 backward(dy')."""
    if all(not np.shape(d) for d in jax.tree.leaves(run.problem.dy)) or any(g is None for g in found.hand.values()):
        return None
    other = jax.tree.map(lambda d: jnp.flip(d) + 0.5, run.problem.dy)
    mix = lambda a, b: jax.tree.map(lambda a, b: 2 * a - 3 * b, a, b)
    got, want = run(dy=mix(run.problem.dy, other)).hand, mix(found.hand, run(dy=other).hand)
    top = largest_entry(want)
    path = max(want, key=lambda k: leaf_error(got[k], want[k], top))
    error = leaf_error(got[path], want[path], top)
    text = f"largest error {error:.1e}" + ("" if error <= accuracy else f", at {path}: backward must be linear in dy")
    return Finding("linear in dy", bool(error <= max(accuracy, FLOAT64_TOLERANCE)), text)
