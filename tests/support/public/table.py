"""The form of an entry, and how functions enter the table."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from jaxbp.check.truth import FLOAT64_TOLERANCE

FLOAT32 = 1e-5  # the accuracy of a rule that casts to float32: some roundings of 6e-8
Example = tuple[Callable, tuple, Callable | None]  # the function, its arguments, the reference


@dataclass(frozen=True)
class Public:
    """One function. make() imports its package, and returns the function, the arguments and the reference or None."""

    package: str
    name: str
    make: Callable[[], Example]
    accuracy: float = FLOAT64_TOLERANCE
    stated: str = ""  # where the accuracy is stated
    departs: dict[str, str] = field(default_factory=dict)  # leaf that must fail -> words of its cause ("": any)
    refused: str = ""  # words of the error that differentiating raises
    suite: Literal["fast", "slow", "nightly"] = "nightly"  # "slow" runs in CI too: some of every package and kind

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"


TABLE: list[Public] = []


def public(package: str, *arguments: Any, reference: Callable | None = None, **facts: Any) -> Callable:
    """Enters a function `make() -> public function` into the table under its name, with arguments."""

    def enter(make: Callable[[], Callable]) -> Callable:
        TABLE.append(Public(package, make.__name__, lambda: (make(), arguments, reference), **facts))
        return make

    return enter


def peer(module: str, name: str, make: Callable, *arguments: Any, reference: Any = None, **facts: Any) -> None:
    """The same for make(module) -> function, the module imported only then."""
    late = lambda: (make(importlib.import_module(module)), arguments, reference)
    TABLE.append(Public(module.partition(".")[0], name, late, **facts))


def plain(name: str, function: Callable, *arguments: Any, reference: Callable | None = None, **facts: Any) -> None:
    """The same for a function of jax that needs no import."""
    TABLE.append(Public("jax", name, lambda: (function, arguments, reference), **facts))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def between(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(low, high, shape)
