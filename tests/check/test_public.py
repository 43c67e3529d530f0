"""The gradient check judges functions that others wrote: exact ones pass, departures are named, broken copies fail.

CI runs some of every package; the whole table is `nightly`.
"""

import functools

import jax
import pytest

from jaxbp.check import Cause, check_function
from jaxbp.errors import InputError
from tests.support.public import TABLE

CHANGES = {
    "scaled": (lambda ct: 1.5 * ct, Cause.FACTOR),
    "sign flipped": (lambda ct: -ct, Cause.SIGN),
    "dropped": (lambda ct: 0 * ct, Cause.ZERO),
}
BROKEN = {
    "xlogy": "y",
    "poch": "m",
    "wofz": "x",
    "weighted_logsoftmax": "weights",
    "odeint": "rate",
    "dot_general_with_precision": "left",
    "flash_attention_reference": "k",
    "pallas_layer_norm": "weight",
    "checkpointed_while_loop": "a",
}
IN_CI = {
    ("xlogy", "scaled"): "fast",
    ("weighted_logsoftmax", "sign flipped"): "slow",
    ("dot_general_with_precision", "dropped"): "slow",
}
MARKS = {"fast": [], "slow": [pytest.mark.slow], "nightly": [pytest.mark.slow, pytest.mark.nightly]}
NAMES = {"xlogy": ("x", "y"), "poch": ("z", "m")}  # those whose signature does not say


def example(entry):
    """(function, arguments, reference); skipped where the package is not installed."""
    if entry.package != "jax":
        pytest.importorskip(entry.package)
    return entry.make()


def judged(entry):
    function, arguments, reference = example(entry)
    return check_function(function, *arguments, reference=reference, accuracy=entry.accuracy)


@pytest.mark.parametrize("entry", [pytest.param(e, id=str(e), marks=MARKS[e.suite]) for e in TABLE])
def test_public_function(entry):
    if entry.refused:
        with pytest.raises((InputError, RuntimeError), match=entry.refused):
            judged(entry)
        return
    report = judged(entry)
    wrong = {leaf.path: " ".join(map(str, leaf.causes)) for leaf in report.leaves if not leaf.passed}
    assert report.passed == (not entry.departs), str(report)
    assert wrong.keys() == entry.departs.keys(), str(report)
    assert all(words in wrong[path] for path, words in entry.departs.items()), str(report)


def broken(function, position, change):
    """A copy of the function whose derivative in one argument is changed."""

    @jax.custom_vjp
    @functools.wraps(function)
    def copy(*arguments):
        return function(*arguments)

    def backward(pullback, dy):
        cotangents = list(pullback(dy))
        cotangents[position] = change(cotangents[position])
        return tuple(cotangents)

    copy.defvjp(functools.partial(jax.vjp, function), backward)
    return copy


def breakages():
    for entry in TABLE:
        for how in CHANGES if entry.name in BROKEN else ():
            suite = IN_CI.get((entry.name, how), "nightly")
            yield pytest.param(entry, how, id=f"{entry}-{how}", marks=MARKS[suite])


@pytest.mark.parametrize(("entry", "how"), list(breakages()))
def test_a_broken_copy_is_named(entry, how):
    function, arguments, reference = example(entry)
    change, cause = CHANGES[how]
    code = getattr(function, "__code__", None)
    names = NAMES.get(entry.name) or code.co_varnames[: code.co_argcount]
    copy = broken(function, names.index(BROKEN[entry.name]), change)
    report = check_function(copy, *arguments, reference=reference, accuracy=entry.accuracy)
    wrong = {leaf.path: [e.cause for e in leaf.causes] for leaf in report.leaves if not leaf.passed}
    assert not report.passed
    assert wrong.keys() == {BROKEN[entry.name]}, str(report)
    assert cause in wrong[BROKEN[entry.name]], str(report)


def test_every_name_stands_once():
    names = [str(entry) for entry in TABLE]
    assert len(names) == len(set(names))
    assert all(entry.stated for entry in TABLE if entry.accuracy > 1e-11)
    assert set(BROKEN) <= {entry.name for entry in TABLE}


def test_ci_checks_some_of_every_package():
    in_ci = [entry for entry in TABLE if entry.suite != "nightly"]
    assert {entry.package for entry in in_ci} == {entry.package for entry in TABLE}
    assert len(in_ci) >= len(TABLE) / 5
    assert {name for name, _ in IN_CI} <= set(BROKEN)
