"""What a wrong reverse rule may read instead of its own inputs: other steps, other layers, values of the same shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.flow import RESHAPES, Flow, Op, Piece
from jaxbp.check.diagnosis.jaxprs import bind
from jaxbp.check.report import Cause
from jaxbp.core import register

KIN = 3  # pieces of the same kind that one may be confused with
SEVERAL = 6  # values of the same shape that one may be confused with
# The other steps of a loop whose activations a product may meet by mistake.
STEPS = ("before (the first meets the last)", "before", "after", "after (the last meets zeros)")
LINEAR = ("dot_general", "conv_general_dilated", "add")  # what they make people call a pre-activation
MOVES = RESHAPES | {"transpose", "convert_element_type", "copy"}  # they change no number

Role = tuple[int, Cause, str]  # a partner stands for this input; the mistake


@partial(register, data_fields=["same_kind", "partners", "covered"], meta_fields=["places", "roles", "starts"])
@dataclass(frozen=True)
class Neighbours:
    """What stands around a piece."""

    same_kind: tuple[jax.Array, ...] = ()  # the entries of other pieces of the same kind
    places: tuple[str, ...] = ()  # where those stand in the forward pass
    partners: tuple[jax.Array, ...] = ()  # of a product: what may stand for one of its inputs
    roles: tuple[Role, ...] = ()  # for each partner
    covered: jax.Array | None = None  # of a window: the entries that later windows cover too
    starts: tuple[tuple[Cause, str, tuple[int, ...]], ...] = ()  # of a window: other places where it may be put back


class Seen(NamedTuple):
    """What the forward pass leaves: its values by number, of a loop with one entry a step."""

    values: dict[int, Any]
    loops: dict[str, Seen]
    carries: list  # as they leave the step

    def read(self, ref: Any) -> jax.Array:
        """A value, or a number of the program."""
        return jax.lax.stop_gradient(self.values[ref] if isinstance(ref, int) else jnp.asarray(ref.val))


def same_kind(flow: Flow, piece: Piece, others: list[Piece], seen: Seen) -> Neighbours:
    """The entries of the pieces of the same kind and shape, one for every line."""
    shape = flow.aval(piece.inputs[0]).shape
    kin = {
        other.last.stack: other
        for other in others
        if other.kind == piece.kind
        and other.last.stack != piece.last.stack
        and flow.aval(other.inputs[0]).shape == shape
        and other.inputs[0] != piece.inputs[0]
    }
    chosen = list(kin.values())[:KIN]
    return Neighbours(tuple(seen.read(o.inputs[0]) for o in chosen), tuple(o.place for o in chosen))


def with_partners(partners: list[tuple[Role, jax.Array]]) -> Neighbours:
    """A product's neighbours."""
    return Neighbours(partners=tuple(a for _, a in partners), roles=tuple(role for role, _ in partners))


def _by_step(k: int, words: str) -> Role:
    return k, Cause.SHIFTED, f"the {('right', 'left')[k]} derivative meets the step {words} in"


def loop_steps(op: Op, loop: Seen) -> dict[int, Neighbours]:
    """For every product in a loop, by its index: its inputs at the steps before and after."""
    assert op.body is not None
    first = op.eqn.params["num_consts"]
    leaving = dict(zip(op.body.inputs[first : first + len(loop.carries)], loop.carries, strict=True))
    steps: dict[int, Neighbours] = {}
    for i, operation in enumerate(op.body.ops):
        partners: list[tuple[Role, jax.Array]] = []
        for k, ref in enumerate(operation.inputs) if _is_product(operation) else ():
            a = loop.read(ref)
            turned = jnp.roll(a, 1, 0)
            after = leaving.get(cast(int, ref), jnp.roll(a, -1, 0))
            others = (turned, turned.at[0].set(0), after, jnp.roll(a, -1, 0).at[-1].set(0))
            partners += [(_by_step(k, words), other) for words, other in zip(STEPS, others, strict=True)]
        steps[i] = with_partners(partners)
    return steps


def unrolled_steps(flow: Flow, op: Op, seen: Seen) -> Iterator[tuple[Role, jax.Array]]:
    """The same for a product in a Python loop, whose steps stand one after the other in the list."""
    members = flow.runs[op.line]
    if len(members) < 2 or not _is_product(op):
        return
    t = members.index(op)
    for k in range(2):
        refs = [member.inputs[k] for member in members]
        maker = flow.maker(refs[1])
        made = [other.outputs[0] for other in flow.runs[maker.line]] if maker else []
        row = [seen.read(ref) for ref in refs]
        zero = jnp.zeros_like(row[0])
        after = seen.read(made[-1]) if made and made[-1] not in refs else row[0]
        if len(set(refs)) == 1 or len({a.shape for a in [*row, after]}) > 1:
            continue
        ahead = [row[t + 1]] * 2 if t + 1 < len(row) else [after, zero]
        for words, a in zip(STEPS, [row[t - 1], row[t - 1] if t else zero, *ahead], strict=True):
            yield _by_step(k, words), a


def _is_product(op: Op) -> bool:
    return op.name == "dot_general" and len(set(op.inputs)) == 2 and all(isinstance(ref, int) for ref in op.inputs)


def in_place(flow: Flow, op: Op, seen: Seen, names: dict[int, str]) -> Iterator[tuple[Role, jax.Array]]:
    """Other values of an input's shape: leaves, what is made once, and what the same run of a loop makes."""
    run = flow.runs[op.line]
    t = run.index(op)
    named = [n for n in flow.inputs if n in names]
    for makers in flow.runs.values():
        worth = makers[0].outputs and (makers[0].name in LINEAR or flow.is_end(makers[0].outputs[0]))
        if worth and len(makers) in (1, len(run)):
            named.append(makers[t if len(makers) == len(run) else 0].outputs[0])
    places = [flow.makers[n].place for n in named if n in flow.makers]

    def title(n: int) -> str:
        """The leaf's name, or the operation that makes it; its number where one line has several."""
        maker = flow.makers.get(n)
        if maker is None:
            return names.get(n, "the data")
        return maker.place if places.count(maker.place) < 2 else f"value {n}, of {maker.place},"

    for k, ref in enumerate(op.inputs):
        root, moves = _source(flow, ref)
        if not isinstance(root, int):
            continue
        alike = [
            n
            for n in named
            if n not in (root, op.outputs[0]) and n in seen.values and flow.aval(n).shape == flow.aval(root).shape
        ]
        for n in [n for n in alike if flow.floating(n)][-SEVERAL:]:
            words = f"{title(n)} stands in place of {title(root)} in the {('right', 'left')[k]} derivative of"
            yield (k, Cause.OPERAND, words), _moved(moves, seen.read(n))


def stepped(flow: Flow, op: Op, after: dict[int, jax.Array]) -> Iterator[tuple[Role, jax.Array]]:
    """The weights, already stepped. after: the leaves after a step of length 1."""
    for k, ref in enumerate(op.inputs):
        root, moves = _source(flow, ref)
        if isinstance(root, int) and root in after:
            words = "the delta goes through weights that were already stepped (updated before they were read), in"
            yield (k, Cause.STEPPED, words), _moved(moves, after[root])


def unstrided(flow: Flow, op: Op, seen: Seen) -> Iterator[tuple[Role, jax.Array]]:
    """The window of an input where it would be with a stride of 1."""
    for k, ref in enumerate(op.inputs):
        root, moves = _source(flow, ref)
        window = flow.maker(root)
        if window is None or window.name != "slice" or (start := _start_without_stride(flow, window)) is None:
            continue
        x = seen.read(window.inputs[0])
        patch = jax.lax.dynamic_slice(x, start, flow.aval(window.outputs[0]).shape)
        words = "the stride is forgotten: the window is taken one place further each time, in"
        yield (k, Cause.OPERAND, words), _moved(moves, patch)


def window(flow: Flow, op: Op) -> Neighbours:
    """What a slice shares with the other slices of the same value."""
    siblings = flow.siblings(op)
    runs = [other for other in siblings if other.stack == op.stack]
    begin = lambda other: other.eqn.params["start_indices"]
    steps = lambda other: other.eqn.params["strides"] or [1] * len(begin(other))
    box = lambda other: tuple(map(slice, begin(other), other.eqn.params["limit_indices"], steps(other)))
    covered = np.zeros(flow.aval(op.inputs[0]).shape, bool)
    for other in runs[runs.index(op) + 1 :]:
        covered[box(other)] = True
    mine = covered[box(op)]
    starts = []
    if (start := _start_without_stride(flow, op)) is not None:
        starts.append((Cause.SHIFTED, "the stride is forgotten where the delta is put back, in", start))
    pieces = [begin(other) for other in flow.parts(op)]
    i = pieces.index(begin(op)) if begin(op) in pieces else None
    for j, other in enumerate(pieces):
        if i is not None and j != i:
            starts.append((Cause.ORDER, crossing(i, j), other))
    return Neighbours(covered=jnp.asarray(mine) if mine.any() and not mine.all() else None, starts=tuple(starts))


def crossing(i: int, j: int) -> str:
    """The words for a piece whose delta is put where another's belongs."""
    return f"piece {i} takes the place of piece {j} in"


def _start_without_stride(flow: Flow, op: Op) -> tuple[int, ...] | None:
    """Where a window of a loop would start with a stride of 1; None if it has that stride."""
    runs = [other.eqn.params["start_indices"] for other in flow.runs[op.line]]
    if op.eqn.params["strides"] is not None or len(set(runs)) < 2:
        return None
    strides = [math.gcd(*column) or 1 for column in zip(*runs, strict=True)]
    start = tuple(s // stride for s, stride in zip(op.eqn.params["start_indices"], strides, strict=True))
    return start if max(strides) > 1 else None


def _source(flow: Flow, ref: Any) -> tuple[Any, list[Op]]:
    """Where a value's numbers come from, and the operations that move them."""
    moves: list[Op] = []
    while (op := flow.maker(ref)) is not None and op.name in MOVES and len(op.inputs) == 1:
        moves.insert(0, op)
        ref = op.inputs[0]
    return ref, moves


def _moved(moves: list[Op], a: jax.Array) -> jax.Array:
    for op in moves:
        a = bind(op.eqn, a)[0]
    return a
