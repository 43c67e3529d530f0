"""The hand-written gradient itself, with one of its lines mended: what makes it right says what was wrong, and where.

The mutants break the right gradient until it is as wrong as the hand-written one; here it is the other way round. A
line of the hand-written gradient gets what it may lack (a slope, a factor, a term, an epsilon), loses what it may have
too much, or reads another value, in all its runs at once. A mend counts if it makes a wrong leaf right and no right
leaf wrong. So it does not matter how either program is laid out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from jaxbp.check.diagnosis.flow import Flow, Op
from jaxbp.check.diagnosis.patterns import ratio, same
from jaxbp.check.diagnosis.rerun import Array, Change, Evaluated
from jaxbp.check.diagnosis.slopes import FORMULAS, OWNERS
from jaxbp.check.diagnosis.sources import DIVISIONS, Source, epsilons, factors, slopes, together, values
from jaxbp.check.leaves import Arrays, Counts
from jaxbp.check.report import Cause, Explanation

MOVES = frozenset(("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "copy", "slice"))
TOGETHER = 256  # mends in one go
LARGEST = 2**26  # entries of all values in all mends of a line
LAST = (Cause.OPERAND, Cause.PATH)  # said after the others
TOO_OFTEN = "applied once too often"
ASSIGNED = ("scatter", "dynamic_update_slice")


class Mend(NamedTuple):
    """One way to mend a line, and what was wrong if that makes the gradient right."""

    explanation: Explanation
    change: Change
    more: Callable[[], str] = str  # what takes time to find out


class Repair(NamedTuple):
    """A mend that makes these leaves right."""

    explanation: Explanation
    paths: frozenset[str]


@dataclass(frozen=True)
class Repairs:
    """The search. hand, loss: the two programs; loss is None where JAX cannot follow it."""

    hand: Evaluated
    loss: Evaluated | None
    paths: Sequence[str]  # of the outputs of `hand`
    names: dict[int, str]  # of the inputs of either
    wrong: Arrays
    truth: Arrays
    counts: Counts
    close: float

    def all(self) -> list[Repair]:
        """The repairs, those of the most leaves first, and of these the earliest line first."""
        bad = frozenset(i for i, path in enumerate(self.paths) if not self._is(path, self.wrong[path]))
        reached = self.hand.reached()
        repairs = list(self._by_counts(reached, bad))
        for full in (True, False):
            for members in self._lines(reached, bad, full):
                mends = list(self._mends(members))
                size = sum(self.hand.flow.aval(n).size for op in self.hand.flow.ops for n in op.outputs)
                for start in range(0, len(mends), TOGETHER):
                    part = mends[start : start + TOGETHER]
                    if size * len(part) <= LARGEST:
                        repairs += self._tried(members, part, bad)
            if repairs:
                break
        doubtful = lambda explanation: (explanation.cause in LAST, TOO_OFTEN in explanation.text)
        return sorted(repairs, key=lambda repair: (-len(repair.paths), *doubtful(repair.explanation)))

    def _is(self, path: str, array: Array) -> bool:
        return same(array, self.truth[path], self.close)

    def _lines(self, reached: dict[int, frozenset[int]], bad: frozenset[int], full: bool) -> Iterator[list[Op]]:
        """The lines on which all wrong leaves depend, and no others; not full: some wrong ones."""
        for ops in self.hand.flow.runs.values():
            if len(ops[0].outputs) != 1 or not self.hand.flow.floating(ops[0].outputs[0]) or not ops[0].lines:
                continue
            leaves = frozenset().union(*(reached.get(op.outputs[0], frozenset()) for op in ops))
            if leaves and (leaves == bad if full else leaves < bad):
                yield ops

    def _tried(self, members: list[Op], mends: list[Mend], bad: frozenset[int]) -> Iterator[Repair]:
        outputs = self.hand.again(members, [mend.change for mend in mends])
        right = np.stack([self._rows_right(path, rows) for path, rows in zip(self.paths, outputs, strict=True)])
        good = [i for i in range(len(self.paths)) if i not in bad]
        for column, mend in enumerate(mends):
            mended = frozenset(self.paths[i] for i in bad if right[i, column])
            if mended and right[good, column].all():
                yield Repair(replace(mend.explanation, text=f"{mend.explanation.text}{mend.more()}"), mended)

    def _rows_right(self, path: str, rows: Array) -> Array:
        """For every mend, whether the leaf is right."""
        truth = self.truth[path]
        if rows.shape[1:] != truth.shape:
            return np.zeros(len(rows), bool)
        gap = np.abs(rows - truth).reshape(len(rows), -1).max(1, initial=0)
        return gap <= self.close * max(float(np.max(np.abs(truth), initial=0)), 1e-300)  # nan is not

    def _by_counts(self, reached: dict[int, frozenset[int]], bad: frozenset[int]) -> Iterator[Repair]:
        """A count that is wrong wherever it stands: the examples for the positions, one axis for another."""
        lines: dict[tuple, list[Op]] = defaultdict(list)
        for op in self.hand.flow.ops:
            number = _divides_by(op)
            if number and reached.get(op.outputs[0], frozenset()) and reached[op.outputs[0]] <= bad:
                lines[round(number, 9), op.stack].append(op)
                lines[round(number, 9), ()].append(op)
        for (number, _), members in lines.items():
            mends = []
            beside = [("N stands for N - 1", number - 1), ("N - 1 stands for N", number + 1)] if number > 1 else []
            for name, n in [*beside, *self.counts]:
                words = f"{name}: {number:g} stands for {n:g}, in {members[0].place} of the gradient"
                change = lambda v, run, operands, c=number / n: c * v
                mends.append(Mend(Explanation(Cause.FACTOR, words), Change(None, change)))
            yield from self._tried(members, mends, bad)

    # What may be wrong with a line.

    def _mends(self, members: list[Op]) -> Iterator[Mend]:
        op = members[0]
        flow = self.hand.flow
        shapes = {flow.aval(member.outputs[0]).shape for member in members}
        if len(shapes) == 1:
            if op.name not in MOVES or not flow.floating(op.inputs[0]):
                yield from self._of_value(members, None, op, shapes.pop())
            yield from self._as_a_whole(members)
        for k, ref in enumerate(op.inputs):
            refs = [member.inputs[k] for member in members]
            shapes = {flow.aval(ref).shape for ref in refs}
            if not isinstance(ref, int) or len(shapes) > 1 or not flow.floating(ref):
                continue
            if len(flow.users[ref]) > 1 or ref not in flow.makers:
                yield from self._of_value(members, k, flow.maker(ref) or op, shapes.pop())
            yield from self._of_operand(members, k)

    def _of_value(self, members: list[Op], k: int | None, maker: Op, shape: tuple[int, ...]) -> Iterator[Mend]:
        """Something is missing in a value, or too much, or it is another."""
        op = members[0]
        where = f"at {op.place} of the gradient" if k is None else f"in operand {k} of {op.place} of the gradient"
        mend = lambda cause, words, change, more=str: Mend(
            Explanation(cause, f"{words}, {where}"), Change(k, lambda v, run, operands: change(v, run)), more
        )
        yield mend(Cause.SIGN, "the sign is wrong", lambda v, run: -v)
        if len(shape) >= 2 and shape[-1] == shape[-2]:
            yield mend(Cause.TRANSPOSED, "it is transposed", lambda v, run: v.swapaxes(-1, -2))
        for source in self.multipliers:
            for arrays in source.aligned(len(members), shape, exact=False):
                yield mend(source.cause, source.words, lambda v, run, a=arrays: v * a[run])
                if source.cause is Cause.FACTOR:
                    yield mend(source.cause, f"{source.words}, and a minus", lambda v, run, a=arrays: -v * a[run])
                if all(np.all(a) for a in arrays):
                    twice = source.words.replace("left out", TOO_OFTEN)
                    yield mend(source.cause, twice, lambda v, run, a=arrays: v / a[run])
        for words, cause, c in self.numbers:
            yield mend(cause, words, lambda v, run, c=c: c * v)
        if not shape:
            return
        refs = [member.outputs[0] if k is None else member.inputs[k] for member in members]
        for source in self.multipliers:
            for arrays in source.aligned(len(members), shape, exact=True):
                if source.cause is Cause.DERIVATIVE and not self._is_leaf(refs):
                    words = f"{maker.place} stands for the slope of {source.of}"
                    more = partial(self._owner, source, refs[-1])
                    yield mend(Cause.SLOPE, words, lambda v, run, a=arrays: a[run], more)
        mine = self.hand.order[members[0]]
        for source in self.forward_values:
            for arrays in source.aligned(len(members), shape, exact=True):
                if not all(np.array_equal(self.hand.read(ref), a) for ref, a in zip(refs, arrays, strict=True)):
                    yield self._replaced(mend, source, arrays, refs, maker)
        for source in self.own_values:
            if source.ops and self.hand.order[source.ops[0]] >= mine:
                continue
            for arrays in source.aligned(len(members), shape, exact=True):
                if not self._is_leaf(refs):
                    words = f"{maker.place} stands in place of {source.words}"
                    yield mend(Cause.OPERAND, words, lambda v, run, a=arrays: a[run])
                words = f"{source.words} is not added: a path is missing"
                yield mend(Cause.PATH, words, lambda v, run, a=arrays: v + a[run])

    def _replaced(self, mend: Any, source: Source, arrays: list[Array], refs: list[Any], maker: Op) -> Mend:
        """A value of the forward pass, which the gradient computes otherwise."""
        change = lambda v, run: arrays[run]
        step = self.hand.read(refs[0]) - arrays[0]
        for path, truth in self.truth.items():
            if source.words == path and truth.shape == step.shape and ratio(step, self.wrong[path], 1e-6) is not None:
                return mend(Cause.STEPPED, "the weights were already stepped (updated before they were read)", change)
        words = f"{maker.place} is not what the loss computes at {source.words}"
        return mend(Cause.OPERAND, words, change, partial(self._forgotten, source, refs[0]))

    def _is_leaf(self, refs: list[Any]) -> bool:
        """Whether the gradient returns the values as they are."""
        return all(not op.lines for ref in refs for op in self.hand.flow.users[ref])

    def _owner(self, source: Source, ref: Any) -> str:
        """Whose slope a value is, if it is known."""
        value = self.hand.read(ref)
        for y in [self.loss.read(op.outputs[0]) for op in source.ops] if self.loss else ():
            for words, formula in FORMULAS.items():
                if y.shape == value.shape and same(np.asarray(formula(y), float), np.asarray(value, float), self.close):
                    return f": it is {words}, y the output{OWNERS.get(words, '')}"
        return ": it is another function's, or taken at another value"

    def _forgotten(self, source: Source, ref: Any) -> str:
        """The first step on the loss's way to a value that the gradient's way to its own does not take."""
        if self.loss is None or not source.ops:
            return ""
        taken = [self.hand.read(n) for n in _cone(self.hand.flow, ref) if self.hand.flow.floating(n)]
        for n in sorted(_cone(self.loss.flow, source.ops[0].outputs[0])):
            op, value = self.loss.flow.maker(n), self.loss.read(n)
            if op is None or not self.loss.flow.floating(n) or op.name in MOVES:
                continue
            if not any(a.shape == value.shape and np.allclose(a, value, 1e-10, 1e-13) for a in taken):
                what = {"select_n": "the mask of ", "add": "the term of ", "mul": "the factor of "}
                return f": {what.get(op.name, '')}{op.place} is left out on the way to it"
        return ""

    def _of_operand(self, members: list[Op], k: int) -> Iterator[Mend]:
        """A term too many; a safe number forgotten."""
        op = members[0]
        if op.name in ("add", "sub"):
            words = f"operand {k} of {op.place} of the gradient is added once too often"
            yield Mend(Explanation(Cause.TWICE, words), Change(k, lambda v, run, operands: 0 * v))
        if op.name in DIVISIONS and (op.name != "div" or k == 1) and self.loss is not None:
            for number, line in epsilons(self.loss):
                words = f"the epsilon is forgotten: {number:g} of {line.place}, in {op.place} of the gradient"
                change = lambda v, run, operands, number=number: v + number
                yield Mend(Explanation(Cause.FACTOR, words), Change(k, change))

    def _as_a_whole(self, members: list[Op]) -> Iterator[Mend]:
        """An operation of the wrong kind; runs of which only one counts."""
        op = members[0]
        if op.name in ASSIGNED:
            words = f"{op.place} of the gradient assigns (it overwrites) what it should add"
            yield Mend(Explanation(Cause.OVERWRITTEN, words), Change(None, _adding(members)))
            yield Mend(Explanation(Cause.OVERWRITTEN, words), Change(None, _adding(members, beside=True)))
        shapes = [self.hand.flow.aval(ref).shape for ref in op.inputs]
        if op.name == "dot_general" and shapes[0] == shapes[1] == self.hand.flow.aval(op.outputs[0]).shape:
            words = f"a matrix product stands for the one by entries, at {op.place} of the gradient"
            yield Mend(Explanation(Cause.OPERAND, words), Change(None, lambda v, run, ab: ab[0] * ab[1]))
            for i in (0, 1):
                turned = lambda v, run, ab, i=i: ab[i] * ab[1 - i].swapaxes(-1, -2)
                yield Mend(Explanation(Cause.OPERAND, words), Change(None, turned))
        if op.name == "mul" and len(set(shapes)) == 1 and len(shapes) == 2 and len(shapes[0]) == 2:
            words = f"a product by entries stands for the matrix product, at {op.place} of the gradient"
            if shapes[0][0] == shapes[0][1]:
                yield Mend(Explanation(Cause.OPERAND, words), Change(None, lambda v, run, ab: ab[0] @ ab[1]))
        alive = [i for i, member in enumerate(members) if member.outputs[0] in self.live]
        if len(alive) == 1 < len(members):
            total = sum(self.hand.read(member.outputs[0]) for member in members)
            which = {0: "first", len(members) - 1: "last"}.get(alive[0], f"{alive[0] + 1}th")
            words = f"only the {which} of {len(members)} runs counts of {op.place} of the gradient: each overwrites"
            change = lambda v, run, operands: total if run == alive[0] else v
            yield Mend(Explanation(Cause.OVERWRITTEN, words), Change(None, change))

    # What there is to mend with.

    @cached_property
    def live(self) -> set[int]:
        """The values that some leaf depends on."""
        return set(self.hand.reached())

    @cached_property
    def multipliers(self) -> list[Source]:
        """The slopes and the factors of the forward pass, each once."""
        if self.loss is None:
            return []
        parts = list(factors(self.loss, self.names))
        return _distinct([*slopes(self.loss), *parts, *together(self.loss, parts)])

    @cached_property
    def forward_values(self) -> list[Source]:
        """The values of the forward pass."""
        return _distinct(values(self.loss, self.names)) if self.loss else []

    @cached_property
    def own_values(self) -> list[Source]:
        """The values of the gradient, each once."""
        return _distinct(values(self.hand, self.names))

    @cached_property
    def numbers(self) -> list[tuple[str, Cause, float]]:
        """Numbers that may be missing or too many, with the words for it."""
        numbers = {2.0: ("a factor 2 is left out", Cause.FACTOR), 0.5: ("a factor 2 is too many", Cause.FACTOR)}
        for name, n in self.counts:
            numbers.setdefault(n, (f"a mean's 1 / ({name}) stands for a sum, or stands twice", Cause.MEAN))
            numbers.setdefault(1 / n, (f"the division by {name} is left out: a sum stands for a mean", Cause.SUM))
        for name, n in self.counts:
            if n > 2:
                words = f"N and N - 1 are confused: {n:g} and {n - 1:g} ({name})"
                numbers.setdefault(n / (n - 1), (words, Cause.FACTOR))
                numbers.setdefault((n - 1) / n, (words, Cause.FACTOR))
        return [(words, cause, c) for c, (words, cause) in numbers.items()]


def _distinct(sources: Any) -> list[Source]:
    """The sources with different arrays, the first of those that are equal."""
    kept: dict[bytes, Source] = {}
    for source in islice(sources, 400):
        key = b"".join(np.ascontiguousarray(a).tobytes() + str(a.shape).encode() for a in source.arrays)
        kept.setdefault(key, source)
    return list(kept.values())


def _divides_by(op: Op) -> float | None:
    """The number that an operation divides by."""
    if op.name not in ("div", "mul"):
        return None
    numbers = [float(ref.val) for ref in op.inputs[-2:] if isinstance(ref, Literal) and np.ndim(ref.val) == 0]
    if not numbers or not numbers[0]:
        return None
    return numbers[0] if op.name == "div" else 1 / numbers[0]


def _cone(flow: Flow, ref: Any) -> set[int]:
    """The values that a value is made of, itself included."""
    cone: set[int] = set()
    wanted = [ref]
    while wanted:
        n = wanted.pop()
        if isinstance(n, int) and n not in cone:
            cone.add(n)
            wanted += flow.makers[n].inputs if n in flow.makers else ()
    return cone


def _adding(members: list[Op], beside: bool = False) -> Any:
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
