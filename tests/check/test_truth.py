"""The measure of an error does not lose a number that is not finite, wherever it stands."""

import math

import numpy as np
import pytest

from jaxbp.check.laws import _worst
from jaxbp.check.truth import largest_entry, leaf_error, leaf_errors, worst

BROKEN = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_the_largest_entry_is_nan_where_one_is(names):
    assert math.isnan(largest_entry({names[0]: np.array([3.0, 1.0]), names[1]: np.array([np.nan, 1.0])}))
    assert largest_entry({names[0]: np.array([-3.0, 1.0]), names[1]: np.zeros(0)}) == 3.0
    assert largest_entry({}) == 0.0


@pytest.mark.parametrize("got", [*BROKEN, 1.0])
@pytest.mark.parametrize("truth", BROKEN)
def test_an_error_is_infinite_unless_both_are_broken_alike(got, truth):
    alike = np.array_equal(got, truth, equal_nan=True)
    assert leaf_error(np.array([got, 2.0]), np.array([truth, 2.0]), 2.0) == (0.0 if alike else math.inf)
    trees = [{"a": np.ones(2), "b": np.array([number, 1.0]), "c": np.ones(2)} for number in (got, truth)]
    assert worst(*trees) == (0.0 if alike else math.inf)
    assert leaf_errors(*trees)["c"] == 0.0


@pytest.mark.parametrize("name", "ab")
def test_the_error_of_a_precision_is_infinite_where_a_leaf_is_nan(name):
    right = {"a": np.ones(2), "b": np.ones(2)}
    assert _worst(right | {name: np.array([np.nan, 1.0])}, right) == math.inf
    assert _worst(right, right) == 0.0
