"""A problem examined: it is measured once, every leaf is judged, and what is wrong is explained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.devices import by_devices
from jaxbp.check.diagnosis.bisect import first_wrong_step
from jaxbp.check.diagnosis.explain import Evidence, explain
from jaxbp.check.diagnosis.simulation import Simulation
from jaxbp.check.guard import guarded
from jaxbp.check.kinks import Breach, breaches
from jaxbp.check.laws import laws, rule_laws
from jaxbp.check.leaves import Arrays, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Cause, Explanation, Finding, Leaf, Report
from jaxbp.check.ties import ties
from jaxbp.check.truth import FLOAT64_TOLERANCE, apart, largest_entry, leaf_error, worst
from jaxbp.check.witnesses import Entries, Measurement, gap, measured, settled

__all__ = ["Level", "Measurement", "examine", "judge"]

Level = Literal["default", "full"]


def examine(problem: Problem, level: Level = "default", accuracy: float = FLOAT64_TOLERANCE, seed: int = 0) -> Report:
    """Measures a problem, judges every leaf, asks the laws, and explains what fails.

    accuracy: the largest relative error that counts as right. Raises InputError for a loss that is not finite.
    """
    run = Program(problem)
    m = measured(run, max(accuracy, problem.rounding), seed)
    m = m if problem.surrogate else settled(m, run)
    leaves = judge(m, breaches(m, run, seed))
    right = {leaf.path: m.hand[leaf.path] for leaf in leaves if leaf.passed}
    findings = [*_findings(m, run, seed), *rule_laws(problem, run, right, m.accuracy, seed)]
    leaves = _explained(m, leaves, run, findings)
    if level == "full":
        findings += _laws(m, run)
    failed = any(not leaf.passed for leaf in leaves)
    step = guarded(lambda: first_wrong_step(problem, m.accuracy, findings), "", findings) if failed else ""
    return Report(problem.name, tuple(leaves), tuple(findings), step)


# The verdicts.


def judge(m: Measurement, broken: list[Breach] | tuple[Breach, ...] = ()) -> list[Leaf]:
    """The verdict on every leaf: against the truth, the slopes along directions, and the bounds of its kinks."""
    return [_judged(m, path, next((b for b in broken if path in b.paths), None)) for path in m.problem.leaves]


def _judged(m: Measurement, path: str, breach: Breach | None) -> Leaf:
    hand, truth = m.hand[path], m.truth[path]
    shape = m.problem.leaves[path].shape
    leaf = Leaf(path, shape, m.problem.dtypes.get(path, "float64"), "pass", math.nan, math.nan)
    if hand is None or hand.shape != shape:
        return replace(leaf, verdict="FAIL", error=math.inf)
    if not hand.size:
        return replace(leaf, error=0.0)
    beside = gap(hand, m.slopes.get(path, []), m)
    leaf = replace(leaf, difference_error=beside.error)
    if truth is None:  # too large to difference entry by entry
        kinked = any(slope.kink for _, slope in m.slopes[path])
        unsure = "not checked" if beside.outside else "kink"
        return replace(leaf, verdict="FAIL" if beside.refuted else unsure if kinked else "pass")
    entries = m.entries.get(path)
    bent = entries.bent if entries else np.zeros(shape, bool)
    distance = _distance(hand, truth, bent)
    wrong = ~(distance <= m.accuracy * m.scale(path) + (entries.slack if entries else 0.0))
    exact = m.problem.differentiable and not (entries and entries.overruled.any())
    leaf = replace(leaf, error=_relative(distance, m.scale(path)) if exact else math.nan, wrong=int(wrong.sum()))
    free = bent & ~m.agrees(path)
    leaf = _with_worst_entry(leaf, hand, truth, entries, np.where(wrong, distance, 0) if wrong.any() else distance)
    if wrong.any() or beside.refuted or breach:
        causes = (Explanation(Cause.KINK, str(breach)),) if breach and not wrong.any() else ()
        return replace(leaf, verdict="FAIL", causes=causes)
    return replace(leaf, verdict="not checked" if free.all() else "kink" if free.any() else "pass")


def _distance(hand: np.ndarray, truth: np.ndarray, bent: np.ndarray) -> np.ndarray:
    """|hand - truth|: infinite where one of them alone is finite, 0 where nothing tells the truth of a finite entry."""
    with np.errstate(invalid="ignore"):
        distance = np.where(hand == truth, 0, np.abs(np.asarray(hand, np.float64) - truth))
    distance = np.where(np.isnan(distance), np.inf, distance)
    return np.where(bent & np.isnan(truth) & np.isfinite(hand), 0, distance)


def _relative(distance: np.ndarray, scale: float) -> float:
    largest = float(distance.max())
    return largest / scale if scale else math.inf if largest else 0.0


def _with_worst_entry(
    leaf: Leaf, hand: np.ndarray, truth: np.ndarray, entries: Entries | None, distance: np.ndarray
) -> Leaf:
    index = tuple(int(i) for i in np.unravel_index(np.argmax(distance), leaf.shape))
    leaf = replace(leaf, index=index, hand=float(hand[index]), truth=float(truth[index]))
    if entries is None or not entries.bent[index]:
        return leaf
    low, high = sorted((float(entries.behind[index]), float(entries.ahead[index])))
    return replace(leaf, low=low, high=high)


def _explained(m: Measurement, leaves: list[Leaf], run: Program, findings: list[Finding]) -> list[Leaf]:
    """Every leaf that fails, with the causes that reproduce its numbers."""
    evidence = Evidence(Simulation(m.problem, findings=findings), m.hand, m.truth, m.accuracy, run.gradients)
    explained = lambda leaf: guarded(lambda: _with_causes(m, leaf, evidence), leaf, findings)
    if all(leaf.passed for leaf in leaves):
        return leaves
    devices: dict[str, Explanation] = guarded(
        lambda: by_devices(m.problem, m.hand, m.truth, evidence.close), {}, findings
    )
    leaves = [leaf if leaf.passed else explained(leaf) for leaf in leaves]
    first = lambda leaf: (devices[leaf.path],) if leaf.path in devices else ()
    return [replace(leaf, causes=(*first(leaf), *leaf.causes)) for leaf in leaves]


def _with_causes(m: Measurement, leaf: Leaf, evidence: Evidence) -> Leaf:
    """The bounds of the kink that it breaks, autodiff's own mistake, or what the diagnosis says."""
    if leaf.causes:
        return leaf
    if leaf.low < leaf.high:
        text = (
            f"at {leaf.index} the slope must lie between {leaf.low:.6g} and {leaf.high:.6g}, and it is {leaf.hand:.6g}"
        )
        return replace(leaf, causes=(Explanation(Cause.KINK, f"the point is on a kink: {text}"),))
    entries = m.entries.get(leaf.path)
    if entries and entries.overruled.any() and np.all(m.agrees(leaf.path)):
        return replace(leaf, causes=(Explanation(Cause.AUTODIFF, "it is autodiff's own value, which is wrong here"),))
    return explain(leaf, evidence)


# What is asked of the function as a whole.


def _findings(m: Measurement, run: Program, seed: int) -> list[Finding]:
    adjoint = None if _apart(m) else _adjoint(m, run, seed)
    asked = (*m.problem.findings, run.repeats, _autodiff(m), _same_forward(m), adjoint, _linear(m, run))
    return [finding for finding in asked if finding is not None]


def _apart(m: Measurement) -> bool:
    """Whether autodiff is wrong here, or one choice of several."""
    return any(entries.overruled.any() or entries.bent.any() for entries in m.entries.values())


def _autodiff(m: Measurement) -> Finding | None:
    """Where autodiff is wrong, and the operation that makes it so."""
    wrong = {path: int(entries.overruled.sum()) for path, entries in m.entries.items() if entries.overruled.any()}
    if not wrong or not m.problem.differentiable:
        return None
    where = ", ".join(f"{path} ({count} of {m.problem.leaves[path].size} entries)" for path, count in wrong.items())
    operations: list[str] = guarded(lambda: ties(m.problem), [], [])
    because = f"; {', '.join(operations[:3])}" if operations else ""
    return Finding("autodiff", None, f"autodiff of the loss is wrong here, and differences decide: {where}{because}")


def _laws(m: Measurement, run: Program) -> list[Finding]:
    """The laws of the full level, where autodiff can be their witness."""
    if _apart(m):
        return [Finding("full level", None, "not asked: at this point autodiff is wrong or one choice of several")]
    return laws(run, m.accuracy)


def _same_forward(m: Measurement) -> Finding | None:
    """Whether the function with the rule and its reference have the same values."""
    problem = m.problem
    if problem.decorated is None:
        return None
    ours, theirs = jax.device_get((problem.decorated(problem.leaves), problem.forward(problem.leaves)))
    error = worst(ours, theirs)
    close = error <= max(m.accuracy, 1e-9) or largest_entry(jax.tree.map(apart, ours, theirs)) <= 1e-12
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
    if left is None or not math.isfinite(left):
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
