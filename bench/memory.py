"""What recurrent cells remember: the error over the lag for cells that race, and Elman's error from step to step.

    python -m bench.memory [--cells=simple,lstm] [--lags=10,25,50,100] [--seeds=1] [--workdir=FOLDER] [--out=FILE.png]

The race is configs/adding.py with 32 units and 6,000 examples, where only cell and length change: all have the same
updates. Runs that the folder has are not made again. The other panel is configs/elman.py, whose delta goes
back no step here: the mean squared error of the test part at each step. Docs: docs/other_nets.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from jaxbp import Chain, Dense, Recurrent, Sigmoid, SimpleCell
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.config import Config, load, replace_keys
from jaxbp.models.rnn import Cell
from jaxbp.training.evaluate import make_prediction
from jaxbp.training.loop import train
from jaxbp.training.run import load as load_run
from jaxbp.training.search import POINTS, search
from jaxbp.typed import Count, NotEmpty, Range

CONFIGS = Path(__file__).parent.parent / "configs"
SHOWN = 24  # steps of Elman's task


@dataclass(frozen=True)
class Options(cli.WithPicture):
    """The options of the program.

    Args:
        cells: the cells that race
        lags: lengths of the adding problem; the numbers to add are half as far apart, on average
        seeds: runs of each
        epochs: of each
        workdir: folder of the runs
    """

    cells: Annotated[tuple[Cell, ...], NotEmpty()] = ("simple", "lstm")
    lags: Annotated[tuple[Annotated[int, Range(2)], ...], NotEmpty()] = (10, 25, 50, 100)
    seeds: Count = 1
    epochs: Count = 20
    workdir: str = "runs/memory"


def race(options: Options) -> dict[str, np.ndarray]:
    """Cell -> the mean squared error of the test part [lags, seeds]."""
    changes = {"data.examples": 6_000, "model.hidden": (32,), "run.epochs": options.epochs}
    config = replace_keys(load(CONFIGS / "adding.py"), changes | {"run.evaluate_every": options.epochs})
    grid = {"model.cell": options.cells, "data.length": list(map(str, options.lags))}
    search(config, Path(options.workdir) / "race", grid, options.seeds)
    errors: dict[tuple[str, str], list[float]] = {}
    for line in (Path(options.workdir) / "race" / POINTS).read_text().splitlines():
        run = json.loads(line)
        place = (run["keys"]["model.cell"], run["keys"]["data.length"])
        errors.setdefault(place, []).append(run["metrics"]["test_loss"] if run["metrics"] else np.nan)
    return {cell: np.array([errors[cell, lag] for lag in grid["data.length"]]) for cell in options.cells}


def by_step(config: Config, folder: Path) -> np.ndarray:
    """[length]: the mean squared error of the test part at each step. The run is trained where it is not there."""
    train(config, folder)
    run = load_run(folder)
    test = config.load_data().test
    return np.mean((make_prediction(run.model)(run.params, run.state, test.x) - test.y) ** 2, (0, 2))


def draw(steps: np.ndarray, errors: dict[str, np.ndarray], lags: Sequence[int], path: str) -> None:
    """Both panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    third = np.arange(SHOWN) % 3 == 1
    left.bar(np.arange(SHOWN), steps[:SHOWN], color=np.where(third, "C0", "0.7"))
    left.axhline(0.25, color="black", linestyle="--", linewidth=0.8)
    left.set(xlabel="step", ylabel="mean squared error", title="xor over time: the third bit follows from two")
    for name, runs in errors.items():
        right.plot(lags, np.median(runs, 1), "o-", markersize=4, label=name)
        right.fill_between(lags, runs.min(1), runs.max(1), alpha=0.2)
    right.axhline(1 / 6, color="black", linestyle="--", linewidth=0.8, label="always 1")
    right.set(
        xlabel="steps", ylabel="mean squared error", xscale="log", yscale="log", title="adding over a growing lag"
    )
    right.set_xticks(lags, list(map(str, lags)), minor=False)
    right.minorticks_off()
    right.legend(fontsize=8)
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main(words: Sequence[str]) -> int:
    """Prints both errors, draws them, and returns the exit status."""
    options = cli.read_all(Options, words)
    elman = replace(load(CONFIGS / "elman.py"), model=Chain(Recurrent(SimpleCell(2), truncate=1), Dense(1), Sigmoid()))
    steps = by_step(elman, Path(options.workdir) / "elman")
    for phase in range(3):
        print(f"steps {phase}, {phase + 3} ...: mean squared error {steps[phase::3].mean():.4f}", flush=True)
    errors = race(options)
    for cell, runs in errors.items():
        print(
            f"{cell:8s}", "  ".join(f"{lag}: {np.median(row):.5f}" for lag, row in zip(options.lags, runs, strict=True))
        )
    if options.out:
        draw(steps, errors, options.lags, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
