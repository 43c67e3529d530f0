"""Typed: the base class of every config dataclass. It checks its fields' types and ranges when it is made.

A range stands in the annotation: `rate: Fraction`, `epochs: Count`, `width: Annotated[float, Range(0, 9)]`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from jaxbp.errors import InputError, unknown


@dataclass(frozen=True)
class Range:
    """The numbers from low to high; `ends` says which of the two belong to it."""

    low: float
    high: float = math.inf
    ends: Literal["[]", "[)", "(]", "()"] = "[]"

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range."""
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"of at least {self.low}" if self.ends[0] == "[" else f"above {self.low}"
        return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


@dataclass(frozen=True)
class RegularExpression:
    """The texts that are a regular expression."""

    def holds(self, value: str) -> bool:
        """Whether the text is a regular expression."""
        try:
            re.compile(value)
        except re.error:
            return False
        return True

    def __str__(self) -> str:
        return "that is a regular expression"


Positive = Annotated[float, Range(0, ends="()")]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, "[)")]
Share = Annotated[float, Range(0, 1, "()")]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Pattern = Annotated[str, RegularExpression()]


@dataclass(frozen=True)
class Typed:
    """Fields hold what their annotations say. A subclass with further checks calls super().__post_init__() first.

    Raises InputError naming class and field, with the value given and what is allowed.
    """

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and isinstance(value, str) and value not in get_args(kind):
                raise unknown(f"{type(self).__name__} {name}", value, get_args(kind))
            if not fits(value, kind):
                raise InputError(f"{type(self).__name__}: {name} must be {spell(kind)}, got {value!r}")


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> type, with its range."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: kind for name, kind in hints.items() if get_origin(kind) is not ClassVar}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type such as Count, tuple[int, ...], Literal["a", "b"], int | None; floats are finite."""
    if get_origin(kind) is Annotated:
        base, limit = get_args(kind)
        return fits(value, base) and limit.holds(value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(fits(item, get_args(kind)[0]) for item in value)
    if get_args(kind):  # a union
        return any(fits(value, member) for member in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def spell(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Annotated:
        return f"{spell(get_args(kind)[0])} {get_args(kind)[1]}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        plural = spell(get_args(kind)[0]).replace("an integer", "integers").replace("a text", "texts")
        return f"{plural} separated by commas"
    if get_args(kind):
        return " or ".join(spell(member) for member in get_args(kind))
    names = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text", NoneType: "None"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
