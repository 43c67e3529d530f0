"""Three witnesses, one verdict: the hand-written derivative, autodiff's, and differences.

Autodiff is exact where it is right, so it is the truth as long as differences agree with it. Where they do not, or
where it is not finite, the differences are asked entry by entry and decide:

- at a smooth entry the derivative is that of the differences, and autodiff is wrong there;
- at a kink every slope between those of the two sides is right, and autodiff's own choice is one more;
- where differences do not tell (no side is finite, or both grow without end), nothing is held against an entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np

from jaxbp.check.differences import TOLERANCE, Slope, along, directional, largest, slack, unit
from jaxbp.check.domain import mirrored
from jaxbp.check.leaves import Arrays, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.program import MANY, Program
from jaxbp.check.ties import other_slopes
from jaxbp.check.truth import finite, largest_entry
from jaxbp.errors import InputError

ENTRIES = 400  # a leaf of more entries is judged along random directions only
SAMPLES = 20  # entries of such a leaf that are asked where the witnesses disagree
DIRECTIONS = 2  # random directions a leaf
NEIGHBOURS = 16  # points at which autodiff is asked whether it varies
NEAR = 1e-11  # their distance, relative to the leaf
Slopes = list[tuple[np.ndarray, Slope]]  # unit directions in one leaf, and the slope along each


@dataclass(frozen=True)
class Entries:
    """What the witnesses say of a leaf, entry by entry. Arrays of its shape."""

    truth: np.ndarray  # the right derivative that is nearest to the hand-written one; nan where nothing tells
    slack: np.ndarray  # how far differences may be off from it; 0 where autodiff is exact
    behind: np.ndarray  # the slopes of the two sides: equal where the function is smooth, nan where it was not asked
    ahead: np.ndarray
    overruled: np.ndarray  # bool: autodiff is wrong there

    @property
    def bent(self) -> np.ndarray:
        """The entries at a kink, or where differences do not tell."""
        return (self.behind < self.ahead) | (self.behind > self.ahead)


@dataclass(frozen=True)
class Measurement:
    """All that the verdicts rest on, leaf by leaf."""

    problem: Problem
    hand: Measured  # the derivative under check; None for a missing leaf
    truth: Measured  # the true one; None for a leaf that is larger than ENTRIES where JAX cannot differentiate
    slopes: dict[str, Slopes]
    accuracy: float  # the largest relative error that counts as right
    entries: dict[str, Entries] = field(default_factory=dict)  # the leaves that were asked entry by entry
    autodiff: Measured = field(default_factory=dict)
    others: list[Arrays] = field(default_factory=list)  # autodiff with other slopes at ties, once it is asked for
    neighbours: list[Measured] = field(default_factory=list)  # autodiff at points nearby, once it is asked for

    @cached_property
    def top(self) -> float:
        """The largest entry of the true derivative; of dy where the whole derivative is rounding, zero by structure."""
        truth = largest_entry([finite(a) for a in self.truth.values() if a is not None])
        dy = largest_entry(self.problem.dy)
        return truth if truth > 1e-14 * dy else dy

    @property
    def floor(self) -> float:
        """What is small beside this is zero by structure."""
        return 1e-3 * self.top

    def scale(self, path: str) -> float:
        """What an error in a leaf is relative to."""
        truth = self.truth[path]
        return max(0.0 if truth is None else largest(finite(truth)), self.floor)

    def difference(self, path: str) -> np.ndarray:
        """Hand-written minus autodiff's derivative of a leaf; where there is no autodiff, the hand-written one."""
        hand, auto = np.asarray(self.hand[path], np.float64), self.autodiff.get(path)
        return hand - np.where(np.isfinite(auto), auto, 0) if auto is not None else hand

    def agrees(self, path: str) -> np.ndarray:
        """Where the hand-written derivative of a leaf is autodiff's: nowhere if there is none, or of another shape."""
        hand, auto = self.hand[path], self.autodiff.get(path)
        if hand is None or auto is None or hand.shape != auto.shape:
            return np.zeros(self.problem.leaves[path].shape, bool)
        with np.errstate(invalid="ignore"):
            return np.abs(hand - auto) <= self.accuracy * self.scale(path)

    def conventional(self, paths: Sequence[str]) -> bool:
        """Whether the hand-written derivative is autodiff's with another slope at all ties, the same at each.

        Where kinks partly cancel, that need not lie between the slopes of the two sides: relu'(0) = 0 is what everybody
        writes, and where units with weights of either sign are all at 0, it gives 0.
        """
        if not self.others and self.problem.differentiable:
            self.others.extend(other_slopes(self.problem))
        if not self.others:
            return False
        hand, low, high = (
            np.concatenate([np.ravel(np.asarray(a[path], np.float64)) for path in paths])
            for a in (self.hand, *self.others)
        )
        apart = high - low
        share = float(apart @ (hand - low) / (apart @ apart or 1.0))
        close = max(self.accuracy, 1e-9) * max(self.floor, largest(low), largest(high))
        return -1e-9 <= share <= 1 + 1e-9 and largest(hand - low - share * apart) <= close


def measured(run: Program, accuracy: float, seed: int) -> Measurement:
    """A problem measured: both derivatives, and slopes along random directions in every leaf.

    Raises InputError for a loss that is not finite.
    """
    problem = run.problem
    value, hand, auto, _ = run()
    if not math.isfinite(value) and isinstance(problem.dy, jax.Array) and problem.dy.ndim == 0:
        raise InputError(f"the loss of {problem.name} is {value} at this point: it has no gradient that can be checked")
    if not problem.differentiable:
        auto = {}
        accuracy = max(accuracy, TOLERANCE)
    truth: Measured = auto or dict.fromkeys(problem.leaves)
    m = Measurement(problem, hand, truth, {}, accuracy, autodiff=auto)
    return replace(m, slopes={path: _slopes(m, run, path, seed) for path in problem.leaves})


def _slopes(m: Measurement, run: Program, path: str, seed: int) -> Slopes:
    """Random unit directions in one leaf, with the slope along each."""
    leaf = m.problem.leaves[path]
    if not leaf.size or m.problem.surrogate:
        return []
    draws = [np.random.default_rng((seed, i)).normal(size=leaf.shape) for i in range(DIRECTIONS)]
    return [(v, slope_along(m, run, {path: v})) for v in (draw / np.linalg.norm(draw) for draw in draws)]


def slope_along(m: Measurement, run: Program, direction: Arrays) -> Slope:
    """The slope along a direction, beside what the other two witnesses say of it.

    What autodiff says at neighbours tells a kink at the point from one nearby, and finds one that no line shows: the
    median of three equal numbers has a slope along every direction, which is not linear in the direction. There the
    slopes at the neighbours are right too.
    """
    gradients = [gradient for gradient in (m.autodiff, m.hand) if gradient]
    witnesses = [directional(gradient, direction) for gradient in gradients]
    slope = along(run, direction, witnesses, m.floor)
    if not m.autodiff or not (slope.kink or any(_refuted(slope, witness, m.floor) for witness in witnesses)):
        return slope
    auto, slopes = witnesses[0], [directional(gradient, direction) for gradient in _neighbours(m, run)]
    varies = not np.ptp(slopes) <= 1e-4 * max(m.floor, *np.abs(slopes))
    if slope.kink and not varies and slope.distance(auto) <= slack(slope, abs(auto)):
        return Slope(auto, slope.error, auto, auto)
    if slope.kink or not varies or not np.all(np.isfinite([auto, *slopes])):
        return slope
    slopes += [slope.value, auto]
    return Slope(slope.value, slope.error, min(slopes), max(slopes))


def _refuted(slope: Slope, witness: float, floor: float) -> bool:
    """Whether the slope is not the derivative that a witness says."""
    scale = max(abs(witness), abs(slope.value) if math.isfinite(slope.value) else 0.0, floor)
    return math.isfinite(witness) and slope.distance(witness) > slack(slope, scale)


def _neighbours(m: Measurement, run: Program) -> list[Measured]:
    """Autodiff at points beside the problem's own; in float32 where there are very many entries."""
    kept = np.float32 if sum(a.size for a in m.problem.leaves.values()) > MANY else np.float64
    if not m.neighbours:
        for i in range(NEIGHBOURS):
            draw = np.random.default_rng((i, 17))
            step = lambda a, draw=draw: NEAR * (largest(a) or 1.0) * draw.normal(size=a.shape)
            point = mirrored(m.problem.domain, {path: a + step(a) for path, a in m.problem.leaves.items()})
            m.neighbours.append({path: g.astype(kept) for path, g in run.gradients(point)[1].items()})
    return m.neighbours


class Gap(NamedTuple):
    """A derivative beside the slopes along directions in one leaf."""

    error: float  # the largest relative difference; nan where there are no directions
    refuted: bool  # along a direction without a kink it is not the slope
    outside: bool  # along some direction it is not between the slopes of both sides


def gap(derivative: np.ndarray, slopes: Slopes, m: Measurement) -> Gap:
    """How far a derivative is from the slopes."""
    if slopes and not np.all(np.isfinite(derivative)):
        return Gap(math.inf, any(not slope.kink for _, slope in slopes), True)
    error = 0.0 if slopes else math.nan
    refuted = outside = False
    for v, slope in slopes:
        along_v = directional({"": derivative}, {"": v})
        scale = max(abs(along_v), abs(slope.value) if math.isfinite(slope.value) else 0.0, m.floor)
        distance = slope.distance(along_v)
        error = max(error, distance / scale)
        far = distance > max(TOLERANCE, m.accuracy) * scale + 10 * slope.error
        outside |= far
        refuted |= far and not slope.kink
    return Gap(error, refuted, outside)


# Where the witnesses disagree.


def settled(m: Measurement, run: Program) -> Measurement:
    """The measurement with the truth, entry by entry, of every leaf on which the witnesses disagree."""
    kinked = {path for path, slopes in m.slopes.items() if any(slope.kink for _, slope in slopes)}
    doubtful = {path for path in m.slopes if _doubtful(m, path)}
    if any(not np.all(m.agrees(path)) for path in doubtful & kinked):
        doubtful |= kinked  # a tie may join several leaves
    entries = {path: _entries(m, run, path) for path in m.slopes if path in doubtful and _comparable(m, path)}
    return replace(m, entries=entries, truth={**m.truth, **{path: e.truth for path, e in entries.items()}})


def _comparable(m: Measurement, path: str) -> bool:
    """Whether a leaf can be asked entry by entry."""
    hand, leaf = m.hand[path], m.problem.leaves[path]
    return hand is not None and hand.shape == leaf.shape and (0 < leaf.size <= ENTRIES or path in m.autodiff)


def _doubtful(m: Measurement, path: str) -> bool:
    """Whether autodiff is missing or not finite, or differences do not confirm it."""
    auto = m.autodiff.get(path)
    if auto is None or not np.all(np.isfinite(auto)) or gap(auto, m.slopes[path], m).outside:
        return True
    return any(slope.kink for _, slope in m.slopes[path]) and not np.all(m.agrees(path))


def _entries(m: Measurement, run: Program, path: str) -> Entries:
    """A leaf asked entry by entry, those first where hand and autodiff differ most.

    It ends where an entry shows that the hand-written derivative is wrong and autodiff right. Of a leaf with more than
    ENTRIES only SAMPLES are asked. Autodiff stands for the rest, or the hand-written derivative if the samples confirm
    it, and if it is autodiff's with another slope at ties or random directions confirm it and refute autodiff.
    """
    shape = m.problem.leaves[path].shape
    hand = np.asarray(m.hand[path], np.float64)
    auto = np.asarray(m.autodiff.get(path, np.full(shape, math.nan)), np.float64)
    truth, slack, behind, ahead = auto.copy(), np.zeros(shape), np.full(shape, math.nan), np.full(shape, math.nan)
    overruled = ~np.isfinite(auto)
    exact = m.accuracy * m.scale(path)
    with np.errstate(invalid="ignore"):
        order = np.argsort(-np.nan_to_num(np.abs(hand - auto), nan=np.inf).ravel(), kind="stable")
    right = True
    for i in order[: SAMPLES if hand.size > ENTRIES else ENTRIES]:
        slope = slope_along(m, run, {path: unit(shape, i)})
        entry = _entry(float(hand.flat[i]), float(auto.flat[i]), slope, m.scale(path), exact)
        truth.flat[i], slack.flat[i], overruled.flat[i] = entry
        behind.flat[i], ahead.flat[i] = slope.behind, slope.ahead
        wrong = not abs(hand.flat[i] - truth.flat[i]) <= exact + slack.flat[i]
        right &= not wrong
        if wrong and not slope.kink and not overruled.flat[i]:
            break
    bent = behind != ahead
    outside = bent & ~np.isnan(behind) & ~(np.abs(hand - truth) <= exact + slack)
    if outside.any() and m.conventional([path]):
        truth = np.where(outside, hand, truth)
    rest = np.isnan(behind)
    better = gap(auto, m.slopes[path], m).refuted and not gap(hand, m.slopes[path], m).outside
    if right and rest.any() and (better or m.conventional([path])):
        truth, overruled = np.where(rest, hand, truth), np.where(rest, hand != auto, overruled)
    return Entries(truth, slack, behind, ahead, overruled)


def _entry(hand: float, auto: float, slope: Slope, scale: float, exact: float) -> tuple[float, float, bool]:
    """(truth, slack, overruled) of one entry."""
    if not slope.known:
        return (auto if math.isfinite(auto) else math.nan), 0.0, False
    loose = slack(slope, max(scale, abs(slope.value) if math.isfinite(slope.value) else 0.0))
    confirmed = slope.distance(auto) <= loose
    if slope.kink and not abs(hand - auto) <= exact:
        low, high = sorted((slope.behind, slope.ahead))
        nearest = float(np.clip(hand, low, high)) if math.isfinite(hand) else low if math.isfinite(low) else high
        return nearest, loose, not confirmed
    return (auto, 0.0, False) if confirmed or slope.kink else (slope.value, loose, True)
