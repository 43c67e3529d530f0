"""The changes that a program with all its mutants holds, and the mutants: one change, or several at once."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxbp.check.diagnosis.flow import Op, Piece
from jaxbp.check.report import Cause, Explanation

CARRIED = "the delta is not handed on to the run before (truncated at one step), through operand"
FEW = 8  # a line that runs so often has mutants of single runs too


class Change(NamedTuple):
    """One place where the backward pass can go wrong, and how."""

    cause: Cause
    words: str
    place: str
    kind: str
    stack: tuple  # the way through the user's code that leads here: equal for the steps of a loop

    @property
    def text(self) -> str:
        """What is wrong, and where."""
        return f"{self.words} {self.place}"


Mutant = tuple[Explanation, frozenset[int]]  # what it is, and the changes that it makes


@dataclass
class Book:
    """What is recorded while the program is traced."""

    changes: list[Change] = field(default_factory=list)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    joint: dict[tuple, None] = field(default_factory=dict)  # (words, stack) of changes made together
    lengths: set[int] = field(default_factory=set)  # of loops: an axis of that length may be time

    def number(self, path: str, cause: Cause, words: str, where: Op | Piece) -> int:
        """The change's number. Tracing meets each one several times; it keeps its first number."""
        if (path, words) not in self.numbers:
            last = where.last if isinstance(where, Piece) else where
            kind = where.kind if isinstance(where, Piece) else where.title
            self.numbers[path, words] = len(self.changes)
            self.changes.append(Change(cause, words, where.place, kind, last.stack))
        return self.numbers[path, words]

    def combine(self, changes: Sequence[tuple[str, tuple]], sizes: Sequence[int]) -> None:
        """So many of these changes, (words, way through the code), may be made together."""
        for size in sizes:
            self.joint |= dict.fromkeys(itertools.combinations(dict.fromkeys(changes), size))

    def mutants(self) -> list[Mutant]:
        """Every mutant once."""
        mutants: dict[frozenset[int], Explanation] = {}
        for explanation, switches in self._all():
            mutants.setdefault(switches, explanation)
        return [(explanation, switches) for switches, explanation in mutants.items()]

    def _all(self) -> Iterator[Mutant]:
        loops: dict[tuple, list[int]] = defaultdict(list)
        kinds: dict[tuple, list[int]] = defaultdict(list)
        for i, change in enumerate(self.changes):
            loops[change.words, change.stack, change.kind].append(i)
            kinds[change.words, change.kind, change.cause].append(i)
        for members in loops.values():
            yield from self._of_line(members)
        for (words, kind, cause), members in kinds.items():
            if len({self.changes[i].stack for i in members}) > 1:
                name = "function written out so" if " " in kind else f"'{kind}'"
                places = dict.fromkeys(self.changes[i].text for i in members)
                text = " and ".join(places) if len(places) == 2 else f"{words} every {name}"
                yield Explanation(cause, text), frozenset(members)
        yield from _truncated([members for key, members in loops.items() if key[0].startswith(CARRIED)], self.changes)
        by_place: dict[tuple, list[int]] = defaultdict(list)
        for (words, stack, _), members in loops.items():
            by_place[words, stack] += members
        for together in self.joint:
            parts = [i for key in together for i in by_place.get(key, ())]
            if parts:
                texts = dict.fromkeys(self.changes[i].text for i in parts)
                yield Explanation(self.changes[parts[0]].cause, " and ".join(texts)), frozenset(parts)

    def _of_line(self, members: list[int]) -> Iterator[Mutant]:
        """A line's mutants: in all its runs, in one of a few, in all but the first or the last."""
        cause, words, place, _, _ = self.changes[members[0]]
        text = f"{words} {place}"
        n = len(members)
        yield Explanation(cause, text if n == 1 else f"{text}, in each of its {n} runs"), frozenset(members)
        if n == 1:
            return
        if n <= FEW:
            for k, i in enumerate(members):
                yield Explanation(cause, f"{text}, in run {k + 1} of {n}"), frozenset([i])
        if cause is Cause.PATH:
            yield Explanation(Cause.LAST_STEP, f"{text}, in the last of {n} runs"), frozenset(members[-1:])
            yield Explanation(Cause.LAST_STEP, f"{text}, in the first of {n} runs"), frozenset(members[:1])
            yield Explanation(Cause.OVERWRITTEN, f"{text}, in all runs but the last"), frozenset(members[:-1])
            yield Explanation(Cause.OVERWRITTEN, f"{text}, in all runs but the first"), frozenset(members[1:])


def _truncated(carried: list[list[int]], changes: Sequence[Change]) -> Iterator[Mutant]:
    """A loop whose deltas are not handed on after some steps: all that it carries at once, or each by itself."""
    for length in dict.fromkeys(map(len, carried)):
        lines = [members for members in carried if len(members) == length]
        for together in [[members] for members in lines] + ([lines] if len(lines) > 1 else []):
            places = " and ".join(dict.fromkeys(changes[members[0]].place for members in together[:3]))
            every = [(start, period) for period in (2, 3, 4) for start in range(period)]
            single = [(start, length) for start in range(min(length, FEW))]
            for start, period in every + single * (len(together) > 1):
                runs = range(start, length, period)
                words = f"after every {period} steps" if len(runs) > 1 else f"{length - start} steps from the end"
                text = f"the delta is not handed on (truncated {words}) through {places}"
                yield Explanation(Cause.PATH, text), frozenset(members[i] for members in together for i in runs)
