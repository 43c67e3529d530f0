"""What a choice brings: one config with different values of some keys, each from several seeds.

    python -m bench.choices [--only=NAME,NAME] [--mnist=FOLDER] [--wheat=FILE] [--faces=FILE] [--folder=FOLDER]

prints a table for each comparison of bench/comparisons.py: mean and standard deviation of a metric over the seeds, and
in brackets the processor seconds of a run, its share of a compilation included. --folder gets a small picture of each,
NAME.png. A comparison whose data is in a file runs where the file is given. Results: docs/choices.md.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.config import Config, replace_keys
from jaxbp.errors import InputError, unknown
from jaxbp.training.many import Outcome, run_many
from jaxbp.training.report.curves import new_figure
from jaxbp.training.search import Point, grouped
from jaxbp.typed import Typed, Words

Changes = dict[str, Any]  # key of the config -> its value
Choices = Mapping[Any, Changes]  # number or name of a choice -> what it changes


@dataclass(frozen=True)
class Comparison:
    """Runs of one config with changes.

    config: what all runs share. lines: name of a line -> its choices. label: what the choices are. metrics: of the
    last epoch, a line of its own for each. seeds: runs of each choice. by_epoch: the picture and the table have the
    metrics over the epochs, of each line's choice with the lowest last metric. scales: of both axes. file: the option
    that names the data's file.
    """

    config: Config
    lines: Mapping[str, Choices]
    label: str
    metrics: tuple[str, ...] = ("test_accuracy",)
    seeds: int = 3
    by_epoch: bool = False
    scales: tuple[str, str] = ("linear", "linear")
    file: str = ""
    path: str = "data.path"


class Line(NamedTuple):
    """What a table and a picture show of one line: means and deviations of a metric at each x, and seconds of a run."""

    x: list[Any]
    means: np.ndarray
    deviations: np.ndarray
    seconds: list[float] | None = None


Place = tuple[str, Any]  # name of a line, choice


def places_and_points(comparison: Comparison) -> Iterator[tuple[Place, Point]]:
    """Every run: the place of its figures, and its config."""
    numbers = itertools.count()
    for name, choices in comparison.lines.items():
        for x, changes in choices.items():
            changed = replace_keys(comparison.config, changes)
            for seed in range(comparison.seeds):
                seeded = replace(changed, run=replace(changed.run, seed=seed))
                yield (name, x), Point({"run": str(next(numbers))}, seeded)


def runs(comparison: Comparison) -> tuple[dict[Place, list[Outcome]], dict[Place, float]]:
    """(place -> outcomes, one a seed; place -> processor seconds of a run). Runs of one program go at once."""
    places, points = zip(*places_and_points(comparison), strict=True)
    data = {point.config.data: point.config.load_data() for point in points}
    outcomes: dict[Place, list[Outcome]] = {place: [] for place in places}
    seconds = {}
    for group in grouped(points, data, at_once=16):
        start = time.process_time()
        splits = data[group[0][0].config.data]
        ended = run_many([plan for _, plan in group], splits, tqdm(disable=True))
        for (point, _), outcome in zip(group, ended, strict=True):
            place = places[int(point.keys["run"])]
            outcomes[place].append(outcome)
            seconds[place] = (time.process_time() - start) / len(group)
    return outcomes, seconds


def last(outcome: Outcome, metric: str) -> float:
    """The metric of the last epoch; nan where the run stopped being finite."""
    return outcome.row[metric] if outcome.row and not outcome.failed else float("nan")


def over_choices(
    comparison: Comparison, outcomes: Mapping[Place, list[Outcome]], seconds: Mapping[Place, float]
) -> dict[str, Line]:
    """The lines of the last epoch's metrics."""
    lines = {}
    for name, choices in comparison.lines.items():
        times = [seconds[name, x] for x in choices]
        for metric in comparison.metrics:
            values = np.array([[last(outcome, metric) for outcome in outcomes[name, x]] for x in choices])
            lines[titled(name, metric, comparison)] = Line(list(choices), values.mean(1), values.std(1), times)
    return lines


def over_epochs(comparison: Comparison, outcomes: Mapping[Place, list[Outcome]]) -> dict[str, Line]:
    """The metrics at each epoch, of each line's choice with the lowest last one."""
    lines = {}
    for name, choices in comparison.lines.items():
        for metric in comparison.metrics:
            ends = [np.mean([last(outcome, metric) for outcome in outcomes[name, x]]) for x in choices]
            best = list(choices)[int(np.nanargmin(ends))]
            rows = [outcome.rows for outcome in outcomes[name, best]]
            values = np.array([[row[metric] for row in column] for column in zip(*rows, strict=True)])
            title = titled(f"{name}, {comparison.label} {best}", metric, comparison)
            lines[title] = Line([row["epoch"] for row in rows[0]], values.mean(1), values.std(1))
    return lines


def titled(name: str, metric: str, comparison: Comparison) -> str:
    """The name of a line; with its metric where there are several."""
    return f"{name}: {metric}" if len(comparison.metrics) > 1 else name


def table(label: str, lines: Mapping[str, Line]) -> str:
    """A row for each x, a column for each line."""
    places = list(dict.fromkeys(x for line in lines.values() for x in line.x))
    rows = [f"| {label} | {' | '.join(lines)} |", "|---" * (len(lines) + 1) + "|"]
    for x in places:
        cells = []
        for line in lines.values():
            i = line.x.index(x) if x in line.x else None
            seconds = "" if i is None or line.seconds is None else f" ({line.seconds[i]:.2g} s)"
            cells.append("" if i is None else f"{line.means[i]:.4g} +- {line.deviations[i]:.2g}{seconds}")
        rows.append(f"| {x} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(comparison: Comparison, label: str, lines: Mapping[str, Line], path: Path) -> None:
    """A small picture: numbers as lines, names as points side by side."""
    figure = new_figure(4.2, 3)
    axes = figure.subplots()
    named = any(isinstance(x, str) for line in lines.values() for x in line.x)
    form = {"linestyle": "none"} if named else {"linewidth": 1}
    for name, (x, means, deviations, _) in lines.items():
        axes.errorbar(x, means, deviations, marker="o", markersize=3, capsize=2, label=name, **form)
    if named:
        axes.tick_params(axis="x", labelrotation=30)
    else:
        axes.set_xscale(comparison.scales[0])
    axes.set_yscale(comparison.scales[1])
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel(", ".join(comparison.metrics).replace("_", " "), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def compared(name: str, comparison: Comparison, folder: Path | None) -> None:
    """Makes the runs of a comparison, prints its tables and draws its picture."""
    outcomes, seconds = runs(comparison)
    lines = over_choices(comparison, outcomes, seconds)
    print(f"{name}\n\n{table(comparison.label, lines)}\n", flush=True)
    label = comparison.label
    if comparison.by_epoch:
        label, lines = "epoch", over_epochs(comparison, outcomes)
        print(f"{table(label, lines)}\n", flush=True)
    if folder:
        draw(comparison, label, lines, folder / f"{name}.png")


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        only: names of comparisons, separated by commas; None: all whose data is there
        mnist: folder with MNIST's four files
        wheat: UCI's seeds data set, with commas
        faces: the file that bench/comparisons.py says how to make
        folder: gets the pictures; None: only tables
    """

    only: Words | None = None
    mnist: str | None = None
    wheat: str | None = None
    faces: str | None = None
    folder: str | None = None


def chosen(options: Options) -> dict[str, Comparison]:
    """The comparisons that the options name, or all; those whose data's file is named read it.

    Raises InputError for a name that is not there, and for one whose data's file is not named.
    """
    from bench.comparisons import COMPARISONS

    comparisons = {}
    for name in options.only or COMPARISONS:
        if name not in COMPARISONS:
            raise unknown("comparison", name, COMPARISONS)
        comparison = COMPARISONS[name]
        path = getattr(options, comparison.file) if comparison.file else None
        if path is None and comparison.file and options.only:
            raise InputError(f"the comparison {name} needs --{comparison.file}=PATH")
        if path is not None:
            comparison = replace(comparison, config=replace_keys(comparison.config, {comparison.path: path}), file="")
        comparisons[name] = comparison
    return comparisons


def main(words: Sequence[str]) -> int:
    """Prints the tables, and returns the exit status."""
    options = cli.read_all(Options, words)
    comparisons = chosen(options)
    folder = Path(options.folder) if options.folder else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    for name, comparison in comparisons.items():
        if comparison.file:
            print(f"{name}: needs --{comparison.file}=PATH\n")
        else:
            compared(name, comparison, folder)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
