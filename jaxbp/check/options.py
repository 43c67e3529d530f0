"""A function in every setting of its options: an error behind an option that is off is not seen.

Few settings are all tried; of many, so many that every pair of two options' values occurs. The first value of each
option is its rest. A setting that fails is shortened: options go back to rest while it still fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxbp.check.calls import first_line
from jaxbp.check.judge import Level, examine
from jaxbp.check.lines import Ran, backward_lines, listed
from jaxbp.check.problem import Problem
from jaxbp.check.report import Report
from jaxbp.errors import InputError

Options = Mapping[str, Sequence[Any]]  # keyword -> the values that it is tried with
Choice = tuple[int, ...]  # for each option, which of its values
FEW = 16  # settings up to this number are all tried
REFUSALS = (ValueError, NotImplementedError, AssertionError)  # how a function says that options do not go together


@dataclass(frozen=True)
class Setting:
    """One setting of the options, and what the check said of it. shortest: no shorter one fails."""

    options: dict[str, str]  # every option, its value in words
    moved: tuple[str, ...]  # the options that are not at rest
    report: Report | None  # None: the function refuses this setting
    refusal: str = ""
    shortest: bool = False

    @property
    def verdict(self) -> str:
        """As of a report, or how the function refuses the setting."""
        return self.report.verdict if self.report else f"refused: {self.refusal}"

    @property
    def failed(self) -> bool:
        """The derivative is wrong here."""
        return self.verdict == "FAIL"

    def __str__(self) -> str:
        return ", ".join(f"{name}={self.options[name]}" for name in self.moved) or "every option at its first value"


@dataclass(frozen=True)
class OptionsReport(Report):
    """The outcome in every setting. Leaves and findings are those of the shortest setting that fails, or of the rest.

    unrun: lines of the hand-written derivative that no setting ran.
    """

    settings: tuple[Setting, ...] = ()
    unrun: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """No setting fails."""
        return not any(setting.failed for setting in self.settings)

    @property
    def verdict(self) -> str:
        """The worst of all settings."""
        verdicts = {setting.verdict for setting in self.settings}
        return next(verdict for verdict in ("FAIL", "not checked", "pass") if verdict in verdicts)

    def __str__(self) -> str:
        tried = [setting for setting in self.settings if setting.report is not None]
        count = sum(setting.verdict == self.verdict for setting in tried)
        lines = [f"gradient check of {self.name}: {self.verdict} in {count} of {len(tried)} settings", ""]
        lines += _table(self.settings)
        for setting in (setting for setting in tried if setting.shortest):
            lines += [
                "",
                f"fails with {setting}:",
                *(f"    {line}".rstrip() for line in str(setting.report).split("\n")),
            ]
        if self.unrun:
            lines += ["", "lines of the hand-written derivative that no setting ran:"]
            lines += [f"    {line}" for line in self.unrun]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report in plain values, for JSON; every setting with its own."""
        row = lambda s: {"options": s.options, "refusal": s.refusal, "shortest": s.shortest}
        settings = [row(s) | ({} if s.report is None else {"report": s.report.to_json()}) for s in self.settings]
        return super().to_json() | {"settings": settings, "unrun": list(self.unrun)}


def examine_options(
    problem: Callable[[dict[str, Any]], Problem],
    call: Callable[[dict[str, Any]], Any],
    options: Options,
    level: Level,
    accuracy: float,
    seed: int,
) -> OptionsReport:
    """problem(setting), examined in every setting, the shortest that fail first.

    call(setting) calls the function itself. A setting that it refuses by a REFUSAL is left out. Any other error, and
    one in the derivative alone, is an InputError.
    """
    values = _values(options)
    ran = Ran()
    settings: dict[Choice, Setting] = {}

    def tried(choice: Choice) -> Setting:
        nonlocal ran
        if choice not in settings:
            keywords = {name: values[name][i] for name, i in zip(values, choice, strict=True)}
            words = {name: _words(values[name], i) for name, i in zip(values, choice, strict=True)}
            moved = tuple(name for name, i in zip(values, choice, strict=True) if i)
            report, refusal = None, ""
            try:
                case = problem(keywords)
                ran |= backward_lines(case)
                report = examine(case, level, accuracy, seed)
            except InputError as failure:
                refusal = _refusal(lambda: call(keywords))
                if not refusal:
                    everything = ", ".join(f"{name}={text}" for name, text in words.items())
                    raise InputError(f"with {everything}: {failure}") from None
            settings[choice] = Setting(words, moved, report, refusal)
        return settings[choice]

    sizes = [len(values[name]) for name in values]
    choices = sorted(_choices(sizes), key=_moved)
    for choice in choices:
        tried(choice)
    failing = [choice for choice in choices if settings[choice].failed]
    for choice in {_shortened(choice, lambda choice: tried(choice).failed): None for choice in failing}:
        setting = settings[choice]
        settings[choice] = Setting(setting.options, setting.moved, setting.report, shortest=True)
    ordered = [settings[choice] for choice in sorted(settings, key=_moved)]
    ordered.sort(key=lambda setting: (not setting.shortest, not setting.failed, setting.report is None))
    reports = [setting.report for setting in ordered if setting.report is not None]
    if not reports:
        raise InputError(f"no setting of the options can be checked: {ordered[0].refusal}")
    first = reports[0]
    return OptionsReport(
        first.name, first.leaves, first.findings, first.step, tuple(ordered), tuple(listed(ran.rest()))
    )


def _refusal(call: Callable[[], Any]) -> str:
    """How the function refuses its arguments; "" where it does not."""
    try:
        call()
    except REFUSALS as error:
        return f"{type(error).__name__}: {first_line(error)}"
    except Exception:
        return ""
    return ""


def _values(options: Options) -> dict[str, list]:
    """The options with their values as lists."""
    if not isinstance(options, Mapping) or not options:
        raise InputError(
            f"options must be a dict of a keyword's values, as in {{'causal': [False, True]}}, got {options!r}"
        )
    for name, values in options.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise InputError(f"options['{name}'] must be a list of at least one value, got {values!r}")
    return {name: list(values) for name, values in options.items()}


def _moved(choice: Choice) -> int:
    """How many options are not at rest."""
    return sum(i > 0 for i in choice)


def _choices(sizes: list[int]) -> list[Choice]:
    """All settings, or so many that each pair of values of two options is in one; the rest is the first."""
    if math.prod(sizes) <= FEW or len(sizes) == 1:
        return list(itertools.product(*map(range, sizes)))
    choices = [(0,) * len(sizes)]
    pending = set(_pairs(sizes)) - set(_inside(choices[0]))
    while pending:
        choices.append(_covering(sizes, pending))
        pending -= set(_inside(choices[-1]))
    return choices


def _covering(sizes: list[int], pending: set) -> Choice:
    """A setting with one of the pending pairs, and then, option by option, with as many of them as it can have."""
    chosen = dict(min(pending))
    for option, size in enumerate(sizes):
        if option not in chosen:
            new = lambda value, option=option: sum(
                tuple(sorted([(option, value), pair])) in pending for pair in chosen.items()
            )
            chosen[option] = max(range(size), key=new)
    return tuple(chosen[option] for option in range(len(sizes)))


def _pairs(sizes: list[int]) -> Iterator[tuple]:
    """Every pair of values of two options: ((option, value), (option, value)), the first option before the second."""
    singles = [(option, value) for option, size in enumerate(sizes) for value in range(size)]
    return ((a, b) for a, b in itertools.combinations(singles, 2) if a[0] != b[0])


def _inside(choice: Choice) -> Iterator[tuple]:
    """The pairs that a setting covers."""
    return itertools.combinations(enumerate(choice), 2)


def _shortened(choice: Choice, fails: Callable[[Choice], bool]) -> Choice:
    """A setting that fails, with every option back at rest that it fails without."""
    for option, i in enumerate(choice):
        shorter = (*choice[:option], 0, *choice[option + 1 :])
        if i and fails(shorter):
            choice = shorter
    return choice


def _words(values: list, i: int) -> str:
    """A value as the report shows it; its place in the list where another value has the same words."""
    words = [_word(value) for value in values]
    return words[i] if words.count(words[i]) == 1 else f"{words[i]} ({i + 1} of {len(words)})"


def _word(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)) and np.ndim(value):
        return f"{value.dtype}{list(value.shape)}"
    return getattr(value, "__name__", None) or repr(value)


def _table(settings: Sequence[Setting]) -> list[str]:
    """One line a setting, under the options' names, with the columns aligned."""
    rows = [(*settings[0].options, "verdict")] + [(*s.options.values(), s.verdict) for s in settings]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
