"""Mends of an operation as a whole: one of another kind, at another place, over other axes, added up over its runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxbp.check.diagnosis.flow import Op
from jaxbp.check.diagnosis.patterns import axis_sets
from jaxbp.check.diagnosis.rerun import Array, Change, Evaluated
from jaxbp.check.report import Cause, Explanation

MOVES = frozenset(("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "copy", "slice"))
ASSIGNED = ("scatter", "dynamic_update_slice")
PLACES = 12  # other places where a slice may be taken


class Mend(NamedTuple):
    """One way to mend a line, and what was wrong if that makes the gradient right."""

    explanation: Explanation
    change: Change
    more: Callable[[], str] = str  # what takes time to find out


def as_a_whole(hand: Evaluated, members: list[Op]) -> Iterator[Mend]:
    """The mends of a line's operation. hand: the gradient's program."""
    whole = lambda cause, words, change: Mend(Explanation(cause, words), Change(None, change))
    op = members[0]
    name = f"{op.place} of the gradient"
    shapes = [hand.flow.aval(ref).shape for ref in op.inputs]
    out = hand.flow.aval(op.outputs[0]).shape
    if op.name in ASSIGNED:
        words = f"{name} assigns (it overwrites) what it should add"
        yield whole(Cause.OVERWRITTEN, words, _adding(members))
        yield whole(Cause.OVERWRITTEN, words, _adding(members, beside=True))
    if op.name == "dot_general" and shapes[0] == shapes[1] == out:
        words = f"a matrix product stands for the one by entries, at {name}"
        yield whole(Cause.OPERAND, words, lambda v, run, ab: ab[0] * ab[1])
        for i in (0, 1):
            yield whole(Cause.OPERAND, words, lambda v, run, ab, i=i: ab[i] * ab[1 - i].swapaxes(-1, -2))
    if op.name == "mul" and len(shapes) == 2 and shapes[0] == shapes[1] == out[::-1] and len(out) == 2:
        words = f"a product by entries stands for the matrix product, at {name}"
        yield whole(Cause.OPERAND, words, lambda v, run, ab: ab[0] @ ab[1])
    if op.name == "slice" and op.eqn.params["strides"] is None:
        yield from _elsewhere(members, shapes[0], whole)
    if op.name in ("reduce_sum", "broadcast_in_dim"):
        yield from _other_axes(hand, members, whole)
    yield from _added_up(hand, members, whole)


def _elsewhere(members: list[Op], shape: tuple[int, ...], whole: Callable[..., Mend]) -> Iterator[Mend]:
    """A part of an array that is taken at another place along one axis."""
    start, end = (members[0].eqn.params[key] for key in ("start_indices", "limit_indices"))
    for axis, (first, last) in enumerate(zip(start, end, strict=True)):
        for move in [m for m in range(-first, shape[axis] - last + 1) if m][:PLACES]:

            def moved(v: Array, run: int, x: Sequence[Array], axis: int = axis, move: int = move) -> Array:
                p = members[run].eqn.params
                cuts = [slice(*cut) for cut in zip(p["start_indices"], p["limit_indices"], strict=True)]
                cuts[axis] = slice(cuts[axis].start + move, cuts[axis].stop + move)
                part = x[0][tuple(cuts)]
                return part if part.shape == v.shape else v

            words = f"axis {axis} is read from {first} instead of {first + move}, at {members[0].place} of the gradient"
            yield whole(Cause.SHIFTED, words, moved)


def _other_axes(hand: Evaluated, members: list[Op], whole: Callable[..., Mend]) -> Iterator[Mend]:
    """A sum or a mean over other axes than it should go over, which is then spread over all of them, or is not."""
    sums = []
    for member in members:
        op: Op | None = member
        while op is not None and (op.name in MOVES or op.name == "div"):
            op = hand.flow.maker(op.inputs[0])
        if op is None or op.name != "reduce_sum":
            return
        sums.append(op)
    values = [hand.read(op.inputs[0]) for op in sums]
    out = hand.flow.aval(members[0].outputs[0]).shape
    for axes in axis_sets(values[0].ndim) if len({v.shape for v in values}) == 1 else ():
        for average in (False, True):
            function = np.mean if average else np.sum
            spread = [np.broadcast_to(function(v, axis=axes, keepdims=True), v.shape) for v in values]
            kept = [function(v, axis=axes) for v in values]
            for ways in (spread, kept):
                if ways[0].shape == out:
                    words = f"axes {sums[0].eqn.params['axes']} are summed instead of {axes}, at {sums[0].place}"
                    words += " of the gradient" + " (and the mean is meant)" * average
                    yield whole(Cause.AXES, words, lambda v, run, ops, ways=ways: ways[run])


def _added_up(hand: Evaluated, members: list[Op], whole: Callable[..., Mend]) -> Iterator[Mend]:
    """Runs whose values nobody reads are to be added to that of the next one that is read, or the last one before."""
    live = hand.live
    alive = [i for i, member in enumerate(members) if member.outputs[0] in live]
    if not alive or len(alive) == len(members):
        return
    values = [hand.read(member.outputs[0]) for member in members]
    which = "first" if alive == [0] else "last" if alive == [len(members) - 1] else f"{len(alive)}"
    words = f"only the {which} of {len(members)} runs counts of {members[0].place} of the gradient: each overwrites"
    until = dict(zip(alive, itertools.pairwise([0, *(i + 1 for i in alive)]), strict=True))
    since = dict(zip(alive, itertools.pairwise([*alive, len(members)]), strict=True))
    for ends in (until, since):
        parts = {i: sum(values[begin:end]) for i, (begin, end) in ends.items()}
        yield whole(Cause.OVERWRITTEN, words, lambda v, run, ops, parts=parts: parts.get(run, v))


def _adding(members: list[Op], beside: bool = False) -> Callable[..., Array]:
    """An assignment as an addition of what is assigned; beside: of how much it differs from what stood there."""

    def change(out: Array, run: int, operands: Sequence[Array]) -> Array:
        op = members[run]
        if op.name == "dynamic_update_slice":
            put = lambda update: jax.lax.dynamic_update_slice(np.zeros_like(operands[0]), update, operands[2:])
            update = operands[1]
        else:
            keys = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
            kept = {key: op.eqn.params[key] for key in keys}
            put = lambda update: jax.lax.scatter_add(np.zeros_like(operands[0]), operands[1], update, **kept)
            update = operands[2]
        if beside:
            update = update - jax.linear_transpose(put, update)(operands[0])[0]
        return operands[0] + np.asarray(put(update))

    return change
