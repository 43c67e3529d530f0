"""A kink has bounds: <g, v> lies between minus the one-sided derivative along -v and the one along v.

The witnesses ask that of every entry. Here it is asked along directions through several entries: a maximum's gradient
that gives the delta to both winners of a tie, or to none, is within the bounds of every entry. The bounds are sharp for
a convex or concave function. So the entries that bend upward are moved together, and those that bend downward: with
their signs apart, the sum of many kinks is one or the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxbp.check.differences import Slope, directional, slack
from jaxbp.check.leaves import Arrays
from jaxbp.check.program import Program
from jaxbp.check.witnesses import Measurement, slope_along

RANDOM = 3  # random directions of a group of entries


class Breach(NamedTuple):
    """A direction along which the hand-written derivative is not between the slopes of both sides."""

    paths: tuple[str, ...]
    direction: str
    low: float
    high: float
    value: float

    def __str__(self) -> str:
        return (
            f"the point is on a kink: along {self.direction} the slope must lie between {self.low:.6g} and "
            f"{self.high:.6g}, and it is {self.value:.6g}"
        )


def breaches(m: Measurement, run: Program, seed: int) -> list[Breach]:
    """Where the bounds are broken along directions through bent entries, of one leaf and of all leaves."""
    broken = []
    for upward in (True, False):
        group = {path: mask for path in m.entries if (mask := _bending(m, path, upward)).any()}
        parts = [{path: mask} for path, mask in group.items()] + ([group] if len(group) > 1 else [])
        broken += [breach for part in parts if (breach := _breach(m, run, part, upward, seed)) is not None]
    return broken


def _bending(m: Measurement, path: str, upward: bool) -> np.ndarray:
    """The entries of a leaf along which the function bends upward, or downward."""
    entries = m.entries[path]
    sense = entries.ahead > entries.behind if upward else entries.ahead < entries.behind
    return sense & np.isfinite(entries.ahead) & np.isfinite(entries.behind)


def _breach(m: Measurement, run: Program, group: Arrays, upward: bool, seed: int) -> Breach | None:
    """The first direction through a group of entries whose bounds are broken; None where all slopes are autodiff's."""
    count = sum(int(mask.sum()) for mask in group.values())
    if count < 2 or all(np.all(m.agrees(path) | ~mask) for path, mask in group.items()):
        return None
    slopes = [(name, v, slope_along(m, run, v)) for name, v in _directions(m, group, seed)]
    if not all(_bends(slope, upward) for _, _, slope in slopes):
        return None
    for name, v, slope in slopes:
        value = directional(m.hand, v)
        scale = max(abs(value), abs(slope.value), m.floor)
        if slope.distance(value) > slack(slope, scale):
            if m.conventional([*group]):
                return None
            low, high = sorted((slope.behind, slope.ahead))
            return Breach(tuple(group), f"{name} its {count} bent entries", low, high, value)
    return None


def _bends(slope: Slope, upward: bool) -> bool:
    """Whether a slope does not bend the other way."""
    bend = slope.ahead - slope.behind if upward else slope.behind - slope.ahead
    return math.isfinite(slope.value) and bend >= 0


def _directions(m: Measurement, group: Arrays, seed: int) -> Iterator[tuple[str, Arrays]]:
    """All entries alike, where hand and autodiff differ by how much, and random ones."""
    yield "all of", {path: mask * 1.0 for path, mask in group.items()}
    difference = {path: mask * m.difference(path) for path, mask in group.items()}
    if all(np.any(v) for v in difference.values()):
        yield "the difference from autodiff in", difference
    for i in range(RANDOM):
        draw = np.random.default_rng((seed, 13, i))
        yield "a random direction through", {path: mask * draw.normal(size=mask.shape) for path, mask in group.items()}
