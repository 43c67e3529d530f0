"""Wrong arrays that are simple images of the true one: every pattern is tried, and those that fit exactly are named."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from jaxbp.check.leaves import Counts, Leaves, Measured
from jaxbp.check.report import Cause, Explanation

REASONS = 3  # a factor that may be many things is said to be these
RATES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.001, 1e-4)


def axis_sets(ndim: int) -> Iterator[tuple[int, ...]]:
    """Every set of axes but the empty one, the smallest first."""
    for count in range(1, ndim + 1):
        yield from itertools.combinations(range(ndim), count)


def same(a: np.ndarray, b: np.ndarray, close: float) -> bool:
    """Equal in shape, and in every entry to `close` times the largest."""
    if a.shape != b.shape or not np.all(np.isfinite(b)) or not np.all(np.isfinite(a)):
        return False
    return float(np.max(np.abs(a - b), initial=0)) <= close * max(float(np.max(np.abs(b), initial=0)), 1e-300)


def patterns(
    path: str, hand: np.ndarray, truth: np.ndarray, all_truth: Measured, leaves: Leaves, counts: Counts, close: float
) -> Iterator[Explanation]:
    """Every pattern that turns the true array into the hand-written one; `close`: the relative error of a match."""
    if hand.shape != truth.shape:
        yield from _shapes(hand, truth, close)
        return
    if not np.all(np.isfinite(hand)):
        bad = np.argwhere(~np.isfinite(hand))
        yield Explanation(Cause.UNKNOWN, f"{len(bad)} entries are not finite, the first at {tuple(map(int, bad[0]))}")
        return
    if not np.any(hand):
        yield Explanation(Cause.ZERO, "every entry is 0")
        return
    scaled = list(_factor(hand, truth, counts, close))
    yield from scaled
    if scaled and hand.size > 1:
        return
    yield from _swapped(path, hand, all_truth, close)
    yield from _arranged(hand, truth, close)
    yield from _summed(hand, truth, close)
    yield from _shifted(hand, truth, close)
    yield from _partly(hand, truth, close)
    parameter = np.asarray(leaves[path])
    if hand.size > 1 and not scaled and (c := ratio(hand - truth, parameter, 1e-6)) is not None:
        text = f"it is off by {c:.6g} times the parameter itself: a penalty left out, or with a wrong factor or sign"
        yield Explanation(Cause.PENALTY, text)
    if not scaled:
        yield from _few(hand, truth)


def _few(hand: np.ndarray, truth: np.ndarray) -> Iterator[Explanation]:
    """How much is wrong: some entries, or every entry by little."""
    difference = np.abs(hand - truth)
    top = max(float(np.max(np.abs(truth), initial=0)), 1e-300)
    wrong = np.argwhere(difference > 1e-13 * top)
    gap = float(np.max(difference, initial=0)) / top
    if 0 < len(wrong) <= hand.size / 2:
        first = tuple(map(int, wrong[0]))
        shared = [f"index {wrong[0][axis]} of axis {axis}" for axis in range(hand.ndim) if np.ptp(wrong[:, axis]) == 0]
        where = f"all at {' and '.join(shared)}" if shared and len(wrong) > 1 else f"the first at {first}"
        yield Explanation(Cause.UNKNOWN, f"{len(wrong)} of {hand.size} entries are wrong, {where}")
    elif 3e-6 <= gap < 0.02:
        yield Explanation(Cause.PRECISION, f"it is off by {gap:.1e} of its largest entry: a part may run in bfloat16")
    elif 0 < gap < 3e-6:
        yield Explanation(Cause.PRECISION, f"it is off by {gap:.1e} everywhere: a part of it runs in float32")


def ratio(a: np.ndarray, b: np.ndarray, close: float) -> float | None:
    """c if a = c b."""
    square = float(np.vdot(b, b))
    c = float(np.vdot(b, a)) / square if square else 0.0
    return c if c and same(a, c * b, close) else None


def _factor(hand: np.ndarray, truth: np.ndarray, counts: Counts, close: float) -> Iterator[Explanation]:
    c = ratio(hand, truth, close)
    if c is None:
        return
    every = f"every entry is {c:.9g} times the true one"
    near = lambda a, b: abs(a - b) <= max(1e-8, close) * abs(b)
    size = abs(c)
    if near(size, 1):
        yield Explanation(Cause.SIGN, "every entry has the opposite sign")
        return
    sign = " with the sign flipped" if c < 0 else ""
    reasons: dict[Cause, list[str]] = {}
    for name, n in counts:
        averaged = any(word in name for word in ("batch", "data", "output", "positions", "entries"))
        if near(size, n):
            reasons.setdefault(Cause.SUM if averaged else Cause.FACTOR, []).append(name)
        if near(size, 1 / n):
            reasons.setdefault(Cause.MEAN if averaged else Cause.FACTOR, []).append(f"1 / {name}")
    lengths = [(name, n) for name, n in counts if "batch" in name or "'s axis" in name]
    for (name, n), (other, m) in itertools.combinations(lengths, 2):
        if near(size, 1 / (n * m)):
            reasons.setdefault(Cause.MEAN, []).append(f"1 / ({name} times {other})")
    for value, name in ((2, "2"), (0.5, "1/2"), (4, "4"), (0.25, "1/4")):
        if near(size, value):
            reasons.setdefault(Cause.FACTOR, []).append(f"a factor {name}, as of a square's derivative")
    if any(near(size, rate) for rate in RATES):
        reasons.setdefault(Cause.FACTOR, []).append("it looks like a learning rate")
    for cause, names in (reasons or {Cause.FACTOR: []}).items():  # equal reasons are one line
        why = f": {' or '.join(names[:REASONS])}" if names else ""
        yield Explanation(cause, f"{every}{why}{sign}")
    if Cause.FACTOR not in reasons and reasons:
        yield Explanation(Cause.FACTOR, every)


def _swapped(path: str, hand: np.ndarray, all_truth: Measured, close: float) -> Iterator[Explanation]:
    for other, truth in all_truth.items():
        if other != path and truth is not None and same(hand, truth, close):
            yield Explanation(Cause.SWAPPED, f"it is the true gradient of {other}")


def _arranged(hand: np.ndarray, truth: np.ndarray, close: float) -> Iterator[Explanation]:
    """The right numbers in other places."""
    for axes in _orders(truth.ndim):
        turned = truth.transpose(axes)
        if same(hand, turned, close):
            yield Explanation(Cause.TRANSPOSED, f"it is the true one with its axes in the order {axes}")
        elif same(hand, turned.reshape(truth.shape), close):
            yield Explanation(Cause.TRANSPOSED, f"it is the true one with its axes in the order {axes}, reshaped")
    for axes in axis_sets(truth.ndim) if truth.ndim <= 5 else ():
        if same(hand, np.flip(truth, axes), close):
            yield Explanation(Cause.FLIPPED, f"it is the true one reversed along the axes {axes}")
    for axis in range(truth.ndim):
        order = _order(hand, truth, axis, close)
        if order is not None:
            yield Explanation(Cause.ORDER, f"it is the true one with axis {axis} in the order {_blocks(order)}")


def _orders(ndim: int) -> Iterator[tuple[int, ...]]:
    """Every other order of the axes; of more than five, those of two exchanged axes."""
    straight = tuple(range(ndim))
    if ndim <= 5:
        yield from itertools.islice(itertools.permutations(straight), 1, None)
        return
    for i, j in itertools.combinations(straight, 2):
        yield tuple({i: j, j: i}.get(axis, axis) for axis in straight)


def _order(hand: np.ndarray, truth: np.ndarray, axis: int, close: float) -> list[int] | None:
    """The permutation of an axis that turns truth into hand."""
    rows = lambda a: np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)
    h, t = rows(hand), rows(truth)
    if len(t) > 512:
        return None
    scale = close * max(float(np.max(np.abs(t), initial=0)), 1e-300)
    gaps = np.stack([np.max(np.abs(t - row), 1, initial=0) for row in h]) if len(t) else np.zeros((0, 0))
    order = [int(i) for i in np.argmin(gaps, 1)] if len(t) else []
    fits = len(set(order)) == len(order) and all(gaps[i, j] <= scale for i, j in enumerate(order))
    return order if fits and order != sorted(order) else None


def _blocks(order: list[int]) -> str:
    """A permutation in its largest equal blocks: [2, 3, 0, 1] is [1, 0] of blocks of 2."""
    sizes = [size for size in range(len(order), 0, -1) if len(order) % size == 0]
    whole = lambda size: order == [start // size * size + i for start in order[::size] for i in range(size)]
    size = next(size for size in sizes if whole(size))
    return f"{[start // size for start in order[::size]]}" + (f" of blocks of {size}" if size > 1 else "")


def _summed(hand: np.ndarray, truth: np.ndarray, close: float) -> Iterator[Explanation]:
    """Sums over axes that were to be kept, spread out again."""
    for axes in axis_sets(truth.ndim):
        count = math.prod(truth.shape[axis] for axis in axes)
        if count < 2:
            continue
        spread = np.broadcast_to(truth.sum(axes, keepdims=True), truth.shape)
        if same(hand, spread, close):
            yield Explanation(Cause.AXES, f"its axes {axes} are summed too, and the sum stands at every entry")
        elif same(hand, spread / count, close):
            yield Explanation(Cause.AXES, f"its axes {axes} are averaged, and the mean stands at every entry")


def _shifted(hand: np.ndarray, truth: np.ndarray, close: float) -> Iterator[Explanation]:
    for axis in range(truth.ndim):
        if truth.shape[axis] < 2:
            continue
        for shift, words in ((1, "later"), (-1, "earlier")):
            rolled = np.roll(truth, shift, axis)
            edge = [slice(None)] * truth.ndim
            edge[axis] = slice(0, 1) if shift > 0 else slice(-1, None)
            pushed = rolled.copy()
            pushed[tuple(edge)] = 0
            if same(hand, rolled, close) or same(hand, pushed, close):
                yield Explanation(Cause.SHIFTED, f"it is the true one, one place {words} along axis {axis}")


def _partly(hand: np.ndarray, truth: np.ndarray, close: float) -> Iterator[Explanation]:
    """Right but for one end of an axis, where it is zero; or zero but for one end."""
    for axis in range(truth.ndim):
        if truth.shape[axis] < 2:
            continue
        for end, name in ((-1, "last"), (0, "first")):
            without = truth.copy()
            np.moveaxis(without, axis, 0)[end] = 0
            only = np.zeros_like(truth)
            np.moveaxis(only, axis, 0)[end] = np.moveaxis(truth, axis, 0)[end]
            cause = Cause.DROPPED if axis == 0 else Cause.LAST_STEP
            if same(hand, without, close):
                yield Explanation(cause, f"it is right but for the {name} entry of axis {axis}, which is 0")
            if same(hand, only, close):
                yield Explanation(Cause.OVERWRITTEN, f"only the {name} entry of axis {axis} is there")


def _shapes(hand: np.ndarray, truth: np.ndarray, close: float) -> Iterator[Explanation]:
    """A leaf of another shape: the first way in which the true one gives it."""
    stands = f"its shape is {hand.shape}, and the leaf's is {truth.shape}"
    if hand.size == truth.size:
        for axes in itertools.permutations(range(hand.ndim)) if hand.ndim <= 4 else ():
            if same(hand.transpose(axes).reshape(truth.shape), truth, close):
                if axes == tuple(range(hand.ndim)):
                    yield Explanation(Cause.BROADCAST, f"{stands}: the right numbers")
                else:
                    yield Explanation(Cause.TRANSPOSED, f"{stands}: the right numbers, transposed")
                return
    for axes in axis_sets(hand.ndim):
        total = hand.sum(axes)
        if total.size == truth.size and same(total.reshape(truth.shape), truth, close):
            yield Explanation(Cause.BROADCAST, f"{stands}: it is not summed over its axes {axes}")
            return
    for axes in axis_sets(truth.ndim) if hand.size < truth.size else ():
        total = truth.sum(axes)
        if total.size == hand.size and same(hand.reshape(total.shape), total, close):
            yield Explanation(Cause.AXES, f"{stands}: its axes {axes} are summed too")
            return
    yield Explanation(Cause.BROADCAST, stands)
