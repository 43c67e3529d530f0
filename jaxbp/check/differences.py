"""Central differences with the step chosen by the error model, and kinks told from wrong gradients.

    D(h) = (f(h) - f(-h)) / 2h = f' + O(h^2),    R(h) = (4 D(h/2) - D(h)) / 3 = f' + O(h^4)

|R(h) - D(h/2)| estimates the truncation error and eps |f| / h the rounding error; the h with the smallest sum is taken.
At a kink the gap |f(h) - 2 f(0) + f(-h)| / h does not shrink with h; for a smooth f it shrinks in proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbp.check.leaves import Leaves
from jaxbp.check.program import Program

STEPS = (1e-2, 1e-3, 1e-4, 1e-5)
SUSPECTS = 20  # a leaf with more wrong entries than this is not searched for kinks
TOLERANCE = 1e-6  # of the slope's scale; the estimated error comes on top


class Slope(NamedTuple):
    """A directional derivative, how far it may be off, and whether f has a kink here."""

    value: float
    error: float
    kink: bool


def slope(f: Callable[[float], float], scale: float) -> Slope:
    """f'(0) of a function of one number whose natural step is `scale`."""
    eps = float(np.finfo(np.float64).eps)
    middle = f(0.0)
    estimates = []
    gaps = []
    for step in STEPS:
        h = step * scale
        ahead, behind = f(h), f(-h)
        wide = (ahead - behind) / (2 * h)
        narrow = (f(h / 2) - f(-h / 2)) / h
        value = (4 * narrow - wide) / 3
        rounding = 4 * eps * max(abs(ahead), abs(behind), abs(middle)) / h
        estimates.append((abs(value - narrow) + rounding, value))
        gaps.append((abs(ahead - 2 * middle + behind) / h, rounding))
    error, value = min(estimates, key=lambda pair: pair[0] if np.isfinite(pair[0]) else np.inf)
    return Slope(value, error, _kink(gaps, value))


def _kink(gaps: list[tuple[float, float]], value: float) -> bool:
    """Whether the gap at the smallest step is that at a hundred times the step, and more than rounding."""
    before, _ = gaps[-3]
    last, rounding = gaps[-1]
    return bool(last > 100 * rounding and last > 0.3 * before and last > 1e-6 * abs(value))


def along(run: Program, path: str, v: np.ndarray, leaves: Leaves | None = None) -> Slope:
    """The slope along v in one leaf, at the problem's own point or at `leaves`."""
    leaves = run.problem.leaves if leaves is None else leaves
    f = lambda h: run.value(leaves | {path: leaves[path] + h * v})
    size = max(1.0, float(jnp.max(jnp.abs(leaves[path]), initial=0)))
    return slope(f, size / max(float(np.abs(v).max(initial=0)), 1e-300))


def only_kinks(
    run: Program, path: str, hand: np.ndarray | None, truth: np.ndarray | None, leaves: Leaves | None = None
) -> bool:
    """Whether a leaf is wrong at kinks only: there the slope of either side, or one between, is as good as another."""
    if hand is None or truth is None or hand.shape != truth.shape or not np.all(np.isfinite(hand)):
        return False
    wrong = np.flatnonzero(np.abs(hand - truth) > 1e-9 * max(float(np.max(np.abs(truth), initial=0)), 1e-300))
    unit = lambda i: np.eye(1, hand.size, i).reshape(hand.shape)
    return 0 < len(wrong) <= SUSPECTS and all(along(run, path, unit(i), leaves).kink for i in wrong)
