"""The check at points that are hard on purpose: right gradients pass, wrong ones fail. Nightly runs all of them."""

import numpy as np
import pytest

from proofs.hard_points import points

POINTS = points()
IN_CI = range(0, len(POINTS), 18)
FAST = range(0, len(POINTS), 36)
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]


def marked():
    """Each point in the suite that it belongs to."""
    marks = lambda i: [] if i in FAST else pytest.mark.slow if i in IN_CI else NIGHTLY
    return [pytest.param(point, id=point.name, marks=marks(i)) for i, point in enumerate(POINTS)]


@pytest.mark.parametrize("point", marked())
def test_right_ones_pass_and_wrong_ones_fail(point):
    assert [point.outcome(gradient) for gradient in point.right] == ["pass"] * len(point.right)
    assert [point.outcome(gradient) for gradient in point.wrong] == ["FAIL"] * len(point.wrong)


def one_sided(point, v):
    """The slopes of the loss before and after the point along v."""
    middle = float(point.loss(point.a))
    ahead, behind = (float(point.loss(point.a + step * v)) for step in (point.near, -point.near))
    return sorted(((middle - behind) / point.near, (ahead - middle) / point.near))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("point", [pytest.param(point, id=point.name) for point in POINTS])
def test_the_corpus_says_what_is_right(point, float64):
    """By one-sided differences: right ones lie between them in every direction tried, wrong ones outside in one."""
    random = np.random.default_rng(0).normal(size=(4, *point.a.shape))
    apart = [gradient - point.right[0] for gradient in point.wrong]
    units = np.eye(point.a.size).reshape(-1, *point.a.shape)
    directions = [*units, *random, *(gap / np.linalg.norm(gap) for gap in apart)]
    bounds = [one_sided(point, v) for v in directions]
    scale = max(np.abs(bounds).max(), 0.1 * max(np.abs(gap).max() for gap in apart))

    def outside(gradient):
        slopes = [np.vdot(gradient, v) for v in directions]
        return max(max(low - s, s - high) for s, (low, high) in zip(slopes, bounds, strict=True)) / scale

    rounding = 1e-16 * max(1, abs(float(point.loss(point.a)))) / point.near / scale
    tolerance = max(5e-5, 5 * rounding)
    assert all(outside(gradient) < tolerance for gradient in point.right)
    if tolerance < 1e-3:
        assert all(outside(gradient) > tolerance for gradient in point.wrong)
