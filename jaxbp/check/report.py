"""The outcome of a check: one row a leaf, one line a law, the likely causes, and the first wrong step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """A likely cause, in the words of the report."""

    FACTOR = "wrong factor"
    SIGN = "sign flipped"
    MEAN = "mean instead of sum"
    SUM = "sum instead of mean"
    ZERO = "zero"
    MISSING = "missing leaf"
    SWAPPED = "leaves swapped"
    CONJUGATE = "conjugate"
    TRANSPOSED = "transposed"
    AXES = "summed over the wrong axes"
    BROADCAST = "broadcasting error"
    FLIPPED = "kernel not flipped"
    DERIVATIVE = "activation derivative left out"
    POINT = "activation derivative taken at the wrong point"
    SLOPE = "wrong activation derivative"
    JACOBIAN = "only the diagonal of a Jacobian"
    OPERAND = "wrong operand in a product"
    STEPPED = "weights already stepped"
    MASK = "mask of the wrong layer"
    STALE = "stale cache"
    DROPPED = "last example dropped"
    OVERWRITTEN = "overwritten instead of added"
    TWICE = "counted twice"
    SHIFTED = "time steps shifted"
    LAST_STEP = "last time step dropped"
    ORDER = "order of gates confused"
    PATH = "a path is missing"
    PENALTY = "penalty"
    DEVICES = "sum over devices"
    PRECISION = "computed in a lower precision"
    KINK = "outside the bounds of a kink"
    AUTODIFF = "copy of autodiff"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Explanation:
    """A cause that reproduces the wrong numbers, and in words what it makes of them."""

    cause: Cause
    text: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.text}"


@dataclass(frozen=True)
class Leaf:
    """The verdict on one leaf of a gradient. Errors are relative (`truth`); nan where a method does not apply."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    verdict: str  # "pass", "FAIL", "kink": right, with entries at a kink; "not checked": nothing but kinks
    error: float  # against autodiff, the largest entry
    difference_error: float  # against central differences along random directions
    index: tuple[int, ...] = ()  # where it is worst, with both values there
    hand: float = math.nan
    truth: float = math.nan
    low: float = math.nan  # at a kink there: the slopes of the two sides, between which every slope is right
    high: float = math.nan
    wrong: int = 0  # entries that are wrong
    causes: tuple[Explanation, ...] = ()  # the likeliest first

    @property
    def passed(self) -> bool:
        """Nothing is known to be wrong with the leaf: at a kink its slopes are between those of the two sides."""
        return self.verdict != "FAIL"

    @property
    def ratio(self) -> float:
        """Hand-written over true at the worst entry."""
        return self.hand / self.truth if self.truth else math.nan


@dataclass(frozen=True)
class Finding:
    """The outcome of one law or method for the whole function; `passed` is None where it could not be asked."""

    method: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Report:
    """The outcome of one check. str(report) is the text that people read."""

    name: str
    leaves: tuple[Leaf, ...]
    findings: tuple[Finding, ...] = ()
    step: str = ""  # for a model: the first wrong layer in backward order, and what is wrong with it

    @property
    def passed(self) -> bool:
        """No leaf failed and no law is broken. A leaf of nothing but kinks is not checked, and has not failed."""
        return all(leaf.passed for leaf in self.leaves) and all(f.passed is not False for f in self.findings)

    @property
    def verdict(self) -> str:
        """ "FAIL", "not checked" where a leaf is nothing but kinks, or "pass"."""
        unchecked = any(leaf.verdict == "not checked" for leaf in self.leaves)
        return "FAIL" if not self.passed else "not checked" if unchecked else "pass"

    @property
    def exit_status(self) -> int:
        """What a command ends with: 0 for pass, 1 for FAIL, 2 for not checked."""
        return ("pass", "FAIL", "not checked").index(self.verdict)

    def __getitem__(self, path: str) -> Leaf:
        """The leaf of that path. Raises KeyError for another path."""
        return {leaf.path: leaf for leaf in self.leaves}[path]

    def __str__(self) -> str:
        failed = [leaf for leaf in self.leaves if not leaf.passed]
        broken = sum(finding.passed is False for finding in self.findings)
        right = f"{sum(leaf.verdict in ('pass', 'kink') for leaf in self.leaves)} of {len(self.leaves)} leaves right"
        laws = f", {broken} law{'s' if broken > 1 else ''} broken" if broken else ""
        lines = [f"gradient check of {self.name}: {self.verdict}, {right}{laws}", "", *table(self.leaves)]
        for causes, leaves in _told_once(failed).items():
            likeliest, *others = causes
            lines += ["", f"{', '.join(leaf.path for leaf in leaves)}: likely cause: {likeliest}"]
            lines += [f"    or {other}" for other in others]
            for leaf in leaves:
                if 0 < leaf.wrong < math.prod(leaf.shape):
                    verb = "is" if leaf.wrong == 1 else "are"
                    lines += [f"    {leaf.wrong} of {math.prod(leaf.shape)} entries of {leaf.path} {verb} wrong"]
        if self.step:
            lines += ["", f"first wrong step in backward order: {self.step}"]
        if self.findings:
            mark = {True: "pass", False: "FAIL", None: "-   "}
            lines += ["", *(f"{mark[finding.passed]}  {finding.method}: {finding.text}" for finding in self.findings)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report in plain values, for JSON; numbers that are not finite become text."""
        plain = lambda v: str(v) if isinstance(v, float) and not math.isfinite(v) else v
        rows = [asdict(leaf) | {"ratio": leaf.ratio} for leaf in self.leaves]
        rows = [{key: plain(value) for key, value in row.items()} for row in rows]
        return {
            "name": self.name,
            "passed": self.passed,
            "verdict": self.verdict,
            "step": self.step,
            "leaves": rows,
            "findings": [asdict(f) for f in self.findings],
        }


def _told_once(failed: list[Leaf]) -> dict[tuple[Explanation, ...], list[Leaf]]:
    """The likeliest causes of the leaves that fail, those of one mistake together; no cause is told in two ways."""
    nothing = (Explanation(Cause.UNKNOWN, "none of the known mistakes gives these numbers"),)
    told: dict[tuple[Explanation, ...], list[Leaf]] = {}
    for leaf in failed:
        causes: list[Explanation] = []
        for cause in leaf.causes or nothing:
            if not any(other.cause == cause.cause or other.text.startswith(cause.text) for other in causes):
                causes.append(cause)
        shared = next((key for key in told if key[0] == causes[0]), tuple(causes[:4]))
        told.setdefault(shared, []).append(leaf)
    return told


def table(leaves: tuple[Leaf, ...]) -> list[str]:
    """One line a leaf, under a line of headings, with the columns aligned."""
    head = ("leaf", "shape", "dtype", "autodiff", "differences", "worst at", "hand-written", "true", "ratio", "verdict")
    number = lambda v, form: "-" if math.isnan(v) else format(v, form)
    rows = [head] + [
        (
            leaf.path,
            str(leaf.shape),
            leaf.dtype,
            number(leaf.error, ".1e"),
            number(leaf.difference_error, ".1e"),
            str(leaf.index) if leaf.index else "-",
            number(leaf.hand, ".6g"),
            f"{leaf.low:.6g} .. {leaf.high:.6g}" if leaf.low < leaf.high else number(leaf.truth, ".6g"),
            number(leaf.ratio, ".6g"),
            leaf.verdict,
        )
        for leaf in leaves
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
