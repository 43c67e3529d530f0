"""Where each system of the literature is shown: python -m proofs.coverage [--check].

`docs/coverage.tsv` is written by hand: section, level, name, status, where, note. `where` are places with spaces
between: `tests/a.py::test_b`, `docs/a.md#heading`, a file, or `jaxbp:command`. This follows each place and writes
`docs/coverage.md`. The exit status is 1 where a place does not exist, where a row lacks a place or a reason, or, with
`--check`, where the page is not that of the table.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jaxbp.commands import cli
from jaxbp.commands.__main__ import COMMANDS, guarded
from jaxbp.typed import Typed

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "coverage.tsv"
PAGE = ROOT / "docs" / "coverage.md"
STATUSES = ("works", "partial", "left out")
SECTIONS = {
    "F": "Fundamentals",
    "W": "Worked examples",
    "A": "Activations",
    "L": "Losses",
    "Y": "Layers and networks",
    "R": "Recurrent networks",
    "M": "Matrices",
    "O": "Optimization",
    "S": "Second order",
    "C": "Credit assignment",
    "N": "Without gradients",
    "V": "Verification",
    "D": "Data",
    "Z": "Pictures and programs",
    "X": "Cost",
}
INTRODUCTION = """# What is covered

Systems, methods and worked examples of the literature on backpropagation, and where each is shown. "Works" means that a
test, a block of these pages, a config or a command shows it. "Partial" and "left out" have their reason. The level says
how prominent it is. `python -m proofs.coverage` follows every place and writes this page from `docs/coverage.tsv`.
"""


class Row(NamedTuple):
    """A row of the table."""

    section: str
    level: str
    name: str
    status: str
    where: str
    note: str


@cache
def text(path: Path) -> str:
    """The text of a file, read once."""
    return path.read_text()


def anchor(heading: str) -> str:
    """The anchor that a page gives to a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def exists(place: str) -> bool:
    """Whether a place is there: a test in its file, a heading on its page, a command, a file."""
    if place.startswith("jaxbp:"):
        return place.removeprefix("jaxbp:") in COMMANDS
    name, _, test = place.partition("::")
    name, _, part = name.partition("#")
    if not (ROOT / name).is_file():
        return False
    if test:
        return f"\ndef {test}(" in text(ROOT / name)
    return not part or part in map(anchor, re.findall(r"^#+ (.*)$", text(ROOT / name), re.MULTILINE))


def faults(row: Row) -> list[str]:
    """What is wrong with a row, one line each."""
    lines = [f"{row.name}: {place} does not exist" for place in row.where.split() if not exists(place)]
    if row.section not in SECTIONS or row.status not in STATUSES:
        lines.append(f"{row.name}: unknown section or status: {row.section}, {row.status}")
    elif not (row.where if row.status == "works" else row.note):
        lines.append(f"{row.name}: '{row.status}' needs {'a place' if row.status == 'works' else 'its reason'}")
    return lines


def page(rows: list[Row]) -> str:
    """The page: counts by section, then a table of each."""
    counts = Counter((row.section, row.status) for row in rows)
    lines = [INTRODUCTION, "| section | works | partial | left out |", "|---|---|---|---|"]
    for key, title in [*SECTIONS.items(), ("", "all")]:
        numbers = (
            sum(n for (section, s), n in counts.items() if s == status and key in section) for status in STATUSES
        )
        lines.append(f"| {title} | {' | '.join(map(str, numbers))} |")
    for key, title in SECTIONS.items():
        lines += ["", f"## {title}", "", "| what | level | status | where |", "|---|---|---|---|"]
        for row in (row for row in rows if row.section == key):
            where = [*(f"`{place}`" for place in row.where.split()), *([row.note] if row.note else [])]
            lines.append(f"| {row.name} | {row.level} | {row.status} | {'; '.join(where)} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        check: write nothing, and fail where the page is not that of the table
    """

    check: bool = False


def main(words: Sequence[str]) -> int:
    """Follows the places and writes the page, or compares it with the one that is there; returns the exit status."""
    options = cli.read_all(Options, words)
    with TABLE.open(newline="") as file:
        rows = [Row(*fields) for fields in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)][1:]
    lines = [line for row in rows for line in faults(row)]
    if not options.check:
        PAGE.write_text(page(rows))
    elif not PAGE.exists() or PAGE.read_text() != page(rows):
        lines.append("docs/coverage.md is not that of docs/coverage.tsv: run python -m proofs.coverage")
    print("\n".join(lines) or f"{len(rows)} rows, every place exists")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(guarded(main))
