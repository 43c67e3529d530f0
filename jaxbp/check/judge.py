"""The examination of a problem: every method on it, every leaf judged, and what is wrong explained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.bisect import first_wrong_step
from jaxbp.check.diagnosis.explain import Evidence, explain
from jaxbp.check.differences import TOLERANCE, Slope, along, only_kinks
from jaxbp.check.laws import laws
from jaxbp.check.leaves import Leaves
from jaxbp.check.problem import Problem
from jaxbp.check.program import Pass, Program
from jaxbp.check.report import Finding, Leaf, Report
from jaxbp.check.truth import FLOAT64_TOLERANCE, largest_entry, leaf_error, worst

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
    if problem.differences_decide and not numeric:
        verdicts = [_decided(v, found, slopes[v.path]) for v in verdicts]
    at_kinks = lambda path: only_kinks(run, path, found.hand[path], truth[path])
    verdicts = [replace(v, verdict="kink") if not v.passed and at_kinks(v.path) else v for v in verdicts]
    bent = any(v.verdict == "kink" for v in verdicts)
    adjoint = None if bent else _adjoint(run, found, accuracy, seed)
    asked = (_same_forward(problem, accuracy), adjoint, _linear(run, found, accuracy))
    findings = [finding for finding in asked if finding is not None]
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
    top = max(
        largest_entry({k: np.nan_to_num(v) for k, v in truth.items() if v is not None}), largest_entry(problem.dy)
    )
    return [_judged(problem, k, found, truth, (slopes or {}).get(k, []), accuracy, top) for k in problem.leaves]


def _judged(problem: Problem, path: str, found: Pass, truth: dict, slopes: list, accuracy: float, top: float) -> Leaf:
    hand, want = found.hand[path], truth[path]
    shape, dtype = problem.leaves[path].shape, problem.dtypes.get(path, "float64")
    if hand is None:
        return Leaf(path, shape, dtype, "FAIL", math.inf, math.nan)
    difference, unsure, bent = _against_slopes(hand, shape, slopes, top)
    agrees = bent or math.isnan(difference) or difference <= max(TOLERANCE, accuracy) + unsure
    if want is None:  # too large to difference entry by entry
        return Leaf(path, shape, dtype, "kink" if bent else "pass" if agrees else "FAIL", math.nan, difference)
    kinks = np.isnan(want) if found.truth is None else np.zeros(want.shape, bool)
    if hand.shape == want.shape:
        hand, want = np.where(kinks, 0, hand), np.where(kinks, 0, want)
    error = leaf_error(hand, want, top)
    verdict = "FAIL" if error > accuracy or not agrees else "kink" if kinks.any() else "pass"
    if hand.shape != want.shape or not want.size:
        return Leaf(path, shape, dtype, verdict, error, difference)
    gap = np.where(np.isfinite(hand - want), np.abs(hand - want), np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(gap), want.shape))
    shown = error if found.truth is not None else math.nan
    return Leaf(path, shape, dtype, verdict, shown, difference, index, float(hand[index]), float(want[index]))


def _decided(leaf: Leaf, found: Pass, slopes: list) -> Leaf:
    """A leaf that autodiff contradicts passes if central differences take its side, and not autodiff's."""
    if leaf.passed or found.hand[leaf.path] is None or not slopes:
        return leaf
    top = largest_entry(found.hand)
    gap, unsure, bent = _against_slopes(found.hand[leaf.path], leaf.shape, slopes, top)
    other, _, _ = _against_slopes(found.truth[leaf.path], leaf.shape, slopes, top)
    sides = not bent and unsure < 1e-3 and gap <= TOLERANCE + unsure and not other <= 10 * (TOLERANCE + unsure)
    return replace(leaf, verdict="pass") if sides else leaf


def _against_slopes(hand: np.ndarray, shape: tuple, slopes: list, top: float) -> tuple[float, float, bool]:
    """(largest relative gap to the central differences, how far those may be off, whether there is a kink)."""
    if hand.shape != shape or not hand.size or not slopes:
        return math.nan, 0.0, False
    if not np.all(np.isfinite(hand)):
        return math.inf, 0.0, False
    gap = unsure = 0.0
    for v, found in slopes:
        along = float(np.vdot(hand, v))
        scale = max(abs(along), abs(found.value), 1e-3 * top)
        gap, unsure = max(gap, abs(along - found.value) / scale), max(unsure, 10 * found.error / scale)
    return gap, unsure, any(s.kink for _, s in slopes)


def _slopes(run: Program, path: str, seed: int) -> list[tuple[np.ndarray, Slope]]:
    """Unit random directions in one leaf, with the central difference along each."""
    shape = run.problem.leaves[path].shape
    directions = [
        np.random.default_rng((seed, i)).normal(size=shape) for i in range(DIRECTIONS if np.prod(shape) else 0)
    ]
    directions = [v / np.linalg.norm(v) for v in directions]
    return [(v, along(run, path, v)) for v in directions]


def _differenced(run: Program) -> dict[str, np.ndarray | None]:
    """Every entry's derivative by central differences, nan at a kink; None for a leaf that is too large for that."""
    truth = {}
    for path, leaf in run.problem.leaves.items():
        unit = np.eye(leaf.size).reshape(leaf.size, *leaf.shape) if leaf.size <= ENTRIES else None
        each = None if unit is None else [along(run, path, v) for v in unit]
        values = None if each is None else [math.nan if s.kink else s.value for s in each]
        truth[path] = None if values is None else np.asarray(values, np.float64).reshape(leaf.shape)
    return truth


def _same_forward(problem: Problem, accuracy: float) -> Finding | None:
    """Whether the function with the rule and its reference have the same values."""
    if problem.decorated is None:
        return None
    ours, theirs = jax.device_get((problem.decorated(problem.leaves), problem.forward(problem.leaves)))
    error = worst(ours, theirs)
    close = error <= max(accuracy, 1e-9) or largest_entry(jax.tree.map(np.subtract, ours, theirs)) <= 1e-12
    return Finding("same forward", bool(close), f"its value and the reference's differ by {error:.1e}")


def _adjoint(run: Program, found: Pass, accuracy: float, seed: int) -> Finding | None:
    """<dy, J v> = <J' dy, v> along a random v through all leaves at once."""
    if found.slope is None or any(g is None or g.shape != run.problem.leaves[k].shape for k, g in found.hand.items()):
        return None
    draw = np.random.default_rng((seed, 7))
    v: Leaves = {k: jnp.asarray(draw.normal(size=a.shape)) for k, a in run.problem.leaves.items()}
    left, parts = run(tangent=v).slope, [float(np.vdot(found.hand[k], v[k])) for k in v]
    scale = max(sum(np.linalg.norm(found.hand[k]) * np.linalg.norm(v[k]) for k in v), largest_entry(run.problem.dy))
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
