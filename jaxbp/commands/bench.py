"""Measures a suite:

    jaxbp bench [NAME] [--runs=5] [--json=FILE]

Hand-written against jax.grad of the same forward, in one process, interleaved A B A B. A run's figure is the minimum of
its repeats; the median over the runs is printed. Ratios above 1 favour the hand-written form. A suite is a file
bench/suites/NAME.py of the repository with a function cases() that yields Race objects.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jax
from tqdm import tqdm

from jaxbp.commands import cli
from jaxbp.errors import InputError, unknown
from jaxbp.files import write_json
from jaxbp.machine import installed, machine
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        suite: name of a file in bench/suites
        runs: number of runs whose median is reported
        json: also write machine and rows to this file
    """

    suite: str = "dense"
    runs: Count = 5
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Measures the suite that the words name, and returns the exit status."""
    options = cli.read_all(Options, words)
    suites = [path.stem for path in enter_clone().glob("bench/suites/[!_]*.py")]
    if options.suite not in suites:
        raise unknown("suite", options.suite, suites)
    race = importlib.import_module("bench.race")
    cases = importlib.import_module(f"bench.suites.{options.suite}").cases()
    facts = machine() | {"date": datetime.now(UTC).date().isoformat()}
    facts["versions"] |= {name: installed(name) for name in ("torch", "scikit-learn", "flax")}
    print(
        f"{facts['platform']} ({facts['device']}), {facts['threads']} threads, jax {jax.__version__}, "
        f"{facts['date']}; median of {options.runs} runs"
    )
    rows = []
    for case in tqdm(cases, unit="case", disable=None, leave=False):
        for row in race.measure(case, options.runs):
            rows.append(row)
            tqdm.write(race.show(row))
    if options.json:
        write_json(Path(options.json), {"machine": facts, "rows": rows})
    return 0


def enter_clone() -> Path:
    """A clone of jaxbp's repository, whose suites can be imported from now on. Raises InputError outside of one."""
    clones = [folder for folder in (Path.cwd(), Path(__file__).parents[2]) if (folder / "bench/suites").is_dir()]
    if not clones:
        raise InputError("the suites are in jaxbp's repository, not in the package: call this in a clone of it")
    sys.path.insert(0, str(clones[0]))
    return clones[0]
