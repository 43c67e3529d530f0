"""A list of operations with its values, run again from one line on with something changed there: many changes at once.

Nothing is compiled and nothing is differentiated: what does not depend on the changed line keeps its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jaxbp.check.diagnosis.flow import Flow, Op, flow_of
from jaxbp.check.diagnosis.jaxprs import inner
from jaxbp.check.diagnosis.primitives import PRIMITIVES
from jaxbp.check.diagnosis.rows import OPENED, on_host, operate

Array = np.ndarray

# Operations that move numbers and change none, with the operands that hold them.
MOVING = {"gather": (0,), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "scatter": (0, 2)}


class Row(NamedTuple):
    """An array that is the same in all settings, or one with a setting in each row."""

    array: Any
    rowwise: bool

    def spread(self, count: int) -> Array:
        """A copy with a row for every setting."""
        shape = np.shape(self.array)
        return np.array(self.array if self.rowwise else np.broadcast_to(self.array, (count, *shape)))


class Change(NamedTuple):
    """At every run of a line, change(value, run, operands) stands for its operand k, or for its output."""

    operand: int | None
    change: Callable[[Array, int, Sequence[Array]], Array]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A flow and its inputs."""

    flow: Flow
    inputs: tuple[Any, ...]

    @cached_property
    def values(self) -> dict[int, Any]:
        """Every value by its number."""
        values = {number: on_host(a) for number, a in self.flow.constants.items()}
        values |= dict(zip(self.flow.inputs, map(on_host, self.inputs), strict=True))
        with np.errstate(all="ignore"):
            for op in self.flow.ops:
                results = _applied(op, [Row(_read(values, ref), False) for ref in op.inputs], 1)
                values |= {number: result.array for number, result in zip(op.outputs, results, strict=True)}
        return values

    def read(self, ref: Any) -> Any:
        """A value, or a number that stands in the program."""
        return _read(self.values, ref)

    @cached_property
    def order(self) -> dict[Op, int]:
        """The turn of each operation."""
        return {op: i for i, op in enumerate(self.flow.ops)}

    @cached_property
    def live(self) -> set[int]:
        """The values that some output depends on."""
        return set(self.reached())

    def reached(self) -> dict[int, frozenset[int]]:
        """For every value, the outputs that depend on it, by their position."""
        reached: dict[int, frozenset[int]] = {}
        for position, ref in enumerate(self.flow.outputs):
            if isinstance(ref, int):
                reached[ref] = reached.get(ref, frozenset()) | {position}
        for op in reversed(self.flow.ops):
            outputs = frozenset().union(*(reached.get(number, frozenset()) for number in op.outputs))
            for ref in op.inputs if outputs else ():
                if isinstance(ref, int):
                    reached[ref] = reached.get(ref, frozenset()) | outputs
        return reached

    def again(self, members: Sequence[Op], changes: Sequence[Change]) -> list[Array]:
        """The outputs with each change made at all members, stacked over the changes."""
        count = len(changes)
        changed: dict[int, Array] = {}
        runs = {op: run for run, op in enumerate(members)}
        read = lambda ref: Row(changed[ref], True) if ref in changed else Row(self.read(ref), False)
        row_of = lambda ref: read(ref) if isinstance(ref, int) else Row(self.read(ref), False)
        with np.errstate(all="ignore"):
            for op in self.flow.ops[self.order[members[0]] :]:
                if op in runs or any(isinstance(ref, int) and ref in changed for ref in op.inputs):
                    operands = list(map(row_of, op.inputs))
                    results = self._changed(op, operands, changes, runs[op]) if op in runs else None
                    results = results or _applied(op, operands, count)
                    changed |= {n: row.array for n, row in zip(op.outputs, results, strict=True) if row.rowwise}
            return [row_of(ref).spread(count) for ref in self.flow.outputs]

    @staticmethod
    def _changed(op: Op, operands: list[Row], changes: Sequence[Change], run: int) -> list[Row]:
        """The outputs of an operation at which the changes are made."""
        count = len(changes)
        for k in {change.operand for change in changes if change.operand is not None}:
            array = operands[k].spread(count)
            for i, (operand, change) in enumerate(changes):
                if operand == k:
                    array[i] = change(array[i], run, ())
            operands[k] = Row(array, True)
        results = _applied(op, operands, count)
        if any(change.operand is None for change in changes):
            output = results[0].spread(count)
            for i, (operand, change) in enumerate(changes):
                if operand is None:
                    theirs = [row.array[i] if row.rowwise else row.array for row in operands]
                    output[i] = change(output[i], run, theirs)
            results = [Row(output, True), *results[1:]]
        return results


def _read(values: dict[int, Any], ref: Any) -> Any:
    return values[ref] if isinstance(ref, int) else np.asarray(ref.val)


def _applied(op: Op, operands: list[Row], count: int) -> list[Row]:
    """An operation on arrays, of which some have rows."""
    arrays, rowwise = [row.array for row in operands], [row.rowwise for row in operands]
    own = any(rowwise)
    if (held := inner(op.eqn, OPENED)) is not None:
        flow = flow_of(held)
        values = {number: Row(a, False) for number, a in flow.constants.items()}
        values |= dict(zip(flow.inputs, operands, strict=True))
        for part in flow.ops:
            theirs = [values[ref] if isinstance(ref, int) else Row(np.asarray(ref.val), False) for ref in part.inputs]
            values |= dict(zip(part.outputs, _applied(part, theirs, count), strict=True))
        return [values[ref] if isinstance(ref, int) else Row(np.asarray(ref.val), False) for ref in flow.outputs]
    if own and op.name in MOVING and not any(r for i, r in enumerate(rowwise) if i not in MOVING[op.name]):
        return [Row(_moved(op, arrays, rowwise, count), True)]
    if own and op.name not in PRIMITIVES:
        one = lambda i: operate(
            op.eqn, [a[i] if r else a for a, r in zip(arrays, rowwise, strict=True)], [False] * len(arrays)
        )
        return [Row(np.stack(column), True) for column in zip(*map(one, range(count)), strict=True)]
    return [Row(a, own) for a in operate(op.eqn, arrays, rowwise)]


def _moved(op: Op, arrays: list[Any], rowwise: list[bool], count: int) -> Array:
    """The result in all settings, by where each of its numbers comes from: the operation is asked once, of places."""
    numbers = [Row(arrays[i], rowwise[i]).spread(count) for i in MOVING[op.name]]
    places = list(arrays)
    start = 0
    for i, rows in zip(MOVING[op.name], numbers, strict=True):
        places[i] = np.arange(start, start + rows[0].size, dtype=rows.dtype).reshape(rows[0].shape)
        start += rows[0].size
    source = np.nan_to_num(operate(op.eqn, places, [False] * len(places))[0]).astype(int)
    flat = np.concatenate([rows.reshape(count, -1) for rows in numbers], 1)
    return flat[:, source.ravel()].reshape(count, *source.shape)
