"""The hand-written gradient itself, with one of its lines mended: what makes it right says what was wrong, and where.

The mutants break the right gradient until it is as wrong as the hand-written one; here it is the other way round. A
line of the hand-written gradient gets what it may lack (a slope, a factor, a term, an epsilon), loses what it may have
too much, or reads another value, in all its runs at once. A mend counts if it makes a wrong leaf right and no right
leaf wrong. So it does not matter how either program is laid out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jax.extend.core import Literal

from jaxbp.check.diagnosis.flow import Op
from jaxbp.check.diagnosis.mends import CONFUSED, TOO_OFTEN, Mends
from jaxbp.check.diagnosis.patterns import same
from jaxbp.check.diagnosis.rerun import Array, Change
from jaxbp.check.diagnosis.sources import is_real
from jaxbp.check.diagnosis.wholes import Mend
from jaxbp.check.report import Cause, Explanation

TOGETHER = 256  # mends in one go
LARGEST = 2**26  # entries of all values in all mends of a line
LAST = (Cause.OPERAND, Cause.PATH)  # said after the others


class Repair(NamedTuple):
    """A mend that makes these leaves right."""

    explanation: Explanation
    paths: frozenset[str]


@dataclass(frozen=True)
class Repairs:
    """The search."""

    mends: Mends
    paths: Sequence[str]  # of the program's outputs

    @np.errstate(all="ignore")
    def all(self) -> list[Repair]:
        """The repairs, those of the most leaves first, and of these the earliest line first."""
        bad = frozenset(i for i, path in enumerate(self.paths) if not self._is(path, self.mends.wrong[path]))
        reached = self.mends.hand.reached()
        repairs = list(self._by_counts(reached, bad))
        size = sum(self.mends.hand.flow.aval(n).size for op in self.mends.hand.flow.ops for n in op.outputs)
        for full in (True, False):
            for members in self._lines(reached, bad, full):
                mends = list(self.mends.of_line(members))
                for start in range(0, len(mends), TOGETHER):
                    part = mends[start : start + TOGETHER]
                    if size * len(part) <= LARGEST:
                        repairs += self._tried(members, part, bad)
            if repairs:
                break
        doubtful = lambda explanation: (
            explanation.cause in LAST,
            CONFUSED in explanation.text,
            TOO_OFTEN in explanation.text,
            explanation.cause is not Cause.TWICE,
        )
        return sorted(repairs, key=lambda repair: (-len(repair.paths), *doubtful(repair.explanation)))

    def _is(self, path: str, array: Array) -> bool:
        return same(array, self.mends.truth[path], self.mends.close)

    def _lines(self, reached: dict[int, frozenset[int]], bad: frozenset[int], full: bool) -> Iterator[list[Op]]:
        """The lines on which all wrong leaves depend, and no others; not full: some wrong ones."""
        for ops in self.mends.hand.flow.runs.values():
            if len(ops[0].outputs) != 1 or not self.mends.hand.flow.floating(ops[0].outputs[0]) or not ops[0].lines:
                continue
            leaves = frozenset().union(*(reached.get(op.outputs[0], frozenset()) for op in ops))
            if leaves and (leaves == bad if full else leaves < bad):
                yield ops

    def _tried(self, members: list[Op], mends: list[Mend], bad: frozenset[int]) -> Iterator[Repair]:
        outputs = self.mends.hand.again(members, [mend.change for mend in mends])
        right = np.stack([self._rows_right(path, rows) for path, rows in zip(self.paths, outputs, strict=True)])
        good = [i for i in range(len(self.paths)) if i not in bad]
        for column, mend in enumerate(mends):
            mended = frozenset(self.paths[i] for i in bad if right[i, column])
            if mended and right[good, column].all():
                yield Repair(replace(mend.explanation, text=f"{mend.explanation.text}{mend.more()}"), mended)

    def _rows_right(self, path: str, rows: Array) -> Array:
        """For every mend, whether the leaf is right."""
        truth = self.mends.truth[path]
        if rows.shape[1:] != truth.shape:
            return np.zeros(len(rows), bool)
        gap = np.abs(rows - truth).reshape(len(rows), -1).max(1, initial=0)
        return gap <= self.mends.close * max(float(np.max(np.abs(truth), initial=0)), 1e-300)  # nan is not

    def _by_counts(self, reached: dict[int, frozenset[int]], bad: frozenset[int]) -> Iterator[Repair]:
        """A count that is wrong wherever it stands: the examples for the positions, one axis for another."""
        lines: dict[tuple, list[Op]] = defaultdict(list)
        for op in self.mends.hand.flow.ops:
            number = _divides_by(op)
            if number and reached.get(op.outputs[0], frozenset()) and reached[op.outputs[0]] <= bad:
                lines[round(number, 9), op.stack].append(op)
                lines[round(number, 9), ()].append(op)
        for (number, _), members in lines.items():
            mends = []
            beside = [("N stands for N - 1", number - 1), ("N - 1 stands for N", number + 1)] if number > 1 else []
            for name, n in [*beside, *self.mends.counts]:
                words = f"{name}: {number:g} stands for {n:g}, in {members[0].place} of the gradient"
                change = lambda v, run, operands, c=number / n: c * v
                mends.append(Mend(Explanation(Cause.FACTOR, words), Change(None, change)))
            yield from self._tried(members, mends, bad)


def _divides_by(op: Op) -> float | None:
    """The number that an operation divides by."""
    if op.name not in ("div", "mul"):
        return None
    numbers = [float(ref.val) for ref in op.inputs[-2:] if isinstance(ref, Literal) and is_real(ref.val)]
    if not numbers or not numbers[0]:
        return None
    return numbers[0] if op.name == "div" else 1 / numbers[0]
