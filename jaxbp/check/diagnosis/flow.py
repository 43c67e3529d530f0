"""A forward pass as one flat list of operations over numbered values, and those of its pieces that are one function.

A sigmoid may be one operation, or be written out as four. Both are a `Piece`: operations that make one value of one
other. Pieces are found by what dominates what: a value dominates another if all that the other depends on passes
through it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxbp.check.diagnosis.jaxprs import INLINED, Line, bind, inner, lines_of, of_jax, stack_of

Ref = int | Literal  # a value's number, or a number that stands in the program itself

ELEMENTWISE = frozenset(
    (
        *("abs", "add", "and", "atan", "atan2", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "cos", "cosh"),
        *("custom_jvp_call", "div", "eq", "erf", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow"),
        *("is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow"),
        *("rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh"),
    )
)
REDUCTIONS = frozenset(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"))
RESHAPES = frozenset(("broadcast_in_dim", "reshape", "squeeze", "expand_dims"))  # of a statistic back to its rows
SILENT = frozenset(("convert_element_type", "copy", "stop_gradient")) | RESHAPES
PARTS = 6  # a value taken apart into more is not looked at
REACH = 60  # a piece is not looked for over more values than these


@dataclass(frozen=True, eq=False)
class Op:
    """One operation, with the lines of the user's code that it came from, the innermost first."""

    eqn: JaxprEqn
    inputs: tuple[Ref, ...]
    outputs: tuple[int, ...]
    lines: tuple[Line, ...]
    stack: tuple  # every call on the way to it: the same for the steps of a loop
    body: Flow | None = None  # of a scan

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.eqn.primitive.name

    @cached_property
    def title(self) -> str:
        """'tanh', or the name of the function that a custom rule belongs to."""
        if self.name == "custom_jvp_call":
            return str(self.eqn.params["call_jaxpr"].jaxpr.debug_info.func_name)
        return self.name

    @property
    def line(self) -> tuple:
        """Equal for the runs of one line of a loop."""
        return self.stack, self.name, len(self.inputs)

    @property
    def place(self) -> str:
        """'tanh' (model.py:12), as reports call it."""
        return f"'{self.title}'" + (f" ({self.lines[0].short})" if self.lines else "")

    @cached_property
    def statement(self) -> tuple:
        """Where it stands but for its column: two operations of one statement have the same."""
        return tuple((line.file, line.row) for line in self.lines[:1]), self.lines[1:]


@dataclass(frozen=True, eq=False)
class Piece:
    """Operations that make `output` of `inputs`; the first input is the entry, the one value that varies."""

    ops: tuple[Op, ...]
    inputs: tuple[Ref, ...]
    output: int

    @property
    def last(self) -> Op:
        """The operation that makes the output."""
        return self.ops[-1]

    @cached_property
    def kind(self) -> str:
        """Its operations in one word: equal for equal formulas."""
        return " ".join(op.title for op in self.ops if op.name not in SILENT or len(self.ops) == 1)

    @property
    def couples(self) -> bool:
        """Whether its entries depend on each other, as those of a softmax do."""
        return any(op.name in REDUCTIONS for op in self.ops)

    @cached_property
    def place(self) -> str:
        """The operation, or the line that the function is written out in."""
        if len(self.ops) == 1:
            return self.last.place
        return "the function written out" + (f" ({self.last.lines[0].short})" if self.last.lines else "")

    def run(self, *inputs: Any, changed: dict[int, Any] | None = None) -> jax.Array:
        """The output. changed: other numbers for those that stand in its operations, by the order of the operations."""
        values = dict(zip((ref for ref in self.inputs if isinstance(ref, int)), inputs, strict=True))
        for i, op in enumerate(self.ops):
            new = (changed or {}).get(i)
            literal = lambda ref, new=new: ref.val if new is None else np.asarray(new, ref.aval.dtype)
            operands = [values[ref] if isinstance(ref, int) else literal(ref) for ref in op.inputs]
            values |= dict(zip(op.outputs, bind(op.eqn, *operands), strict=True))
        return values[self.output]


@dataclass(frozen=True, eq=False)
class Flow:
    """A list of operations over numbered values."""

    inputs: tuple[int, ...]
    constants: dict[int, Any]
    ops: tuple[Op, ...]
    outputs: tuple[Ref, ...]
    avals: tuple[Any, ...]  # shape and dtype of every value, by its number

    @cached_property
    def users(self) -> dict[int, list[Op]]:
        """The operations that read a value, once for every time."""
        users: dict[int, list[Op]] = defaultdict(list)
        for op in self.ops:
            for ref in op.inputs:
                if isinstance(ref, int):
                    users[ref].append(op)
        return users

    @cached_property
    def makers(self) -> dict[int, Op]:
        """The operation that makes a value."""
        return {number: op for op in self.ops for number in op.outputs}

    @cached_property
    def runs(self) -> dict[tuple, list[Op]]:
        """The operations of one line that runs several times, in a Python loop, by that line."""
        runs: dict[tuple, list[Op]] = defaultdict(list)
        for op in self.ops:
            runs[op.line].append(op)
        return runs

    def carried(self, op: Op, k: int) -> bool:
        """Whether an operation in a Python loop gets its operand k from the run before."""
        runs = self.runs[op.line]
        return len(runs) > 1 and op is not runs[0] and self._depends(runs[1].inputs[k], runs[0].outputs[0])

    def _depends(self, ref: Ref, number: int) -> bool:
        wanted = [ref]
        seen: set[int] = set()
        while wanted:
            other = wanted.pop()
            if other == number:
                return True
            if isinstance(other, int) and other > number and other not in seen:
                seen.add(other)
                wanted += self.makers[other].inputs if other in self.makers else ()
        return False

    def aval(self, ref: Ref) -> Any:
        """Shape and dtype of a value or a number."""
        return self.avals[ref] if isinstance(ref, int) else ref.aval

    def shapes(self) -> Iterator[tuple[int, ...]]:
        """The shapes of all values, those in loops included."""
        yield from (aval.shape for aval in self.avals)
        for op in self.ops:
            yield from op.body.shapes() if op.body else ()

    def maker(self, ref: Ref) -> Op | None:
        """The operation that makes a value; None for an input and a number."""
        return self.makers.get(ref) if isinstance(ref, int) else None

    def siblings(self, op: Op) -> list[Op]:
        """The slices of the value that a slice is of, itself among them."""
        ref = op.inputs[0]
        return [other for other in self.users[ref] if other.name == "slice"] if isinstance(ref, int) else [op]

    def parts(self, op: Op) -> list[Op]:
        """The slices of equal shape that a value is taken apart into, such as the gates of a cell; one for each."""
        shape = self.aval(op.outputs[0]).shape
        siblings = [other for other in self.siblings(op) if other.eqn.params["strides"] is None]
        alike = [other for other in siblings if self.aval(other.outputs[0]).shape == shape]
        parts = {other.eqn.params["start_indices"]: other for other in alike}
        return list(parts.values()) if len({other.stack for other in parts.values()}) == len(parts) <= PARTS else []

    def floating(self, ref: Ref) -> bool:
        """Whether a value is of a floating type."""
        return jnp.issubdtype(self.aval(ref).dtype, jnp.floating)

    @cached_property
    def dominators(self) -> dict[int, tuple[int, ...]]:
        """For every value that varies: the values that all of it passes through, itself the last."""
        dominators: dict[int, tuple[int, ...]] = {number: (number,) for number in self.inputs}
        for op in self.ops:
            chains = [dominators[ref] for ref in op.inputs if isinstance(ref, int) and ref in dominators]
            if chains:
                same = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*set(chains), strict=False))
                common = tuple(level[0] for level in same)
                dominators |= {number: (*common, number) for number in op.outputs}
        return dominators

    def varies(self, ref: Ref) -> bool:
        """Whether a value depends on the inputs."""
        return isinstance(ref, int) and ref in self.dominators

    def uniform(self, ref: Ref) -> bool:
        """Whether a value is one number at every entry, the same whatever the inputs are."""
        if not isinstance(ref, int):
            return True
        if ref in self.dominators:
            return False
        op = self.makers.get(ref)
        if op is None:
            return prod(self.avals[ref].shape) == 1
        return op.name in ELEMENTWISE | RESHAPES and all(map(self.uniform, op.inputs))

    @cached_property
    def pieces(self) -> list[Piece]:
        """Every piece of more than one operation that is a function of one value, entry by entry or row by row."""
        return [piece for op in self.ops for piece in self._ending(op)]

    @cached_property
    def inside(self) -> set[int]:
        """The values that no more than a step of some piece are."""
        return {n for piece in self.pieces for op in piece.ops[:-1] for n in op.outputs if not self.is_end(n)}

    def _ending(self, op: Op) -> Iterator[Piece]:
        """The pieces that end with an operation: with the nearest entry, and with the farthest."""
        output = op.outputs[0]
        chain = self.dominators.get(output, ())
        if len(op.outputs) > 1 or len(chain) < 2 or not self.is_end(output) or not self.floating(output):
            return
        shape = self.avals[output].shape
        entries: list[Piece] = []
        for entry in reversed(chain[-REACH:-1]):
            between = self._between(entry, output)
            if between is None:
                break
            maker = self.makers.get(entry)
            starts = maker is None or not self._allowed(maker) or self.is_end(entry)
            loud = sum(part.name not in SILENT for part in between)
            if self.avals[entry].shape == shape and starts and loud > 1:
                others = [ref for part in between for ref in part.inputs]
                made = {n for part in between for n in part.outputs}
                outside = dict.fromkeys(ref for ref in others if isinstance(ref, int) and ref not in made | {entry})
                entries.append(Piece(tuple(between), (entry, *outside), output))
        yield from dict.fromkeys(entries[:1] + entries[-1:])

    def is_end(self, number: int) -> bool:
        """Whether people would name the value: it leaves its statement, is read twice, or meets another value."""
        users = self.users[number]
        op = self.makers[number]
        if prod(self.avals[number].shape) < 2:
            return False
        return (
            number in self.outputs
            or len(users) != 1
            or users[0].statement != op.statement
            or not self._allowed(users[0])
            or number not in self.dominators.get(users[0].outputs[0], ())
        )

    def _between(self, entry: int, output: int) -> list[Op] | None:
        """The operations that make the output of the entry, in order; None if one of them is of no such kind."""
        needed: list[Op] = []
        wanted = [output]
        seen = {entry}
        while wanted:
            number = wanted.pop()
            if number in seen or number not in self.dominators:
                continue
            seen.add(number)
            op = self.makers.get(number)
            if op is None or not self._allowed(op) or len(needed) > REACH:
                return None
            needed.append(op)
            wanted += [ref for ref in op.inputs if isinstance(ref, int)]
        order = {id(op): i for i, op in enumerate(self.ops)}
        return sorted(needed, key=lambda op: order[id(op)])

    def _allowed(self, op: Op) -> bool:
        """Whether a piece may hold the operation: entry by entry, or a statistic of rows."""
        if op.name in REDUCTIONS:
            return True
        if op.name in RESHAPES:
            before, after = ([n for n in self.aval(ref).shape if n > 1] for ref in (op.inputs[0], op.outputs[0]))
            return op.name == "broadcast_in_dim" or before == after
        if op.name not in ELEMENTWISE:
            return False
        mask = op.inputs[0] if op.name == "select_n" else None
        fixed = (ref for ref in op.inputs if ref is not mask and not (isinstance(ref, int) and ref in self.dominators))
        return all(map(self.uniform, fixed))


def flow_of(closed: ClosedJaxpr) -> Flow:
    """The flat list of a jaxpr's operations, calls opened."""
    builder = _Builder([], [], {})
    inputs = tuple(builder.new(v.aval) for v in closed.jaxpr.invars)
    outputs = builder.add(closed, inputs, (), ())
    return Flow(inputs, builder.constants, tuple(builder.ops), tuple(outputs), tuple(builder.avals))


@dataclass(frozen=True)
class _Builder:
    ops: list[Op]
    avals: list[Any]
    constants: dict[int, Any]

    def new(self, aval: Any) -> int:
        """The next value's number."""
        self.avals.append(aval)
        return len(self.avals) - 1

    def add(self, closed: ClosedJaxpr, inputs: tuple[Ref, ...], outer: tuple[Line, ...], calls: tuple) -> list[Ref]:
        """The outputs of a jaxpr whose operations are appended. outer, calls: where it was called from."""
        refs: dict[Any, Ref] = dict(zip(closed.jaxpr.invars, inputs, strict=True))
        for variable, constant in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            number = self.new(variable.aval)
            refs[variable] = number
            self.constants[number] = constant
        read = lambda v: v if isinstance(v, Literal) else refs[v]
        for eqn in closed.jaxpr.eqns:
            operands = tuple(map(read, eqn.invars))
            lines = outer if outer and of_jax(closed) else (*lines_of(eqn), *outer)
            stack = (*stack_of(eqn), *calls)
            outputs: list[Ref]
            if (held := inner(eqn, INLINED)) is not None:
                outputs = self.add(held, operands, lines, stack)
            else:
                numbers = tuple(self.new(v.aval) for v in eqn.outvars)
                outputs = list(numbers)
                body = flow_of(eqn.params["jaxpr"]) if eqn.primitive.name == "scan" else None
                self.ops.append(Op(eqn, operands, numbers, lines, stack, body))
            refs |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in closed.jaxpr.outvars]
