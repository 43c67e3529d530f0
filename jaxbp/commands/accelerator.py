"""Tries the device that is there, in at most ten minutes:

    jaxbp accelerator [--minutes=10] [--json=FILE]

Gradients of every layer's cases in float32 and bfloat16 against float64 on the CPU; whole models at sizes that fill the
device, hand-written against jax.grad, with the share of the device's speed (model flops utilisation) and their memory.
Writes one JSON file with the date and the machine. On a CPU the sizes are small. The models are in jaxbp's repository:
call it in a clone. What there was no time for is named in the file.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from jaxbp.commands import cli
from jaxbp.commands.bench import enter_clone
from jaxbp.devices.gradients import gradient_rows, layer_cases
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.summary import summary
from jaxbp.training.report.language import once, product_speed
from jaxbp.typed import Positive, Typed

SHARE = 0.6  # of the time, for the gradients


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        minutes: after which nothing new is begun
        json: the file; None: accelerator-DATE-DEVICE.json in the working folder
    """

    minutes: Positive = 10.0
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Tries the device, and returns the exit status: 1 where a gradient is further off than allowed."""
    options = cli.read_all(Options, words)
    enter_clone()
    if "cpu" not in (jax.config.values["jax_platforms"] or "cpu"):
        raise InputError("float64 is computed on the CPU: add it to JAX_PLATFORMS, as in JAX_PLATFORMS=cuda,cpu")
    device = jax.devices()[0]
    facts = machine() | {"date": datetime.now(UTC).date().isoformat()}
    name = "-".join(str(facts["device"]).split()).replace("/", "-")
    file = Path(options.json or f"accelerator-{facts['date']}-{name}.json")
    start = time.monotonic()
    rows, unchecked = checked(device, start + 60 * SHARE * options.minutes)
    wrong = [row for row in rows if not row["passed"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} gradients are as exact as they must be, {len(unchecked)} not tried")
    for row in wrong:
        print(f"  {row['case']} in {row['dtype']}: off by {row['error']:.2g}, allowed {row['allowed']:.2g}")
    models, unmeasured = measured(device, start + 60 * options.minutes)
    left_out = {"gradients": unchecked, "models": unmeasured}
    write_json(file, {"machine": facts, "gradients": rows, "models": models, "left_out": left_out})
    print(file)
    return 1 if wrong else 0


def checked(device: jax.Device, deadline: float) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each case and dtype, the cases that there was no time for)."""
    rows: list[dict[str, Any]] = []
    cases = layer_cases()
    for i, case in enumerate(tqdm(cases, unit="case", disable=None, leave=False)):
        if rows and time.monotonic() > deadline:
            return rows, [str(case) for case in cases[i:]]
        rows += [asdict(row) | {"passed": row.passed} for row in gradient_rows(case, device)]
    return rows, []


def measured(device: jax.Device, deadline: float) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each model and dtype, the models that there was no time for)."""
    race = importlib.import_module("bench.race")
    works = list(importlib.import_module("bench.suites.accelerator").works())
    rows: list[dict[str, Any]] = []
    for i, work in enumerate(works):
        if rows and time.monotonic() > deadline:
            return rows, [f"{work.name}, {work.dtype}" for work in works[i:]]
        row = race.measure(work.race(), 1)[0]
        total = summary(once(work.model), work.spec).total
        operations = total.forward + total.backward
        speed = product_speed(work.dtype)
        row |= {
            "operations": operations,
            "product_speed": speed,
            "utilisation": operations / (row["hand_ms"] / 1e3) / speed,
            "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        }
        rows.append(row)
        tqdm.write(f"{race.show(row)}   {row['utilisation']:.0%} of a large product's speed")
    return rows, []
