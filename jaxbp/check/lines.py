"""Which lines of a hand-written backward ran, and which never did.

An error behind an option is not seen by a check that leaves the option off; a line that no call ran is where it hides.
Python itself traces the lines while JAX traces the operations, in the user's files only.
"""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxbp.check.leaves import Leaves
from jaxbp.check.problem import Problem
from jaxbp.core import PyTree

LIBRARIES = (  # code that is nobody's under check
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
    os.path.dirname(jax.__file__),
    os.path.dirname(__file__),
    "<frozen",
)

TRACES = itertools.count()


@dataclass
class Ran:
    """The functions that ran, and their lines that did."""

    functions: set[CodeType] = field(default_factory=set)
    lines: set[tuple[str, int]] = field(default_factory=set)  # (file, line)

    def __or__(self, other: Ran) -> Ran:
        return Ran(self.functions | other.functions, self.lines | other.lines)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Adds what runs inside. Another tracer, a debugger's say, goes on afterwards."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Callable | None:
        code = frame.f_code
        if code.co_filename.startswith(LIBRARIES):
            return None
        self.functions.add(code)
        self.lines.add((code.co_filename, code.co_firstlineno))
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: Any) -> Callable:
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._stepped

    def rest(self) -> set[tuple[str, int]]:
        """The lines of the functions that did not run, those that raise an error left out."""
        there = {(code.co_filename, line) for code in self.functions for line in _lines(code)}
        raises = lambda place: linecache.getline(*place).strip().startswith("raise ")
        return {place for place in there - self.lines if not raises(place)}


def _lines(code: CodeType) -> Iterator[int]:
    """The lines of a function, and of the functions inside it."""
    yield from (line for _, _, line in code.co_lines() if line)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from (line for line in _lines(constant) if line != constant.co_firstlineno)


def backward_lines(problem: Problem) -> Ran:
    """What runs in the hand-written derivative: for a rule its reverse pass, and what only a derivative calls."""
    function, leaves = problem.decorated, problem.leaves
    forward, ahead, back = Ran(), Ran(), Ran()
    if function is None or not problem.traceable:
        with back.watching():
            problem.pullback(leaves, problem.dy)
        return back

    def derivative(leaves: Leaves) -> PyTree:
        with ahead.watching():
            pullback = jax.vjp(function, leaves)[1]
        with back.watching():
            return pullback(problem.dy)

    with set_xla_metadata(jaxbp_lines=next(TRACES)):  # under other settings JAX traces anew what it has traced already
        with forward.watching():
            jax.eval_shape(function, leaves)
        jax.eval_shape(derivative, leaves)
    functions = back.functions | (ahead.functions - forward.functions)
    return Ran(functions, forward.lines | ahead.lines | back.lines)


def listed(places: set[tuple[str, int]]) -> list[str]:
    """'file.py:45  its text', in order; neighbours are one entry, 'file.py:45-47', with the first line's text."""
    ordered = sorted(places)
    runs = itertools.groupby(enumerate(ordered), lambda pair: (pair[1][0], pair[1][1] - pair[0]))
    listing = []
    for (file, _), group in runs:
        numbers = [line for _, (_, line) in group]
        last = f"-{numbers[-1]}" if len(numbers) > 1 else ""
        listing.append(f"{os.path.relpath(file)}:{numbers[0]}{last}  {linecache.getline(file, numbers[0]).strip()}")
    return listing
