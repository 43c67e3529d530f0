"""Every place that the table of coverage names is there, and its page is current."""

import pytest

from proofs import coverage


def test_every_place_exists_and_the_page_is_that_of_the_table(capsys):
    assert coverage.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"where": "tests/docs/test_coverage.py::test_that_is_not_there"},
        {"where": "tests/docs/test_that_is_not_there.py::test_a"},
        {"where": "docs/check.md#no-such-heading"},
        {"where": "configs/no_such_config.py"},
        {"where": "jaxbp:no_such_command"},
        {"where": ""},
        {"status": "left out"},
        {"status": "perhaps"},
    ],
    ids=str,
)
def test_a_dead_place_is_named(change):
    row = coverage.Row("F", "core", "a rule", "works", "docs/check.md#the-cause", "")
    assert coverage.faults(row) == []
    assert len(coverage.faults(row._replace(**change))) == 1
