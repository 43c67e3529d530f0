"""Which of many cases of one test a suite runs."""

from collections.abc import Iterable

import pytest


def first_is_fast(cases: Iterable) -> list:
    """The first case for the fast suite, the others `slow`."""
    first, *others = cases
    return [first, *(pytest.param(case, marks=pytest.mark.slow) for case in others)]


def but_at_night(cases: Iterable, *at_night: object) -> list:
    """All cases, those of `at_night` for the nightly suite."""
    return [pytest.param(case, marks=pytest.mark.nightly) if case in at_night else case for case in cases]
