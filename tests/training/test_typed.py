"""The types of config fields: which values fit, and what a type is called."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import pytest

from jaxbp.errors import InputError
from jaxbp.typed import (
    Count,
    Fraction,
    NotNegative,
    Pattern,
    Positive,
    Range,
    Seed,
    Share,
    Typed,
    field_types,
    fits,
    spell,
)

INFINITE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("ends", "held"), [("[]", [0, 0.5, 1]), ("[)", [0, 0.5]), ("(]", [0.5, 1]), ("()", [0.5])], ids=str
)
def test_ends_of_a_range(ends, held):
    assert [value for value in (-1, 0, 0.5, 1, 2) if Range(0, 1, ends).holds(value)] == held


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        (int, [0, -3, 10**30], [1.0, True, "1", None, (1,)]),
        (float, [0, 1, -1.5, 1e300], [*INFINITE, True, "1", None]),
        (bool, [True, False], [0, 1, "True", None]),
        (str, ["", "a b"], [1, None, ("a",)]),
        (Count, [1, 7], [0, -1, 1.0, True]),
        (Seed, [0, 2**32 - 1], [-1, 2**32]),
        (Positive, [1e-300, 1, 1e300], [0, -1.0, *INFINITE]),
        (NotNegative, [0, 1.5], [-1.0, *INFINITE]),
        (Fraction, [0, 0.99], [1, 1.0, -1.0, *INFINITE]),
        (Share, [0.5], [0, 1, -1.0, *INFINITE]),
        (Annotated[float, Range(-2, 2)], [-2, 2], [-2.1, 2.1, *INFINITE]),
        (Positive | None, [0.5, None], [0, "None", *INFINITE]),
        (Literal["a", "b"], ["a"], ["c", None, 1]),
        (tuple[Count, ...], [(), (1, 2)], [(0,), (1, 2.5), [1], 1, None]),
        (Pattern, [".*", ""], ["(", 1]),
        (int | str, [1, "a"], [1.5, None]),
        (Typed, [Typed()], ["Typed", None]),
    ],
    ids=lambda kind: spell(kind) if not isinstance(kind, list) else "",
)
def test_what_fits(kind, fitting, others):
    assert [value for value in fitting if not fits(value, kind)] == []
    assert [value for value in others if fits(value, kind)] == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Count, "an integer of at least 1"),
        (Count | None, "an integer of at least 1 or None"),
        (bool, "True or False"),
        (tuple[Count, ...], "integers of at least 1 separated by commas"),
        (tuple[int | str, ...], "integers or texts separated by commas"),
        (tuple[tuple[float, ...], ...], "rows of finite numbers separated by commas, and semicolons between the rows"),
        (Fraction, "a finite number in [0, 1)"),
        (Positive, "a finite number above 0"),
        (NotNegative, "a finite number of at least 0"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Pattern, "a text that is a regular expression"),
        (Typed, "Typed"),
    ],
)
def test_types_in_words(kind, words):
    assert spell(kind) == words


@dataclasses.dataclass(frozen=True)
class Sample(Typed):
    rate: Fraction = 0.5
    kind: Literal["left", "right"] = "left"
    note: ClassVar[str] = ""


def test_a_typed_class_checks_its_fields():
    assert list(field_types(Sample)) == ["rate", "kind"]
    assert Sample(0, "right").rate == 0
    with pytest.raises(InputError, match=r"^Sample: rate must be a finite number in \[0, 1\), got 2$"):
        Sample(2)
    with pytest.raises(InputError, match=r"^unknown Sample kind 'lef'; did you mean 'left'"):
        Sample(kind="lef")
