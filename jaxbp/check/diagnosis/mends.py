"""What may be wrong with a line of a hand-written gradient, and how it is mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np

from jaxbp.check.diagnosis.flow import Flow, Op
from jaxbp.check.diagnosis.patterns import ratio, same
from jaxbp.check.diagnosis.rerun import Array, Change, Evaluated
from jaxbp.check.diagnosis.slopes import FORMULAS, OWNERS
from jaxbp.check.diagnosis.sources import (
    DIVISIONS,
    Source,
    epsilons,
    factors,
    is_mask,
    read_entries,
    slopes_of,
    together,
    values,
)
from jaxbp.check.diagnosis.wholes import MOVES, Mend, as_a_whole
from jaxbp.check.leaves import Arrays, Counts
from jaxbp.check.report import Cause, Explanation

HUGE = 1e4  # what is added to a score that shall not count is no smaller
CONFUSED = "N and N - 1 are confused"
TOO_OFTEN = "applied once too often"


@dataclass(frozen=True)
class Mends:
    """The mends of one gradient. hand, loss: the two programs; loss is None where JAX cannot follow it."""

    hand: Evaluated
    loss: Evaluated | None
    names: dict[int, str]  # of the inputs of either
    wrong: Arrays
    truth: Arrays
    counts: Counts
    close: float

    def of_line(self, members: list[Op]) -> Iterator[Mend]:
        """Every mend of a line."""
        op = members[0]
        flow = self.hand.flow
        shapes = {flow.aval(member.outputs[0]).shape for member in members}
        if len(shapes) == 1:
            if op.name not in MOVES or not flow.floating(op.inputs[0]):
                yield from self._of_value(members, None, op, shapes.pop())
            yield from as_a_whole(self.hand, members)
        for k, ref in enumerate(op.inputs):
            refs = [member.inputs[k] for member in members]
            shapes = {flow.aval(ref).shape for ref in refs}
            if not isinstance(ref, int) or len(shapes) > 1 or not flow.floating(ref):
                continue
            maker = flow.maker(ref)
            if maker is None or maker.name in MOVES or len(flow.users[ref]) > 1:
                yield from self._of_value(members, k, maker or op, shapes.pop())
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
        for words, term in self.terms:
            yield mend(Cause.PATH, words, lambda v, run, c=term: v + c)
        for source in self.entries:
            for arrays in source.aligned(len(members), shape, exact=True):
                yield mend(Cause.PATH, source.words, lambda v, run, a=arrays: v - a[run])
                yield mend(Cause.PATH, source.words, lambda v, run, a=arrays: v + a[run])
        if not shape:
            return
        refs = [member.outputs[0] if k is None else member.inputs[k] for member in members]
        for source in self.slopes:
            for arrays in source.aligned(len(members), shape, exact=True):
                if not self._is_leaf(refs):
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
                    more = partial(self._twice, source, refs[0])
                    yield mend(Cause.OPERAND, words, lambda v, run, a=arrays: a[run], more)
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
        """The first steps on the loss's way to a value, and on the gradient's, that the other does not take."""
        if self.loss is None or not source.ops:
            return ""
        ways = ((self.loss, source.ops[0].outputs[0]), (self.hand, ref))
        cones = [[n for n in sorted(_cone(program.flow, n)) if program.flow.varies(n)] for program, n in ways]
        lacks, has = (
            self._first_apart(ways[i][0], cones[i], [ways[1 - i][0].read(n) for n in cones[1 - i]]) for i in (0, 1)
        )
        text = f": {self._step(self.loss, lacks)} is left out on the way to it" if lacks else ""
        step = self._step(self.hand, has) if has else ""
        if twice := self._twice(source, ref):
            return twice
        return text + (f", and {step} of the gradient is not on the loss's way" if step.startswith("the mask") else "")

    def _twice(self, source: Source, ref: Any) -> str:
        """The factor that a value has more than the right one."""
        for factor in self.multipliers:
            for arrays in factor.aligned(1, source.arrays[0].shape, exact=False):
                if same(self.hand.read(ref), source.arrays[0] * arrays[0], self.close):
                    return f": {factor.words.replace('left out', TOO_OFTEN)}"
        return ""

    @staticmethod
    def _first_apart(program: Evaluated, cone: list[int], others: list[Array]) -> Op | None:
        """The first operation of a program whose value is not among the others."""
        for n in cone:
            op, value = program.flow.maker(n), program.read(n)
            if op is None or op.name in MOVES or not program.flow.floating(n):
                continue
            if not any(a.shape == value.shape and np.allclose(a, value, 1e-10, 1e-13) for a in others):
                return op
        return None

    @staticmethod
    def _step(program: Evaluated, op: Op) -> str:
        """A step in people's words: a mask is one that chooses, adds huge numbers or keeps some."""
        fixed = [program.read(ref) for ref in op.inputs if not program.flow.varies(ref)]
        huge = op.name == "add" and any(np.size(a) > 1 and np.max(np.abs(a)) > HUGE for a in fixed)
        if op.name == "select_n" or huge or (op.name == "mul" and any(is_mask([a]) for a in fixed)):
            return f"the mask of {op.place}"
        return {"add": f"the term of {op.place}", "mul": f"the factor of {op.place}"}.get(op.name, op.place)

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

    # What there is to mend with.

    @cached_property
    def multipliers(self) -> list[Source]:
        """The slopes and the factors of the forward pass, each once."""
        if self.loss is None:
            return []
        parts = list(factors(self.loss, self.names))
        return _distinct([*slopes_of(self.loss), *parts, *together(self.loss, parts)])

    @cached_property
    def slopes(self) -> list[Source]:
        """The slopes that are no values of the forward pass themselves."""
        values = {source.key for source in self.forward_values}
        return [s for s in self.multipliers if s.cause is Cause.DERIVATIVE and s.key not in values]

    @cached_property
    def terms(self) -> list[tuple[str, float]]:
        """Numbers that may not be added."""
        terms = {1.0: "a term 1 is left out", -1.0: "a term -1 is left out"}
        for number, line in epsilons(self.loss, any_size=True) if self.loss else ():
            terms.setdefault(number, f"the term {number:g} of {line.place} is left out")
        return [(words, number) for number, words in terms.items()]

    @cached_property
    def entries(self) -> list[Source]:
        """Ones at the entries that the loss picks out, such as those of the targets."""
        return _distinct(read_entries(self.loss)) if self.loss else []

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
                words = f"{CONFUSED}: {n:g} and {n - 1:g} ({name})"
                numbers.setdefault(n / (n - 1), (words, Cause.FACTOR))
                numbers.setdefault((n - 1) / n, (words, Cause.FACTOR))
        return [(words, cause, c) for c, (words, cause) in numbers.items()]


def _distinct(sources: Any) -> list[Source]:
    """The sources with different arrays, the first of those that are equal."""
    kept: dict[bytes, Source] = {}
    for source in islice(sources, 400):
        kept.setdefault(source.key, source)
    return list(kept.values())


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
