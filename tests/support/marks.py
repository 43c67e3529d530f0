"""Which of many cases of one test the fast suite runs."""

from collections.abc import Iterable

import pytest


def first_is_fast(cases: Iterable) -> list:
    """The first case for the fast suite, the others `slow`."""
    first, *others = cases
    return [first, *(pytest.param(case, marks=pytest.mark.slow) for case in others)]
