"""What the forward pass has for a hand-written gradient to use: its values, factors, slopes and numbers.

Each is a `Source`: one line of the program, with an array for each of its runs.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxbp.check.diagnosis.flow import Flow, Op, Piece, flow_of
from jaxbp.check.diagnosis.jaxprs import traced
from jaxbp.check.diagnosis.mutants import is_slope, pieces_of
from jaxbp.check.diagnosis.rerun import Array, Evaluated
from jaxbp.check.diagnosis.rows import operate
from jaxbp.check.diagnosis.slopes import NONLINEAR, SMALL
from jaxbp.check.report import Cause

MOST = 80  # pieces whose slopes are computed
DIVISIONS = ("div", "integer_pow", "pow", "sqrt", "rsqrt", "log")


@dataclass(frozen=True, eq=False)
class Source:
    """A line's arrays, run by run; cause and words: what is wrong where they are left out."""

    words: str
    cause: Cause
    arrays: Sequence[Array]
    ops: tuple[Op, ...] = ()
    of: str = ""  # the place of the function that a slope belongs to

    @property
    def key(self) -> bytes:
        """Equal for equal arrays."""
        return b"".join(np.ascontiguousarray(a).tobytes() + str(a.shape).encode() for a in self.arrays)

    def aligned(self, count: int, shape: tuple[int, ...], exact: bool) -> Iterator[list[Array]]:
        """An array for each of `count` runs of another line with values of that shape, in every way that fits.

        exact: of that very shape; else of one that spreads to it.
        """
        fits = lambda a: a.shape == shape if exact else _spreads(a.shape, shape)
        for arrays in self._aligned(count):
            if all(map(fits, arrays)):
                yield arrays

    def _aligned(self, count: int) -> Iterator[list[Array]]:
        arrays = list(self.arrays)
        yield from _repeated(arrays, count)
        if len(arrays) == 1 < count:
            for axis in range(arrays[0].ndim):
                yield from _repeated(list(np.moveaxis(arrays[0], axis, 0)), count) if arrays[0].shape[axis] > 1 else ()
        if count == 1 < len(arrays):
            yield arrays[-1:]
            if len({a.shape for a in arrays}) == 1:
                yield from ([np.stack(arrays, axis)] for axis in range(min(2, arrays[0].ndim + 1)))


def _repeated(arrays: list[Array], count: int) -> Iterator[list[Array]]:
    """Every array for the runs of an inner loop, or all arrays in each run of an outer one; forward and backward."""
    if count % len(arrays):
        return
    times = count // len(arrays)
    ways = [[a for a in arrays for _ in range(times)], arrays * times]
    for way in ways[: 2 if times > 1 and len(arrays) > 1 else 1]:
        yield from (way, way[::-1]) if len(arrays) > 1 else (way,)


def _spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def slopes_of(program: Evaluated) -> Iterator[Source]:
    """The derivatives of the functions of one value, entry by entry."""
    lines: dict[tuple, list[Piece]] = defaultdict(list)
    for piece in pieces_of(program.flow):
        if is_slope(program.flow, piece) and not piece.couples and not _masks(program.flow, piece):
            lines[piece.last.stack, piece.kind].append(piece)
    for pieces in list(lines.values())[:MOST]:
        arrays = [_slope(piece, program) for piece in pieces]
        if all(a is not None and a.size > 1 for a in arrays):
            place = pieces[0].place
            words = f"the derivative is left out of {place}"
            yield Source(words, Cause.DERIVATIVE, arrays, tuple(piece.last for piece in pieces), place)  # type: ignore[arg-type]


def _masks(flow: Flow, piece: Piece) -> bool:
    """Whether nothing in it is nonlinear: its choices are by a mask."""
    bent = [op for op in piece.ops if op.name in NONLINEAR]
    return all(op.name == "select_n" and not flow.varies(op.inputs[0]) for op in bent)


def _slope(piece: Piece, program: Evaluated) -> Array | None:
    first, *others = [program.read(ref) for ref in piece.inputs if isinstance(ref, int)]
    if not np.issubdtype(first.dtype, np.floating):
        return None
    along = lambda inputs: jax.jvp(lambda x: piece.run(x, *inputs[1:]), inputs[:1], (jnp.ones_like(inputs[0]),))[1]
    flow = flow_of(traced(along, (first, *others))[0])
    slope = Evaluated(flow, (first, *others)).read(flow.outputs[0])
    return slope if slope.shape == first.shape else None


def factors(program: Evaluated, names: dict[int, str]) -> Iterator[Source]:
    """What a product, a quotient and a choice by a mask multiply a delta by."""
    flow = program.flow
    for ops in flow.runs.values():
        op = ops[0]
        if op.name not in ("mul", "div", "select_n") or not flow.floating(op.outputs[0]):
            continue
        for k in range(len(op.inputs)):
            if op.name == "mul":
                arrays = [program.read(each.inputs[k]) for each in ops]
                what = "factor"
            elif op.name == "div" and k == 1:
                with np.errstate(all="ignore"):
                    arrays = [1 / program.read(each.inputs[k]) for each in ops]
                what = "divisor"
            elif op.name == "select_n" and len(op.inputs) == 3 and k and isinstance(op.inputs[0], int):
                arrays = [(program.read(each.inputs[0]) == k - 1) * 1.0 for each in ops]
                what = "mask"
            else:
                continue
            if any(not np.all(np.isfinite(a)) for a in arrays) or all(np.all(a == 1) for a in arrays):
                continue
            place = program_title(program, op.inputs[k if what != "mask" else 0], names)
            what = "mask" if is_mask(arrays) else what
            yield Source(f"the {what} {place} of {op.place} is left out", Cause.FACTOR, arrays, tuple(ops))


def together(program: Evaluated, parts: Sequence[Source]) -> Iterator[Source]:
    """Two factors of one statement, of which one multiplies what the other has multiplied: a mask and its scale."""
    for first, second in itertools.permutations(parts, 2):
        op, user = first.ops[0], second.ops[0]
        if not _spreads(first.arrays[0].shape, second.arrays[0].shape) and not _spreads(
            second.arrays[0].shape, first.arrays[0].shape
        ):
            continue
        if op.outputs[0] in user.inputs and op.statement == user.statement and len(first.ops) == len(second.ops):
            arrays = [a * b for a, b in zip(first.arrays, second.arrays, strict=True)]
            words = f"{first.words.removesuffix(' is left out')} and {second.words}"
            yield Source(words.replace(" is left out", " are left out"), Cause.FACTOR, arrays, second.ops)


def is_mask(arrays: Sequence[Array]) -> bool:
    """Whether all entries are 0 or one other number."""
    entries = np.unique(np.concatenate([np.ravel(a) for a in arrays]))
    return len(entries) == 2 and 0 in entries


def program_title(program: Evaluated, ref: Any, names: dict[int, str]) -> str:
    """A value as reports call it: a leaf's name, a number, or the operation that makes it."""
    maker = program.flow.maker(ref)
    if maker is not None:
        return maker.place
    array = program.read(ref)
    return f"{np.ravel(array)[0]:.6g}" if np.size(array) == 1 else names.get(ref, "of the data")


def is_real(value: Any) -> bool:
    """Whether a value is one real number."""
    return np.ndim(value) == 0 and np.isrealobj(value)


def values(program: Evaluated, names: dict[int, str]) -> Iterator[Source]:
    """Every value of a floating type."""
    flow = program.flow
    for number in (*flow.inputs, *flow.constants):
        if flow.floating(number) and np.size(program.read(number)) > 1:
            yield Source(names.get(number, "the data"), Cause.OPERAND, [program.read(number)])
    for ops in flow.runs.values():
        if len(ops[0].outputs) == 1 and flow.floating(ops[0].outputs[0]):
            yield Source(ops[0].place, Cause.OPERAND, [program.read(op.outputs[0]) for op in ops], tuple(ops))


def epsilons(program: Evaluated, any_size: bool = False) -> Iterator[tuple[float, Op]]:
    """The small numbers that are added for safety, or all numbers that are added."""
    for ops in program.flow.runs.values():
        for ref in ops[0].inputs if ops[0].name in ("add", "sub", "max") else ():
            if isinstance(ref, Literal) and is_real(ref.val) and (any_size or 0 < float(ref.val) <= SMALL):
                yield float(ref.val), ops[0]


def read_entries(program: Evaluated) -> Iterator[Source]:
    """For every line that picks entries of a value: how often it picks each."""
    for ops in program.flow.runs.values():
        if ops[0].name not in ("gather", "slice", "dynamic_slice") or not program.flow.floating(ops[0].outputs[0]):
            continue
        arrays = []
        for op in ops:
            x, *indices = map(program.read, op.inputs)
            places = operate(
                op.eqn, [np.arange(x.size, dtype=float).reshape(x.shape), *indices], [False] * len(op.inputs)
            )
            places = np.nan_to_num(places[0]).astype(int).ravel()
            arrays.append(np.bincount(places, minlength=x.size).reshape(x.shape) * 1.0)
        yield Source(f"the term 1 at the entries that {ops[0].place} picks is left out", Cause.PATH, arrays, tuple(ops))
