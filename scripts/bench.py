"""Measures a suite: python scripts/bench.py --suite=dense [--runs=5] [--json=FILE]

Hand-written against jax.grad of the same forward, in one process, interleaved A B A B. A run's figure is the minimum of
its repeats; the median over the runs is printed. Ratios above 1 favour the hand-written form. A suite is a file
bench/suites/NAME.py with a function cases() that yields Race objects.
"""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from pathlib import Path

import jax
from absl import flags
from tqdm import tqdm

from jaxbp.commands import cli
from jaxbp.errors import unknown
from jaxbp.files import write_json
from jaxbp.machine import installed, machine

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from bench.race import measure, show  # noqa: E402  of the clone, which is not installed

flags.DEFINE_string("suite", "dense", "name of a file in bench/suites")
flags.DEFINE_string("json", None, "also write machine and rows to this file")
flags.DEFINE_integer("runs", 5, "number of runs whose median is reported", lower_bound=1)


def main(words: list[str]) -> int:
    if words:
        raise unknown("option", words[0], ["--suite", "--json", "--runs"])
    suites = [path.stem for path in (ROOT / "bench" / "suites").glob("[!_]*.py")]
    if flags.FLAGS.suite not in suites:
        raise unknown("suite", flags.FLAGS.suite, suites)
    cases = importlib.import_module(f"bench.suites.{flags.FLAGS.suite}").cases()
    facts = machine() | {"date": datetime.now(UTC).date().isoformat()}
    facts["versions"] |= {name: installed(name) for name in ("torch", "scikit-learn", "flax")}
    print(
        f"{facts['platform']} ({facts['device']}), {facts['threads']} threads, jax {jax.__version__}, "
        f"{facts['date']}; median of {flags.FLAGS.runs} runs"
    )
    rows = []
    for race in tqdm(cases, unit="case", disable=None, leave=False):
        for row in measure(race, flags.FLAGS.runs):
            rows.append(row)
            tqdm.write(show(row))
    if flags.FLAGS.json:
        write_json(Path(flags.FLAGS.json), {"machine": facts, "rows": rows})
    return 0


if __name__ == "__main__":
    cli.run(main)
