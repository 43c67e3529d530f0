"""A defect in the diagnosis must not decide what a user is told; here it is seen."""

import pytest

from jaxbp.check import judge


@pytest.fixture(autouse=True)
def defects_are_raised(monkeypatch):
    monkeypatch.setattr(judge, "DEFECTS", ())
