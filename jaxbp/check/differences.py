"""Directional derivatives by differences: the value, how far it may be off, and both sides of a kink.

    D(h) = (f(h) - f(-h)) / 2h = f'(0) + O(h^2),    R(h) = (4 D(h/2) - D(h)) / 3 = f'(0) + O(h^4)
    S(h) = (4 f(h/2) - f(h) - 3 f(0)) / h = f'(0+) + O(h^2)

`quick` serves smooth functions: |R(h) - D(h/2)| estimates the truncation error and eps |f| / h the rounding error, and
the h with the smallest sum is taken. `thorough` serves the others. It begins at the smallest step, where nothing but
rounding is wrong, and goes up as long as the next step agrees (Lepski's rule): so it stops before a kink nearby. It
takes each side by itself. A side that jumps or is not finite does not count; one that grows without end is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbp.check.leaves import Arrays, Leaves, on_host
from jaxbp.check.program import Program

Line = Callable[[float], float]
STEPS = (1e-2, 1e-3, 1e-4, 1e-5)
SMALLEST = 1e-8  # the smallest step of `thorough`, relative to the size of what moves
TOLERANCE = 1e-6  # of the slope's scale; the estimated error comes on top
EPS = float(np.finfo(np.float64).eps)


class Slope(NamedTuple):
    """A directional derivative. At a kink any slope between those of the two sides is one."""

    value: float  # the middle of both sides; not finite where one side is not
    error: float  # how far it may be off
    behind: float  # minus the one-sided derivative along -v
    ahead: float  # the one-sided derivative along v

    @property
    def kink(self) -> bool:
        """The two sides differ, or differences do not tell."""
        return self.behind != self.ahead

    @property
    def known(self) -> bool:
        """Not every slope is allowed."""
        return math.isfinite(self.behind) or math.isfinite(self.ahead)

    def distance(self, slope: float) -> float:
        """How far another slope is from those that are allowed."""
        low, high = sorted((self.behind, self.ahead))
        return math.inf if math.isnan(slope) else max(low - slope, slope - high, 0.0)


UNKNOWN = Slope(math.nan, 0.0, -math.inf, math.inf)


def quick(f: Line, scale: float) -> Slope | None:
    """f'(0) of a function of one number whose natural step is `scale`; None if it seems to have a kink or no value."""
    middle = f(0.0)
    estimates = []
    gaps = []
    for step in STEPS:
        h = step * scale
        ahead, behind = f(h), f(-h)
        wide = (ahead - behind) / (2 * h)
        narrow = (f(h / 2) - f(-h / 2)) / h
        value = (4 * narrow - wide) / 3
        rounding = 4 * EPS * max(abs(ahead), abs(behind), abs(middle)) / h
        estimates.append((abs(value - narrow) + rounding, value))
        gaps.append((abs(ahead - 2 * middle + behind) / h, rounding))
    error, value = min(estimates, key=lambda pair: pair[0] if math.isfinite(pair[0]) else math.inf)
    if not math.isfinite(error) or _bent(gaps, value):
        return None
    return Slope(value, error, value, value)


def _bent(gaps: list[tuple[float, float]], value: float) -> bool:
    """Whether |f(h) - 2 f(0) + f(-h)| / h at the smallest step is that at a hundred times the step, and no rounding."""
    before, _ = gaps[-3]
    last, rounding = gaps[-1]
    return last > 100 * rounding and last > 0.3 * before and last > 1e-6 * abs(value)


def thorough(f: Line, scale: float, smallest: float = SMALLEST) -> Slope:
    """The same with smaller steps, down to `smallest` of the scale, and with both sides told apart at a kink."""
    count = max(3, round(math.log10(STEPS[0] / smallest)) + 1)
    steps = scale * smallest * 10.0 ** np.arange(count)
    middle = f(0.0)
    ahead, ahead_half, behind, behind_half = (
        np.array([f(part * h) for h in steps]) - middle for part in (1.0, 0.5, -1.0, -0.5)
    )
    noise = [_noise(wide, half, middle, steps) for wide, half in ((ahead, ahead_half), (behind, behind_half))]
    right = _side(ahead, ahead_half, steps, noise[0])
    left = _side(behind, behind_half, -steps, noise[1])
    if right is None or left is None:
        value, error = right or left or (math.inf, 0.0)
        return Slope(value, error, value, value) if math.isfinite(value) else UNKNOWN
    value, error = (left[0] + right[0]) / 2, right[1] + left[1]
    finite = [abs(side) for side in (left[0], right[0]) if math.isfinite(side)]
    if len(finite) < 2 or abs(right[0] - left[0]) > 3 * error + 1e-7 * max(finite):
        return Slope(value, error, left[0], right[0]) if finite else UNKNOWN
    wide, narrow = (ahead - behind) / (2 * steps), (ahead_half - behind_half) / steps
    central, rest = _settled((4 * narrow - wide) / 3, np.maximum(*noise))
    value, error = (central, rest) if math.isfinite(central) else (value, error)
    return Slope(value, error, value, value)


def _noise(wide: np.ndarray, half: np.ndarray, middle: float, steps: np.ndarray) -> np.ndarray:
    """How far rounding may move a slope, at every step.

    f is rounded, and so is x, which is 1 / SMALLEST times the smallest step. f hardly bends in the two smallest steps:
    what bends there is rounding too, up to a point.
    """
    finite = lambda a: np.abs(np.nan_to_num(a, posinf=0, neginf=0))
    least = max(abs(middle), finite(wide)[0] / SMALLEST)
    values = np.maximum.accumulate(np.maximum(finite(wide + middle), least))
    bends = float(np.max(finite(wide - 2 * half)[:2]))
    return 8 * np.maximum(4 * EPS * values, min(bends, 1e3 * EPS * least)) / np.abs(steps)


def _side(wide: np.ndarray, half: np.ndarray, steps: np.ndarray, noise: np.ndarray) -> tuple[float, float] | None:
    """One side's derivative and its error, from the smallest step on; None where f jumps or is not finite.

    wide, half: how much f rises in a step and in half of it.
    """
    slopes = (4 * half - wide) / steps
    finite = np.isfinite(slopes)
    count = len(slopes) if finite.all() else int(np.argmin(finite))
    if count < 3:
        return None
    rises = np.abs(wide[:count])
    if rises[0] > 0.3 * rises.max() and rises[0] > abs(noise[0] * steps[0]):
        return None
    return _settled(slopes[:count], noise[:count])


def _settled(slopes: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """The slope at the largest step up to which all agree within their noise; infinite where they grow without end."""
    change, before = abs(slopes[0] - slopes[1]), abs(slopes[1] - slopes[2])
    if change > noise[0] + noise[1]:
        growing = change > 0.6 * before
        value = math.copysign(math.inf, slopes[0] - slopes[1]) if growing else float(slopes[0])
        return value, 0.0 if growing else 2 * float(change)
    agrees = lambda k: np.all(np.abs(slopes[k] - slopes[:k]) <= noise[k] + noise[:k])
    last = next((k for k in range(2, len(slopes)) if not agrees(k)), len(slopes)) - 1
    return float(slopes[last]) + 0.0, float(max(noise[last], abs(slopes[last] - slopes[last - 1])))


def along(
    run: Program, direction: Arrays, witnesses: Sequence[float] = (), floor: float = 0.0, leaves: Leaves | None = None
) -> Slope:
    """The slope along a direction through some leaves, at the problem's own point or at `leaves`.

    witnesses: derivatives along it by other means. Where the quick slope agrees with one of them, it is taken.
    floor: what is small beside this counts as zero.
    """
    leaves = run.problem.leaves if leaves is None else leaves
    moving = {path: on_host(leaves[path]) for path in direction}
    f = lambda h: run.value(leaves | {path: jnp.asarray(moving[path] + h * v) for path, v in direction.items()})
    scale = min(max(1.0, largest(leaves[path])) / largest(v) for path, v in direction.items())
    own = min(largest(np.asarray(leaves[path])[v != 0]) or 1.0 for path, v in direction.items())
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        slope = quick(f, scale)
        if slope is not None and any(_confirms(slope, witness, floor) for witness in witnesses):
            return slope
        return thorough(f, scale, SMALLEST * min(1.0, own))


def _confirms(slope: Slope, witness: float, floor: float) -> bool:
    """Whether a slope is accurate, and a derivative by other means agrees with it."""
    scale = max(abs(slope.value), abs(witness), floor)
    return 10 * slope.error <= 1e-2 * scale and slope.distance(witness) <= slack(slope, scale)


def slack(slope: Slope, scale: float) -> float:
    """How far a right derivative of that scale may be from a slope."""
    return TOLERANCE * scale + 10 * slope.error


def largest(a: Any) -> float:
    """The largest magnitude of an array; 0 for an empty one."""
    return float(np.max(np.abs(np.asarray(a, np.float64)), initial=0))


def unit(shape: tuple[int, ...], index: int) -> np.ndarray:
    """The array of zeros with a 1 at the flat index."""
    return np.eye(1, math.prod(shape), index).reshape(shape)


def directional(gradient: Mapping[str, np.ndarray | None], direction: Arrays) -> float:
    """<gradient, direction> over the direction's leaves; nan where one is missing or of another shape."""
    parts = [(gradient[path], v) for path, v in direction.items()]
    if any(g is None or g.shape != v.shape for g, v in parts):
        return math.nan
    with np.errstate(invalid="ignore"):
        return float(sum(np.sum(g * v, where=v != 0) for g, v in parts if g is not None))
