"""Typed: the base class of every config dataclass. It checks its fields' types and ranges when it is made.

A range stands in the annotation: `rate: Fraction`, `epochs: Count`, `width: Annotated[float, Range(0, 9)]`. The same
annotation says how a word of the command line is read, and what --help shows.
"""

from __future__ import annotations

import inspect
import math
import re
import shlex
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

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


@dataclass(frozen=True)
class NotEmpty:
    """The tuples that have an item."""

    def holds(self, value: tuple) -> bool:
        """Whether the tuple has an item."""
        return bool(value)

    def __str__(self) -> str:
        return "(at least one)"


Positive = Annotated[float, Range(0, ends="()")]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, "[)")]
Share = Annotated[float, Range(0, 1, "()")]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Pattern = Annotated[str, RegularExpression()]
Words = Annotated[tuple[str, ...], NotEmpty()]


@dataclass(frozen=True)
class Typed:
    """Fields hold what their annotations say. A subclass with further checks calls super().__post_init__() first.

    A list becomes the tuple of its items.

    Raises InputError naming class and field, with the value given and what is allowed.
    """

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            if get_origin(kind) is Literal and isinstance(value, str) and value not in get_args(kind):
                raise unknown(f"{type(self).__name__} {name}", value, get_args(kind))
            if not fits(value, kind):
                raise InputError(f"{type(self).__name__}: {name} must be {spell(kind, in_python=True)}, got {value!r}")


_TYPES: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()  # of classes; those of a config file may go


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> type, with its range. They are read once for each class, for that takes half a millisecond."""
    if cls not in _TYPES:
        hints = get_type_hints(cls, include_extras=True)
        _TYPES[cls] = {name: kind for name, kind in hints.items() if get_origin(kind) is not ClassVar}
    return _TYPES[cls]


def missing_fields(cls: type, values: Iterable[str]) -> list[str]:
    """The fields without a default that are not among `values`."""
    required = [field.name for field in fields(cls) if field.default is field.default_factory is MISSING]
    return [name for name in required if name not in values]


def meanings(cls: type) -> dict[str, str]:
    """Field name -> its words under "Args:" in the docstrings of the class and its bases."""
    words = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Args:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            words[name] = " ".join(text.split())
    return words


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


def parse(option: str, text: str, kind: Any) -> Any:
    """The value of type `kind` that a text of the command line says. Raises InputError, naming the option, for none."""
    value = read(text, kind)
    if not fits(value, kind):
        raise InputError(f"{option} must be {spell(kind)}, got '{text}'")
    return value


def read(text: str, kind: Any) -> Any:
    """The value of type `kind` that the text says; where it says none, the text or something else that does not fit."""
    if get_origin(kind) is Annotated:
        return read(text, get_args(kind)[0])
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        between = ";" if get_origin(item) is tuple else r"[,\s()]+"
        return tuple(read(word, item) for word in re.split(between, text) if word)
    if get_origin(kind) is Literal:
        return text
    if get_args(kind):  # a union: None first, since a text may be anything
        members = sorted(get_args(kind), key=lambda member: member is not NoneType)
        return next((value for member in members if fits(value := read(text, member), member)), text)
    if kind in (bool, NoneType):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def describe(option: str, meaning: str, value: Any, allowed: str) -> str:
    """What --help shows of an option: its meaning, its value (MISSING where one is needed), and what it can be."""
    words = shlex.join(map(str, value if isinstance(value, tuple) else (value,)))
    shown = "required" if value is MISSING else f"default: {words if words.isprintable() else repr(value)}"
    indent = " " * 6
    return f"{option}\n" + textwrap.fill(
        f"{meaning} ({shown}); {allowed}",
        width=100,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def spell(kind: Any, in_python: bool = False) -> str:
    """A type in words, those of the command line or of Python."""
    if get_origin(kind) is Annotated:
        return f"{spell(get_args(kind)[0])} {get_args(kind)[1]}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if get_origin(item) is tuple:
            row = spell(item, in_python)
            return f"a tuple of rows, each {row}" if in_python else f"rows of {row}, and semicolons between the rows"
        plural = spell(item)
        for singular in ("an integer", "a finite number", "a text"):
            plural = plural.replace(singular, f"{singular.partition(' ')[2]}s")
        return f"a tuple of {plural}" if in_python else f"{plural} separated by commas"
    if get_args(kind):
        return " or ".join(spell(member, in_python) for member in get_args(kind))
    names = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text", NoneType: "None"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
