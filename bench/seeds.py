"""Ten seeds of digits_mlp as one program against ten runs after one another.

    python -m bench.seeds [--seeds=10] [--epochs=40]

Both train from nothing, compilation included, and evaluate after every epoch; the runs after one another also write
their checkpoints, as runs do. The largest difference of the two last rows of metrics is told, relative to the larger.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.machine import provenance
from jaxbp.training.loop import train
from jaxbp.training.search import POINTS, search
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        seeds: how many runs
        epochs: of each
    """

    seeds: Count = 10
    epochs: Count = 40


def main(words: Sequence[str]) -> int:
    """Measures, prints the figures as JSON, and returns the exit status."""
    options = cli.read_all(Options, words)
    config = EXPERIMENTS["digits_mlp"]
    config = replace(config, run=replace(config.run, epochs=options.epochs))
    splits = config.load_data()
    clock = lambda: (time.perf_counter(), time.process_time())
    with tempfile.TemporaryDirectory() as folder:
        start = clock()
        search(config, f"{folder}/search", {}, options.seeds, at_once=options.seeds)
        between = clock()
        rows = [
            train(replace(config, run=replace(config.run, seed=seed)), f"{folder}/{seed}", splits=splits)
            for seed in range(options.seeds)
        ]
        end = clock()
        lines = (Path(folder) / "search" / POINTS).read_text().splitlines()
    searched = [json.loads(line)["metrics"] for line in lines]
    differences = [
        abs(row[name] - other[name]) / max(abs(row[name]), abs(other[name]), 1e-30)
        for row, other in zip(rows, searched, strict=True)
        for name in other
    ]
    together = [b - a for a, b in zip(start, between, strict=True)]
    alone = [b - a for a, b in zip(between, end, strict=True)]
    figures = {
        **asdict(options),
        "seconds together and after one another": [round(together[0], 1), round(alone[0], 1)],
        "seconds of all cores": [round(together[1], 1), round(alone[1], 1)],
        "times as fast": round(alone[0] / together[0], 2),
        "times as few seconds of all cores": round(alone[1] / together[1], 2),
        "largest relative difference of a metric": float(np.max(differences)),  # nan where one is
        "load": Path("/proc/loadavg").read_text().split()[0],
    }
    print(json.dumps(figures | {"machine": provenance()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
