"""Typed: a frozen dataclass that checks its fields' types when it is made. The base of everything in a config."""
from __future__ import annotations

import math
from dataclasses import dataclass
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from jaxbp.errors import InputError, unknown


@dataclass(frozen=True)
class Typed:
    """Fields hold what their annotations say. A subclass that checks ranges too calls super().__post_init__() first.

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
    """Field name -> type."""
    return {name: kind for name, kind in get_type_hints(cls).items() if get_origin(kind) is not ClassVar}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type such as int, tuple[int, ...], Literal["a", "b"] or int | None; floats are finite."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(fits(item, get_args(kind)[0]) for item in value)
    if get_args(kind):  # a union
        return any(fits(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def spell(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        plural = {int: "integers", float: "numbers", str: "texts"}
        return f"{plural.get(get_args(kind)[0], spell(get_args(kind)[0]))} separated by commas"
    if get_args(kind):
        return " or ".join(spell(one) for one in get_args(kind))
    names = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text", NoneType: "None"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
